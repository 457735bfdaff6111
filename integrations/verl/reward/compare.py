"""Are two quantities the same? Values exactly, units converted, nouns by their words."""

from __future__ import annotations

from fractions import Fraction

from integrations.verl.reward import algebra
from integrations.verl.reward.evaluate import exact, symbols, value
from integrations.verl.reward.expression import DEGREE, Node
from integrations.verl.reward.quantity import Quantity, times
from integrations.verl.reward.units import Dims, Unit


def same(reference: Quantity, answer: Quantity) -> tuple[bool, str]:
    """Whether an answer is the reference's quantity, and the rule that decided.

    Raises:
        Undecided: computer algebra gave no answer.
    """
    if reference.unit is not None and answer.unit is not None:
        return _with_units(reference, answer, reference.unit, answer.unit)
    if reference.noun and answer.noun and not _nouns_agree(reference.noun, answer.noun):
        return False, "noun"
    if (reference.unit and answer.noun) or (reference.noun and answer.unit):
        return False, "unit"
    return _equal(reference.node, answer.node, reference.tolerance), "number"


def rounds_to(exact_one: Quantity, rounded: Quantity) -> bool:
    """Whether a number is about a value: within a hundredth of it."""
    left = value(exact_one.node, {}) if not symbols(exact_one.node) else None
    right = value(rounded.node, {}) if not symbols(rounded.node) else None
    return left is not None and right is not None and abs(left - right) <= 0.01 * abs(left)


def _nouns_agree(left: frozenset[str], right: frozenset[str]) -> bool:
    return left <= right or right <= left


def _with_units(reference: Quantity, answer: Quantity, ours: Unit, theirs: Unit) -> tuple[bool, str]:
    if ours == theirs or (_bare_degrees(ours) and theirs.offset) or (_bare_degrees(theirs) and ours.offset):
        return _equal(reference.node, answer.node, reference.tolerance), "number"
    if _same_kind(ours.dims, theirs.dims):
        return _equal(reference.node, answer.node, reference.tolerance), "number"
    if ours.dims != theirs.dims:
        return False, "unit"
    left, right = _in_base(reference.node, ours), _in_base(answer.node, theirs)
    tolerance = None if reference.tolerance is None else reference.tolerance * ours.factor
    return _equal(left, right, tolerance), "unit"


def _same_kind(left: Dims, right: Dims) -> bool:
    """`square units` and cm²: a unit that is left open, and one of a length, an area or a volume."""
    open_ones, others = (left, right) if left[0][0] == "unit" else (right, left)
    return len(open_ones) == len(others) == 1 and open_ones[0][0] == "unit" and others[0] == ("m", open_ones[0][1])


def _bare_degrees(unit: Unit) -> bool:
    """`°` alone: of an angle, or of the temperature that the other side names."""
    return unit.dims == (("deg", 1),) and not unit.radian


def _in_base(node: Node, unit: Unit) -> Node:
    if unit.dims == (("deg", 1),):
        return node if unit.radian else ("mul", times(node, unit.factor), DEGREE)
    shifted = ("add", node, ("num", unit.offset)) if unit.offset else node
    number = exact(shifted)
    return times(("num", number) if number is not None else shifted, unit.factor)


def _equal(reference: Node, answer: Node, tolerance: Fraction | None) -> bool:
    if tolerance is None:
        return algebra.equal(reference, answer) or algebra.equal(_one_case(reference), _one_case(answer))
    ours, theirs = exact(reference), exact(answer)
    if ours is not None and theirs is not None:
        return abs(ours - theirs) <= tolerance
    left, right = value(reference, {}) if not symbols(reference) else None, None
    right = value(answer, {}) if not symbols(answer) else None
    return left is not None and right is not None and abs(left - right) <= float(tolerance)


def _one_case(node: Node) -> Node:
    """The formula with small letters, if it does not use both cases of one letter."""
    found = symbols(node)
    if len({name.casefold() for name in found}) < len(found):
        return node
    return _renamed(node)


def _renamed(node: Node) -> Node:
    if node[0] == "sym":
        return ("sym", node[1].casefold())
    return tuple(_renamed(part) if isinstance(part, tuple) else part for part in node)
