"""verl itself on a CPU: a few steps of GRPO on a tiny model, killed and resumed, and with a worker killed."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from engine_stage import World, launch_code, run_inside, run_stage, stage_context

from integrations.common.checkpoint import publish, read_tensors
from integrations.common.files import hash_folder
from integrations.contract import Progress, StageContext, StageResult
from integrations.errors import StageFailed
from integrations.verl.adapter import METRICS, RlvrAdapter, read_metrics
from integrations.verl.check_prompts import CHECKED
from integrations.verl.configuration import ray_folder
from integrations.verl.prompts import LOOKED_AT
from integrations.verl.settings import RlvrSettings
from prism_cli.engines.environments import Environment

pytestmark = pytest.mark.engine

LEARNING = RlvrSettings(
    data=["rlvr"],
    steps=6,
    prompts_per_step=4,
    group_size=4,
    learning_rate=1e-3,
    adam_beta2=0.95,
    kl_coefficient=0.001,
    max_prompt_length=256,
    max_response_length=64,
    max_image_pixels=9216,
    micro_batch_size=8,
    gradient_checkpointing=False,
    checkpoint_every=2,
)
"""Half a dozen steps with a reference model, two passes each."""


@dataclass(frozen=True)
class Resumed:
    """A stage that was killed in its first attempt and finished by its second."""

    first: StageContext
    ctx: StageContext
    killed: list[Progress]
    news: list[Progress]
    result: StageResult
    steps_kept: int
    """Newest whole checkpoint after the kill."""


def kill_one(command: str) -> None:
    """Kill -9 the first process below this one whose command line holds `command`."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if command in " ".join(process.cmdline()):
                process.kill()
                return


def steps_in(checkpoints: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("global_step_")) for path in checkpoints.glob("global_step_*"))


@pytest.fixture(scope="module")
def resumed(
    small_world: World, half_trained: Path, verl_env: Environment, tmp_path_factory: pytest.TempPathFactory
) -> Resumed:
    root = tmp_path_factory.mktemp("killed") / "a=stage"
    adapter = RlvrAdapter()
    first = stage_context(root, small_world, LEARNING, parents={"policy": half_trained})
    adapter.check_inputs(first)
    _, launch = adapter.render(first)
    follower = adapter.follow(first)
    killed: list[Progress] = []

    def kill_in_the_middle() -> None:
        killed.extend(follower.poll())
        if killed and killed[-1].step >= 3:
            kill_one("integrations.verl.cpu.launch")

    assert launch_code(launch, verl_env, first.attempt_dir, kill_in_the_middle, interval=0.02) == -9
    with pytest.raises(StageFailed, match="without a whole checkpoint of step 6"):
        adapter.finish(first)
    whole = max(steps_in(first.checkpoint_dir))
    half = first.checkpoint_dir / "global_step_5"
    shutil.copytree(first.checkpoint_dir / f"global_step_{whole}", half)
    with (half / "data.pt").open("r+b") as stream:
        stream.truncate(100)
    (first.checkpoint_dir / "latest_checkpointed_iteration.txt").write_text("5")

    ctx = stage_context(root, small_world, LEARNING, parents={"policy": half_trained})
    news = run_stage(adapter, ctx, verl_env)
    return Resumed(first, ctx, killed, news, adapter.finish(ctx), whole)


def test_killed_and_resumed_it_ends_at_the_same_step(resumed: Resumed) -> None:
    assert resumed.result.step == 6
    assert resumed.steps_kept in (2, 4)
    assert [item.step for item in resumed.news] == list(range(resumed.steps_kept + 1, 7))
    assert steps_in(resumed.ctx.checkpoint_dir) == [4, 6]


def test_a_whole_checkpoint_can_be_evaluated_and_half_a_one_is_not_named(resumed: Resumed, tmp_path: Path) -> None:
    ctx = replace(resumed.ctx, checkpoint_dir=tmp_path / "checkpoints")
    shutil.copytree(resumed.ctx.checkpoint_dir, ctx.checkpoint_dir)
    half = ctx.checkpoint_dir / "global_step_5"
    shutil.copytree(ctx.checkpoint_dir / "global_step_6", half)
    (half / "data.pt").unlink()  # written last
    found = RlvrAdapter().intermediate(ctx)
    assert [step for step, _ in found] == [4, 6]
    hashes = [publish(weights, ctx.base_model, tmp_path / str(step)) for step, weights in found]
    assert hashes[1] == hash_folder(ctx.model_dir) != hashes[0]


def test_each_attempt_keeps_its_metrics_and_each_step_counts_once(resumed: Resumed) -> None:
    first, second = (
        {line["step"]: line["data"] for line in map(json.loads, (ctx.attempt_dir / METRICS).open())}
        for ctx in (resumed.first, resumed.ctx)
    )
    assert set(first) >= {1, 2, 3}
    assert set(second) == set(range(resumed.steps_kept + 1, 7))
    counted = first | second
    tokens = sum(int(row["prism/generated_tokens"]) for row in counted.values())
    assert resumed.result.generated_tokens == resumed.news[-1].generated_tokens == tokens
    assert [item.generated_tokens for item in resumed.news] == sorted(item.generated_tokens for item in resumed.news)
    for row in counted.values():
        assert row["prism/responses"] == 16
        assert row["prism/lost"] == 0
        assert row["prism/generated_tokens"] == pytest.approx(row["response_length/mean"] * 16, abs=1)


def test_a_step_done_again_samples_the_same_responses(resumed: Resumed) -> None:
    """Random streams follow from seed, step and prompt, and the data's position is restored."""
    again = {item.step: item for item in resumed.news}
    repeated = [(item, again[item.step]) for item in resumed.killed if item.step in again]
    for before, after in repeated:
        assert before.metrics["reward"] == after.metrics["reward"]
        assert before.metrics["response_length"] == after.metrics["response_length"]


def test_it_learns_from_the_reward_and_reports_its_parts(resumed: Resumed) -> None:
    for item in [*resumed.killed, *resumed.news]:
        assert item.total == 6
        assert {"reward", "accuracy", "format", "entropy", "grad_norm", "response_length"} <= item.metrics.keys()
        parts = 0.8 * item.metrics["accuracy"] + 0.2 * item.metrics["format"]
        assert item.metrics["reward"] == pytest.approx(parts, abs=1e-6)
    assert any(item.metrics["format"] > 0 for item in resumed.killed)
    assert any(item.metrics["grad_norm"] > 0 for item in resumed.killed)


def test_the_result_is_the_base_model_with_other_weights_in_fp32(resumed: Resumed, half_trained: Path) -> None:
    before, after = read_tensors(half_trained), read_tensors(resumed.ctx.model_dir)
    assert {tensor.dtype for tensor in after.values()} == {"F32"}
    changed = [name for name in before if not np.array_equal(before[name].read(), after[name].read())]
    assert len(changed) > 0.9 * len(before)
    checkpoint = resumed.ctx.checkpoint_dir / "global_step_6" / "actor" / "huggingface"
    trained = read_tensors(checkpoint)
    for name, tensor in after.items():
        assert np.array_equal(tensor.read(), trained[name].read())


def test_responses_come_from_the_weights_that_are_trained(resumed: Resumed) -> None:
    for row in read_metrics(resumed.ctx.stage_dir).values():
        assert row["training/off_policy/trajectory_staleness_worst/max"] == 0
        assert abs(row["actor/ppo_kl"]) < 1e-6


def test_nothing_is_left_outside_the_stage(resumed: Resumed) -> None:
    for ctx in (resumed.first, resumed.ctx):
        assert not ray_folder(ctx).exists()
        left = {path.name for path in ctx.attempt_dir.iterdir()}
        assert left <= {"rlvr.yaml", LOOKED_AT, CHECKED, METRICS, "engine.log", "import"}


def test_a_finished_stage_is_not_run_again(resumed: Resumed, small_world: World, half_trained: Path) -> None:
    again = stage_context(resumed.ctx.stage_dir, small_world, LEARNING, parents={"policy": half_trained})
    before = hash_folder(resumed.ctx.model_dir)
    assert RlvrAdapter().render(again) == []
    assert RlvrAdapter().finish(again) == resumed.result
    assert hash_folder(again.model_dir) == before


@pytest.mark.parametrize(
    ("worker", "name"),
    [("ray::AgentLoopWorker", "agent_loop_worker"), ("ray::TransferQueueC", "TransferQueueController")],
)
def test_a_dead_worker_ends_the_stage_with_its_name(
    small_world: World, half_trained: Path, verl_env: Environment, tmp_path: Path, worker: str, name: str
) -> None:
    """Those that verl alone would wait for without end: who delivers responses, and the queue they go through."""
    endless = LEARNING.model_copy(update={"steps": 500, "kl_coefficient": 0.0})
    ctx = stage_context(tmp_path / "stage", small_world, endless, parents={"policy": half_trained})
    adapter = RlvrAdapter()
    _, launch = adapter.render(ctx)
    follower = adapter.follow(ctx)
    killed_at: list[float] = []

    def kill_the_worker() -> None:
        if follower.poll() and not killed_at:
            kill_one(worker)
            killed_at.append(time.monotonic())

    assert launch_code(launch, verl_env, ctx.attempt_dir, kill_the_worker, interval=0.1) not in (0, -9)
    assert len(killed_at) == 1
    assert time.monotonic() - killed_at[0] < 120
    cause = adapter.explain(ctx, (ctx.attempt_dir / "engine.log").read_text()[-20000:])
    assert cause is not None
    assert cause.startswith("a Ray worker died: ")
    assert name in cause
    with pytest.raises(StageFailed, match="without a whole checkpoint of step 500"):
        adapter.finish(ctx)


def test_the_installed_verl_is_the_one_the_plug_in_was_written_for(verl_env: Environment, tmp_path: Path) -> None:
    """The private names it touches are as recorded in `integrations.verl.cpu.EXCEPTIONS`."""
    run_inside(verl_env, "verl_exceptions.py", [], tmp_path)
