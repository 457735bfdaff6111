"""What a recipe may say: every field documented, every contradiction refused with the field's name."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from prism_cli.recipes.load import builtin_names, load, profile_names, source_text
from prism_cli.recipes.schema import Recipe

DIGITS = load("digits").recipe


def changed(changes: dict[str, Any]) -> Recipe:
    """The digits recipe with some fields replaced; a key is a path of names joined by slashes."""
    data = copy.deepcopy(DIGITS.model_dump(mode="json"))
    for path, value in changes.items():
        *parents, last = path.split("/")
        place = data
        for part in parents:
            place = place[part]
        place[last] = value
    return Recipe.model_validate(data)


def settings_classes(kind: type[BaseModel]) -> set[type[BaseModel]]:
    """A settings class and all classes that its fields can hold."""
    found = {kind}
    for field in kind.model_fields.values():
        stack: list[Any] = [field.annotation]
        while stack:
            part = stack.pop()
            stack += getattr(part, "__args__", ())
            if isinstance(part, type) and issubclass(part, BaseModel) and part not in found:
                found |= settings_classes(part)
    return found


def test_the_walk_over_settings_finds_every_engine() -> None:
    names = {kind.__name__ for kind in settings_classes(Recipe)}
    engines = {"SftSettings", "DiscriminatorSettings", "AlignSettings", "RlvrSettings"}
    assert names >= {*engines, "RolloutSettings", "DigitsWorld", "TinyModel", "Arm", "Evaluation", "MachineUse"}


@pytest.mark.parametrize("kind", sorted(settings_classes(Recipe), key=lambda kind: kind.__name__))
def test_every_field_says_what_it_does(kind: type[BaseModel]) -> None:
    assert (kind.__doc__ or "").strip()
    silent = [name for name, field in kind.model_fields.items() if name != "kind" and not field.description]
    assert not silent


@pytest.mark.parametrize("kind", sorted(settings_classes(Recipe), key=lambda kind: kind.__name__))
def test_unknown_fields_are_refused_and_values_are_fixed(kind: type[BaseModel]) -> None:
    assert kind.model_config["extra"] == "forbid"
    assert kind.model_config["frozen"] is True


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms/prism/stages": ["base", "stf"]}, "arms.prism.stages: no stage is called `stf`, did you mean `sft`?"),
        ({"arms/prism/stages": ["base", "sft", "align"]}, "`align` aligns, so put a discriminator stage before it"),
        ({"arms/prism/stages": ["base", "sft", "discriminator"]}, "ends with a discriminator that nothing uses"),
        ({"arms/prism/stages": ["discriminator", "align"]}, "random weights; put an sft stage before it"),
        ({"arms/baseline/stages": ["rlvr"]}, "random weights; put an sft stage before it"),
        ({"arms/baseline/stages": ["base", "sft", "sft"]}, "`sft` occurs twice"),
        ({"arms/baseline/stages": []}, "at least 1 item"),
        ({"arms/control/set": {}}, "arms.control: the same as arms.baseline"),
        ({"arms/control/set": {"sft.data": ["sft"]}}, "arms.control: the same as arms.baseline"),
        ({"arms/control/set": {"sft.dta": ["sft"]}}, "stage `sft` has no field `dta`, did you mean `data`?"),
        ({"arms/control/set": {"align.steps": 3}}, "not a field of this arm's stages"),
        ({"arms/control/set": {"sft": 3}}, "not a field of this arm's stages"),
        ({"arms/control/set": {"sft.kind": "rlvr"}}, "an arm cannot change what a stage is"),
        ({"arms/control/set": {"rlvr.steps": 0}}, "arms.control.set.rlvr.steps: should be greater than or equal to 1"),
        ({"arms/control/set": {"rlvr.steps.more": 2}}, "`steps` has no fields"),
        ({"arms/control/set": {"sft.data": ["more"]}}, "arms.control.set.sft.data: the world makes no pool `more`"),
        ({"stages/sft/data": ["train"]}, "stages.sft.data: the world makes no pool `train`"),
        ({"stages/align/teacher": "gemini"}, "stages.align.teacher: the world makes no pool `gemini`"),
        ({"stages/align/held_out": 100000}, "stages.align.held_out: 100000 prompts"),
        ({"stages/align/steps": 0}, "greater than or equal to 1"),
        ({"stages/rlvr/steps": -5}, "greater than or equal to 1"),
        ({"stages/sft/epochs": 1.0}, "give either `steps` or `epochs`"),
        ({"stages/sft/kind": "dpo"}, "does not match any of the expected tags"),
        ({"stages/init": {"kind": "sft", "data": ["sft"], "steps": 1}}, "stages.init: this name is taken"),
        ({"stages/Big Stage": {"kind": "sft", "data": ["sft"], "steps": 1}}, "use lower-case letters"),
        ({"arms/eval": {"stages": ["base"]}}, "arms.eval: this name is taken"),
        ({"arms/sft": {"stages": ["base"]}}, "arms.sft: a stage has this name too"),
        ({"arms": {}}, "at least 1 item"),
        ({"evaluation/pool": "tets"}, "evaluation.pool: the world makes no pool `tets`"),
        ({"evaluation/suite": "digit"}, "there is no suite `digit`, did you mean `digits`?"),
        ({"evaluation/protocols": ["greedy", "greedy"]}, "names a protocol twice"),
        ({"model": {"kind": "hub"}}, "give exactly one of `repo` and `path`"),
        ({"model": {"kind": "hub", "repo": "a/b", "path": "c"}}, "give exactly one of `repo` and `path`"),
        ({"model": {"kind": "hub", "path": "c", "revision": "main"}}, "a folder has no revision"),
        ({"world": {"kind": "files", "path": "data", "pools": ["sft"]}}, "the world makes no pool `base`"),
        ({"name": "../up"}, "should match pattern"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        changed(changes)
    assert message in str(refusal.value).replace("Input should", "should").replace("Value should", "should")


def test_a_trained_model_needs_no_sft() -> None:
    recipe = changed(
        {
            "model": {"kind": "hub", "repo": "Qwen/Qwen3-VL-4B-Instruct"},
            "arms": {"no-sft": {"stages": ["discriminator", "align", "rlvr"]}},
        }
    )
    assert recipe.arms["no-sft"].stages[0] == "discriminator"


def test_an_arm_changes_its_own_copy_of_a_stage() -> None:
    recipe = changed({"arms/control/set": {"sft.data": ["sft", "teacher"], "rlvr.steps": 77}})
    assert recipe.stage_of("control", "sft").data == ["sft", "teacher"]
    assert recipe.stage_of("control", "rlvr").steps == 77
    assert recipe.stage_of("baseline", "sft") == recipe.stages["sft"] == recipe.stage_of("prism", "sft")
    assert recipe.stage_of("control", "base") is recipe.stages["base"]


def test_an_arm_reaches_settings_inside_settings() -> None:
    recipe = changed({"arms/prism/set": {"align.rollout.max_new_tokens": 33}})
    assert recipe.stage_of("prism", "align").rollout.max_new_tokens == 33
    assert recipe.stages["align"].rollout.max_new_tokens != 33


def test_a_result_cannot_change_a_recipe_by_accident() -> None:
    with pytest.raises(ValidationError):
        DIGITS.stages["sft"].steps = 1  # type: ignore[misc]


@pytest.mark.parametrize("name", builtin_names())
def test_builtin_recipes_stand_with_every_profile(name: str) -> None:
    raw = yaml.safe_load(source_text(name))
    assert load(name).recipe.name == name == raw["name"]
    for profile in profile_names(name):
        assert load(name, profile).recipe != load(name).recipe


def test_the_paper_recipes_give_the_baseline_the_alignment_steps() -> None:
    for name in ("qwen3-vl-4b", "qwen3-vl-8b"):
        recipe = load(name).recipe
        assert (recipe.budget, recipe.stages["align"].steps, recipe.stages["rlvr"].steps) == ("steps", 500, 1500)


def test_digits_keeps_the_control_that_any_claim_needs() -> None:
    recipe = load("digits").recipe
    assert [*recipe.arms] == ["prism", "baseline", "control"]
    assert recipe.stage_of("control", "sft").data == ["sft", recipe.stages["align"].teacher]
