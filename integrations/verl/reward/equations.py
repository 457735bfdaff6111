"""Equations: of a line or a curve, of a name and its value, and calculations that end in a value."""

from __future__ import annotations

import re

from integrations.verl.reward import algebra, compare, parts, quantity
from integrations.verl.reward.clean import clean
from integrations.verl.reward.evaluate import symbols
from integrations.verl.reward.expression import Node, negative, read
from integrations.verl.reward.many import Said, Same


def equation(answer: str, reference: str, same: Same) -> Said | None:
    """An equation of variables: the same line or curve, in whatever form it is written."""
    right = parts.name_and_values(reference)
    if right is None:
        return None
    names, sides = right
    ours = _residual(reference)
    solved = len(names) == 1 and len(sides) == 1 and not (ours and symbols(read(sides[0]) or ("num", 0)))
    if ours is None or solved:
        return None
    theirs = _residual(answer)
    if theirs is None:
        return False, "equation"
    return algebra.proportional(ours, theirs), "equation"


def _residual(text: str) -> Node | None:
    """Left side minus right side."""
    sides = [read(re.sub(r"^f\(x\)$", "y", side.strip())) for side in text.split("=")]
    if len(sides) != 2 or sides[0] is None or sides[1] is None:
        return None
    node: Node = ("add", sides[0], negative(sides[1]))
    return node if symbols(node) else None


def named(answer: str, reference: str, same: Same) -> Said | None:
    """`x = 5`: the value, with the same name or none before it; or a calculation that is right and ends in it."""
    ours, theirs = parts.name_and_values(reference), parts.name_and_values(answer)
    if ours is None and theirs is None:
        return None
    if ours is not None and (value := _result(ours[1])) is None:
        return None
    if theirs is not None and (given := _result(theirs[1])) is None:
        return False, "calculation"
    if ours is not None and theirs is not None and ours[0] and theirs[0]:
        left, right = ({parts.plain_name(name).casefold() for name in names} for names in (ours[0], theirs[0]))
        if not left & right:
            return False, "name"
    wanted = reference if ours is None or value is None else value
    return same(answer if theirs is None or given is None else given, wanted), "named_value"


def sides_of_rounding(text: str) -> list[str]:
    """`x ≈ 3.5` as its value, `9π ≈ 28.27` as both sides, of which the second must be about the first."""
    exact_side, _, rounded = (side.strip() for side in text.rpartition("≈"))
    if parts.is_name(exact_side):
        return [clean(rounded)]
    if not exact_side or "≈" in exact_side:
        return []
    wanted = exact_side.rpartition("=")[2]
    close = any(
        compare.rounds_to(left, right) for left in quantity.readings(wanted) for right in quantity.readings(rounded)
    )
    return [clean(exact_side), clean(rounded)] if close else []


def _result(sides: list[str]) -> str | None:
    """The last side of a calculation, when all the others have the same value."""
    last = clean(sides[-1])
    return last if all(_same_value(clean(side), last) for side in sides[:-1]) else None


def _same_value(left: str, right: str) -> bool:
    ours, theirs = quantity.readings(left), quantity.readings(right)
    return any(not symbols(a.node) and algebra.equal(a.node, b.node) for a in ours for b in theirs)
