"""The suite on a run's own pools, of any world: the rows' own prompts, and answers compared by rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from engine_stage import run_launch
from stub_server import StubServer, prompt_text

from benchmarks.samples import cell_facts, read_cell
from benchmarks.suites import PROTOCOLS, load_suite
from integrations.lmms_eval import adapter
from prism_cli.engines.environments import Environment

pytestmark = pytest.mark.engine

FORM = "<caption>a triangle</caption><think>so</think><answer>{}</answer>"
CASES = {
    "same text": ("42", FORM.format("42"), True, True),
    "another way to write it": (r"\frac{1}{2}", FORM.format("0.5"), True, True),
    "wrong": ("42", FORM.format("41"), False, True),
    "no form": ("42", "42", False, False),
    "another accepted answer": ('["1/2", "half"]', FORM.format("half"), True, True),
    "none of the accepted": ('["1/2", "half"]', FORM.format("1/3"), False, True),
    "a letter": ("B", FORM.format("(B)"), True, True),
}


def test_held_out_items_of_any_pool(lmms_eval_env: Environment, tmp_path: Path) -> None:
    rows = [
        {"id": name, "images": [], "system": "Be brief.", "prompt": name, "answer": answer}
        for name, (answer, *_) in CASES.items()
    ]
    (tmp_path / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (benchmark,) = load_suite("held-out").benchmarks
    protocol = {"name": "greedy", **PROTOCOLS["greedy"], "max_new_tokens": 64, "prompt": "format"}
    facts = cell_facts(
        model={"label": "made/up", "weights_hash": "0" * 64}, suite="held-out", benchmark=benchmark.name,
        task=benchmark.tasks[0], protocol=protocol, decoding_seed=0, training_seed=None, samples_per_item=1,
        limit=None, task_hash=adapter.task_hash(benchmark.tasks[0]), harness=adapter.harness_facts(), server={},
    )  # fmt: skip
    cell = {"folder": str(tmp_path / "cell"), "facts": facts, "dataset": {"pool": str(tmp_path / "validation.jsonl")}}

    def respond(payload: dict[str, Any]) -> dict[str, Any]:
        return {"text": CASES[prompt_text(payload)][1]}

    assert adapter.reads_pool(benchmark.tasks[0])
    with StubServer(respond) as server:
        job = adapter.write_job(
            tmp_path / "job.json", server={"url": server.url, "model": "policy"}, cells=[cell],
            images=tmp_path / "images", progress=tmp_path / "progress.jsonl",
        )  # fmt: skip
        run_launch(adapter.launch(job), lmms_eval_env, tmp_path)
    found = read_cell(tmp_path / "cell")
    assert found is not None
    verdicts = {row["item_id"]: (row["correct"], row["format"]) for row in found.table.to_pylist()}
    assert verdicts == {name: (right, form) for name, (_, _, right, form) in CASES.items()}
    assert server.payloads[0]["messages"][0]["content"] in ("Be brief.", [{"type": "text", "text": "Be brief."}])
