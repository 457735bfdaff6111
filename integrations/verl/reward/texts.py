"""Words and names: the same ones, in another dress or under a name that everyone knows them by."""

from __future__ import annotations

import re

from integrations.verl.reward import names, quantity
from integrations.verl.reward.clean import plain, symbols_alone
from integrations.verl.reward.many import Said, Same

_HYPHEN = re.compile(r"(?<=[^\W\d_]{3})-(?=[^\W\d_])|(?<=\b[^\W\d_])-(?=[^\W\d_]{3})")
"""Of `counter-example` and `x-ray`; that of `a-b` is a minus."""
_LETTERS_APART = re.compile(r"[a-zA-Z](?: ?[-*] ?[a-zA-Z])+")
"""`a - b` is no name whose hyphen may be left out."""
_LETTER = re.compile(r"[^\W\d_]")
_MATHS = re.compile(r"[0-9+=<>^\\/%°]")
_FORMULA = re.compile(r"[A-Z][A-Za-z]|(?=.*[0-9])(?:[A-Z][a-z]?(?:_\{?)?[0-9]*\}?)+")
"""`CO` and `Co` are not the same, nor `CO2` and `Co2`."""
_ION = re.compile(r"(?:[A-Z][a-z]?[0-9]*|[()])+\^?[0-9]*[+-]")
_PLURAL = re.compile("[^s]s$")


def text(answer: str, reference: str, same: Same) -> Said | None:
    """The kind of last resort: the same words. None for a reference that is a number or a formula."""
    if _ion(symbols_alone(answer)) == _ion(symbols_alone(reference)):
        return True, "text"
    if _FORMULA.fullmatch(answer) and _FORMULA.fullmatch(reference):
        return False, "case"
    if _LETTERS_APART.fullmatch(reference):
        return answer.replace(" ", "").casefold() == reference.replace(" ", "").casefold(), "text"
    if _MATHS.search(reference) and quantity.readings(reference):
        return None
    if not _LETTER.search(reference):  # between digits a comma means something
        return answer.casefold() == reference.casefold(), "text"
    if names.same(answer, reference):
        return True, "text"
    ours, theirs = names.usual(reference), names.usual(answer.strip("()"))
    if _singular(ours) == _singular(theirs):
        return ours != "", "text"
    return plain(_HYPHEN.sub("", answer)) == plain(_HYPHEN.sub("", reference)) != "", "text"


def _ion(symbols: str) -> str:
    """`Fe^3+` and `Fe3+` alike."""
    tight = symbols.replace(" ", "")
    return tight.replace("^", "") if _ION.fullmatch(tight) else symbols


def _singular(name: str) -> str:
    return name[:-1] if len(name) > 3 and name.isascii() and name[-2].isalpha() and _PLURAL.search(name) else name
