"""Numbers and formulas, alone or with a unit or a noun: `5 kg`, `$1,200`, `50%`, `2\\sqrt{3} cm`, `5 apples`.

Values are exact: 0.5 is 1/2, and 0.3333 is not 1/3. A reference may declare a tolerance (`3.14 ± 0.01`, `≈ 3.14`,
`3.14 (to 2 decimal places)`); what an answer says about its own precision counts for nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

from integrations.verl.reward import numerals, units
from integrations.verl.reward.evaluate import exact, symbols
from integrations.verl.reward.expression import Node, read
from integrations.verl.reward.units import Unit
from integrations.verl.reward.words import CHINESE_PREFIX, CHINESE_TENTHS, SCALES, chinese, english, with_digits

_WHOLE = (
    r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]{1,2}(?:,[0-9]{2})+,[0-9]{3}(?![0-9,])"
    r"|[0-9]{1,3}(?: [0-9]{3})+(?![0-9/,])|[0-9]+)"
)
_NUMBER = rf"[+-]?\s*(?:{_WHOLE}(?:\.[0-9]+|\.(?![0-9]))?|\.[0-9]+)(?:[eE][+-]?[0-9]{{1,3}}(?![0-9]))?"
NUMBER = re.compile(_NUMBER)
_POWER = r"(?:\s*\*\s*10\s*(?:\^|\*\*)\s*[{(]?\s*[+-]?[0-9]{1,3}\s*[})]?)"
_SHAPE = re.compile(
    rf"(?:[+-]?\s*[0-9]+\s+[0-9]+\s*/\s*[0-9]+|{_NUMBER}\s*/\s*[0-9]+(?:\.[0-9]+)?|{_NUMBER}{_POWER}?)(?![0-9.])(?!\s*[*^!])"
)
_CURRENCY = re.compile(
    r"([+-]?)\s*(US\$|HK\$|[$€£¥₩₹₽]|USD|EUR|GBP|CNY|RMB|JPY|HKD|人民币)\s*(?=[-+.0-9\\])(.*)",
    re.IGNORECASE | re.DOTALL,
)
_APPROXIMATE = re.compile(
    r"\s*(?:≈|~|≅|\b(?:about|approximately|approx\.?|around|roughly|nearly|almost|circa|ca\.)(?=[\s-]|$)|(?:大约|大概|约)(?:是|为)?)\s*",
    re.IGNORECASE,
)
_TOLERANCE = re.compile(
    rf"(.*?)\s*(?:\(?\s*(?:±|\+/-|\+-|tolerance\s*(?:of\s*)?[:=]?|误差)\s*({_NUMBER})\s*(%)?\s*([^\W\d]*)\s*\)?)",
    re.DOTALL,
)
_PLACES = re.compile(
    r"(.*?)\s*\(?\s*(?:(?:rounded|correct|accurate|round)?\s*to (?:the nearest )?(\w+) (?:decimal places?|d\.?p\.?"
    r"|decimals?)"
    r"|(?:rounded|correct|accurate) to the nearest \w+|rounded|保留\w+位小数|精确到[\w.]+)\s*\)?",
    re.IGNORECASE | re.DOTALL,
)
_PERCENT = re.compile(r"\s*(?:%|percent\b(?! point)|per cent\b(?! point)|pct\b\.?)", re.IGNORECASE)
_COMPOUND = re.compile(rf"({_NUMBER})\s*([^\W\d_]+(?:\.(?=\s|$))?|°|'|\")\s*(?:and\b|,|又)?\s*", re.IGNORECASE)
_STOP = re.compile(
    r"\b(?:or|and|to|than|not|if|but|times|over|past|after|before|minus|plus|by|squared|cubed|versus|vs|maybe|perhaps|either|neither|no|nor"
    r"|between|until|through|under|below|above|least|most|less|fewer"
    r"|st|nd|rd|th|per ?cent|half|point|equals|is|are|when|mod|choose"
    r"|ignore|correct|wrong|answers?|option|bce?)\b|或|和|到|至|不|倍|分之|且|比",
    re.IGNORECASE,
)
_NOUN = re.compile(r"[^\W\d_](?:[^\W\d_]|[ '/-](?=[^\W\d_]))*")
_GREEK = re.compile("[α-ωΑ-Ω]")
_NOUN_FILLERS = frozenset(
    [
        "of",
        "the",
        "a",
        "an",
        "in",
        "total",
        "all",
        "altogether",
        "left",
        "remaining",
        "more",
        "different",
        "distinct",
        "possible",
        "whole",
    ]
)
_IRREGULAR = {
    "people": "person", "children": "child", "men": "man", "women": "woman", "mice": "mouse", "vertices": "vertex",
    "leaves": "leaf", "knives": "knife", "dice": "die", "geese": "goose", "teeth": "tooth", "shelves": "shelf",
}  # fmt: skip
_CLASSIFIERS = "个只条张本支枝颗粒头匹辆台件名位人种次块片根朵棵座间套双对把杯瓶袋盒箱组份道题项步层"
_ARTICLE = re.compile(r"(?:of )?an? (?=[a-z])", re.IGNORECASE)
_OUT_OF = re.compile(r"([0-9]+) (?:out of|in|of every|of|over)(?: every)? ([1-9][0-9]*)")
_DECADE = re.compile(r"(?:1[5-9][0-9]|20[0-2])0'?s")
"""`1990s` are years and no seconds."""
_EACH = re.compile(r"(?<=\S)\s+(?:each|in total|in all|altogether)$")
_PAUSE = re.compile(r"(thousand|million|billion),(?= )")
_HALF_MORE = re.compile(r"(?:an?|(\w+)) (\w+) and a half", re.IGNORECASE)
_AND_HALF = re.compile("^([0-9]+)个半(?=.)")
_AND_HALF_WORDS = re.compile("^([一二两三四五六七八九十]+)个半")
_AND_PART = re.compile(r"([0-9]+) and ([0-9]+/[0-9]+)(?![0-9])")
_PRICE = re.compile(rf"({_NUMBER})\s*((?:/|per\b).+)")
_YUAN = re.compile("([0-9]+)[块元]([0-9])[角毛]?")
_MINUS = re.compile(r"(?:minus|negative)\s+(?=[0-9.\\$])|负(?=[0-9])", re.IGNORECASE)
_EVERY = re.compile("每(小时|分钟|秒|天)(.+)")
_ORDINAL = re.compile(r"([0-9]{1,4})(?:st|nd|rd|th)((?: [^\W\d]+){0,4})|第?$^", re.IGNORECASE)
_SCALES = {"k": 3, "bn": 9, "mn": 6, "mil": 6}
_CAPITALS = {"K": 3, "M": 6, "B": 9}
_SCALED = re.compile(rf"({_NUMBER})(\s*)([KMB])")
_PENCE = re.compile(r"([0-9]+)\s?p")
_MARKED = re.compile(rf"({_NUMBER})\s*(['\"])")
_MINUTES = re.compile(r"([0-9]+)\s*'\s*([0-9]+(?:\.[0-9]+)?)\s*(?:\"|'')")
_SPLIT = re.compile(r"(?<=[0-9})\]π°!])\s*(?=[^\W\d_]|[°\\(])|\s+(?=[^\W\d_]|[°\\(])")


@dataclass(frozen=True)
class Quantity:
    """A value, maybe with what it is a value of."""

    node: Node
    unit: Unit | None = None
    noun: frozenset[str] = frozenset()
    """Words behind the number that are no unit: what is counted."""
    tolerance: Fraction | None = None
    """How far an answer may be off; None: not at all."""


def readings(text: str, declares: bool = False) -> list[Quantity]:
    """All ways to read a cleaned text as a quantity, none when it is not one.

    Args:
        declares: the text is a reference, whose `≈` or `±` is a tolerance. In an answer `≈` means nothing.
    """
    about = _APPROXIMATE.match(text)
    body = (text[about.end() :] if about else text).removesuffix("左右").removesuffix(" or so").strip()
    tolerance: Fraction | None = None
    relative = False
    rounded = bool(about)
    if declares and (match := _TOLERANCE.fullmatch(body)) and NUMBER.match(match[1].strip("( ")):
        body, tolerance, relative = f"{match[1].strip()} {match[4]}".strip(), abs(_plain(match[2])), bool(match[3])
    elif match := _PLACES.fullmatch(body):
        body, rounded = match[1].strip(), True
    found = list(_read(body))
    if not declares or not (rounded or tolerance is not None):
        return found
    if tolerance is None:
        tolerance = _half_a_place(body)
    elif relative:
        return [replace(q, tolerance=abs((exact(q.node) or Fraction(0)) * tolerance / 100)) for q in found]
    return [replace(q, tolerance=tolerance) for q in found]


def _half_a_place(text: str) -> Fraction:
    """Half a unit of the last decimal that a number is written with."""
    match = NUMBER.search(text)
    digits = match.group().partition(".")[2] if match else ""
    places = len(re.match("[0-9]*", digits).group())  # type: ignore[union-attr]
    percent = Fraction(1, 100) if "%" in text else Fraction(1)
    return Fraction(1, 2 * 10**places) * percent


def _plain(text: str) -> Fraction:
    text = text.replace(",", "").replace(" ", "")
    return Fraction(text.rstrip(".") if text.endswith(".") else text)


@lru_cache(maxsize=8192)
def _read(text: str) -> tuple[Quantity, ...]:
    if not text or len(text) > 400:
        return ()
    if NUMBER.fullmatch(text):
        return (Quantity(("num", _plain(text))),)
    if _DECADE.fullmatch(text):
        return ()
    found: list[Quantity] = []
    if (uncommon := numerals.uncommon(text)) is not None:
        found.append(Quantity(("num", uncommon[0]), units.named(uncommon[1]) if uncommon[1] else None))
        if not uncommon[1]:
            return tuple(found)
    text = _EACH.sub("", text)
    text = _AND_HALF.sub(r"\1.5", _AND_PART.sub(r"\1 \2", text))
    text = _YUAN.sub(r"\1.\2元", text) if _YUAN.fullmatch(text) else text
    text = _OUT_OF.sub(r"\1/\2", text) if _OUT_OF.fullmatch(text) else text
    text = _EVERY.sub(r"\2/\1", _MINUS.sub("-", text))
    if match := _ORDINAL.fullmatch(text):
        noun = _noun(match[2].strip()) if match[2].strip() else frozenset()
        return () if noun is None else (Quantity(("num", Fraction(int(match[1]))), None, noun),)
    if match := _CURRENCY.fullmatch(text):
        unit = units.named(match[2])
        if price := _PRICE.fullmatch(match[3].strip()):
            found += _read(f"{match[1]}{price[1]} {match[2]}{price[2]}")
        for inner in _read(match[1] + match[3].strip()):
            if inner.unit is None and not inner.noun:
                found.append(replace(inner, unit=unit))
            elif inner.unit is not None and unit is not None and inner.unit.dims == unit.dims:
                found.append(inner)
    elif match := _SHAPE.match(text):
        rest = text[match.end() :]
        number = _shape(match.group())
        if number is not None and (quantity := _with_rest(number, rest)) is not None:
            found.append(quantity)
            if quantity.unit is not None and len(rest) != 1:  # "5m" may be a product, "5 mV" is not
                return (*found, *_ambiguous(text, found))
        if (quantity := _compound(text)) is not None:
            found.append(quantity)
    elif (quantity := _in_words(text) or _one_of(text) or _compound(with_digits(text))) is not None:
        found.append(quantity)
    if (rank := text.casefold().removeprefix("the ")) in numerals.RANKS:
        found.append(Quantity(("num", Fraction(numerals.RANKS.index(rank) + 1))))
    found += _ambiguous(text, found)
    found += _formula(text)
    return tuple(found)


def _ambiguous(text: str, found: list[Quantity]) -> list[Quantity]:
    """Second readings: pounds are money too, ¥ stands for two currencies, `5'30"` for three things."""
    if match := _MINUTES.fullmatch(text):
        pairs = (("ft", "in"), ("min", "s"), ("'", "arcsec"))
        values = [(units.named(large), units.named(small)) for large, small in pairs]
        return [
            Quantity(("num", _plain(match[1]) * a.factor + _plain(match[2]) * b.factor), Unit(Fraction(1), a.dims))
            for a, b in values
            if a is not None and b is not None
        ]
    if match := _SCALED.fullmatch(text):
        number: Node = ("num", _plain(match[1]))
        scaled = [Quantity(times(number, Fraction(10) ** _CAPITALS[match[3]]))] if not match[2] else []
        return [*scaled, *([Quantity(number, units.named("molar"))] if match[3] == "M" else [])]
    if match := _MARKED.fullmatch(text):
        unit = units.named("in" if match[2] == '"' else "ft")
        return [Quantity(("num", _plain(match[1])), unit)]
    if match := _PENCE.fullmatch(text):
        return [Quantity(("num", _plain(match[1])), units.named("pence"))]
    other = "gbp" if re.search(r"\bpounds?$", text) else "jpy" if "¥" in text else ""
    return [replace(q, unit=units.named(other)) for q in found if q.unit is not None] if other else []


def _shape(text: str) -> Node | None:
    if NUMBER.fullmatch(text.strip()):
        return ("num", _plain(text))
    node = read(text.strip())
    number = exact(node) if node is not None else None
    return None if number is None else ("num", number)


def _with_rest(node: Node, rest: str) -> Quantity | None:
    """A number with what stands behind it: nothing, per cent, a scale, a unit or a noun."""
    glued = bool(rest) and rest[0].isascii() and rest[0].isalpha()
    rest = _ARTICLE.sub("", rest.strip())
    if not rest or rest in ("times", "倍"):
        return Quantity(node)
    if rest == "‰":
        return Quantity(times(node, Fraction(1, 1000)))
    if match := _PERCENT.match(rest):
        after = rest[match.end() :].strip()
        return _with_rest(times(node, Fraction(1, 100)), after) if not after or _noun(after) is not None else None
    first = re.match(r"[A-Za-z]+|[百千万亿十]+", rest)
    if first and first.group().casefold().removesuffix("s") in SCALES:
        return _with_rest(
            times(node, Fraction(SCALES[first.group().casefold().removesuffix("s")])), rest[first.end() :]
        )
    if first and first.end() == len(rest) and first.group() in _SCALES and (glued or len(first.group()) > 1):
        return Quantity(times(node, Fraction(10) ** _SCALES[first.group()]))
    if (unit := units.read(rest)) is not None:
        return Quantity(node, unit)
    noun = None if glued and len(rest) < 3 else _noun(rest)
    return None if noun is None else Quantity(node, None, noun)


def times(node: Node, factor: Fraction) -> Node:
    return ("num", node[1] * factor) if node[0] == "num" else ("mul", node, ("num", factor))


def _noun(text: str) -> frozenset[str] | None:
    """What is counted, as words without endings; None when the text is more than a noun."""
    if len(text) > 60 or _GREEK.search(text) or not _NOUN.fullmatch(text) or _STOP.search(text):
        return None
    words = [word for word in re.split(r"[ '/-]", text.casefold()) if word and word not in _NOUN_FILLERS]
    if any(word in SCALES or (word.isascii() and len(word) < 2) for word in words):
        return None
    bare = {_singular(word) if word.isascii() else word.lstrip(_CLASSIFIERS) for word in words}
    return frozenset(bare - {""})


def _singular(word: str) -> str:
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    return word[:-2] if re.search("(?:x|ch|sh|ss)es$", word) else word.rstrip("s")


def _compound(text: str) -> Quantity | None:
    """`1 h 30 min`, `5 ft 3 in`, `5元5角`: several units of one kind, each smaller than the one before."""
    total, at = Fraction(0), 0
    found: list[Unit] = []
    while at < len(text):
        match = _COMPOUND.match(text, at)
        if match is None:
            return None
        minutes = match[2] == "m" and found and found[0].factor == 3600  # 2h30m
        unit = units.named("min" if minutes else match[2])
        if unit is None or unit.offset or (found and (unit.dims != found[0].dims or unit.factor >= found[-1].factor)):
            return None
        total, at = total + _plain(match[1]) * unit.factor, match.end()
        found.append(unit)
    return Quantity(("num", total), Unit(Fraction(1), found[0].dims)) if len(found) > 1 else None


def _in_words(text: str) -> Quantity | None:
    """`twenty-one`, `five apples`, `三分之二`, `五厘米`."""
    if text[0].isascii():
        words = _PAUSE.sub(r"\1", text.casefold()).replace("-", " ").split()
        if not words or len(words) > 12 or not words[0].isalpha():
            return None
        for end in range(len(words), 0, -1):
            number = english(words[:end])
            if number is not None:
                return _with_rest(("num", number), " " + " ".join(words[end:]))
        return None
    text = _AND_HALF_WORDS.sub(r"\1点五", text)
    match = CHINESE_TENTHS.match(text) or CHINESE_PREFIX.match(text)
    number = chinese(match.group()) if match else None
    if match is None or number is None:
        return None
    rest = text[match.end() :]
    if rest and units.read(rest) is None and rest[0] not in _CLASSIFIERS and not _PERCENT.match(rest):
        return None
    return _with_rest(("num", number), rest)


def _one_of(text: str) -> Quantity | None:
    """`an hour`, `an hour and a half`."""
    if match := _HALF_MORE.fullmatch(text):
        return _in_words(f"{match[1] or 'one'} and a half {match[2]}")
    article, _, rest = text.partition(" ")
    unit = units.read(rest) if article.casefold() in ("a", "an") and len(rest) > 3 else None
    return None if unit is None else Quantity(("num", Fraction(1)), unit)


def _formula(text: str) -> list[Quantity]:
    """The text as a formula, and as a formula of constants with a unit behind it."""
    found = []
    if (node := read(text)) is not None:
        found.append(Quantity(node))
    for place in _SPLIT.finditer(text):
        unit = units.read(text[place.end() :])
        node = read(text[: place.start()]) if unit is not None else None
        if node is not None and node[0] != "num" and not symbols(node) and not _has_angle(node):
            found.append(Quantity(node, unit))
            break
    if not found and (match := re.search(r"(?<=[0-9})\]π!])\s+(?=[^\W\d_]{2})", text)):
        node, noun = read(text[: match.start()]), _noun(text[match.end() :])
        if node is not None and noun is not None and not symbols(node):
            found.append(Quantity(node, None, noun))
    return found


def _has_angle(node: Node) -> bool:
    """A function stands in it: a degree sign behind `sin 30` belongs to the 30."""
    return (node[0] == "fn" and node[1] != "abs") or any(
        _has_angle(part) for part in node[1:] if isinstance(part, tuple)
    )
