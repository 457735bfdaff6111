"""Deciding about numbers and free answers, where a benchmark's own rule is not enough to be certain.

`free_answer` is the order for all free-form answers: the same text, the same number, equal formulas; what is left is
wrong for the rules and a judge may be asked.
"""

from __future__ import annotations

import re

from benchmarks.scoring.choices import plain, unwrap
from benchmarks.scoring.maths import MATHS, How
from benchmarks.scoring.verdict import Verdict

NEAR = 0.01
"""Relative difference below which two numbers may be the same answer rounded differently: then a judge may be asked."""
ROUNDED = 0.01
"""Difference above which no benchmark's rounding makes two numbers equal."""

_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_DEGREES = re.compile(r"\s*(?:\^\s*\{?\s*\\circ\s*\}?|°|\\degree\b)")
_TEXT = re.compile(r"\\(?:text|mathrm|mbox)\s*\{([^{}]*)\}")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_WORDS = re.compile(r"[A-Za-z]{2,}|%")
_FUNCTIONS = {"sin", "cos", "tan", "cot", "log", "ln", "exp", "sqrt", "pi", "lim", "max", "min"}


def number(text: str) -> float | None:
    """The number that a text is, thousands separators and all; None when it is anything more than a number."""
    bare = _THOUSANDS.sub("", unwrap(text)).replace("−", "-").rstrip(".")
    return float(bare) if _NUMBER.fullmatch(bare) else None


def without_degrees(text: str) -> str:
    """A text without degree signs: benchmarks give angles with and without."""
    return _DEGREES.sub("", text)


def words(text: str) -> set[str]:
    """Words and units around the formula of an answer, in lower case."""
    return {word.lower() for word in _WORDS.findall(_COMMAND.sub(" ", _TEXT.sub(r" \1 ", text)))} - _FUNCTIONS


def free_answer(reference: str, answer: str, how: How) -> Verdict:
    """The verdict on a free-form answer.

    Args:
        reference, answer: as the benchmark and the response give them.
        how: the benchmark's own way to compare formulas.
    """
    reference, answer = without_degrees(reference), without_degrees(answer)
    if plain(reference) == plain(answer):
        return Verdict(True, "exact")
    wanted, given = number(reference), number(answer)
    if wanted is not None and given is not None:
        return _numbers(reference, answer, wanted, given, how)
    ours, theirs = words(reference), words(answer)
    if ours and theirs and ours != theirs:
        return Verdict(False, "open_unmatched")
    if MATHS.equal(how, unwrap(reference), unwrap(answer)):
        return Verdict(True, "formula" if ours == theirs else "formula_with_words")
    return Verdict(False, "open_unmatched")


def _numbers(reference: str, answer: str, wanted: float, given: float, how: How) -> Verdict:
    """Far numbers differ for certain; close ones are compared to the benchmark's own precision."""
    difference = abs(wanted - given)
    if difference == 0:
        return Verdict(True, "number")
    near = difference <= NEAR * max(abs(wanted), abs(given))
    if (near or difference <= ROUNDED) and MATHS.equal(how, unwrap(reference), unwrap(answer)):
        return Verdict(True, "number")
    return Verdict(False, "open_unmatched" if near else "number")
