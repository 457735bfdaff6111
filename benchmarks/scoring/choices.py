"""Which option an answer names.

An answer names an option when it is the option's letter, in brackets or with a full stop or not, alone or followed by
text ("B", "(B)", "B. 12 cm", "Option B", "\\boxed{B}", "**B**"), or when it is the text of exactly one option. Nothing
nearer than that counts: the nearest option by edit distance, or a capital somewhere in a sentence, would be a guess.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_WRAPPERS = (
    re.compile(r"\\(?:boxed|text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}"),
    re.compile(r"\$+([^$]*)\$+"),
    re.compile(r"\\\((.*?)\\\)"),
    re.compile(r"\*+([^*]*)\*+"),
    re.compile(r"\"([^\"]*)\""),
    re.compile(r"'([^']*)'"),
)
_WORD = re.compile(r"(?:the\s+)?(?:(?:correct|right)\s+)?(?:option|choice|answer)\b\s*(?:is\b)?\s*:?\s*", re.IGNORECASE)
_ALONE = re.compile(r"[(\[]?\s*([A-Za-z])\s*[)\]]?\s*[.:,]?")
_WITH_TEXT = re.compile(r"(?:[(\[]([A-Z])[)\]]\s*[.:]?|([A-Z])\s*(?:[):]|\.(?=\s)))\s*(\S.*)", re.DOTALL)
_SPACE = re.compile(r"\s+")


def letters(count: int) -> list[str]:
    """Letters of so many options: A, B, C, ..."""
    return [chr(ord("A") + i) for i in range(count)]


def unwrap(answer: str) -> str:
    """An answer without what only surrounds it: spaces, $..$, \\boxed{..}, \\text{..}, **..**, quotation marks."""
    text = answer.strip()
    while match := next((m for pattern in _WRAPPERS if (m := pattern.fullmatch(text))), None):
        text = match.group(1).strip()
    return text


def plain(text: str) -> str:
    """Text for comparison: unwrapped, in lower case, single spaces, no full stop at the end."""
    return _SPACE.sub(" ", unwrap(text)).casefold().rstrip(".").strip()


def choose(answer: str, options: Sequence[str]) -> tuple[str | None, str]:
    """The letter of the option that an answer names.

    Args:
        answer: as extracted.
        options: the options' texts, in order.

    Returns:
        The letter and the rule that found it, `letter` or `option_text`; None and `choice_unmatched` when the answer
        names no option, or several.
    """
    allowed = letters(len(options))
    text = unwrap(unicodedata.normalize("NFKC", answer))
    wanted = plain(answer)
    same = [name for name, option in zip(allowed, options, strict=True) if wanted and plain(option) == wanted]
    # A small letter that is an option's very text ("side b") means that text; a capital means the letter.
    if len(same) == 1 and not (len(text) == 1 and text.isupper()):
        return same[0], "option_text"
    letter = _letter(unwrap(_WORD.sub("", text, count=1)), allowed, options)
    return (letter, "letter") if letter is not None else (None, "choice_unmatched")


def _letter(text: str, allowed: Sequence[str], options: Sequence[str]) -> str | None:
    if match := _ALONE.fullmatch(text):
        letter = match.group(1).upper()
        return letter if letter in allowed else None
    match = _WITH_TEXT.fullmatch(text)
    letter = (match.group(1) or match.group(2)) if match else None
    if match is None or letter not in allowed:
        return None
    rest = match.group(3)
    if plain(rest) == plain(options[allowed.index(letter)]) or not _names_another(rest, allowed):
        return letter
    return None


def _names_another(text: str, allowed: Sequence[str]) -> bool:
    """A further option follows, as in "B. or (C)": then the first is no clear choice."""
    some = f"[{''.join(allowed)}]"
    return bool(re.search(rf"\({some}\)|\b{some}[.):]\s|(?:\bor\b|\band\b|[,/])\s*{some}\b\s*\.?$", text))
