"""The seven benchmarks on miniature data, through the real lmms-eval and the official comparisons.

One start of the worker scores recorded responses of all tasks, another script holds our verdicts and metrics against
upstream's own functions.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from engine_stage import run_inside, run_launch
from stub_server import StubServer

from benchmarks.metrics import metrics
from benchmarks.samples import Cell, cell_facts, read_cell
from benchmarks.scoring.prompt import FORMAT_PROMPT
from benchmarks.scoring.verdict import RULES
from benchmarks.suites import load_suite
from integrations.contract import Launch
from integrations.lmms_eval.adapter import local_dataset
from integrations.lmms_eval.inside.records import request_seed
from prism_cli.engines.environments import Environment

pytestmark = pytest.mark.engine

FIXTURES = Path(__file__).parents[1] / "fixtures" / "benchmarks.py"
SUITE = load_suite("multimodal-reasoning")
TASKS = {task: benchmark.name for benchmark in SUITE.benchmarks for task in benchmark.tasks}


def _load_fixtures() -> Any:
    spec = importlib.util.spec_from_file_location("miniature_benchmarks", FIXTURES)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MINIATURE = _load_fixtures()
Case = Any  # MINIATURE.Case, which a type checker cannot see
CUT = MINIATURE.CUT.split("{")[0]


@pytest.fixture(scope="module")
def data(lmms_eval_env: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature data sets, in a folder with a space in its name."""
    root = tmp_path_factory.mktemp("miniature data")
    run_launch(Launch("lmms_eval", ["python", str(FIXTURES), str(root / "data")]), lmms_eval_env, root)
    return root / "data"


def recorded(task: str) -> tuple[list[list[Any]], int]:
    """Cases of each item, filled up with the first to the same number for every item; and that number."""
    of_items = [MINIATURE.cases(item) for item in MINIATURE.ITEMS[task]]
    most = max(len(cases) for cases in of_items)
    return [[*cases, *[cases[0]] * (most - len(cases))] for cases in of_items], most


def facts_of(task: str, samples: int, style: str) -> dict[str, Any]:
    """Facts of a cell of this task."""
    decoding = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_new_tokens": 64}
    return cell_facts(
        model={"label": "made/up", "weights_hash": "0" * 64},
        suite=SUITE.name,
        benchmark=TASKS[task],
        task=task,
        protocol={"name": "sample", **decoding, "prompt": style},
        decoding_seed=0,
        training_seed=None,
        samples_per_item=samples,
        limit=None,
        task_hash="",
        harness={},
        server={},
    )


def item_ids(task: str) -> list[str]:
    """Item ids as the tasks make them, written out here once more."""
    docs = [item.doc for item in MINIATURE.ITEMS[task]]
    if task == "prism_wemath_testmini":
        return [f"{doc['key'].split('_')[0]}-{doc['ID']}-{doc['key'].split('_')[1]}" for doc in docs]
    if task == "prism_hallusion_bench_image":
        names = ("category", "subcategory", "set_id", "figure_id", "question_id")
        return ["/".join(doc[name] for name in names) for doc in docs]
    name = {"prism_mathvista_testmini": "pid", "prism_mathverse_testmini": "sample_index"}.get(task, "id")
    return [doc[name] for doc in docs]


def _say(case: Case) -> dict[str, Any]:
    return {"text": case.response, "finish": "length" if case.response.startswith(CUT) else "stop"}


@dataclass(frozen=True)
class Evaluated:
    """What one start of the worker left: finished cells by task, and the messages of each item, by task and style."""

    cells: dict[str, Cell]
    messages: dict[tuple[str, str], list[list[dict[str, Any]]]]


@pytest.fixture(scope="module")
def evaluated(lmms_eval_env: Environment, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    """Every task's responses, given by a server that knows items and samples by the seeds of their requests; and the
    prompts of the style `native`, whose responses do not matter."""
    root = tmp_path_factory.mktemp("evaluated")
    said: dict[int, Case] = {}
    asked: dict[tuple[int, str], tuple[str, str, int]] = {}
    jobs = []
    for task in TASKS:
        cases, samples = recorded(task)
        for number, (item, of_item) in enumerate(zip(item_ids(task), cases, strict=True)):
            for sample, case in enumerate(of_item):
                said[request_seed(0, task, item, sample)] = case
            seed = request_seed(0, task, item, 0)
            asked |= {(seed, style): (task, style, number) for style in ("format", "native")}
        for style, count in (("format", samples), ("native", 1)):
            job = {"folder": str(root / style / task), "facts": facts_of(task, count, style)}
            jobs.append({**job, "dataset": local_dataset(data, task)})
    with StubServer(lambda payload: _say(said[payload["seed"]])) as server:
        job = {"mode": "evaluate", "server": {"url": server.url, "model": "policy"}, "cells": jobs}
        job |= {"images": str(root / "images"), "scratch": str(root / "scratch"), "progress": str(root / "progress")}
        (root / "job.json").write_text(json.dumps(job))
        argv = ["python", "-m", "benchmarks.evaluate", "--job", "job.json"]
        run_launch(Launch("lmms_eval", argv, packages=("integrations", "benchmarks")), lmms_eval_env, root)
    messages: dict[tuple[str, str], dict[int, list[dict[str, Any]]]] = {}
    for payload in server.payloads:
        style = "format" if FORMAT_PROMPT in texts(payload["messages"]) else "native"
        if (payload["seed"], style) in asked:
            task, style, number = asked[payload["seed"], style]
            messages.setdefault((task, style), {})[number] = payload["messages"]
    found = {task: read_cell(root / "format" / task) for task in TASKS}
    return Evaluated(
        {task: cell for task, cell in found.items() if cell is not None},
        {key: [of_item[number] for number in sorted(of_item)] for key, of_item in messages.items()},
    )


@pytest.fixture(scope="module")
def cells(evaluated: Evaluated) -> dict[str, Cell]:
    return evaluated.cells


def texts(messages: list[dict[str, Any]]) -> list[str]:
    """The texts in chat messages, in order."""
    return [part["text"] for turn in messages for part in _parts(turn["content"]) if part["type"] == "text"]


def _parts(content: Any) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def verdicts(cell: Cell) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Cases with the rows that came of them."""
    cases, samples = recorded(cell.task)
    rows = cell.table.to_pylist()
    assert len(rows) == len(cases) * samples
    for number, row in enumerate(rows):
        yield cases[number // samples][number % samples], row


def test_all_eight_tasks_of_the_seven_benchmarks_are_scored(cells: dict[str, Cell]) -> None:
    assert set(cells) == set(MINIATURE.ITEMS)
    assert len({TASKS[task] for task in cells}) == 7


@pytest.mark.parametrize("task", sorted(MINIATURE.ITEMS))
def test_every_response_gets_the_verdict_that_it_should(cells: dict[str, Cell], task: str) -> None:
    for case, row in verdicts(cells[task]):
        found = (row["answer"], row["correct"], row["rule"])
        assert found == (case.answer, case.correct, case.rule), f"{row['item_id']}: {case.response!r}"
        assert row["rule"] in RULES


@pytest.mark.parametrize("task", sorted(MINIATURE.ITEMS))
def test_caption_reasoning_and_form_are_kept(cells: dict[str, Cell], task: str) -> None:
    rows = [row for row in cells[task].table.to_pylist() if row["sample"] in (0, 2, 3)]
    for row in rows:
        well_formed, malformed, cut = (row["sample"] == sample for sample in (0, 2, 3))
        assert row["format"] == well_formed
        assert (row["caption"] is None) == malformed
        assert (row["reasoning"] is None) == malformed
        assert row["answer"] is None or not (malformed or cut)
        assert row["truncated"] == cut


def test_items_that_belong_together_share_a_group(cells: dict[str, Cell]) -> None:
    def groups(task: str) -> list[int]:
        of_items = dict(zip(*(cells[task].table[name].to_pylist() for name in ("item_id", "group_id")), strict=True))
        assert None not in of_items.values()
        return sorted(list(of_items.values()).count(group) for group in set(of_items.values()))

    assert groups("prism_wemath_testmini") == [3, 4]
    assert groups("prism_mathverse_testmini") == [1, 1, 5]
    assert groups("prism_hallusion_bench_image") == [1, 1, 2, 2]
    assert cells["prism_mmmu_val"].table["group_id"].null_count == len(cells["prism_mmmu_val"].table)


def test_metrics_named_by_the_suite_come_out_of_the_store(cells: dict[str, Cell]) -> None:
    for benchmark in SUITE.benchmarks:
        found = metrics(benchmark.name, [cells[task] for task in benchmark.tasks])
        assert set(benchmark.also) <= set(found)
        shares = [sum(cells[task].table["correct"].to_pylist()) / len(cells[task].table) for task in benchmark.tasks]
        assert found["score"] == pytest.approx(sum(shares) / len(shares))
        assert all(0 <= value <= 1 for value in found.values())


def test_the_form_is_asked_for_once_and_only_in_its_style(evaluated: Evaluated) -> None:
    for (task, style), of_items in evaluated.messages.items():
        assert len(of_items) == len(MINIATURE.ITEMS[task])
        for messages in of_items:
            assert texts(messages).count(FORMAT_PROMPT) == (style == "format")
            assert messages[-1]["role"] == "user"
            if style == "format":
                assert [turn["role"] for turn in messages] == ["system", "user"]
                assert "directly" not in " ".join(texts(messages))
    assert set(evaluated.messages) == {(task, style) for task in TASKS for style in ("format", "native")}


def test_questions_and_images_are_sent_in_both_styles(evaluated: Evaluated) -> None:
    for (task, _), of_items in evaluated.messages.items():
        for item, messages in zip(MINIATURE.ITEMS[task], of_items, strict=True):
            sent = " ".join(texts(messages))
            question = item.doc.get("question", "")
            for part in question.split("<image 1>")[0].split("<image 2>"):
                assert part.strip() in sent
            images = [part for part in _parts(messages[-1]["content"]) if part["type"] == "image_url"]
            assert len(images) == (4 if item.doc.get("id") == "validation_Art_2" else 1)


def test_images_of_mmmu_stand_where_the_text_names_them(evaluated: Evaluated) -> None:
    """Image 1 is named twice and image 2 first; upstream shows them in the order of their numbers."""
    for style in ("format", "native"):
        [_, messages, *_] = evaluated.messages["prism_mmmu_val", style]
        parts = [
            part["text"] if part["type"] == "text" else part["image_url"]["url"]
            for part in _parts(messages[-1]["content"])
        ]
        assert parts[0] == "Which one belongs to"
        assert parts[2] == ", not"
        assert parts[3] == parts[7] != parts[1]  # image 1, in the question and as option B
        assert len({parts[1], parts[3], parts[5]}) == 3


def test_tasks_agree_with_upstream(lmms_eval_env: Environment, data: Path, tmp_path: Path) -> None:
    run_inside(lmms_eval_env, "upstream_benchmarks.py", [data, tmp_path / "found.json"], tmp_path)
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["checked"] >= 100
    assert found["problems"] == []
