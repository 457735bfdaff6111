"""Numbers in uncommon dress: Roman numerals, `twice`, `第3个`, `1:30 hours`, `25 C`, and words for nothing."""

from __future__ import annotations

import re
from fractions import Fraction

from integrations.verl.reward.words import chinese

RANKS = [
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth",
    "tenth", "eleventh", "twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth",
    "seventeenth", "eighteenth", "nineteenth", "twentieth",
]  # fmt: skip
_COUNTS = {"once": 1, "twice": 2, "thrice": 3, "a pair": 2, "a couple": 2, "pair": 2, "couple": 2}
_ROMAN = re.compile("(?=..)(X{0,3})(IX|IV|V?I{0,3})")
_RANK = re.compile("第([0-9]{1,4}|[一二三四五六七八九十]{1,3})[个名位条次]?")
_DURATION = re.compile(r"([0-9]{1,2}):([0-5][0-9])\s*(hours?|hrs?|h|minutes?|mins?|min)")
_TEMPERATURE = re.compile(r"([+-]?[0-9]+(?:\.[0-9]+)?)\s*([CF])")
_NOTHING = re.compile(
    r"none|nil|没有|一个(?:也|都)没有|no (?!solutions|roots|answers|values|numbers|options|ideas|points)"
    r"(?:[a-z]+ )?[a-z]{2,}s",
    re.IGNORECASE,
)


def roman(text: str) -> int | None:
    """The value of a Roman numeral from II to XXXIX; None for any other text, single letters included."""
    match = _ROMAN.fullmatch(text)
    if match is None:
        return None
    ones = {"IX": 9, "IV": 4}.get(match[2])
    return 10 * len(match[1]) + (ones if ones is not None else 5 * ("V" in match[2]) + match[2].count("I"))


def uncommon(text: str) -> tuple[Fraction, str] | None:
    """A number and its unit (empty when it has none); None for what is not in such a dress."""
    if (number := _COUNTS.get(text.casefold()) or roman(text)) is not None:
        return Fraction(number), ""
    if match := _RANK.fullmatch(text):
        rank = Fraction(match[1]) if match[1].isdigit() else chinese(match[1])
        return None if rank is None else (rank, "")
    if match := _DURATION.fullmatch(text):
        unit = "h" if match[3].startswith("h") else "min"
        return int(match[1]) + Fraction(int(match[2]), 60), unit
    if match := _TEMPERATURE.fullmatch(text):
        return Fraction(match[1]), f"°{match[2]}"
    return None


def is_nothing(text: str) -> bool:
    """Whether a cleaned answer says that there is none: the number 0 of whatever was counted."""
    return _NOTHING.fullmatch(text) is not None
