"""The alignment stages in two processes: started by torchrun, killed, resumed, and one message where both fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import pytest
from engine_stage import World, launch_code, run_stage, stage_context

from integrations.alignment.adapter import DiscriminatorAdapter
from integrations.alignment.settings import DiscriminatorSettings, RolloutSettings
from integrations.common import error_line
from integrations.common.files import hash_folder, read_json
from integrations.contract import Launch, Machine, StageContext
from prism_cli.engines.environments import Environment

pytestmark = pytest.mark.engine

WARMUP = DiscriminatorSettings(
    teacher="sft",
    held_out=16,
    steps=4,
    pretrain_steps=2,  # both kinds of step
    prompts_per_step=3,
    samples=2,
    learning_rate=1e-3,
    check_every=4,
    checkpoint_every=1,
    processes=2,
    rollout=RolloutSettings(max_new_tokens=48),
)
TWO = {"machine": Machine(threads=2)}


def trainers() -> list[psutil.Process]:
    """The two processes of the stage under way, without torchrun and prism's guardian."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            words = process.cmdline()
        except psutil.Error:
            continue
        if "integrations.alignment.train" in words and "torch.distributed.run" not in words:
            found.append(process)
    return found


def outcome(ctx: StageContext) -> tuple[str, Any]:
    """Hashes of the result, and of all that the last checkpoint holds."""
    last = sorted(ctx.checkpoint_dir.glob("step-*"))[-1]
    return hash_folder(ctx.checkpoint_dir / "result"), read_json(last / "state.json")


def test_one_of_two_killed_ends_both_and_resumed_they_end_in_the_same_weights(
    small_world: World, half_trained: Path, alignment_env: Environment, tmp_path: Path
) -> None:
    given = {"parents": {"policy": half_trained}, **TWO}
    adapter = DiscriminatorAdapter()
    straight = stage_context(tmp_path / "straight", small_world, WARMUP, **given)
    news = run_stage(adapter, straight, alignment_env)
    assert [item.step for item in news if item.phase == "training"] == [1, 2, 3, 4], "told once"

    first = stage_context(tmp_path / "killed", small_world, WARMUP, **given)
    (launch,) = adapter.render(first)
    follower, killed = adapter.follow(first), []

    def look() -> None:
        if not killed and any(item.step >= 2 for item in follower.poll()):
            killed.extend(trainers()[-1:])
            killed[0].kill()

    assert launch_code(launch, alignment_env, first.attempt_dir, look, interval=0.005) != 0
    assert killed
    assert not trainers(), "no process is left behind"
    again = stage_context(tmp_path / "killed", small_world, WARMUP, **given)
    resumed = run_stage(adapter, again, alignment_env)
    assert min(item.step for item in resumed if item.phase == "training") >= 2
    assert outcome(again) == outcome(straight)


def test_what_goes_wrong_in_one_ends_both(alignment_env: Environment, tmp_path: Path) -> None:
    script = Path(__file__).parent / "inside" / "one_fails.py"
    argv = ["python", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    assert launch_code(Launch("alignment", argv), alignment_env, tmp_path) != 0
    log = (tmp_path / "engine.log").read_text()
    assert error_line.told(log) == ("the second process found a broken image", "repair it")
    assert log.count(error_line.MARK) == 1
    assert ", in work" not in log, "no traceback of ours"


def test_what_goes_wrong_in_both_is_told_once(
    small_world: World, half_trained: Path, alignment_env: Environment, tmp_path: Path
) -> None:
    settings = WARMUP.model_copy(update={"learning_rate": 1e30, "warmup_steps": 0})
    ctx = stage_context(tmp_path / "stage", small_world, settings, parents={"policy": half_trained}, **TWO)
    adapter = DiscriminatorAdapter()
    (launch,) = adapter.render(ctx)
    assert launch_code(launch, alignment_env, ctx.attempt_dir) != 0
    log = (ctx.attempt_dir / "engine.log").read_text()
    assert log.count(error_line.MARK) == 1
    assert "lower the discriminator's learning rate" in (adapter.explain(ctx, log) or "")
    assert "train.py" not in log, "no traceback of ours"
