"""The discriminator's options: what a mode fills in, what is refused, and what the engine is given."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

from integrations.alignment.settings import DiscriminatorSettings

ENGINE = Path(__file__).resolve().parents[2] / "integrations" / "alignment"


def constant(module: str, name: str) -> dict[str, tuple[str, ...]]:
    """A constant of a module that cannot be imported here, for it needs torch's environment or stands beside it."""
    for node in ast.parse((ENGINE / f"{module}.py").read_text()).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            found: dict[str, tuple[str, ...]] = ast.literal_eval(node.value)
            return found
    raise AssertionError(name)


def test_the_folders_words_are_the_settings() -> None:
    """What a stage may ask is what a discriminator's folder may say, and no more."""
    fields = DiscriminatorSettings.model_fields
    for name, words in constant("discriminators/description", "CHOICES").items():
        assert set(get_args(fields[name].annotation)) == set(words), name


def test_the_papers_mode_is_the_published_discriminator() -> None:
    paper = DiscriminatorSettings(mode="paper")
    assert (paper.score, paper.heads, paper.positions) == ("head", "shared", "text")
    assert (paper.reasoning, paper.terminator, paper.routing) == ("alone", "turn-end", "free")
    assert paper.teacher_tokens is None, "its cut at 512 tokens is a defect to be asked for"
    assert paper.architecture == "moe"
    prism = DiscriminatorSettings()
    assert (prism.score, prism.heads, prism.positions) == ("likelihood_ratio", "per_role", "multimodal")


def test_one_field_undoes_one_repair() -> None:
    """An ablation is one line: the paper's code but for one point, or ours but for one."""
    paper = DiscriminatorSettings(mode="paper")
    for name in DiscriminatorSettings.PAPER:
        ours = getattr(DiscriminatorSettings(), name)
        one = DiscriminatorSettings(mode="paper", **{name: ours})
        changed = {
            field for field in DiscriminatorSettings.model_fields if getattr(one, field) != getattr(paper, field)
        }
        assert changed == {name}
        DiscriminatorSettings(**{name: DiscriminatorSettings.PAPER[name]})


@pytest.mark.parametrize(
    "fields",
    [{"terminator": "pad"}, {"heads": "two"}, {"positions": "1d"}, {"teacher_tokens": 0}, {"architecture": "sparse"}],
)
def test_words_that_mean_nothing_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(fields))):
        DiscriminatorSettings(**fields)  # type: ignore[arg-type]
