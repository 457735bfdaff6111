"""The page itself: parts in order, rendered by jinja2 with everything escaped, behind a policy that lets nothing in.

The content security policy names the page's own style and script by their hashes and allows images from data URIs;
network, other scripts, evaluation, forms and frames are forbidden. Data for the script is JSON in which `<`, `>` and
`&` are written as escapes, so that no text in it can end the element that holds it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import jinja2
from markupsafe import Markup, escape

TEMPLATES = Path(__file__).resolve().parent / "templates"


@dataclass(frozen=True)
class Table:
    """Rows of text; the first column names the row."""

    kind: ClassVar[str] = "table"
    caption: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Sequence[int] = ()
    """Columns set flush right."""
    strong: Sequence[int] = ()
    """Rows set in bold."""
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Drawing:
    """An SVG with what it shows in words."""

    kind: ClassVar[str] = "drawing"
    title: str
    svg: Markup
    caption: str


@dataclass(frozen=True)
class Heading:
    kind: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True)
class Notes:
    """Remarks in small print."""

    kind: ClassVar[str] = "notes"
    texts: Sequence[str]


@dataclass(frozen=True)
class Fold:
    """Tables and drawings that open on request; printed open."""

    kind: ClassVar[str] = "fold"
    title: str
    parts: Sequence[Table | Drawing]


@dataclass(frozen=True)
class Browser:
    """Where the sample browser stands."""

    kind: ClassVar[str] = "browser"


Part = Table | Drawing | Heading | Notes | Fold | Browser


@dataclass(frozen=True)
class Section:
    """One headed section."""

    id: str
    title: str
    lead: Sequence[str] = ()
    parts: Sequence[Part] = ()


@dataclass(frozen=True)
class Card:
    """A figure that the summary shows large."""

    title: str
    value: str
    detail: str


@dataclass(frozen=True)
class Page:
    """Everything on the page, as text."""

    title: str
    kicker: str
    headline: Sequence[str]
    cards: Sequence[Card]
    missing: Sequence[str]
    """What the report does not show and why."""
    sections: Sequence[Section]
    """The summary first; its content is above."""
    version: str
    made: str
    gallery: dict[str, Any] | None = field(default=None, repr=False)


def render(page: Page) -> str:
    """The HTML file's text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["ticks"] = _ticks
    css, js = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    parts = {name: getattr(page, name) for name in page.__dataclass_fields__}
    data = Markup(safe_json(page.gallery))
    trusted = {
        "css": Markup(css),
        "js": Markup(js),
        "gallery": data,
        "policy": policy(css, js),
    }
    return environment.get_template("report.html.j2").render({**parts, **trusted}) + "\n"


def _ticks(text: str) -> Markup:
    """Text with `code` in backticks set as code."""
    pieces = [escape(piece) for piece in text.split("`")]
    if len(pieces) % 2 == 0:
        return escape(text)
    return Markup("").join(Markup("<code>{}</code>").format(p) if i % 2 else p for i, p in enumerate(pieces))


def safe_json(value: Any) -> str:
    """JSON that can stand inside a script element: no character of it can be read as markup."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def policy(css: str, js: str) -> str:
    """The content security policy for exactly this style and script."""
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src '{_hash(js)}'",
            f"style-src '{_hash(css)}'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
