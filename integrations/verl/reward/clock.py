"""Times of day, dates and days of the week."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from integrations.verl.reward.numerals import RANKS
from integrations.verl.reward.words import chinese, english

_MARK = r"(a\.?m\.?|p\.?m\.?|in the morning|in the afternoon|in the evening|at night)"
_DIGITAL = re.compile(rf"([0-2]?[0-9]):([0-5][0-9])(?::([0-5][0-9])(?:\.0+)?)?\s*{_MARK}?", re.IGNORECASE)
_HOUR = re.compile(rf"([0-2]?[0-9])\s*(?:o'?\s?clock)?\s*{_MARK}|([0-2]?[0-9]|[a-z]+)\s*o'?\s?clock()", re.IGNORECASE)
_DOTTED = re.compile(rf"([0-2]?[0-9])\.([0-5][0-9])\s*{_MARK}", re.IGNORECASE)
_IN_WORDS = re.compile(rf"([a-z]+)(?:[ -](?:oh[ -])?([a-z]+(?:[ -][a-z]+)?))??(?:\s*{_MARK})?", re.IGNORECASE)
_MILITARY = re.compile(r"([0-2][0-9])([0-5][0-9]) (?:hours|hrs)")
_MARK_FIRST = re.compile(r"([ap]\.?m\.?)\s*([0-9:]+)", re.IGNORECASE)
_LETTER_H = re.compile(r"([0-2]?[0-9])\s?h\s?([0-5][0-9])")
_PAST = re.compile(
    r"(half|(?:a )?quarter|[0-9]{1,2}|[a-z-]+)(?: minutes?)? (past|after|to|before) ([0-9]{1,2}|[a-z]+)\s*"
    rf"{_MARK}?",
    re.IGNORECASE,
)
_CHINESE = re.compile(
    "(凌晨|早上|上午|中午|下午|傍晚|晚上|夜里)?([0-9]{1,2}|[零一二两三四五六七八九十]{1,3})"
    "(?:[点时](?:钟|整)?(?:([0-9]{1,2}|[零一二三四五六七八九十]{1,4})分?|(半)|(一刻)|(三刻))?|:([0-5][0-9]))"
)
_MONTHS_TEXT = """
january february march april may june july august september october november december
"""
_MONTHS = _MONTHS_TEXT.split()
_MONTH = "(" + "|".join(f"{m[:3]}(?:{m[3:]})?" if m != "september" else "sept?(?:ember)?" for m in _MONTHS) + r")\.?"
_ISO = re.compile(r"([0-9]{4})\s*[-/.年]\s*([0-9]{1,2})\s*[-/.月]\s*([0-9]{1,2})\s*[日号]?")
_MONTH_FIRST = re.compile(rf"{_MONTH}\s*([0-9]{{1,2}})(?:st|nd|rd|th)?(?:\s*,?\s*([0-9]{{4}}))?", re.IGNORECASE)
_DAY_FIRST = re.compile(
    rf"(?:the )?([0-9]{{1,2}})(?:st|nd|rd|th)?\s*(?:of )?{_MONTH}(?:\s*,?\s*([0-9]{{4}}))?", re.IGNORECASE
)
_SLASHES = re.compile(r"([0-9]{1,2})/([0-9]{1,2})/([0-9]{4})")
_DAY_ALONE = re.compile(r"([0-9]{1,2})/([0-9]{1,2})")
_CHINESE_DAY = re.compile("([0-9]{1,2})月([0-9]{1,2})[日号]")
_CHINESE_MONTH = re.compile("([0-9]{1,2}|十?[一二三四五六七八九]|十)月(?:份)?")
_MONTH_ONLY = re.compile(rf"{_MONTH}(?:\s*,?\s*([0-9]{{4}}))?", re.IGNORECASE)
_YEAR_MONTH = re.compile(r"([0-9]{4})\s*[-/.年]\s*([0-9]{1,2})\s*月?|([0-9]{1,2})[/.-]([0-9]{4})")
_ON = re.compile(r"^(?:(?:it|this|that) (?:is|was|happened|occurred|took place) )?(?:on|in)\s+", re.IGNORECASE)
_DAY_BEFORE = re.compile(r"^(?:mon|tues|wednes|thurs|fri|satur|sun)day,?\s+(?=[\w])", re.IGNORECASE)
_RANK_OF = re.compile(rf"\b({'|'.join(RANKS)})(?=\s+of\s|$)", re.IGNORECASE)
_DAYS = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
_WEEKDAY = re.compile(
    "(mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?|(?:星期|周|礼拜)([一二三四五六日天])", re.IGNORECASE
)


Form = Literal["marked", "24", "bare"]
"""With am or pm; of a form that only the 24-hour clock has; neither."""


@dataclass(frozen=True)
class Clock:
    """A time of day."""

    seconds: int
    form: Form

    def same(self, other: Clock) -> bool:
        """A time without am or pm is right whichever of them the other one is marked with."""
        if {self.form, other.form} == {"marked", "bare"}:
            return self.seconds % 43200 == other.seconds % 43200
        return self.seconds == other.seconds


def read(text: str) -> Clock | None:
    """The time of day that a cleaned text tells; None when it tells none."""
    low = text.casefold().strip()
    if low in ("noon", "midday", "正午", "中午", "12 noon", "12:00 noon"):
        return Clock(43200, "marked")
    if low in ("midnight", "午夜", "12 midnight", "24:00"):
        return Clock(0, "marked")
    if match := _MARK_FIRST.fullmatch(text):
        text = f"{match[2]} {match[1]}"
    if match := _DIGITAL.fullmatch(text):
        return _clock(int(match[1]), int(match[2]), int(match[3] or 0), match[4] or "")
    if match := _DOTTED.fullmatch(text):
        return _clock(int(match[1]), int(match[2]), 0, match[3])
    if match := _LETTER_H.fullmatch(text):
        return _clock(int(match[1]), int(match[2]), 0, "")
    if match := _HOUR.fullmatch(text):
        hour = _number(match[1] or match[3])
        return None if hour is None else _clock(hour, 0, 0, match[2] or "")
    if match := _PAST.fullmatch(text):
        return _past(match[1].casefold(), match[2].casefold(), match[3], match[4] or "")
    if match := _MILITARY.fullmatch(text):
        return _clock(int(match[1]), int(match[2]), 0, "")
    if (match := _IN_WORDS.fullmatch(text)) and (match[2] or match[3]):
        hour, minute = _number(match[1]), _number(match[2] or "zero")
        return (
            None if not hour or minute is None or hour > 12 or minute > 59 else _clock(hour, minute, 0, match[3] or "")
        )
    return _chinese_clock(text)


def _number(text: str) -> int | None:
    value = int(text) if text.isdigit() else english(text.casefold().replace("-", " ").split())
    value = chinese(text) if value is None else value
    return int(value) if value is not None and value == int(value) else None


def _clock(hour: int, minute: int, second: int, mark: str) -> Clock | None:
    mark = mark.casefold().replace(".", "")
    if hour > 24 or (mark and hour > 12 and mark in ("am", "in the morning")):
        return None
    if mark and hour <= 12:
        hour = hour % 12 + (0 if mark in ("am", "in the morning") else 12)
    form: Form = "marked" if mark else "24" if hour > 12 or hour == 0 else "bare"
    return Clock((hour % 24 * 60 + minute) * 60 + second, form)


def _past(part: str, word: str, of: str, mark: str) -> Clock | None:
    minutes = 30 if part == "half" else 15 if "quarter" in part else _number(part)
    hour = _number(of)
    if minutes is None or hour is None or not 0 < minutes < 60:
        return None
    if word in ("to", "before"):
        hour, minutes = (hour - 1) % 12 or 12, 60 - minutes
    return _clock(hour, minutes, 0, mark)


def _chinese_clock(text: str) -> Clock | None:
    match = _CHINESE.fullmatch(text.replace(" ", ""))
    if match is None or (match[1] is None and match[7]):
        return None
    hour = _number(match[2])
    minute = 30 if match[4] else 15 if match[5] else 45 if match[6] else _number(match[3] or match[7] or "0") or 0
    if hour is None or minute > 59:
        return None
    mark = "" if match[1] is None else "am" if match[1] in ("凌晨", "早上", "上午") else "pm"
    if match[1] in ("晚上", "夜里") and hour == 12:
        mark = "am"
    return _clock(hour, minute, 0, mark)


def date(text: str, answer: bool = False) -> tuple[int, int, int] | None:
    """(year, month, day) of a cleaned text, 0 for what it leaves out; None when it is no date.

    Args:
        answer: the reference is known to be a date, so that `2020-03` and `03/2020` are months and no calculations.
    """
    text = _DAY_BEFORE.sub("", _ON.sub("", text, count=1), count=1)
    text = _RANK_OF.sub(lambda match: str(RANKS.index(match[1].casefold()) + 1), text)
    if answer and (match := _YEAR_MONTH.fullmatch(text)):
        return _valid(int(match[1] or match[4]), int(match[2] or match[3]), 1, known=2)
    if answer and (match := _DAY_ALONE.fullmatch(text)):  # month first, as with a year
        first, second = int(match[1]), int(match[2])
        return _valid(0, *((first, second) if first <= 12 else (second, first)))
    if match := _ISO.fullmatch(text):
        return _valid(int(match[1]), int(match[2]), int(match[3]))
    if match := _SLASHES.fullmatch(text):  # month first, unless that cannot be
        first, second = int(match[1]), int(match[2])
        return _valid(int(match[3]), *((first, second) if first <= 12 else (second, first)))
    if match := _MONTH_FIRST.fullmatch(text):
        return _valid(int(match[3] or 0), _month(match[1]), int(match[2]))
    if match := _DAY_FIRST.fullmatch(text):
        return _valid(int(match[3] or 0), _month(match[2]), int(match[1]))
    if match := _CHINESE_DAY.fullmatch(text):
        return _valid(0, int(match[1]), int(match[2]))
    if (match := _CHINESE_MONTH.fullmatch(text)) and (month := _number(match[1])) and 1 <= month <= 12:
        return 0, month, 0
    if match := _MONTH_ONLY.fullmatch(text):
        return int(match[2] or 0), _month(match[1]), 0
    return None


def _month(name: str) -> int:
    return next(number for number, month in enumerate(_MONTHS, start=1) if month.startswith(name.casefold()[:3]))


def _valid(year: int, month: int, day: int, known: int = 3) -> tuple[int, int, int] | None:
    return (year, month, day if known == 3 else 0) if 1 <= month <= 12 and 1 <= day <= 31 else None


def weekday(text: str) -> int | None:
    """0 for Monday to 6 for Sunday; None when a cleaned text names no day."""
    match = _WEEKDAY.fullmatch(_ON.sub("", text, count=1))
    if match is None:
        return None
    if match[2]:
        return min("一二三四五六日天".index(match[2]), 6)
    return next(number for number, day in enumerate(_DAYS) if day.startswith(match[1].casefold()[:3]))
