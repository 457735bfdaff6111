"""Untrusted text made visible: what a model wrote is shown as it is, and can neither act nor mislead.

Markup needs nothing here, it is text to the page. Characters that would change what a reader sees without being seen
are written out: control characters (a terminal's escapes among them), directional overrides and isolates, invisible
ones, and code points that are no characters.
"""

from __future__ import annotations

import math
import unicodedata

_KEPT = {"\n", "\t", "\u200c", "\u200d"}
"""Line breaks, and the joiners that several scripts and emoji need."""


def visible(text: str) -> str:
    """The text with every deceptive character as `\\x1b`, `\\u202e` or `\\U000e0041`."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in _KEPT or not _deceptive(c) else _escaped(c) for c in text.replace("\r\n", "\n"))


def number(value: float, form: str) -> str:
    """A number in a format of Python's, with a true minus sign; a dash where it is undefined."""
    return "–" if math.isnan(value) else format(value, form).replace("-", "−")


def _deceptive(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
