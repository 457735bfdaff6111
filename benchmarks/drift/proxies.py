"""What is counted in a response where perception and reasoning cannot be measured: proxies, not measurements.

A proxy says how a response is built, never whether it is right. The rules below are plain enough to be applied to a
model's responses and to the demonstrations alike, in any benchmark; the paper shows such counts (items per
description, reasoning steps) without saying how it took them, so its figures and these are not comparable.
"""

from __future__ import annotations

import re

PROXIES = {
    "items": "Things that the caption names: entries of its list, else parts between commas, semicolons, `and`, "
    "sentences and lines; in the digits world the digits.",
    "steps": "Steps of the reasoning: entries of its list or its numbered steps, else sentences and lines; in the "
    "digits world the computations between commas.",
    "tokens": "Generated tokens of the response. Demonstrations are kept as text, so there is no distance.",
    "response_length": "Characters of the response.",
    "caption_length": "Characters of the caption.",
    "reasoning_length": "Characters of the reasoning.",
}
"""Proxies by name, with what they count. The caption's and the reasoning's are undefined where that part is missing."""

_ENTRY = re.compile(r"^[ \t]*(?:[-*•‣]|\*{0,2}\(?(?:\d{1,3}|[A-Za-z])[.):]|\*{0,2}Step \d+)(?=\s|\*|:)", re.MULTILINE)
_SENTENCE = re.compile(r"[.!?]+(?=\s|$)|[。！？]|\n")
_NAMED = re.compile(r"[.!?]+(?=\s|$)|[,;](?=\s|$)|[。！？，、；]|\n|\band\b")


def proxies(response: str, caption: str | None, reasoning: str | None, *, digits: bool) -> dict[str, float | None]:
    """Every proxy of one response but `tokens`.

    Args:
        digits: of the digits world, whose captions and computations have a form of their own.

    Returns:
        By name, in the order of PROXIES; None where the part it is about is missing.
    """
    return {
        "items": None if caption is None else float(_digits(caption) if digits else items(caption)),
        "steps": None if reasoning is None else float(_computations(reasoning) if digits else steps(reasoning)),
        "response_length": float(len(response)),
        "caption_length": None if caption is None else float(len(caption)),
        "reasoning_length": None if reasoning is None else float(len(reasoning)),
    }


def items(caption: str) -> int:
    """Things that a caption names."""
    return _entries(caption) or _pieces(_NAMED, caption)


def steps(reasoning: str) -> int:
    """Steps of a reasoning."""
    return _entries(reasoning) or _pieces(_SENTENCE, reasoning)


def _entries(text: str) -> int:
    """Entries of the text's list; 0 where it has none (a single entry is no list)."""
    found = len(_ENTRY.findall(text))
    return found if found > 1 else 0


def _pieces(separator: re.Pattern[str], text: str) -> int:
    return sum(any(character.isalnum() for character in piece) for piece in separator.split(text))


def _digits(caption: str) -> int:
    return sum("0" <= character <= "9" for character in caption)


def _computations(reasoning: str) -> int:
    return sum(bool(piece.strip()) for piece in reasoning.split(","))
