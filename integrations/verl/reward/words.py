"""Numbers written in words, English and Chinese, with the words for scales (`5 million`, `3万`)."""

from __future__ import annotations

import re
from fractions import Fraction

_UNITS = {
    word: value
    for value, word in enumerate(
        [
            "zero",
            "one",
            "two",
            "three",
            "four",
            "five",
            "six",
            "seven",
            "eight",
            "nine",
            "ten",
            "eleven",
            "twelve",
            "thirteen",
            "fourteen",
            "fifteen",
            "sixteen",
            "seventeen",
            "eighteen",
            "nineteen",
        ]
    )
}
_TENS = {
    word: 10 * value
    for value, word in enumerate(
        ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"], start=2
    )
}
CHINESE_TENTHS = re.compile("[一二两三四五六七八九][成折]|一半")
SCALES = {
    "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12,
    "lakh": 10**5, "crore": 10**7,
    "万": 10**4, "亿": 10**8, "千": 10**3, "百": 100, "百万": 10**6, "千万": 10**7, "十亿": 10**9, "万亿": 10**12,
}  # fmt: skip
_PARTS = {
    "half": 2, "halve": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8,
    "ninth": 9, "tenth": 10, "eleventh": 11, "twelfth": 12, "thirteenth": 13, "fourteenth": 14, "fifteenth": 15,
    "sixteenth": 16, "twentieth": 20, "hundredth": 100, "thousandth": 1000,
}  # fmt: skip
_CHINESE = {"零": 0, "〇": 0, "一": 1, "二": 2, "两": 2, "三": 3, "四": 4, "五": 5, "六": 6, "七": 7, "八": 8, "九": 9}
_CHINESE_PLACES = {"十": 10, "百": 100, "千": 1000}
_CHINESE_NUMBER = re.compile("负?[零〇一二两三四五六七八九十百千万亿]+(?:点[零〇一二三四五六七八九]+)?")
_CHINESE_RUN = re.compile("[一二两三四五六七八九十百千]+")
CHINESE_PREFIX = re.compile(
    "(?:负?[零〇一二两三四五六七八九十百千万亿点]+又)?(?:负?[零〇一二两三四五六七八九十百千万亿点]+分之)?负?[零〇一二两三四五六七八九十百千万亿点]+|半"
)


def english(words: list[str]) -> Fraction | None:
    """The number that all the words name together, e.g. `["minus", "twenty", "one"]`; None when they name none."""
    if words and words[0] in ("minus", "negative"):
        value = english(words[1:])
        return None if value is None else -value
    if "point" in words:
        at = words.index("point")
        whole, digits = english(words[:at]) if at else Fraction(0), [_UNITS.get(word, 10) for word in words[at + 1 :]]
        if whole is None or not digits or max(digits) > 9:
            return None
        return whole + Fraction(int("".join(map(str, digits))), 10 ** len(digits))
    if words and (part := _part(words[-1])) is not None:
        return _english_fraction(words[:-1], part)
    return _english_whole(words)


def with_digits(text: str) -> str:
    """`two hours and fifteen minutes` with its numbers in digits; a text without number words as it is."""
    if not text.isascii():
        return _CHINESE_RUN.sub(lambda match: str(chinese(match.group())), text)
    words, found = text.split(), []
    while words:
        end = next((end for end in range(min(len(words), 6), 0, -1) if _number(words[:end]) is not None), 0)
        found.append(str(_number(words[:end])) if end else words[0])
        words = words[end or 1 :]
    return " ".join(found)


def _number(words: list[str]) -> Fraction | None:
    if words[-1].casefold() == "and" or not words[0][0].isalpha():
        return None
    number = english(" ".join(words).casefold().replace("-", " ").split())
    return number if number is not None and number.denominator == 1 else None


def _part(word: str) -> int | None:
    return _PARTS.get(word) or _PARTS.get(word.removesuffix("s")) or (2 if word == "halves" else None)


def _english_fraction(before: list[str], part: int) -> Fraction | None:
    """`two thirds`, `a half`, `one and a half`."""
    if "and" in before:
        at = len(before) - 1 - before[::-1].index("and")
        whole, top = _english_whole(before[:at]), _english_fraction(before[at + 1 :], part)
        return whole + top if whole is not None and top is not None else None
    top = Fraction(1) if before in ([], ["a"], ["an"]) else _english_whole(before)
    return top / part if top is not None else None


def _english_whole(words: list[str]) -> Fraction | None:
    total, group, seen = 0, 0, False
    last = 1000
    for position, word in enumerate(words):
        if word == "and":
            if not seen or position == len(words) - 1:
                return None
            continue
        if word in _UNITS or word in _TENS:
            value = _UNITS[word] if word in _UNITS else _TENS[word]
            if last < 100 and not (last in _TENS.values() and 0 < value < 10):
                return None
            group, last, seen = group + value, value, True
        elif word == "hundred" or word == "dozen":
            group, last, seen = (group or 1) * SCALES[word], 100, True
        elif word in SCALES and word.isascii():
            total, group, last, seen = total + (group or 1) * SCALES[word], 0, 1000, True
        elif word in ("a", "an") and position == 0 and len(words) > 1:
            group = 1
        else:
            return None
    return Fraction(total + group) if seen else None


def chinese(text: str) -> Fraction | None:
    """The number that a Chinese numeral writes, `百分之五十` and `三分之二` included; None when it is none."""
    if text in ("半", "一半"):
        return Fraction(1, 2)
    if len(text) == 2 and text[1] in "成折" and text[0] in _CHINESE:
        return Fraction(_CHINESE[text[0]], 10)
    if "又" in text:
        before, _, rest = text.partition("又")
        one, part = chinese(before), chinese(rest)
        return one + part if one is not None and part is not None and "分之" in rest else None
    bottom, slash, top = text.partition("分之")
    if slash:
        divisor = Fraction(100) if bottom == "百" else Fraction(1000) if bottom == "千" else chinese(bottom)
        value = chinese(top)
        return value / divisor if value is not None and divisor else None
    if not _CHINESE_NUMBER.fullmatch(text):
        return None
    sign = -1 if text.startswith("负") else 1
    whole, _, digits = text.removeprefix("负").partition("点")
    value = Fraction(_chinese_whole(whole))
    if digits:
        value += Fraction(int("".join(str(_CHINESE[digit]) for digit in digits)), 10 ** len(digits))
    return sign * value


def _chinese_whole(text: str) -> int:
    for scale, value in (("亿", 10**8), ("万", 10**4)):
        if scale in text:
            before, _, after = text.rpartition(scale)
            return (_chinese_whole(before) if before else 1) * value + (_chinese_whole(after) if after else 0)
    if not any(place in text for place in _CHINESE_PLACES):
        return int("".join(str(_CHINESE[digit]) for digit in text))
    total, digit = 0, None
    for character in text:
        if character in _CHINESE_PLACES:
            total += (1 if digit is None else digit) * _CHINESE_PLACES[character]
            digit = None
        else:
            digit = _CHINESE[character]
    return total + (digit or 0)
