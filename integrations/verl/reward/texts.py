"""Words and names: the same ones, in another dress or under a name that everyone knows them by."""

from __future__ import annotations

import re

from integrations.verl.reward import quantity
from integrations.verl.reward.clean import plain, symbols_alone
from integrations.verl.reward.many import Said, Same

_HYPHEN = re.compile(r"(?<=[^\W\d_])-(?=[^\W\d_])")
_LETTER = re.compile(r"[^\W\d_]")
_MATHS = re.compile(r"[0-9+=<>^\\/%°]")
_KNOWN_AS = {
    "us": "united states", "usa": "united states", "united states of america": "united states",
    "uk": "united kingdom", "uae": "united arab emirates", "republic of korea": "south korea",
    "people's republic of china": "china", "prc": "china", "eu": "european union", "un": "united nations",
}  # fmt: skip
_SHORT_WORDS = (("mt ", "mount "), ("dr ", "doctor "), ("ft ", "fort "))


def text(answer: str, reference: str, same: Same) -> Said | None:
    """The kind of last resort: the same words. None for a reference that is a number or a formula."""
    if symbols_alone(answer) == symbols_alone(reference):
        return True, "text"
    if _MATHS.search(reference) and quantity.readings(reference):
        return None
    if not _LETTER.search(reference):  # between digits a comma means something
        return answer.casefold() == reference.casefold(), "text"
    ours, theirs = _usual(plain(reference)), _usual(plain(answer.strip("()")))
    if ours == theirs or _singular(ours) == _singular(theirs):
        return ours != "", "text"
    return plain(_HYPHEN.sub("", answer)) == plain(_HYPHEN.sub("", reference)) != "", "text"


def _usual(name: str) -> str:
    for short, full in _SHORT_WORDS:
        if name.startswith(short):
            name = full + name[len(short) :]
    return _KNOWN_AS.get(name.replace(".", ""), name)


def _singular(name: str) -> str:
    return name[:-1] if len(name) > 3 and name.endswith("s") and not name.endswith("ss") and name.isascii() else name
