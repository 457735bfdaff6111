"""Intervals, their unions and inequalities, all read as pieces of the number line."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from integrations.verl.reward.evaluate import symbols, value
from integrations.verl.reward.expression import Node, negative, read

_INTERVAL = re.compile(
    r"([(\[\]])\s*([^,;()\[\]]+(?:\([^()]*\)[^,;()\[\]]*)?)\s*[,;]\s*([^,;()\[\]]+(?:\([^()]*\)[^,;()\[\]]*)?)\s*([)\]\[])"
)
_UNION = re.compile(r"\s*(?:∪|\bunion\b|\bU\b|\bor\b|或)\s*")
_BOTH = re.compile(r"\s*(?:\band\b|且|,)\s*")
_MEMBER = re.compile(r"([a-zA-Z]|[α-ω])\s*(?:∈|\bin\b)\s*(.*)", re.DOTALL)
_BUILDER = re.compile(r"\{\s*([a-zA-Z])\s*[|:]\s*(.*)\}", re.DOTALL)
_SIGNS = re.compile(r"\s*(<=|>=|=<|≤|≥|<|>|≠|!=)\s*")
_SAME_SIGN = {"<=": "≤", "=<": "≤", ">=": "≥", "!=": "≠"}
_MIRRORED = {"<": ">", ">": "<", "≤": "≥", "≥": "≤", "≠": "≠"}
_WORDS = (
    (re.compile(r"(?:is )?(?:greater|more|larger|bigger) than or equal to|at least|no (?:less|fewer) than|not less than"
                r"|大于等于|大于或等于|不小于|至少|不少于", re.IGNORECASE), "≥"),
    (re.compile(r"(?:is )?(?:less|smaller|fewer) than or equal to|at most|no (?:more|greater) than"
                r"|not (?:more|greater) than|小于等于|小于或等于|不大于|至多|不超过", re.IGNORECASE), "≤"),
    (re.compile(r"(?:is )?(?:greater|more|larger|bigger) than|大于|多于|超过", re.IGNORECASE), ">"),
    (re.compile(r"(?:is )?(?:less|smaller|fewer) than|小于|少于", re.IGNORECASE), "<"),
    (re.compile(r"(?:is )?not equal to|不等于|(?:all )?(?:the )?real numbers except(?: for)?", re.IGNORECASE), "≠"),
    (re.compile(r"(?:is )(?:non-?negative)$", re.IGNORECASE), "≥0"),
    (re.compile(r"(?:is )(?:non-?positive)$", re.IGNORECASE), "≤0"),
    (re.compile(r"(?:is )(?:strictly )?positive$", re.IGNORECASE), ">0"),
    (re.compile(r"(?:is )(?:strictly )?negative$", re.IGNORECASE), "<0"),
)  # fmt: skip
_BETWEEN = re.compile(
    r"(?:([a-zA-Z]|[α-ω])\s+(?:(?:is|lies) )?)?(?:strictly )?between\s+(.{1,40})\s+and\s+(.{1,40}?)"
    r"(,?\s+\(?inclusive\)?)?|from\s+(.{1,40})\s+to\s+(.{1,40}?),?\s+\(?inclusive\)?",
    re.IGNORECASE,
)
_ALL = re.compile(
    r"\\mathbb\s*\{?R\}?|ℝ|R|(?:the set of )?all reals?(?: numbers?)?|any real number|(?:the )?real numbers"
    r"|全体实数|实数集|任意实数|一切实数"
)
_INFINITE: Node = ("const", "oo")
_MINUS_INFINITE: Node = ("mul", ("num", Fraction(-1)), ("const", "oo"))


@dataclass(frozen=True)
class Piece:
    """From one end to the other, each in or out."""

    low: Node
    high: Node
    low_in: bool
    high_in: bool


@dataclass(frozen=True)
class Region:
    """Pieces from left to right, and the variable where one is named."""

    pieces: tuple[Piece, ...]
    name: str | None = None


def read_region(text: str) -> Region | None:
    """The part of the number line that a cleaned text describes; None when it describes none."""
    if len(text) > 200:
        return None
    if _ALL.fullmatch(text):
        return Region((Piece(_MINUS_INFINITE, _INFINITE, False, False),))
    if (match := _MEMBER.fullmatch(text)) or (match := _BUILDER.fullmatch(text)):
        inner = read_region(match[2].strip())
        return None if inner is None or inner.name not in (None, match[1]) else Region(inner.pieces, match[1])
    if match := _BETWEEN.fullmatch(text):
        text = _ends(match)
    for pattern, sign in _WORDS:
        text = pattern.sub(sign, text)
    pieces: list[Piece] = []
    names: set[str] = set()
    for part in _UNION.split(text):
        region = _part(part.strip())
        if region is None:
            return None
        pieces += region.pieces
        names |= {region.name} if region.name else set()
    if len(names) > 1 or not pieces:
        return None
    return Region(tuple(sorted(pieces, key=lambda piece: _position(piece.low))), names.pop() if names else None)


def _ends(match: re.Match[str]) -> str:
    """`between 2 and 5` leaves the ends out, unless it says otherwise."""
    if match[5]:
        return f"[{match[5]}, {match[6]}]"
    sign = "≤" if match[4] else "<"
    return f"{match[2]} {sign} {match[1] or 'x'} {sign} {match[3]}"


def _part(text: str) -> Region | None:
    if match := _INTERVAL.fullmatch(text):
        low, high = read(match[2].strip()), read(match[3].strip())
        if low is None or high is None or symbols(low) or symbols(high) or not _position(low) < _position(high):
            return None
        ends = abs(_position(low)) == float("inf"), abs(_position(high)) == float("inf")
        return Region((Piece(low, high, match[1] == "[" and not ends[0], match[4] == "]" and not ends[1]),))
    region = _inequality(text)
    if region is None and len(sides := _BOTH.split(text)) == 2:
        left, right = _inequality(sides[0]), _inequality(sides[1])
        if left and right and left.name == right.name and len(left.pieces) == len(right.pieces) == 1:
            return _overlap(left, right)
    return region


def _overlap(left: Region, right: Region) -> Region | None:
    a, b = left.pieces[0], right.pieces[0]
    low, high = max(a, b, key=lambda p: _position(p.low)), min(a, b, key=lambda p: _position(p.high))
    if not _position(low.low) < _position(high.high):
        return None
    return Region((Piece(low.low, high.high, low.low_in, high.high_in),), left.name)


def _inequality(text: str) -> Region | None:
    parts = _SIGNS.split(text)
    sides, signs = [side.strip() for side in parts[::2]], [_SAME_SIGN.get(sign, sign) for sign in parts[1::2]]
    if len(signs) == 1:
        return _one_sign(sides, signs[0])
    if len(signs) != 2 or not all(sides) or signs[0][0] not in "<>≤≥" or signs[1][0] not in "<>≤≥":
        return None
    if (signs[0] in "<≤") != (signs[1] in "<≤"):
        return None
    if signs[0] in ">≥":
        sides.reverse()
        signs = [_MIRRORED[sign] for sign in reversed(signs)]
    low, middle, high = (read(side) for side in sides)
    name = _variable(middle)
    if low is None or high is None or name is None or symbols(low) or symbols(high):
        return None
    return Region((Piece(low, high, signs[0] == "≤", signs[1] == "≤"),), name)


def _one_sign(sides: list[str], sign: str) -> Region | None:
    left, right = (read(side) if side else None for side in sides)
    if right is not None and symbols(right) and left is not None and not symbols(left):
        left, right, sign = right, left, _MIRRORED[sign]
    name = _variable(left) if left is not None else None
    if right is None or symbols(right):
        return None
    inside = left[2] if left is not None and left[0] == "fn" and left[1] == "abs" else None
    if inside is not None and _variable(inside) and sign in "<≤" and _position(right) > 0:
        return Region((Piece(negative(right), right, sign == "≤", sign == "≤"),), _variable(inside))
    if inside is not None and _variable(inside) and sign in ">≥" and _position(right) > 0:
        left_piece = Piece(_MINUS_INFINITE, negative(right), False, sign == "≥")
        return Region((left_piece, Piece(right, _INFINITE, sign == "≥", False)), _variable(inside))
    if sides[0] and name is None:
        return None
    if sign == "≠":
        return Region((Piece(_MINUS_INFINITE, right, False, False), Piece(right, _INFINITE, False, False)), name)
    if sign in ">≥":
        return Region((Piece(right, _INFINITE, sign == "≥", False),), name)
    return Region((Piece(_MINUS_INFINITE, right, False, sign == "≤"),), name)


def _variable(node: Node | None) -> str | None:
    return node[1] if node is not None and node[0] == "sym" else None


def _position(node: Node) -> float:
    if node == _INFINITE:
        return float("inf")
    if node[0] == "mul" and node[2] == _INFINITE:
        return float("-inf")
    number = value(node, {})
    return float("nan") if number is None else number.real


def same(left: Region, right: Region, equal: Callable[[Node, Node], bool]) -> bool:
    """Whether two regions are one: the same pieces, ends in or out alike, and no different variables."""
    if left.name and right.name and left.name.casefold() != right.name.casefold():
        return False
    return len(left.pieces) == len(right.pieces) and all(
        (a.low_in, a.high_in) == (b.low_in, b.high_in) and equal(a.low, b.low) and equal(a.high, b.high)
        for a, b in zip(left.pieces, right.pieces, strict=True)
    )
