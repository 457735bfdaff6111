"""Deciding about numbers and free answers, where a benchmark's own rule is not enough to be certain.

`free_answer` is the order for all free-form answers: the same text, the same number, equal formulas; what is left is
wrong for the rules and a judge may be asked.
"""

from __future__ import annotations

import re
import unicodedata

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
_WORDS = re.compile(r"[A-Za-z]{2,}|%|[^\W\d_A-Za-zΑ-ω]+")
_FUNCTIONS = {"sin", "cos", "tan", "cot", "log", "ln", "exp", "sqrt", "pi", "lim", "max", "min"}
_TURNS = {"not", "no", "more", "less", "than", "over", "under", "least", "most", "between", "or", "and", "to"}
_TURNS |= {"hundred", "thousand", "million", "billion", "或", "和", "不"}
"""Words that make another answer of the number beside them."""
_QUANTITY = re.compile(rf"({_NUMBER.pattern})\s*([A-Za-zμΩ][A-Za-zμΩ\d/^²³·\s]*)")
_NO_FORMULA = re.compile(
    r"\d+(?:[-/:]\d+){2,}"  # a date or a time, which algebra would subtract or divide
    r"|\d[\d.]*\s*[-–~]\s*\d[\d.]*\D*"  # a range
    r"|.*\(1\).*\(2\).*"  # answers to several questions
)


def number(text: str) -> float | None:
    """The number that a text is, thousands separators and all; None when it is anything more than a number."""
    bare = _THOUSANDS.sub("", unwrap(text)).replace("−", "-").rstrip(".")
    return float(bare) if _NUMBER.fullmatch(bare) else None


def normal(text: str) -> str:
    """A text in one of the ways in which the same can be written: ASCII digits, signs and exponents, no degree signs
    (benchmarks give angles with and without), no sign of rounding before it."""
    for written, meant in (("²", "^2"), ("³", "^3"), ("**", "^"), ("^{2}", "^2"), ("^{3}", "^3")):
        text = text.replace(written, meant)
    text = unicodedata.normalize("NFKC", _DEGREES.sub("", text)).replace("\u2044", "/").strip()
    return re.sub(r"^[\u2012-\u2015−](?=[\d.])", "-", text.removeprefix("≈").strip())


def words(text: str) -> set[str]:
    """Words and units around the formula of an answer, in lower case."""
    return {word.lower() for word in _WORDS.findall(_COMMAND.sub(" ", _TEXT.sub(r" \1 ", text)))} - _FUNCTIONS


def quantity(text: str) -> tuple[float, str] | None:
    """Number and unit of a text that is a number with a unit behind it; also a number with a variable."""
    match = _QUANTITY.fullmatch(_THOUSANDS.sub("", unwrap(_TEXT.sub(r" \1 ", unwrap(text)))))
    return (float(match.group(1)), "".join(match.group(2).split())) if match else None


def free_answer(reference: str, answer: str, how: How) -> Verdict:
    """The verdict on a free-form answer.

    Args:
        reference, answer: as the benchmark and the response give them.
        how: the benchmark's own way to compare formulas.
    """
    reference, answer = normal(reference), normal(answer)
    ours, theirs = quantity(reference), quantity(answer)
    if ours and theirs:
        return Verdict(True, "number") if ours == theirs else Verdict(False, "open_unmatched")
    if plain(reference) == plain(answer):
        return Verdict(True, "exact")
    wanted, given = number(reference), number(answer)
    if wanted is not None and given is not None:
        return _numbers(reference, answer, wanted, given, how)
    return _formulas(unwrap(reference), unwrap(answer), how)


def _formulas(reference: str, answer: str, how: How) -> Verdict:
    """By computer algebra, where that can be trusted with the texts."""
    ours, theirs = words(reference), words(answer)
    another = (ours and theirs and ours != theirs) or (ours ^ theirs) & _TURNS
    if another or any(map(_NO_FORMULA.fullmatch, (reference, answer))) or not answer.isprintable():
        return Verdict(False, "open_unmatched")
    if not MATHS.equal(how, reference, answer):
        return Verdict(False, "open_unmatched")
    if ours != theirs:
        return Verdict(True, "formula_with_words")
    return Verdict(True, "formula_out_of_order" if _out_of_order(reference, answer) else "formula")


def _out_of_order(reference: str, answer: str) -> bool:
    """Two lists without brackets, of the same texts in another order: algebra takes them for sets."""
    first, second = ([part.strip() for part in text.split(",")] for text in (reference, answer))
    return len(first) > 1 and first != second and sorted(first) == sorted(second)


def _numbers(reference: str, answer: str, wanted: float, given: float, how: How) -> Verdict:
    """Far numbers differ for certain; close ones are compared to the benchmark's own precision."""
    difference = abs(wanted - given)
    if difference == 0:
        return Verdict(True, "number")
    near = difference <= NEAR * max(abs(wanted), abs(given))
    if (near or difference <= ROUNDED) and MATHS.equal(how, unwrap(reference), unwrap(answer)):
        return Verdict(True, "number")
    return Verdict(False, "open_unmatched" if near else "number")
