"""The words of a formula in LaTeX or plain text: numbers, letters, operators, functions, constants.

list(tokens("2\\sqrt{x}"))  ->  [("number", "2"), ("function", "sqrt"), ("op", "{"), ("symbol", "x"), ("op", "}")]
"""

from __future__ import annotations

import re
from collections.abc import Iterator

FUNCTIONS_TEXT = """
arcsinh arccosh arctanh arcsin arccos arctan arccot sinh cosh tanh sin cos tan cot sec csc ln exp
sqrt abs
"""
FUNCTIONS = FUNCTIONS_TEXT.split()
_ALSO = {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "tg": "tan", "ctg": "cot", "cosec": "csc"}
GREEK_TEXT = """
alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau upsilon phi
chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega
"""
GREEK = GREEK_TEXT.split()
_GREEK_LETTERS = dict(zip("αβγδεζηθικλμνξρστυφχψωΓΔΘΛΞΣΦΨΩ", GREEK, strict=True))

_TOKEN = re.compile(
    r"\s*(?:([0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+(?![0-9.a-zA-Z]))?|\.[0-9]+)|\\([A-Za-z]+)|([A-Za-z]+)"
    r"|(\*\*|[-+*/^(){}\[\]|!°%_'])|([√∛∞π])|([αβγδεζηθικλμνξρστυφχψωΓΔΘΛΞΣΦΨΩ]))",
    re.ASCII,
)
_SIGNS = {"√": ("function", "sqrt"), "∛": ("function", "cbrt"), "∞": ("const", "oo"), "π": ("const", "pi")}


class Unreadable(ValueError):
    """The text is not a formula that this module knows."""


def tokens(text: str) -> Iterator[tuple[str, str]]:
    """Kind and text of every token of a cleaned text.

    Raises:
        Unreadable: something else stands in it.
    """
    at, text = 0, text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise Unreadable
        at = match.end()
        number, command, word, operator, sign, greek = match.groups()
        if number is not None:
            yield "number", number
        elif command is not None:
            yield from _name(command, latex=True)
        elif word is not None:
            digits = re.compile("[0-9]+(?![0-9.])").match(text, at) if len(word) == 1 and word not in "eE" else None
            if digits:
                at = digits.end()
                yield "symbol", f"{word}_{digits.group()}"
            else:
                glued = text[at : at + 1] in ("^", "_") or text[match.start(3) - 1 : match.start(3)].isdigit()
                yield from _name(word, latex=False, glued=glued)
        elif operator is not None:
            yield "op", "^" if operator == "**" else operator
        elif sign is not None:
            yield _SIGNS[sign]
        else:
            yield "symbol", _GREEK_LETTERS[greek]


def _name(word: str, latex: bool, glued: bool = False) -> Iterator[tuple[str, str]]:
    word = _ALSO.get(word, word)
    if word in FUNCTIONS:
        yield "function", word
    elif word in ("log", "lg"):
        yield "log", word
    elif word in ("frac", "angle"):
        yield word, word
    elif word in ("pi", "Pi"):
        yield "const", "pi"
    elif word in ("infinity", "inf", "oo", "infty"):
        yield "const", "oo"
    elif word in GREEK:
        yield "symbol", word
    elif word in ("binom", "dbinom", "tbinom"):
        yield "binom", word
    elif not latex and (split := _split(word, glued)):
        yield from split
    else:
        raise Unreadable


_WORDS_TEXT = """
of the is and or to in on at by for not no yes it as be if an are was all one two six ten per red
our my we he she but so do has had can may day how who out its see new old
"""
_WORDS = frozenset(_WORDS_TEXT.split())
"""Words that are no products of letters."""


def _split(word: str, glued: bool) -> list[tuple[str, str]] | None:
    """Letters side by side are a product: `xy`, `ma`, `rcos`, `pir`. Longer words are words."""
    for start in range(len(word)):
        for name in ("sqrt", "sin", "cos", "tan", "ln", "pi"):
            if start and start <= 2 and word[start:] == name:
                kind = "const" if name == "pi" else "function"
                return [("symbol", letter) for letter in word[:start]] + [(kind, name)]
    if word.startswith("pi") and len(word) <= 4:
        return [("const", "pi"), *(("symbol", letter) for letter in word[2:])]
    if len(word) > 3 or (word.casefold() in _WORDS and not glued):
        return None
    return [("const", letter) if letter in "ei" else ("symbol", letter) for letter in word]
