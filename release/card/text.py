"""Strings that a run brought, made safe to stand in Markdown, HTML, tables and code.

A card is read by several renderers, so nothing that came from a recipe, a run's name or a data row may end a table
cell, open a tag, a link or an image, or leave a code block. `prose` and `code` are for text, `literal` and `fenced` for
code blocks; what a template prints without any of them is made prose (`release.card.render.environment`).
"""

from __future__ import annotations

import json
import re
import unicodedata

from markupsafe import Markup

_PLAIN_CODE = re.compile(r"[\w./@+=,:;()\[\]{}'\"%^ -]+", re.ASCII)
_MARKUP = frozenset("&<>`*_[]|\\~#${}")
_LONGEST = 2000


def plain(value: object, keep_spaces: bool = False) -> str:
    """Without control, formatting and invisible characters, on one line."""
    text = "".join(c if not unicodedata.category(c).startswith("C") else " " for c in str(value))
    return text[:_LONGEST] if keep_spaces else " ".join(text.split())[:_LONGEST]


def prose(value: object) -> Markup:
    """Text that reads as it is written: every character that means something to Markdown or HTML is an entity."""
    return Markup("".join(f"&#{ord(c)};" if c in _MARKUP else c for c in plain(value)))


def code(value: object) -> Markup:
    """A short piece of code; as `prose` where it holds anything that a table or a code span could be broken with."""
    text = plain(value)
    return Markup(f"`{text}`") if _PLAIN_CODE.fullmatch(text) else prose(text)


def fenced(value: object) -> Markup:
    """Text of several lines as a code block, whose fence is longer than any run of backticks or tildes in it."""
    lines = [plain(line, keep_spaces=True) for line in str(value)[:_LONGEST].splitlines()]
    text = "\n".join(lines)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return Markup(f"{fence}text\n{text}\n{fence}")


def literal(value: object) -> Markup:
    """A string of Python or JSON on one line of a code block; what does not print is escaped."""
    return Markup(json.dumps(str(value)[:_LONGEST]))


def short(digest: str) -> str:
    """The first twelve digits of a hash."""
    return digest[:12]


def percent(value: float | None, digits: int = 1) -> str:
    """A rate in [0, 1] as percent, without its sign."""
    return "–" if value is None else f"{100 * value:.{digits}f}"


def points(value: float) -> str:
    """A difference of rates in points, with its sign; zero has none."""
    return re.sub(r"^[+-](0\.0)$", r"\1", f"{100 * value:+.1f}").replace("-", "−")


def interval(ci: list[float]) -> Markup:
    """An interval of differences in points; it does not break at its blank."""
    return Markup(f"[{points(ci[0])},\N{NO-BREAK SPACE}{points(ci[1])}]")


def p_value(value: float | None) -> Markup:
    """A p value to three decimals."""
    return Markup("–" if value is None else "&lt;\N{NO-BREAK SPACE}0.001" if value < 0.001 else f"{value:.3f}")


def count(value: int | float) -> str:
    """A whole number with its thousands apart."""
    return f"{value:,.0f}"


def number(value: str | int | float | bool | None) -> str:
    """A setting's value as it stands in the recipe."""
    return str(value) if not isinstance(value, float) else f"{value:g}"


def duration(seconds: float) -> str:
    """Wall time in the unit that reads best."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def size(number_of_bytes: int) -> str:
    """Bytes, with their thousands apart."""
    return f"{number_of_bytes:,}"
