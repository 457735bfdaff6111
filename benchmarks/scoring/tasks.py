"""What every task of the seven benchmarks needs: the chat turns of a question, and the record of a scored response.

A task module in `benchmarks/suites/tasks` says what a document asks and how its benchmark compares answers; the rest
is here, so that all of them treat the response form, missing answers and the two prompt styles alike.
"""

from __future__ import annotations

import ast
import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks.scoring.choices import letters
from benchmarks.scoring.extract import Kind, Style, extract
from benchmarks.scoring.prompt import FORMAT_PROMPT
from benchmarks.scoring.verdict import UNPARSEABLE, Verdict

CHOICE_HINT = "The answer is the letter of the right option."
"""Ends the user's turn of a multiple-choice question in the style `format`."""


@contextlib.contextmanager
def no_judge() -> Iterator[None]:
    """For importing upstream modules that make a judge's client as they are loaded, which wants a key: this one opens
    nothing. No such client is ever used here."""
    kept = {name: os.environ.pop(name, None) for name in ("OPENAI_API_KEY", "API_TYPE")}
    os.environ["OPENAI_API_KEY"] = "none"
    try:
        yield
    finally:
        del os.environ["OPENAI_API_KEY"]
        os.environ.update({name: value for name, value in kept.items() if value is not None})


def listed(options: str | Sequence[str]) -> list[str]:
    """Options as a list: MMMU and MMMU-Pro publish theirs written out as a Python list, some copies as a real one."""
    return [str(option) for option in (ast.literal_eval(options) if isinstance(options, str) else options)]


def with_unknown(options: Sequence[str], reference: str, at_least: int = 4) -> list[str]:
    """Options read out of a text, filled up with ones of unknown text: at least so many, and up to the reference."""
    wanted = max(
        len(options), at_least if not options else 0, ord(reference) - ord("A") + 1 if len(reference) == 1 else 0
    )
    return [*options, *[""] * (wanted - len(options))]


def with_options(question: str, options: Sequence[str]) -> str:
    """A question with its options below it, one a line: `A. text`."""
    lines = [f"{letter}. {option}" for letter, option in zip(letters(len(options)), options, strict=True)]
    return "\n".join([question.strip(), *lines]).strip()


def turns(style: Style, text: str, images: Sequence[Any] = (), hint: str = "") -> list[dict[str, Any]]:
    """Chat turns with the images before the text; in the style `format` the hint and the format prompt are added."""
    parts = [text.strip(), hint if style == "format" else ""]
    content = [{"type": "image", "url": image} for image in images]
    content.append({"type": "text", "text": "\n".join(part for part in parts if part)})
    return with_system(style, content)


def with_system(style: Style, content: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A user's turn, after the format prompt in the style `format`."""
    user = {"role": "user", "content": content}
    if style == "native":
        return [user]
    return [{"role": "system", "content": [{"type": "text", "text": FORMAT_PROMPT}]}, user]


def scored(
    results: Sequence[str],
    style: Style,
    kind: Kind,
    decide: Callable[[str], Verdict],
    item: Mapping[str, Any],
) -> dict[str, dict[str, Any]]:
    """What `process_results` returns for one response.

    Args:
        results: the response, as the only element.
        style, kind: as for `extract`.
        decide: answer -> verdict; asked only when there is an answer.
        item: `item_id`, `group_id`, `subset`, `question` and `reference` of the document.
    """
    parts = extract(results[0], style, kind)
    verdict = decide(parts.answer) if parts.answer is not None else UNPARSEABLE
    return {
        "prism": {
            **item,
            "caption": parts.caption,
            "reasoning": parts.reasoning,
            "answer": parts.answer,
            "correct": verdict.correct,
            "rule": verdict.rule,
            "format": parts.well_formed,
        }
    }


def share_correct(verdicts: Iterable[Mapping[str, Any]]) -> float:
    """Aggregation of the metric `prism`: the share of responses that are right, in [0, 1]."""
    marks = [bool(verdict["correct"]) for verdict in verdicts]
    return sum(marks) / len(marks) if marks else 0.0
