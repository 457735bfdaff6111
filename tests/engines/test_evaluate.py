"""The evaluator in its environment, driven as `prism train` drives it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from engine_stage import World, launch_code, run_stage, stage_context

from benchmarks import scores
from prism_cli.engines.environments import Environment
from prism_cli.pipeline.groundwork import Evaluation
from prism_cli.recipes.schema import Evaluation as Settings

pytestmark = pytest.mark.engine

SHORT = Settings(pool="validation", limit=12, max_new_tokens=12, batch=5)


@pytest.fixture(scope="module")
def evaluated(small_world: World, alignment_env: Environment, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An untrained model's evaluation, and the progress it told of on the way."""
    ctx = stage_context(tmp_path_factory.mktemp("an evaluation") / "eval", small_world, SHORT)
    return ctx, run_stage(Evaluation(), ctx, alignment_env)


def items(folder: Path, protocol: str) -> list[dict[str, Any]]:
    return pq.read_table(folder / protocol / "items.parquet").to_pylist()


def test_every_item_is_asked_once_per_protocol(evaluated: Any, small_world: World) -> None:
    ctx, _ = evaluated
    rows = [json.loads(line) for line in (small_world.data / "validation.jsonl").read_text().splitlines()[:12]]
    for protocol in ("greedy", "sample"):
        found = items(ctx.stage_dir, protocol)
        assert [item["id"] for item in found] == [row["id"] for row in rows]
        assert [item["prompt"] for item in found] == [row["prompt"] for row in rows]
        assert [item["kind"] for item in found] == [row["task"]["kind"] for row in rows]
        assert all(1 <= item["tokens"] <= 12 for item in found)
        told = scores.read(ctx.stage_dir / protocol)
        assert told is not None
        assert told.facts["generated_tokens"] == sum(item["tokens"] for item in found)
        assert told.facts["dtype"] == "float32"
        assert told.rates["format"].hits == 0  # an untrained model does not meet the form


def test_progress_reaches_the_end_and_results_are_accepted(evaluated: Any) -> None:
    ctx, news = evaluated
    assert [item.step for item in news] == sorted({item.step for item in news})
    assert (news[-1].step, news[-1].total) == (24, 24)
    Evaluation().finish(ctx)


def test_same_seed_same_items_in_any_batch(
    evaluated: Any, small_world: World, alignment_env: Environment, tmp_path: Path
) -> None:
    ctx, _ = evaluated
    again = stage_context(tmp_path / "again", small_world, SHORT.model_copy(update={"batch": 12}))
    run_stage(Evaluation(), again, alignment_env)
    for protocol in ("greedy", "sample"):
        assert items(again.stage_dir, protocol) == items(ctx.stage_dir, protocol)
    other = stage_context(tmp_path / "other", small_world, SHORT, seed=8)
    run_stage(Evaluation(), other, alignment_env)
    assert items(other.stage_dir, "greedy") == items(ctx.stage_dir, "greedy")
    assert items(other.stage_dir, "sample") != items(ctx.stage_dir, "sample")


@pytest.mark.parametrize("trouble", ["no model", "cut weights", "no pool", "other rows"])
def test_what_cannot_be_evaluated_is_said_in_one_line(
    small_world: World, alignment_env: Environment, tmp_path: Path, trouble: str
) -> None:
    data, model = tmp_path / "data", tmp_path / "model"
    data.mkdir()
    (data / "validation.jsonl").write_text((small_world.data / "validation.jsonl").read_text())
    (data / "images").symlink_to(small_world.data / "images")
    model.mkdir()
    for path in small_world.model.iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    if trouble == "no model":
        (model / "config.json").unlink()
    elif trouble == "cut weights":
        (model / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes()[:-5000])
    elif trouble == "no pool":
        (data / "validation.jsonl").unlink()
    else:
        row = {"id": "a", "images": [], "prompt": "Why?", "answer": "So."}
        (data / "validation.jsonl").write_text(json.dumps(row) + "\n")
    ctx = stage_context(tmp_path / "stage", replace(small_world, data=data, model=model), SHORT)
    [launch] = Evaluation().render(ctx)
    assert launch_code(launch, alignment_env, ctx.attempt_dir) == 2
    log = (ctx.attempt_dir / "engine.log").read_text()
    assert "Traceback" not in log
    expected = {
        "no model": f"error: {model} holds no checkpoint",
        "cut weights": f"error: cannot load the checkpoint {model}: ",
        "no pool": f"error: cannot read the data pool {data / 'validation.jsonl'}",
        "other rows": "row a has no `task` of the digits world",
    }
    assert expected[trouble] in log
    assert not list(ctx.stage_dir.glob("*/scores.json"))
