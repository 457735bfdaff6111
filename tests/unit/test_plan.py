"""Plans: what is shared, what waits for what, and what the budget rule gives each arm."""

import pytest

from integrations.errors import BadInput
from prism_cli.pipeline.plan import DATA, MODEL, make_plan, select
from prism_cli.recipes.load import load


def plan_of(*sets):
    return make_plan(load("digits", None, list(sets)).recipe)


@pytest.fixture(scope="module")
def plan():
    return plan_of("stages.align.steps=60", "stages.rlvr.steps=90")


def test_stages_that_arms_share_run_once(plan):
    assert plan.arms["prism"][:2] == plan.arms["baseline"][:2] == ("shared/base", "shared/sft")
    assert plan.arms["control"][:2] == ("shared/base", "control/sft")
    assert set(plan.nodes["shared/base"].arms) == {"prism", "baseline", "control"}


def test_the_policy_skips_the_discriminator(plan):
    align = plan.nodes["prism/align"]
    assert align.parents == {"policy": "shared/sft", "discriminator": "prism/discriminator"}
    assert plan.nodes["prism/rlvr"].parents == {"policy": "prism/align"}
    assert plan.nodes["shared/base"].parents == {"policy": MODEL}


def test_everything_waits_for_what_it_needs(plan):
    place = {name: i for i, name in enumerate(plan.nodes)}
    assert place[DATA] == 0
    for name, node in plan.nodes.items():
        assert all(place[needed] < place[name] for needed in node.requires)


def test_every_policy_is_evaluated_and_the_discriminator_is_not(plan):
    evaluated = {name.removeprefix("eval/") for name, node in plan.nodes.items() if node.kind == "evaluate"}
    assert evaluated == {n for names in plan.arms.values() for n in names if plan.nodes[n].kind != "discriminator"}


def test_without_a_suite_nothing_is_evaluated():
    plan = plan_of("evaluation.suite=null")
    assert not [name for name, node in plan.nodes.items() if node.kind == "evaluate"]
    part, _ = select(plan, "rlvr", "prism", "sft")
    assert "prism/rlvr-from-sft" in part.nodes


def test_budget_in_steps_gives_the_alignment_steps_to_the_other_arms(plan):
    extra = {arm: plan.nodes[f"{arm}/rlvr"].extra_steps for arm in plan.arms}
    assert extra == {"prism": 0, "baseline": 60, "control": 60}


def test_budget_in_tokens_waits_for_the_aligned_arm():
    plan = plan_of("budget=tokens")
    assert plan.nodes["baseline/rlvr"].token_budget_of == ("prism/discriminator", "prism/align", "prism/rlvr")
    assert plan.nodes["baseline/rlvr"].extra_steps == 0
    assert "prism/rlvr" in plan.nodes["baseline/rlvr"].requires
    assert plan.nodes["prism/rlvr"].token_budget_of == ()


def test_all_takes_everything_and_one_arm_takes_its_own(plan):
    assert select(plan, "all", None, None)[0].nodes == plan.nodes
    part, before = select(plan, "baseline", None, None)
    assert set(part.nodes) >= {DATA, MODEL, *plan.arms["baseline"], "eval/baseline/rlvr"}
    assert not any(name.startswith(("prism/", "control/")) for name in part.nodes)
    assert before == []


def test_a_single_stage_needs_its_parents_finished(plan):
    part, before = select(plan, "align", None, None)
    assert before == ["shared/sft", "prism/discriminator"]
    assert "eval/prism/align" in part.nodes
    assert "prism/rlvr" not in part.nodes


def test_sft_brings_along_the_base_it_starts_from(plan):
    part, before = select(plan, "sft", None, None)
    assert before == []
    assert {"shared/base", "shared/sft", "eval/shared/sft"} <= set(part.nodes)


def test_a_stage_belongs_to_the_arm_that_is_named(plan):
    part, before = select(plan, "rlvr", "control", None)
    assert before == ["control/sft"]
    assert "control/rlvr" in part.nodes


def test_another_parent_makes_a_result_of_its_own(plan):
    part, before = select(plan, "rlvr", "prism", "sft")
    assert before == ["shared/sft"]
    assert part.nodes["prism/rlvr-from-sft"].parents == {"policy": "shared/sft"}
    assert part.nodes["eval/prism/rlvr-from-sft"].parents == {"policy": "prism/rlvr-from-sft"}
    assert "prism/rlvr" not in part.nodes


@pytest.mark.parametrize(
    ("stage", "arm", "parent", "says"),
    [
        ("warmup", None, None, "no stage `warmup`"),
        ("rlvr", "nobody", None, "no arm `nobody`"),
        ("align", "baseline", None, "no stage `align`"),
        ("rlvr", None, "discriminator", "not a policy"),
        ("rlvr", None, "nothing", "no stage `nothing`"),
        ("all", None, "sft", "--parent"),
    ],
)
def test_what_is_not_there_is_named(plan, stage, arm, parent, says):
    with pytest.raises(BadInput, match=says):
        select(plan, stage, arm, parent)
