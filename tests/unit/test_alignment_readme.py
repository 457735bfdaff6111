"""The alignment stage's README names every option that repairs the method, with the values the settings have."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from integrations.alignment.settings import AlignSettings, DiscriminatorSettings, PrecisionSettings, RolloutSettings
from integrations.alignment.settings.modes import ModeSettings

README = Path(__file__).resolve().parents[2] / "integrations" / "alignment" / "README.md"
STAGES = {"Discriminator stage:": DiscriminatorSettings, "Align stage:": AlignSettings}
NOT_REPAIRS = {"mode", "max_prompt_tokens"}
"""Fields whose text speaks of the paper, but which are no difference from it."""


def table(stage: str) -> dict[str, str]:
    """Row of the stage's table by each option in its first cell."""
    text = README.read_text(encoding="utf-8").split(f"\n{stage}\n")[1]
    lines = text.strip().split("\n\n")[0].splitlines()[2:]
    return {option: line for line in lines for option in re.findall(r"`(\w+)`", line.split("|")[1])}


def written(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


@pytest.mark.parametrize("stage", STAGES)
def test_every_option_of_the_tables_exists(stage: str):
    rows = table(stage)
    assert rows
    assert {*rows} <= {*STAGES[stage].model_fields}


@pytest.mark.parametrize("stage", STAGES)
def test_every_repair_is_in_the_table_with_both_values(stage: str):
    settings: type[ModeSettings] = STAGES[stage]
    rows = table(stage)
    told = {name for name, field in settings.model_fields.items() if "paper" in (field.description or "").lower()}
    assert {*settings.PAPER, *told} - NOT_REPAIRS <= {*rows}
    for name, value in settings.PAPER.items():
        here, there = rows[name].split("|")[2:4]
        assert written(settings.model_fields[name].default) in here, name
        assert written(value) in there, name


def test_every_option_in_the_text_exists():
    text = README.read_text(encoding="utf-8")
    classes = (AlignSettings, DiscriminatorSettings, PrecisionSettings, RolloutSettings)
    known = {name for settings in classes for name in settings.model_fields}
    with_value = {name for name, _ in re.findall(r"`(\w+): (\w+)`", text)}
    alone = set(re.findall(r"\(`(\w+)`", text))
    assert with_value
    assert alone
    assert with_value | alone <= known | {"discriminator"}
