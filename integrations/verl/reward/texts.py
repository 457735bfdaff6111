"""Words and names: the same ones, in another dress or under a name that everyone knows them by."""

from __future__ import annotations

import re

from integrations.verl.reward import quantity
from integrations.verl.reward.clean import plain, symbols_alone
from integrations.verl.reward.many import Said, Same

_HYPHEN = re.compile(r"(?<=[^\W\d_])-(?=[^\W\d_])")
_LETTER = re.compile(r"[^\W\d_]")
_MATHS = re.compile(r"[0-9+=<>^\\/%°]")
_FORMULA = re.compile(r"[A-Z][A-Za-z]|(?=.*[0-9])(?:[A-Z][a-z]?(?:_\{?)?[0-9]*\}?)+")
"""`CO` and `Co` are not the same, nor `CO2` and `Co2`."""
_ION = re.compile(r"(?:[A-Z][a-z]?[0-9]*|[()])+\^?[0-9]*[+-]")
_COLOUR = re.compile(r" (?:in )?colou?r(?:ed)?$")
_PLURAL = re.compile("[^s]s$")
_IT = re.compile(r"^(?:it|they) (?=\w+$)")
_RANKED = re.compile(r"\b([1-9])(?:st|nd|rd|th)\b")
_RANKS = ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth"]
_KNOWN_AS = {
    "us": "united states", "usa": "united states", "united states of america": "united states",
    "uk": "united kingdom", "uae": "united arab emirates", "republic of korea": "south korea",
    "people's republic of china": "china", "prc": "china", "eu": "european union", "un": "united nations",
    "right angled triangle": "right triangle", "rightangled triangle": "right triangle",
}  # fmt: skip
_SHORT_WORDS = (("mt ", "mount "), ("dr ", "doctor "), ("ft ", "fort "))


def text(answer: str, reference: str, same: Same) -> Said | None:
    """The kind of last resort: the same words. None for a reference that is a number or a formula."""
    if _ion(symbols_alone(answer)) == _ion(symbols_alone(reference)):
        return True, "text"
    if _FORMULA.fullmatch(answer) and _FORMULA.fullmatch(reference):
        return False, "case"
    if _MATHS.search(reference) and quantity.readings(reference):
        return None
    if not _LETTER.search(reference):  # between digits a comma means something
        return answer.casefold() == reference.casefold(), "text"
    ours, theirs = _usual(plain(reference)), _usual(plain(answer.strip("()")))
    if ours == theirs or _singular(ours) == _singular(theirs):
        return ours != "", "text"
    return plain(_HYPHEN.sub("", answer)) == plain(_HYPHEN.sub("", reference)) != "", "text"


def _ion(symbols: str) -> str:
    """`Fe^3+` and `Fe3+` alike."""
    tight = symbols.replace(" ", "")
    return tight.replace("^", "") if _ION.fullmatch(tight) else symbols


def _usual(name: str) -> str:
    for short, full in _SHORT_WORDS:
        if name.startswith(short):
            name = full + name[len(short) :]
    name = _RANKED.sub(lambda match: _RANKS[int(match[1]) - 1], _IT.sub("", _COLOUR.sub("", name)))
    return _KNOWN_AS.get(name.replace(".", ""), name)


def _singular(name: str) -> str:
    return name[:-1] if len(name) > 3 and name.isascii() and name[-2].isalpha() and _PLURAL.search(name) else name
