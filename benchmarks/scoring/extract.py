"""Taking caption, reasoning and answer out of a response.

Two styles, named like the prompts they go with:

    format    the answer is what the <answer> block after the reasoning holds. A block that is empty, missing or never
              closed, or several that disagree, leave no answer.
    native    the same, and without any <answer> tag what the benchmarks' own prompts lead models to write, the first
              of: the last \\boxed{}, the last "answer is X" or "Answer: X", a single short line, and for questions of
              the kind `choice` a last line that is one option letter, of the kind `yes_no` a first word yes or no.

The paper's script takes the first <answer> wherever it stands, also inside the reasoning, where a model may be quoting
or trying out an answer; here only blocks after the last </think> count.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from integrations.common.response import parse

Style = Literal["format", "native"]
Kind = Literal["choice", "yes_no", "open"]
"""What sort of answer the question asks for: an option, yes or no, anything else."""

SHORT = 80
"""Characters up to which a response of one line is itself the answer (`native`)."""

_ANSWER = re.compile(r"<answer>((?:(?!</?answer>).)*)</answer>", re.DOTALL)
_CAPTION = re.compile(r"<caption>(.*?)</caption>", re.DOTALL)
_THINK = re.compile(r"<think>(.*)</think>", re.DOTALL)
_ANSWER_IS = re.compile(r"\banswer(?:\s+is\b\s*:?|\s*:)[ \t*]*([^\n]+)", re.IGNORECASE)
_LETTER_LINE = re.compile(r"[\s*(\[]*(?:option\s+)?([A-Z])[\s*)\].:]*", re.IGNORECASE)
_YES_NO = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Extracted:
    """The parts of a response; None for what it does not have."""

    caption: str | None
    reasoning: str | None
    answer: str | None
    well_formed: bool
    """The response has the paper's form and nothing else."""


def extract(response: str, style: Style = "format", kind: Kind = "open") -> Extracted:
    """The parts of a response. Never raises, whatever the text holds."""
    form = parse(response)
    if form is not None:
        return Extracted(form.caption, form.think, form.answer, True)
    answer = _tagged(response)
    if answer is None and style == "native" and "<answer>" not in response:
        answer = _untagged(_after_think(response).strip(), kind)
    return Extracted(_inside(_CAPTION, response), _inside(_THINK, response), answer, False)


def _inside(pattern: re.Pattern[str], response: str) -> str | None:
    match = pattern.search(response)
    return (match.group(1).strip() or None) if match else None


def _after_think(response: str) -> str:
    return response.rpartition("</think>")[2]


def _tagged(response: str) -> str | None:
    """What the <answer> blocks after the reasoning hold, if they agree."""
    answers = {match.strip() for match in _ANSWER.findall(_after_think(response))} - {""}
    return answers.pop() if len(answers) == 1 else None


def _untagged(text: str, kind: Kind) -> str | None:
    """An answer in the forms that the benchmarks' own prompts lead to."""
    if boxed := last_boxed(text):
        return boxed
    if stated := _ANSWER_IS.findall(text):
        return _sentence(stated[-1]) or None
    if text and "\n" not in text and len(text) <= SHORT:
        return text
    if kind == "choice" and (match := _LETTER_LINE.fullmatch(text.rpartition("\n")[2])):
        return match.group(1)
    if kind == "yes_no" and (match := _YES_NO.match(text)):
        return match.group(1)
    return None


def _sentence(text: str) -> str:
    """Up to the end of the sentence, without emphasis: a full stop inside a number ends nothing."""
    return re.split(r"\.(?:\s|$)", text, maxsplit=1)[0].strip().strip("*").strip()


def last_boxed(text: str) -> str | None:
    """What the last \\boxed{...} of a text holds, with balanced braces; None without one that is closed."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, first = 0, start + len("\\boxed{")
    for position in range(first - 1, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[first:position].strip() or None
    return None
