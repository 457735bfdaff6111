"""Decides whether an answer is the reference, by trying every kind of answer that the reference can be read as.

    decide("100 cm", "1 m")  ->  Verdict(correct=True, rule="unit", type="quantity")

The kinds are in kinds.py, and sentences.py frees an answer from the words around it. The principles are in verdicts.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from integrations.verl.reward import choice, compare, parts, quantity, yes_no
from integrations.verl.reward.clean import LONGEST, clean
from integrations.verl.reward.kinds import judge, kind_of
from integrations.verl.reward.sentences import variants
from integrations.verl.reward.verdict import Undecided, Verdict

_TWICE = re.compile(r"([^()]+?)\s*\((?:or |i\.e\.,? ?|= ?|that is,? |which is |also )?([^()]+)\)")
_SIMPLE = re.compile(r"[+-]?[0-9]{1,15}(?:\.[0-9]{1,15})?")


def decide(prediction: str, reference: str | Sequence[str]) -> Verdict:
    """The verdict on an answer.

    Args:
        prediction: what stands in `<answer>`.
        reference: the reference answer, or several that are each right. A text that is a JSON list of texts counts as
            several; so does one whose accepted answers are separated by `||`.
    """
    try:
        return _decide(prediction, tuple(accepted(reference)))
    except Undecided as problem:
        return Verdict(False, "undecided", "error", str(problem))
    except Exception as problem:  # a defect here must not lose a response without a word, nor end the training at once
        return Verdict(False, "unreadable", "error", f"{type(problem).__name__}: {problem}")


def accepted(reference: str | Sequence[str]) -> list[str]:
    """The accepted answers of a reference, at least one."""
    if not isinstance(reference, str):
        return [str(answer) for answer in reference]
    text = reference.strip()
    if text.startswith('["') and text.endswith('"]'):
        try:
            return [str(answer) for answer in json.loads(text)]
        except ValueError:
            return [reference]
    return (
        [part.strip() for part in reference.split("||")] if "||" in reference and "|" not in text[:1] else [reference]
    )


def _decide(prediction: str, references: tuple[str, ...]) -> Verdict:
    if len(prediction) > LONGEST:
        return Verdict(False, "too_long", "any")
    answer = clean(prediction)
    if not answer:
        return Verdict(False, "empty", "any")
    accepted_ones = [clean(reference) for reference in references]
    verdict = Verdict(False, "empty", "any")
    for reference in accepted_ones:
        verdict = _against(answer, reference)
        if verdict.correct and not _SIMPLE.fullmatch(answer) and _SIMPLE.fullmatch(reference):
            return next((other for other in _in_other_units(answer, accepted_ones)), verdict)
        if verdict.correct:
            break
    return verdict


def _in_other_units(answer: str, references: list[str]) -> Iterator[Verdict]:
    """Where `12` and `12 cm` are accepted, the verdict on `12 m`: the second says what the first leaves out."""
    if any(_says_of_what(other) and _against(answer, other).correct for other in references):
        return
    for reference in references if len(references) > 1 else ():
        verdict = _against(answer, reference)
        if verdict.rule in ("unit", "noun") and not verdict.correct:
            yield verdict


def _says_of_what(reference: str) -> bool:
    return any(one.unit is not None or one.noun for one in quantity.readings(reference))


def _against(answer: str, reference: str) -> Verdict:
    if _SIMPLE.fullmatch(answer) and _SIMPLE.fullmatch(reference):
        return Verdict(compare.same(*_numbers(reference, answer))[0], "number", "quantity")
    if answer == reference and reference:
        return Verdict(True, "same_text", kind_of(reference))
    last: Verdict | None = None
    for variant in variants(answer):
        verdict = judge(variant, reference, 0)
        if verdict.correct:
            return verdict
        if _said_twice(variant, reference):
            return Verdict(True, "said_twice", verdict.type)
        last = last or verdict
    assert last is not None
    if last.rule != "two_answers" and parts.split(answer) and not parts.split(reference):
        return Verdict(False, "two_answers", last.type)
    return last


def _said_twice(answer: str, reference: str) -> bool:
    """`1/2 (0.5)`, `0.5 or 1/2`: the same answer in two forms, each of which is right."""
    match = _TWICE.fullmatch(answer)
    pieces = parts.split(answer) if match is None else None
    items = match.groups() if match else pieces.items if pieces is not None and pieces.kind == "either" else ()
    if not 1 < len(items) < 4 or choice.read_reference(reference) or yes_no.read_reference(reference) is not None:
        return False
    return all(judge(clean(item), reference, 1).correct for item in items)


def _numbers(reference: str, answer: str) -> tuple[quantity.Quantity, quantity.Quantity]:
    return quantity.readings(reference)[0], quantity.readings(answer)[0]
