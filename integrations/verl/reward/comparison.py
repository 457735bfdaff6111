"""What is greater, equal, parallel: `A > B` is `B < A`, and `AB ∥ CD` is `CD ∥ AB`."""

from __future__ import annotations

import re

from integrations.verl.reward.clean import plain
from integrations.verl.reward.many import Said, Same

_WORDS = (
    (re.compile(r"\s*(?:\bis )?(?:greater|larger|bigger|more|taller|longer|higher) than\s+|\s*大于\s*"), ">"),
    (re.compile(r"\s*(?:\bis )?(?:less|smaller|fewer|shorter|lower) than\s+|\s*小于\s*"), "<"),
    (re.compile(r"\s+(?:is equal to|is the same as|equals)\s+|\s*等于\s*"), "="),
    (re.compile(r"\s+is parallel to\s+|\s*平行于\s*"), "∥"),
    (re.compile(r"\s+is perpendicular to\s+|\s*垂直于\s*"), "⊥"),
)
_SIGN = re.compile(r"\s*([<>≤≥=∥⊥≅])\s*")
_MIRRORED = {"<": ">", "≤": "≥"}
_EITHER_WAY = {"=", "∥", "⊥", "≅"}
_THING = re.compile(r"(?:\\angle |△|line |triangle )?(?:[^\W\d_][\w']{0,15}(?: [^\W\d_]\w{0,15}){0,2})")
_ANGLE = re.compile(r"(?:\\angle\s*|angle )([A-Z])([A-Z])([A-Z])")


def compared(answer: str, reference: str, same: Same) -> Said | None:
    """Whether two cleaned texts compare the same things in the same way. None unless the reference compares names."""
    if (ours := _ANGLE.fullmatch(reference)) and (theirs := _ANGLE.fullmatch(answer)):
        return theirs.groups() in (ours.groups(), ours.groups()[::-1]), "angle"
    right = _read(reference)
    return None if right is None else (_read(answer) == right, "comparison")


def _read(text: str) -> tuple[str, tuple[str, ...]] | None:
    """The sign, `>` rather than `<`, and the things in the order that it needs."""
    for words, sign in _WORDS:
        text = words.sub(sign, text)
    pieces = _SIGN.split(text.replace("triangle ", "△"))
    things, signs = pieces[::2], set(pieces[1::2])
    if len(signs) != 1 or not all(map(_THING.fullmatch, things)):
        return None
    sign, names = signs.pop(), tuple(thing if len(thing) < 5 else plain(thing) for thing in things)
    if sign in _EITHER_WAY:
        return sign, tuple(sorted(names))
    return (_MIRRORED[sign], names[::-1]) if sign in _MIRRORED else (sign, names)
