"""`mode` changes defaults, never what is given; in a recipe, in an arm, and in a recipe written out in full."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from integrations.alignment.settings import AlignSettings, DiscriminatorSettings
from integrations.alignment.settings.modes import ModeSettings
from prism_cli.recipes.load import load
from prism_cli.recipes.schema import Recipe

MODED = [kind for kind in (AlignSettings, DiscriminatorSettings) if issubclass(kind, ModeSettings)]
DIGITS = load("digits").recipe.model_dump(mode="json", exclude_unset=True)


def recipe(align: dict[str, Any], changes: dict[str, Any]) -> Recipe:
    """Digits with other fields in its align stage, and one more arm in which some of them change."""
    data = copy.deepcopy(DIGITS)
    data["stages"]["align"] |= align
    data["arms"]["other"] = {"stages": data["arms"]["prism"]["stages"], "set": changes}
    return Recipe.model_validate(data)


@pytest.mark.parametrize("kind", MODED)
def test_the_papers_defaults_fill_what_is_not_given(kind: type[ModeSettings]) -> None:
    assert kind.PAPER.keys() <= kind.model_fields.keys()
    default, paper = kind().model_dump(), kind.model_validate({"mode": "paper"}).model_dump()
    changed = {name for name in default if default[name] != paper[name]}
    assert changed == {"mode", *kind.PAPER}, "PAPER names exactly what differs"
    assert kind.model_validate(paper).model_dump() == paper
    for name in kind.PAPER:
        back = kind.model_validate({"mode": "paper", name: default[name]})
        assert getattr(back, name) == default[name]


@pytest.mark.parametrize("kind", MODED)
def test_what_the_paper_does_is_said_where_it_differs(kind: type[ModeSettings]) -> None:
    silent = [name for name in kind.PAPER if "paper" not in (kind.model_fields[name].description or "").lower()]
    assert not silent


def test_an_arm_in_paper_mode_keeps_what_the_recipe_gives() -> None:
    made = recipe({"credit": "per_role", "learning_rate": 2e-5}, {"align.mode": "paper", "align.min_spread": 0.1})
    own = made.stage_of("other", "align")
    assert isinstance(own, AlignSettings)
    assert (own.credit, own.learning_rate, own.min_spread) == ("per_role", 2e-5, 0.1)
    assert (own.invalid, own.score_clip, own.format_penalty) == ("lowest", 10.0, 1.5)
    plain = made.stage_of("prism", "align")
    assert isinstance(plain, AlignSettings)
    assert (plain.invalid, plain.mode) == ("apart", "prism")


def test_an_arm_can_go_back() -> None:
    made = recipe({"mode": "paper", "min_spread": 0.0}, {"align.mode": "prism"})
    own = made.stage_of("other", "align")
    assert own == made.stages["align"].model_copy(update=_defaults() | {"mode": "prism", "min_spread": 0.0})


def test_written_out_in_full_a_recipe_means_the_same() -> None:
    made = recipe({"credit": "per_role"}, {"align.mode": "paper", "align.rollout.max_new_tokens": 64})
    again = Recipe.model_validate(made.model_dump(mode="json"))
    assert again == made
    for arm in made.arms:
        for stage in made.arms[arm].stages:
            assert again.stage_of(arm, stage) == made.stage_of(arm, stage)
    assert again.stage_of("other", "align").model_dump()["rollout"]["max_new_tokens"] == 64


def _defaults() -> dict[str, Any]:
    plain = AlignSettings()
    return {name: getattr(plain, name) for name in AlignSettings.PAPER}
