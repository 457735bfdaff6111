"""Every kind of answer that a reference can be read as, and whether an answer is the same.

Each kind is one function of KINDS: it returns None when the reference is not of its kind, and otherwise whether the
answer matches and which rule said so. Here are the kinds of one part; many.py and equations.py have the others.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from integrations.verl.reward import (
    algebra,
    chemistry,
    choice,
    clock,
    compare,
    comparison,
    equations,
    many,
    numerals,
    quantity,
    regions,
    texts,
    yes_no,
)
from integrations.verl.reward.clean import plain
from integrations.verl.reward.evaluate import symbols
from integrations.verl.reward.many import Said, Same
from integrations.verl.reward.verdict import Verdict

_SPECIAL = (
    ("greater", re.compile(r">|(?:is )?(?:greater|larger|bigger|more) than|大于", re.IGNORECASE)),
    ("less", re.compile(r"<|(?:is )?(?:less|smaller|fewer) than|小于", re.IGNORECASE)),
    ("equal", re.compile(r"=|(?:is |are )?equal(?: to)?|the same|等于|相等", re.IGNORECASE)),
    ("none", re.compile(r"∅|\{ ?\}|φ|none|(?:the )?empty(?: set)?|null set|(?:the )?solution set is empty"
                        r"|no real roots?"
                        r"|no (?:real |possible |valid )?solutions?(?: exists?)?|无解|空集|没有解|方程无解|无实数解"
                        r"|no (?:such )?(?:value|number|answer)s?(?: exists?)?", re.IGNORECASE)),
    ("undefined", re.compile(r"undefined|not defined|(?:it |the limit )?does not exist|(?:it )?doesn't exist|d\.?n\.?e"
                             r"|不存在|无意义|未定义|无定义", re.IGNORECASE)),
    ("infinite", re.compile(r"(?:an )?infinit(?:e|y)(?: (?:number|solutions?))?|\+?∞|无数个?|无穷多?个?"
                            r"|无限多?个?|有?无数个?解"
                            r"|(?:an infinite number of|infinitely many|infinite)(?: solutions?)?(?: exist)?",
                            re.IGNORECASE)),
    ("unknown", re.compile(r"(?:it )?can(?:not|'t| not) (?:be )?determined?(?: from [a-z ]{3,40})?"
                           r"|(?:there is )?(?:not enough|insufficient) information|undetermined|indeterminate"
                           r"|无法确定|不能确定|信息不足|条件不足", re.IGNORECASE)),
)  # fmt: skip

_MILLIONS = re.compile(r"[0-9.,]+M")
"""`2M` is 2 million where the reference has no unit; where it has one, it may be a concentration."""


def same(answer: str, reference: str, depth: int = 0) -> bool:
    """Whether two cleaned texts are the same answer; for the parts of larger answers."""
    return answer == reference or judge(answer, reference, depth + 1).correct


def kind_of(reference: str) -> str:
    """The first kind that a cleaned reference can be read as."""
    return next((name for name, kind in KINDS.items() if kind("\0", reference, 1) is not None), "text")


def judge(answer: str, reference: str, depth: int) -> Verdict:
    if depth > 3:
        return Verdict(answer == reference, "same_text", "text")
    first: Verdict | None = None
    for name, kind in KINDS.items():
        said = kind(answer, reference, depth)
        if said is None:
            continue
        if said[0] or name in FINAL:
            return Verdict(said[0], said[1], name)
        first = first or Verdict(False, said[1], name)
    return first or Verdict(False, "text", "text")


def _choice(answer: str, reference: str, depth: int) -> Said | None:
    right = choice.read_reference(reference) if depth == 0 else None
    return None if right is None else choice.decide(answer, right, lambda a, b: same(a, b, depth))


def _yes_no(answer: str, reference: str, depth: int) -> Said | None:
    right = yes_no.read_reference(reference)
    return None if right is None else (yes_no.read(answer) is right, "yes_no")


def _nothing(answer: str, reference: str, depth: int) -> Said | None:
    """`none` for the number 0. Not within larger answers: `{0}` and `x = 0` say something else than `none`."""
    zero = reference.casefold() in ("0", "zero") and numerals.is_nothing(answer)
    named = reference.casefold() == "none" and answer.casefold() in ("0", "zero")
    return (True, "nothing") if depth == 0 and (zero or named) else None


def _special(answer: str, reference: str, depth: int) -> Said | None:
    for _, pattern in _SPECIAL:
        if pattern.fullmatch(reference):
            return pattern.fullmatch(answer) is not None or plain(answer) == plain(reference), "special"
    return None


def _date(answer: str, reference: str, depth: int) -> Said | None:
    if (day := clock.weekday(reference)) is not None:
        return clock.weekday(answer) == day, "weekday"
    date = clock.date(reference)
    return None if date is None else (clock.date(answer, answer=True) == date, "date")


def _time(answer: str, reference: str, depth: int) -> Said | None:
    time = clock.read(reference)
    given = clock.read(answer) if time is not None else None
    return None if time is None else (given is not None and time.same(given), "time")


def _region(answer: str, reference: str, depth: int) -> Said | None:
    region = regions.read_region(reference)
    given = regions.read_region(answer) if region is not None else None
    if region is None:
        return None
    return given is not None and regions.same(region, given, algebra.equal), "interval"


def _quantity(answer: str, reference: str, depth: int) -> Said | None:
    ours = quantity.readings(reference, declares=True)
    if not ours or many.is_plain_range(reference):
        return None
    said: Said = (False, "number")
    if many.is_plain_range(answer):
        return said
    if reference.isalpha() and answer.isalpha() and reference.isascii() and not numerals.uncommon(reference):
        return None
    for right in ours:
        for given in quantity.readings(answer):
            if right.unit is None and given.unit is not None and _MILLIONS.fullmatch(answer):
                continue
            said = compare.same(right, given)
            if said[0]:
                return True, "expression" if said[1] == "number" and symbols(right.node) else said[1]
    ratio = many.ratio_terms(answer) if ":" in answer else None
    if ratio is not None and len(ratio) == 2 and clock.read(answer) is None:
        return any(algebra.equal(right.node, many.quotient(*ratio)) for right in ours if right.unit is None), "ratio"
    return said


def _of_parts(kind: Callable[[str, str, Same], Said | None]) -> Callable[[str, str, int], Said | None]:
    """A kind that compares its parts with `same`."""
    return lambda answer, reference, depth: kind(answer, reference, partial(same, depth=depth))


KINDS: dict[str, Callable[[str, str, int], Said | None]] = {
    "choice": _choice,
    "yes_no": _yes_no,
    "nothing": _nothing,
    "special": _special,
    "date": _date,
    "time": _time,
    "matrix": _of_parts(many.matrix),
    "interval": _region,
    "set": _of_parts(many.solutions),
    "assignment": _of_parts(many.assigned),
    "sequence": _of_parts(many.sequence),
    "ratio": _of_parts(many.ratio),
    "range": _of_parts(many.span),
    "reaction": _of_parts(chemistry.reaction),
    "equation": _of_parts(equations.equation),
    "named": _of_parts(equations.named),
    "quantity": _quantity,
    "comparison": _of_parts(comparison.compared),
    "text": _of_parts(texts.text),
}
"""Every kind of answer, in the order in which a reference is tried."""
FINAL = frozenset({"choice", "yes_no", "special", "date"})
"""Kinds that leave no second reading."""
