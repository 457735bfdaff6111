"""What `prism_discriminator.json` says: how a discriminator reads, routes and scores."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from integrations.alignment.names import DESCRIPTION
from integrations.common.files import read_json
from integrations.errors import BadInput

FORMAT = 2
CHOICES = {
    "architecture": ("moe", "dense"),
    "inputs": ("multimodal", "text"),
    "positions": ("multimodal", "text"),
    "score": ("likelihood_ratio", "head"),
    "heads": ("per_role", "shared"),
    "reasoning": ("after_caption", "alone"),
    "terminator": ("end-of-turn", "turn-end"),
    "routing": ("roles", "free"),
}
"""Fields of words, and their words. What each means is said with the settings of the same names."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """Content of `prism_discriminator.json`."""

    architecture: str = "moe"
    inputs: str = "multimodal"
    positions: str = "multimodal"
    score: str = "likelihood_ratio"
    heads: str = "per_role"
    reasoning: str = "after_caption"
    terminator: str = "end-of-turn"
    routing: str = "roles"
    experts: int = 4
    """Per layer; 1 for `dense`."""
    top_k: int = 2
    teacher_tokens: int | None = None
    """Longest segment of a demonstration; None: whole."""
    reference: str
    """Hash of the policy folder that it was trained against, whose likelihood `likelihood_ratio` subtracts
    (`files.hash_folder`); empty where the folder does not say."""
    tokenizer: str
    """sha256 of `tokenizer.json`."""
    held_out: int
    """Prompts of the teacher pool it was not trained on."""
    format: int = FORMAT


def read_description(folder: Path) -> Description:
    """The folder's description.

    Raises:
        BadInput: it is missing, not JSON, of another format, lacks a field, or says what this version does not know.
    """
    path = folder / DESCRIPTION
    content = read_json(path)
    fix = "point at the result of a discriminator stage"
    if not isinstance(content, dict):
        raise BadInput(f"{path} is missing or not JSON, so {folder} is no discriminator", fix)
    if content.get("format") != FORMAT:
        raise BadInput(f"{path}: format {content.get('format')!r}, this version reads {FORMAT}", fix)
    names = {item.name for item in fields(Description)}
    if content.keys() != names:
        wrong = sorted(content.keys() ^ names)
        raise BadInput(f"{path}: field `{wrong[0]}` is missing or unknown", fix)
    for name, words in CHOICES.items():
        if content[name] not in words:
            raise BadInput(f"{path}: `{name}` is {content[name]!r}, which is none of {', '.join(words)}", fix)
    return Description(**content)


def differences(one: Description, other: Description) -> dict[str, tuple[Any, Any]]:
    """Fields that change what the weights mean or how they are used, and their two values."""
    aside = {"reference", "tokenizer", "held_out", "teacher_tokens", "format"}
    if one.score == other.score == "likelihood_ratio":
        aside.add("heads")
    names = [item.name for item in fields(Description) if item.name not in aside]
    return {
        name: (getattr(one, name), getattr(other, name)) for name in names if getattr(one, name) != getattr(other, name)
    }
