"""Each algorithm's signature in a few steps of the real verl, a bound where nothing can be learnt, and verl's own
opinion of every configuration that a built-in recipe leads to."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from engine_stage import World, launch_code, run_inside, run_stage, stage_context
from stub_judge import StubJudge
from test_verl import LEARNING

from integrations.common.rows import read_rows
from integrations.contract import Machine, StageContext
from integrations.errors import StageFailed
from integrations.verl.adapter import RlvrAdapter, read_metrics
from integrations.verl.review import stages_with_judge
from integrations.verl.settings import ALGORITHMS, RlvrSettings
from prism_cli.engines.environments import Environment
from prism_cli.recipes.load import builtin_names, load

pytestmark = pytest.mark.engine

MACHINES = {
    "one GPU": Machine(threads=4, gpus=1),
    "eight GPUs": Machine(threads=4, gpus=8),
    "two nodes": Machine(threads=4, gpus=8, ray_address="10.0.0.1:6379", nodes=2),
    "no GPU": Machine(threads=1),
}


def rlvr_stages(algorithm: str) -> dict[str, RlvrSettings]:
    """Every RLVR stage of every arm of every built-in recipe, with this algorithm."""
    found = {}
    for name in builtin_names():
        recipe = load(name, algorithm=algorithm).recipe
        for arm, value in recipe.arms.items():
            for stage in value.stages:
                settings = recipe.stage_of(arm, stage)
                if not isinstance(settings, RlvrSettings):
                    continue
                settings = settings.model_copy(update={"data": ["rlvr"]})  # the pool that is here
                if settings not in found.values():
                    found[f"{name}-{arm}-{stage}"] = settings
    return found


def test_verl_takes_every_configuration_of_every_recipe(
    small_world: World, verl_env: Environment, tmp_path: Path
) -> None:
    count = 0
    for algorithm in ALGORITHMS:
        for name, settings in rlvr_stages(algorithm).items():
            for place, machine in MACHINES.items():
                root = tmp_path / "stages" / f"{algorithm}-{name}-{place}"
                ctx = stage_context(root, small_world, settings, machine=machine)
                RlvrAdapter().render(ctx)
                folder = tmp_path / "rendered" / root.name
                folder.mkdir(parents=True)
                (folder / "rlvr.yaml").write_text((ctx.attempt_dir / "rlvr.yaml").read_text())
                count += 1
    run_inside(verl_env, "verl_takes.py", [tmp_path / "rendered"], tmp_path)
    assert (tmp_path / "engine.log").read_text().count(" composed\n") == count >= len(ALGORITHMS) * len(MACHINES) * 2


def test_a_field_that_verl_does_not_know_ends_the_stage_before_it_starts(
    small_world: World, verl_env: Environment, tmp_path: Path
) -> None:
    ctx = stage_context(tmp_path / "stage", small_world, LEARNING)
    adapter = RlvrAdapter()
    check, _ = adapter.render(ctx)
    written = ctx.attempt_dir / "rlvr.yaml"
    text = written.read_text()
    written.write_text(
        text.replace("clip_ratio_low:", "clip_ratio_lowest:").replace("ppo_epochs: 1", "ppo_epochs: one")
    )
    assert launch_code(check, verl_env, ctx.attempt_dir) == 1
    cause = adapter.explain(ctx, (ctx.attempt_dir / "engine.log").read_text())
    assert cause is not None
    assert "no field `actor_rollout_ref.actor.clip_ratio_lowest`" in cause
    assert "`actor_rollout_ref.actor.ppo_epochs` is int there, not str" in cause


def learning(algorithm: str, **changes: object) -> RlvrSettings:
    """The small stage's settings with what makes the algorithm."""
    given = LEARNING.model_dump(exclude=set(ALGORITHMS["dapo"]) | {"algorithm"})
    return RlvrSettings.model_validate(given | {"algorithm": algorithm, "steps": 3, "kl_coefficient": 0.0} | changes)


def run(root: Path, world: World, start: Path, settings: RlvrSettings, verl_env: Environment) -> StageContext:
    ctx = stage_context(root, world, settings, parents={"policy": start})
    run_stage(RlvrAdapter(), ctx, verl_env)
    RlvrAdapter().finish(ctx)
    return ctx


def test_dapo_learns_from_groups_that_differ_and_from_no_others(
    small_world: World,
    half_trained: Path,
    verl_env: Environment,
    tmp_path: Path,
) -> None:
    """The policy has half learnt the teacher's own prompts, so some of their groups differ and some do not."""
    settings = learning("dapo", data=["teacher"], overlong_share=0.9)
    ctx = run(tmp_path / "stage", small_world, half_trained, settings, verl_env)
    steps = read_metrics(ctx.stage_dir)
    assert sorted(steps) == [1, 2, 3]
    for row in steps.values():
        assert row["prism/responses"] == 16
        assert row["prism/silent_groups"] == 0
        assert 0 < row["prism/accuracy"] < 1
    assert sum(row["prism/evicted_groups"] for row in steps.values()) > 0
    assert sum(row["prism/overlong"] for row in steps.values()) > 0, "responses reach into the last 90% of the limit"
    assert sum(row["critic/rewards/mean"] < row["prism/reward"] for row in steps.values()) > 0


def test_dapo_ends_where_no_group_ever_differs(
    small_world: World,
    half_trained: Path,
    verl_env: Environment,
    tmp_path: Path,
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "images").symlink_to(small_world.data / "images")
    rows = [{**row, "answer": "no such thing"} for row in read_rows(small_world.data / "rlvr.jsonl")]
    (data / "rlvr.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = learning("dapo", generation_limit=4)
    ctx = stage_context(tmp_path / "stage", replace(small_world, data=data), settings, parents={"policy": half_trained})
    adapter = RlvrAdapter()
    check, launch = adapter.render(ctx)
    assert launch_code(check, verl_env, ctx.attempt_dir) == 0
    assert launch_code(launch, verl_env, ctx.attempt_dir) != 0
    cause = adapter.explain(ctx, (ctx.attempt_dir / "engine.log").read_text()[-20000:])
    assert cause is not None
    assert cause.startswith("there is nothing to learn: after 12 more prompts")
    assert "generation_limit" in cause
    with pytest.raises(StageFailed):
        adapter.finish(ctx)


def test_gspo_clips_whole_responses(
    small_world: World,
    half_trained: Path,
    verl_env: Environment,
    tmp_path: Path,
) -> None:
    """After a first update the others are off-policy, and ratios of whole responses leave clips of a few
    ten-thousandths. A judge rewards this stage, which costs no further run."""
    with StubJudge() as stub:
        settings = learning("gspo", updates_per_step=2, data=["teacher"], judge={"url": stub.url})
        ctx = run(tmp_path / "prism" / "rlvr", small_world, half_trained, settings, verl_env)
    steps = read_metrics(ctx.stage_dir)
    assert max(row["actor/pg_clipfrac"] for row in steps.values()) > 0.05, [
        row["actor/pg_clipfrac"] for row in steps.values()
    ]
    (review,) = stages_with_judge(tmp_path)
    assert review.judged > 0, "answers within the form are judged"
    assert review.agreed + len(review.differ) <= review.judged
    assert len(stub.asked) <= review.judged + 1
