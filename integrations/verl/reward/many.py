"""Answers of several parts: matrices, sets and solutions, values by name, tuples and lists, ratios, ranges.

Each function takes a cleaned answer, a cleaned reference and `same`, which compares two parts; it returns None when the
reference is not of its kind, and otherwise whether the answer matches and which rule said so.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from integrations.verl.reward import algebra, clock, parts, quantity
from integrations.verl.reward.clean import clean, plain
from integrations.verl.reward.evaluate import value
from integrations.verl.reward.expression import Node, negative, read

Said = tuple[bool, str]
Same = Callable[[str, str], bool]

_MEMBER = re.compile(r"[a-zA-Z]\s*∈\s*(\{.*\})|\{\s*[a-zA-Z]\s*[|:]\s*(.*=.*)\}", re.DOTALL)
_NUMBERS = re.compile(r"[+-]?[0-9.]+(?: [+-]?[0-9.]+)+")
_OF_NAMES = re.compile(r"^[^=:比]{1,30}(?:(?::|比)[^=:比]{1,30})+=\s*")
_PLAIN_RANGE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*-\s*([0-9]{1,9}(?:\.[0-9]{1,9})?)")
_SAID_OF = re.compile(r"\b([a-zA-Z](?:-[a-z]{4,})?)\s*(?:是|为|:)\s*(?=[-+0-9\\])")
_COMPARED = re.compile("[<>≤≥≠]")
_ORIGIN = ("origin", "coordinate origin", "原点", "坐标原点")
MOST_PARTS = 64


def matrix(answer: str, reference: str, same: Same) -> Said | None:
    rows = parts.matrix(reference)
    if rows is None:
        return None
    given = parts.matrix(answer)
    if given is None and min(len(rows), max(map(len, rows))) == 1 and (vector := parts.split(answer)):
        given = [list(vector.items)] if len(rows) == 1 else [[item] for item in vector.items]
    if given is None or [len(row) for row in given] != [len(row) for row in rows]:
        return False, "matrix"
    pairs = ((a, b) for theirs, ours in zip(given, rows, strict=True) for a, b in zip(theirs, ours, strict=True))
    return all(same(a, b) for a, b in pairs), "matrix"


def solutions(answer: str, reference: str, same: Same) -> Said | None:
    """A set, or all the values of one unknown: in any order, none missing, none more."""
    whole = parts.split(reference)
    if whole is not None and whole.kind == "set":
        right: tuple[str, ...] | None = tuple(one for item in whole.items for one in parts.both_signs(item))
    else:
        right = parts.solutions(reference)
    if right is None:
        return None
    if whole is not None and whole.kind == "either" and any(map(_COMPARED.search, right)):  # a region, read before
        return None
    if whole is not None and whole.kind == "either" and "=" not in reference and _wordy(right):
        return any(same(answer, one) for one in right), "several"
    given = _values(answer, right)
    if given is None or max(len(given), len(right)) > MOST_PARTS or not given:
        return False, "set"
    return _covers(given, right, same) and _covers(right, given, same), "set"


def _wordy(items: tuple[str, ...]) -> bool:
    return all(not quantity.readings(item) for item in items)


def _values(answer: str, right: tuple[str, ...]) -> tuple[str, ...] | None:
    """What an answer gives as the values of a set."""
    answer = answer.removeprefix("either ")
    if (said := parts.split(answer)) is not None and said.kind == "either" and "=" not in answer and _wordy(said.items):
        return None  # `2 or 3` are the values of an unknown, `red or blue` is doubt
    if match := _MEMBER.fullmatch(answer):
        return _values(match[1] or match[2], right)
    found = parts.solutions(answer)
    if (
        found is None
        and (pieces := parts.split(answer)) is not None
        and pieces.kind in ("set", "list", "square", "either")
    ):
        found = pieces.items if len(_names(pieces.items)) < 2 else None
    if found is None and (named := parts.name_and_values(answer)) and len(named[1]) == 1:
        return _values(named[1][0], right)
    if found is None and len(set(right)) == 1:
        return (answer,)
    return None if found is None else tuple(one for item in found for one in parts.both_signs(item))


def _names(items: tuple[str, ...]) -> set[str]:
    """The unknowns that values are given for."""
    named = [parts.name_and_values(item) for item in items]
    return {parts.base_name(one[0][0]) for one in named if one is not None and one[0]}


def _covers(items: tuple[str, ...], by: tuple[str, ...], same: Same) -> bool:
    return all(any(same(item, other) or same(other, item) for other in by) for item in items)


def assigned(answer: str, reference: str, same: Same) -> Said | None:
    """`x = 1, y = 2`: values by name, in any order; or the values alone in the order of the names."""
    right = _by_name(reference)
    if right is None:
        return None
    given = _by_name(answer)
    if given is None:
        pieces = parts.split(answer)
        if (
            pieces is None
            or pieces.kind == "set"
            or len(pieces.items) != len(right)
            or any("=" in p for p in pieces.items)
        ):
            return False, "assignment"
        given = dict(zip(right, pieces.items, strict=True))
    return given.keys() == right.keys() and all(same(given[name], right[name]) for name in right), "assignment"


def _by_name(text: str) -> dict[str, str] | None:
    pieces = parts.split(_SAID_OF.sub(r"\1=", text))
    if pieces is None or pieces.kind == "either":
        return None
    named = [parts.name_and_values(item) for item in pieces.items[:MOST_PARTS]]
    if any(one is None or len(one[0]) != 1 or len(one[1]) != 1 for one in named):
        return None
    values = {parts.plain_name(one[0][0]): one[1][0] for one in named if one is not None}
    return values if len(values) == len(named) else None


def sequence(answer: str, reference: str, same: Same) -> Said | None:
    """Tuples and lists: as many parts, in the same order."""
    right = parts.split(reference) or _vector(reference)
    if right is None or right.kind in ("set", "either") or len(right.items) > MOST_PARTS:
        return None
    if right.kind == "list" and parts.is_number(reference) and parts.is_number(answer):
        return None
    given = parts.split(answer) or _vector(answer, len(right.items))
    if given is None and plain(answer) in _ORIGIN:
        given = parts.Parts("tuple", ("0",) * len(right.items))
    if given is not None and (by_name := _by_name(answer)) is not None and _by_name(reference) is None:
        given = parts.Parts("list", tuple(by_name[name] for name in sorted(by_name)))
    if given is None and (named := parts.name_and_values(answer)) and len(named[1]) == 1 and named[0]:
        given = parts.split(named[1][0])
    if given is None and (rows := parts.matrix(answer)) and min(len(rows), max(map(len, rows))) == 1:
        given = parts.Parts("list", tuple(cell for row in rows for cell in row))
    if given is None and right.kind == "list" and "→" in answer:
        given = parts.Parts("list", tuple(clean(item) for item in answer.split("→")))
    if given is None and _NUMBERS.fullmatch(answer):
        given = parts.Parts("list", tuple(answer.split()))
    if given is not None and given.kind == "set" and right.kind == "list":
        given = parts.Parts("list", given.items)
    if given is None or given.kind in ("set", "either") or len(given.items) != len(right.items):
        return False, "parts"
    if {given.kind, right.kind} == {"tuple", "square"} and _may_be_ends(right.items):
        return False, "brackets"
    return all(same(a, b) for a, b in zip(given.items, right.items, strict=True)), "parts"


def _vector(text: str, least: int = 2) -> parts.Parts | None:
    items = parts.vector(text)
    return None if items is None else parts.Parts("tuple", (*items, *["0"] * (least - len(items))))


def _may_be_ends(items: tuple[str, ...]) -> bool:
    """Two values from low to high: of an interval, whose brackets matter."""
    ends = [value(node, {}) if (node := read(item)) is not None else None for item in items]
    return len(ends) == 2 and (ends[0] is None or ends[1] is None or ends[0].real < ends[1].real)


def ratio(answer: str, reference: str, same: Same) -> Said | None:
    terms = ratio_terms(reference) if ":" in reference or "比" in reference else None
    if terms is None or clock.read(reference) is not None:
        return None
    ours, theirs = _OF_NAMES.match(reference), _OF_NAMES.match(answer)
    if ours and theirs and plain(ours.group()) != plain(theirs.group()):
        return False, "name"
    given = ratio_terms(answer)
    if given is None and len(terms) == 2:
        return any(algebra.equal(q.node, quotient(*terms)) for q in quantity.readings(answer) if not q.unit), "ratio"
    if given is None or len(given) != len(terms):
        return False, "ratio"
    return all(
        algebra.equal(("mul", a, terms[0]), ("mul", b, given[0])) for a, b in zip(given, terms, strict=True)
    ), "ratio"


def ratio_terms(text: str) -> list[Node] | None:
    terms = parts.ratio(_OF_NAMES.sub("", text))
    nodes = [read(term) or next((q.node for q in quantity.readings(term) if not q.unit), None) for term in terms or ()]
    return [node for node in nodes if node is not None] if nodes and None not in nodes else None


def quotient(top: Node, bottom: Node) -> Node:
    return ("mul", top, ("pow", bottom, negative(("num", 1))))


def is_plain_range(text: str) -> bool:
    """`10-15`: a range and no difference, when it ascends."""
    match = _PLAIN_RANGE.fullmatch(text)
    return match is not None and float(match[1]) < float(match[2])


def span(answer: str, reference: str, same: Same) -> Said | None:
    ends = parts.bounds(reference)
    given = parts.bounds(answer) if ends is not None else None
    if ends is None or not all(quantity.readings(end) for end in ends):
        return None
    return given is not None and all(same(a, b) for a, b in zip(given, ends, strict=True)), "range"
