"""Takes answers apart: tuples, sets, lists, numbered parts, solutions of equations, `±`, ratios, ranges, matrices."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from integrations.verl.reward.clean import NEW_ROW, clean

Kind = Literal["set", "tuple", "square", "list", "either"]
"""`{..}`; `(..)` and `<..>`; `[..]`; a bare list; alternatives joined by "or"."""

_PAIRS = {"(": ")", "[": "]", "{": "}", "<": ">"}
_KINDS: dict[str, Kind] = {"(": "tuple", "[": "square", "{": "set", "<": "tuple"}
_WORD_AND = re.compile(r"\s*(?:,|;)?\s*(?:\band\b|\bas well as\b|&)\s*|\s*[;]\s*|(?:和|与|及|以及)", re.IGNORECASE)
_WORD_OR = re.compile(r"\s*,?\s*(?:\bor\b|\bor else\b|\|\||或者|或)\s*|\s+\|\s+", re.IGNORECASE)
_LABEL = "([1-9]|i{1,3}|iv|v|[a-e])"
_NUMBERED = (
    re.compile(rf"(?<![A-Za-z\\])\(\s*{_LABEL}\s*\)\s*:?\s*"),
    re.compile(rf"(?<![\w(.\\]){_LABEL}\)\s*"),
    re.compile(r"(?<![\w(.,])([1-9])\.\s+(?=\S)"),
    re.compile(rf"[Pp]art \(?{_LABEL}\)?\s*:\s*"),
)
_LABELS = (list("123456789"), ["i", "ii", "iii", "iv", "v"], list("abcde"))
_THOUSANDS = re.compile(r"\s*[$+-]?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?\s*[^\W\d]*\s*")
_TRANSPOSED = re.compile(r"(?<=[\])}])\^\{?\s*(?:T|\\top)\s*\}?$")
_ROWS = re.compile(r"\[([^\[\]();]+(?:;[^\[\]();]+)+)\]")
_BINOM = re.compile(r"\\binom\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_POINT = re.compile(r"[A-Z]'?\s*=?\s*(?=[(])")
_MATRIX = re.compile(r"\\begin\s*\{([pbvBV]?matrix|array)\}(?:\{[lcr|]*\})?(.*?)\\end\s*\{\1\}", re.DOTALL)
_RATIO = re.compile(r"\s*(?::|\bto\b|比)\s*")
_RANGE = re.compile(
    r"(?:from |between )?([+-]?[0-9][0-9.,]*|.{1,12}?)\s*(?:-|~|\bto\b|到|至|(?<=[0-9a-z])\s+and)\s*(\$?[+-]?[0-9].*)",
    re.IGNORECASE,
)
_COORDINATE = re.compile(r"([+-]?(?:[0-9./√π(){}]|\\[a-z]+)*)([ijk])")
_NAME = re.compile(
    r"[A-Za-z]\([^()]{1,20}\)|[A-Za-z]_\{[^{}]{1,20}\}|\\?(?:sin|cos|tan)\s*(?:\\[a-z]+|\\?angle\s*[A-Z]+|[A-Zα-ω])|"
    r"\\angle\s*[0-9]|[A-Z](?:\s*[∪∩]\s*[A-Z])+|"
    r"m\s*\\angle\s*[A-Z]{1,4}|(?:\\angle\s*|△\s*|\\triangle\s*|\\overline\s*|m\s*\\angle\s*)?(?:[A-Za-z]|\\?(?:alpha|beta|gamma|theta|phi|lambda|mu|omega|"
    r"rho|sigma|delta)|[α-ωΔΩ])(?:_\{?\w+\}?|[0-9])?'*(?:\(\s*[a-z](?:\s*,\s*[a-z])*\s*\))?|(?:\\angle\s*|△\s*)?[A-Z]{1,4}'?"
    r"|[a-z]-[a-z]{4,}|[A-Za-z][A-Za-z ]{2,40}|[\u4e00-\u9fff]{1,12}|\|[A-Z]{2}\||\([a-z](?:\s*,\s*[a-z])+\)"
)


@dataclass(frozen=True)
class Parts:
    """An answer of several parts."""

    kind: Kind
    items: tuple[str, ...]


def split(text: str) -> Parts | None:
    """The parts of a cleaned text; None when it is one thing."""
    text = _TRANSPOSED.sub("", text)
    text = _POINT.sub("", text, count=1) if _POINT.match(text) and text.endswith(")") and "," in text else text
    if text and text[0] in _PAIRS and _closes(text) == len(text) - 1:
        inside = text[1:-1].strip()
        items = top_level(inside, _commas(inside) + ";") if inside else []
        if len(items) > 1 or text[0] == "{":
            return Parts(_KINDS[text[0]], tuple(clean(item) for item in items))
        return None
    if (numbered := _numbered(text)) is not None:
        return Parts("list", numbered)
    alternatives = _WORD_OR.split(text)
    if len(alternatives) > 1:
        items = [item for part in alternatives for item in _bare(part)]
        return Parts("either", tuple(clean(item) for item in items)) if all(items) else None
    items = _bare(text)
    return Parts("list", tuple(clean(item) for item in items)) if len(items) > 1 and all(items) else None


def is_number(text: str) -> bool:
    """Whether the only commas of a text are those of thousands."""
    return _THOUSANDS.fullmatch(text) is not None


def _bare(text: str) -> list[str]:
    items: list[str] = []
    pieces = _WORD_AND.split(text)
    for part in pieces:
        items += [part] if len(pieces) > 1 and _THOUSANDS.fullmatch(part) else top_level(part, _commas(part))
    return [item.strip() for item in items]


def _commas(text: str) -> str:
    """What separates parts: with thousands separators about, only a comma with a space behind it."""
    return ", " if ", " in text and re.search(r"[0-9],[0-9]{3}(?![0-9])", text) else ","


def top_level(text: str, separators: str) -> list[str]:
    """Split at separators that stand in no brackets. `", "` means a comma with a space behind it."""
    spaced = " " in separators
    items, depth, start = [], 0, 0
    for at, character in enumerate(text):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif depth <= 0 and character in separators and character != " ":
            if spaced and character == "," and text[at + 1 : at + 2] != " ":
                continue
            items.append(text[start:at].strip())
            start = at + 1
    items.append(text[start:].strip())
    return items


def _closes(text: str) -> int:
    """Where the bracket at the start is closed; -1 when it is not. Half-open intervals do not count as closed."""
    opening, depth = text[0], 0
    for at, character in enumerate(text):
        if character == opening:
            depth += 1
        elif character == _PAIRS[opening]:
            depth -= 1
            if depth == 0:
                return at
    return -1


def _numbered(text: str) -> tuple[str, ...] | None:
    """`(1) 5 (2) 7`: the parts in the order of their numbers."""
    for pattern in _NUMBERED if text[:1] in "(123456789iaPp" else ():
        marks = list(pattern.finditer(text))
        labels = [mark[1] for mark in marks]
        if len(marks) < 2 or marks[0].start() != 0 or not any(labels == row[: len(labels)] for row in _LABELS):
            continue
        ends = [mark.start() for mark in marks[1:]] + [len(text)]
        items = (clean(text[mark.end() : end].strip(" ,;")) for mark, end in zip(marks, ends, strict=True))
        return tuple(items)
    return None


def matrix(text: str) -> list[list[str]] | None:
    """Rows of a LaTeX matrix, or of lists in a list; None when the text is neither."""
    if match := _MATRIX.fullmatch(text.strip("()[] ")):
        rows = [row.strip() for row in match[2].split(NEW_ROW) if row.strip()]
        return [[clean(cell) for cell in row.split("&")] for row in rows]
    if match := _ROWS.fullmatch(text):
        return [[clean(cell) for cell in re.split(r"[\s,]+", row.strip())] for row in match[1].split(";")]
    if match := _BINOM.fullmatch(text):
        return [[clean(match[1])], [clean(match[2])]]
    outer = split(text)
    if outer is None or outer.kind not in ("square", "tuple"):
        return None
    rows_ = [split(item) for item in outer.items]
    if any(row is None or row.kind not in ("square", "tuple") for row in rows_):
        return None
    return [list(row.items) for row in rows_ if row is not None]


def name_and_values(text: str) -> tuple[list[str], list[str]] | None:
    """`x = 5` as (["x"], ["5"]), `3 + 4 = 7` as ([], ["3 + 4", "7"]); None for what is no equation."""
    if "=" not in text or re.search(r"[<>≤≥≠!:]=|=[<>]|==|[≠<>≤≥]", text):
        return None
    sides = [side.strip() for side in top_level(text, "=")]
    if len(sides) == 1:  # every sign of equality stands in brackets
        return None
    if sides[0] == "":
        sides = sides[1:]
    if not all(sides) or len(sides) > 8:
        return None
    if len(sides) > 1 and _NAME.fullmatch(sides[-1]) and not _NAME.fullmatch(sides[0]) and len(sides) == 2:
        sides.reverse()
    count = 0
    while count < len(sides) - 1 and _NAME.fullmatch(sides[count]):
        count += 1
    return sides[:count], sides[count:]


def is_name(text: str) -> bool:
    """Whether a cleaned text is what may stand before `=`: a variable, an angle, a length, a few words."""
    return text != "π" and _NAME.fullmatch(text) is not None


def plain_name(name: str) -> str:
    """A name for comparison, without dressing."""
    if re.fullmatch(r"f\s*\(\s*x\s*\)", name):
        return "y"
    return re.sub(r"\\angle|\\triangle|\\overline|[\s△{}\\|]", "", name)


def base_name(name: str) -> str:
    """A name without its index: `x_1` is one of the solutions for `x`."""
    return re.sub(r"_\w+$|(?<=[a-zA-Z])[0-9]$", "", plain_name(name))


def solutions(text: str) -> tuple[str, ...] | None:
    """Values of one unknown: `x = 1 or x = 2`, `x_1 = 1, x_2 = 2`, `x = ±2`, `±2`; None for anything else."""
    parts = split(text)
    items = parts.items if parts is not None and parts.kind in ("list", "either") else (text,)
    values, name = [], None
    for position, item in enumerate(items):
        named = name_and_values(item)
        if named is None:
            if position and name is None and parts is not None and parts.kind != "either":
                return None
            values.append(item)
            continue
        names, sides = named
        if len(names) != 1 or len(sides) != 1 or (position and name != base_name(names[0])):
            return None
        name = base_name(names[0])
        values.append(sides[0])
    if parts is None and "±" not in text:
        return None
    if name is None and (parts is not None and parts.kind != "either"):
        return None
    return tuple(one for item in values for one in both_signs(item))


def both_signs(text: str) -> list[str]:
    """`3 ± a` as `3 + a` and `3 - a`; any other text alone."""
    return [clean(text.replace("±", sign)) for sign in "+-"] if text.count("±") == 1 else [text]


def vector(text: str) -> tuple[str, ...] | None:
    """`2i - 3k` as its coordinates; None for what is not written in i, j and k alone."""
    bare = re.sub(r"[\s*]", "", text)
    terms = _COORDINATE.findall(bare)
    if not terms or "".join(map("".join, terms)) != bare or not any(name in "jk" for _, name in terms):
        return None
    values = {name: value for value, name in terms}
    if len(values) < len(terms):
        return None
    ones = {"": "1", "+": "1", "-": "-1"}
    names = "ijk" if "k" in values else "ij"
    return tuple(ones.get(values.get(name, "0"), values.get(name, "0")) for name in names)


def ratio(text: str) -> list[str] | None:
    """Terms of `3:4` or `3 to 4`; None when the text is no ratio."""
    terms = [term.strip("() ") for term in _RATIO.split(text)]
    return terms if 2 <= len(terms) <= 6 and all(terms) else None


def bounds(text: str) -> tuple[str, str] | None:
    """Both ends of a range such as `5-10 cm`, the first with the unit of the second; None when the text is no range."""
    match = _RANGE.fullmatch(text)
    if match is None or "," in match[1][-1:]:
        return None
    low, high = match[1].strip(), match[2].strip()
    unit = re.sub(r"^[\s\d.,%$+-]*", "", high)
    if re.fullmatch(r"[+-]?[0-9.,]+", low):
        low += " " + unit if unit else "%" if high.endswith("%") else ""
    return low.strip(), high
