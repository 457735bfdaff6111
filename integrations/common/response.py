"""The response form of the paper, parsed in one place for every stage.

    <caption>what is seen</caption><think>what follows</think><answer>the answer</answer>

White space is free between and inside the blocks, nothing else may stand outside them, and no tag may occur twice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_TAG = r"</?(?:caption|think|answer)>"
_INSIDE = rf"([^<]*(?:(?!{_TAG})<[^<]*)*)"  # anything without a tag; ten times as fast as asking at every letter
_FORM = re.compile(
    rf"\s*<caption>{_INSIDE}</caption>\s*<think>{_INSIDE}</think>\s*<answer>{_INSIDE}</answer>\s*", re.DOTALL
)


@dataclass(frozen=True)
class Response:
    """The parts of a well-formed response, and where the reasoning segment begins."""

    caption: str
    think: str
    answer: str
    perception_end: int
    """Characters up to and with `</caption>`: the perception segment is text[:perception_end]."""
    reasoning_start: int
    """First character of `<think>`: the reasoning segment is text[reasoning_start:]."""


def parse(text: str) -> Response | None:
    """The response's parts, or None when the form is not met. Empty caption, reasoning or answer do not meet it."""
    match = _FORM.fullmatch(text)
    if match is None or not all(part.strip() for part in match.groups()):
        return None
    caption, think, answer = (part.strip() for part in match.groups())
    return Response(
        caption=caption,
        think=think,
        answer=answer,
        perception_end=match.end(1) + len("</caption>"),
        reasoning_start=match.start(2) - len("<think>"),
    )
