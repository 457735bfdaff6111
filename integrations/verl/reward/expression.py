"""Reads a formula in LaTeX or plain text into a small tree, computes with it, and writes it as unambiguous LaTeX.

Only what is listed here is read: numbers, letters, + - * / ^, roots, fractions, absolute values, factorials, degrees,
per cent and the functions of FUNCTIONS. Whatever holds anything else is not a formula, so that no text of a model
reaches computer algebra unless this module has understood all of it.

A node is a tuple: ("num", Fraction), ("sym", name), ("const", "pi" | "e" | "i" | "oo"), ("add" | "mul" | "pow", a, b),
("fn", name, argument), ("log", base, argument), ("fact", a).
"""

from __future__ import annotations

import cmath
import math
import random
import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import lru_cache
from typing import Any

Node = tuple[Any, ...]

LONGEST = 400
"""Characters above which a text is not read as a formula."""
DEEPEST = 40
MOST_BITS = 4096
"""Size to which exact powers are computed."""

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
_MIXED = re.compile(r"(?<![0-9.^/)}a-zA-Z])([0-9]+)\s+([0-9]+)\s*/\s*([0-9]+)(?![0-9.])")
_MIXED_LATEX = re.compile(r"(?<![0-9.^/)}a-zA-Z])([0-9]+)\s*\\frac\s*\{\s*([0-9]+)\s*\}\s*\{\s*([0-9]+)\s*\}")
_SHORT_FRACTION = re.compile(r"\\frac\s*([0-9])\s*([0-9])(?![0-9])|\\frac\s*([0-9])(?=\s*\{)")
_CHOOSE = re.compile(r"\bC\(\s*([0-9]+)\s*,\s*([0-9]+)\s*\)")
_THOUSANDS = re.compile(r"(?<![0-9.,])([0-9]{1,3}(?:,[0-9]{3})+)(?![0-9,])")


_SIGNS = {"√": ("function", "sqrt"), "∛": ("function", "cbrt"), "∞": ("const", "oo"), "π": ("const", "pi")}


class Unreadable(ValueError):
    """The text is not a formula that this module knows."""


@lru_cache(maxsize=4096)
def read(text: str) -> Node | None:
    """The tree of a cleaned text; None when it is not a formula."""
    if not text or len(text) > LONGEST:
        return None
    text = _CHOOSE.sub(r"\\binom{\1}{\2}", text)
    text = _THOUSANDS.sub(lambda m: m.group(1).replace(",", ""), text)
    text = _SHORT_FRACTION.sub(lambda m: f"\\frac{{{m[1]}}}{{{m[2]}}}" if m[1] else f"\\frac{{{m[3]}}}", text)
    text = _MIXED.sub(r"(\1+\2/\3)", _MIXED_LATEX.sub(r"(\1+\2/\3)", text))
    try:
        reader = _Reader(list(_tokens(text)))
        node = reader.sum()
        return node if reader.at == len(reader.tokens) else None
    except (Unreadable, IndexError, RecursionError, ZeroDivisionError, OverflowError, ValueError):
        return None


def _tokens(text: str) -> Iterator[tuple[str, str]]:
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
            yield {"√": ("function", "sqrt"), "∛": ("function", "cbrt"), "∞": ("const", "oo"), "π": ("const", "pi")}[
                sign
            ]
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


class _Reader:
    """Recursive descent over the tokens."""

    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self.tokens = tokens
        self.at = 0
        self.depth = 0
        self.bars = 0

    def peek(self) -> tuple[str, str]:
        return self.tokens[self.at] if self.at < len(self.tokens) else ("end", "")

    def take(self, text: str) -> bool:
        if self.peek() == ("op", text):
            self.at += 1
            return True
        return False

    def need(self, text: str) -> None:
        if not self.take(text):
            raise Unreadable

    def sum(self) -> Node:
        self.depth += 1
        if self.depth > DEEPEST:
            raise Unreadable
        node = self.product()
        while self.peek() in (("op", "+"), ("op", "-")):
            sign = self.tokens[self.at][1]
            self.at += 1
            term = self.product()
            node = ("add", node, term if sign == "+" else negative(term))
        self.depth -= 1
        return node

    def product(self) -> Node:
        node = self.signed()
        while True:
            if self.take("*"):
                node = ("mul", node, self.signed())
            elif self.take("/"):
                node = ("mul", node, ("pow", self.signed(), ("num", Fraction(-1))))
            elif self.starts_a_factor():
                node = ("mul", node, self.power())
            else:
                return node

    def starts_a_factor(self) -> bool:
        kind, text = self.peek()
        if kind == "number":  # "7 8" is two numbers, not a product; "x 2" and "(a)2" are no way to write one
            return False
        return kind in ("symbol", "const", "function", "log", "frac") or (
            kind == "op" and (text in "({[" or (text == "|" and not self.bars))
        )

    def signed(self) -> Node:
        if self.take("-"):
            return negative(self.signed())
        if self.take("+"):
            return self.signed()
        return self.power()

    def power(self) -> Node:
        base = self.marked(self.atom())
        if self.take("^"):
            self.depth += 1
            if self.depth > DEEPEST:
                raise Unreadable
            exponent = self.signed()
            self.depth -= 1
            return self.marked(("pow", base, exponent))
        return base

    def marked(self, node: Node) -> Node:
        """What stands behind: factorial, degrees, per cent."""
        while True:
            if self.take("!"):
                node = ("fact", node)
            elif self.take("°"):
                node = ("mul", node, DEGREE)
            elif self.take("%"):
                node = ("mul", node, ("num", Fraction(1, 100)))
            else:
                return node

    def atom(self) -> Node:
        kind, text = self.peek()
        self.at += 1
        if kind == "number":
            return ("num", _exact_number(text))
        if kind == "const":
            return ("const", text)
        if kind == "symbol":
            return self.symbol(text)
        if kind == "function":
            return self.function(text)
        if kind == "log":
            return self.logarithm(text)
        if kind == "frac":
            top = self.group()
            return ("mul", top, ("pow", self.group(), ("num", Fraction(-1))))
        if kind == "binom":
            n, k = self.group(), self.group()
            bottom = ("mul", ("fact", k), ("fact", ("add", n, negative(k))))
            return ("mul", ("fact", n), ("pow", bottom, ("num", Fraction(-1))))
        if kind == "op" and text in "({[":
            self.at -= 1
            return self.group()
        if kind == "op" and text == "|":
            self.bars += 1
            node = self.sum()
            self.need("|")
            self.bars -= 1
            return ("fn", "abs", node)
        raise Unreadable

    def group(self) -> Node:
        """A sum in brackets, or in `\\frac` a single character."""
        for opening, closing in ("()", "{}", "[]"):
            if self.take(opening):
                bars, self.bars = self.bars, 0
                node = self.sum()
                self.bars = bars
                self.need(closing)
                return node
        if self.peek()[0] in ("number", "symbol", "const"):
            return self.atom()
        raise Unreadable

    def symbol(self, name: str) -> Node:
        if self.take("_"):
            name += "_" + self.index()
        while self.take("'"):
            name += "'"
        return ("sym", name)

    def index(self) -> str:
        if not self.take("{"):
            self.at += 1
            return self.tokens[self.at - 1][1]
        inside = ""
        while not self.take("}"):
            inside += self.tokens[self.at][1]
            self.at += 1
        return inside

    def function(self, name: str) -> Node:
        if name == "sqrt" and self.take("["):
            degree = self.sum()
            self.need("]")
            return ("pow", self.argument(), ("pow", degree, ("num", Fraction(-1))))
        exponent = self.raised()
        argument = self.root_argument() if name in ("sqrt", "cbrt") else self.argument()
        if name in ("sqrt", "cbrt"):
            node: Node = ("pow", argument, ("num", Fraction(1, 2 if name == "sqrt" else 3)))
        elif name == "exp":
            node = ("pow", ("const", "e"), argument)
        elif exponent == ("num", Fraction(-1)) and name in ("sin", "cos", "tan"):
            return ("fn", "arc" + name, argument)
        else:
            node = ("fn", name, argument)
        return node if exponent is None else ("pow", node, exponent)

    def logarithm(self, name: str) -> Node:
        base: Node = ("num", Fraction(10))
        if self.take("_"):
            base = self.group()
        exponent = self.raised()
        node = ("log", base, self.argument())
        return node if exponent is None else ("pow", node, exponent)

    def raised(self) -> Node | None:
        if not self.take("^"):
            return None
        return negative(self.group()) if self.take("-") else self.group()

    def root_argument(self) -> Node:
        return self.marked(self.atom())

    def argument(self) -> Node:
        """`(x)`, `{x}`, or without brackets the factors up to the next sign, bracket or function: `sin 2x`."""
        if self.peek() in (("op", "("), ("op", "{"), ("op", "[")):
            return self.group()
        node = self.power()
        while self.peek()[0] in ("symbol", "const", "frac"):
            node = ("mul", node, self.power())
        if self.take("/"):  # sin π/6: the whole quotient is meant
            node = ("mul", node, ("pow", self.power(), ("num", Fraction(-1))))
        return node


DEGREE: Node = ("mul", ("const", "pi"), ("num", Fraction(1, 180)))


def negative(node: Node) -> Node:
    return ("num", -node[1]) if node[0] == "num" else ("mul", ("num", Fraction(-1)), node)


def _exact_number(text: str) -> Fraction:
    _, _, exponent = text.lower().partition("e")
    if len(exponent) > 4 or len(text) > 200:
        raise Unreadable
    return Fraction(text.rstrip(".") if not exponent else text)


@lru_cache(maxsize=4096)
def exact(node: Node) -> Fraction | None:
    """The value as a fraction, None when it is not rational, not defined, too large or holds symbols."""
    return exact_at(node, {})


def exact_at(node: Node, at: dict[str, Fraction]) -> Fraction | None:
    """As `exact`, with values for the symbols."""
    try:
        return _exact(node, at)
    except (ZeroDivisionError, OverflowError, RecursionError):
        return None


def _exact(node: Node, at: dict[str, Fraction]) -> Fraction | None:
    kind = node[0]
    if kind == "num":
        number: Fraction = node[1]
        return number
    if kind == "sym":
        return at.get(node[1])
    if kind in ("add", "mul", "pow"):
        left, right = _exact(node[1], at), _exact(node[2], at)
        if left is None or right is None:
            return None
        return left + right if kind == "add" else left * right if kind == "mul" else _exact_power(left, right)
    inner = _exact(node[1], at) if kind == "fact" else _exact(node[2], at) if kind == "fn" else None
    if inner is None:
        return None
    if kind == "fact" and inner.denominator == 1 and 0 <= inner <= 300:
        return Fraction(math.factorial(int(inner)))
    return abs(inner) if kind == "fn" and node[1] == "abs" else None


def _exact_power(base: Fraction, exponent: Fraction) -> Fraction | None:
    if abs(exponent) * max(base.numerator.bit_length(), base.denominator.bit_length()) > MOST_BITS:
        return None
    if exponent.denominator == 1:
        return Fraction(base) ** int(exponent)
    if base < 0 and exponent.denominator != 3:
        return None
    top, bottom = _root(base.numerator, exponent.denominator), _root(base.denominator, exponent.denominator)
    return None if top is None or bottom is None else Fraction(top, bottom) ** exponent.numerator


def _root(value: int, degree: int) -> int | None:
    """The integer whose power is `value`, if there is one."""
    if value < 0:
        root = _root(-value, degree) if degree % 2 else None
        return None if root is None else -root
    if degree > 64 or value.bit_length() > 900:
        return None
    guess = math.isqrt(value) if degree == 2 else round(value ** (1 / degree))
    return next((g for g in (guess - 1, guess, guess + 1) if g >= 0 and g**degree == value), None)


def symbols(node: Node) -> set[str]:
    """Names of the variables in a tree."""
    if node[0] == "sym":
        return {node[1]}
    return set().union(*(symbols(part) for part in node[1:] if isinstance(part, tuple)))


def value(node: Node, at: dict[str, float]) -> complex | None:
    """The value in floating point; None where it is not defined."""
    try:
        result = _value(node, at)
    except (ZeroDivisionError, OverflowError, ValueError, RecursionError, TypeError):
        return None
    return result if cmath.isfinite(result) else None


_COMPUTE: dict[str, Callable[[complex], complex]] = {
    "sin": cmath.sin, "cos": cmath.cos, "tan": cmath.tan, "arcsin": cmath.asin, "arccos": cmath.acos,
    "arctan": cmath.atan, "sinh": cmath.sinh, "cosh": cmath.cosh, "tanh": cmath.tanh, "arcsinh": cmath.asinh,
    "arccosh": cmath.acosh, "arctanh": cmath.atanh, "ln": cmath.log, "abs": abs,
    "cot": lambda z: 1 / cmath.tan(z), "sec": lambda z: 1 / cmath.cos(z), "csc": lambda z: 1 / cmath.sin(z),
    "arccot": lambda z: cmath.pi / 2 - cmath.atan(z),
}  # fmt: skip


def _value(node: Node, at: dict[str, float]) -> complex:
    kind = node[0]
    if kind == "num":
        return complex(float(node[1]))
    if kind == "sym":
        return complex(at[node[1]])
    if kind == "const":
        return {"pi": complex(math.pi), "e": complex(math.e), "i": 1j, "oo": complex(math.inf)}[node[1]]
    if kind == "fn":
        return complex(_COMPUTE[node[1]](_value(node[2], at)))
    if kind == "log":
        return cmath.log(_value(node[2], at)) / cmath.log(_value(node[1], at))
    if kind == "fact":
        inner = _value(node[1], at).real
        return complex(math.gamma(inner + 1))
    left, right = _value(node[1], at), _value(node[2], at)
    if kind == "add":
        return left + right
    return left * right if kind == "mul" else left**right


def points(names: set[str]) -> Iterator[dict[str, float]]:
    """Values for the variables at which formulas are compared: always the same for the same names."""
    for number, (low, high) in enumerate(((0.6, 2.7), (1.1, 4.3), (-3.1, -0.4), (-2.0, 2.0))):
        yield {name: random.Random(f"{name} {number}").uniform(low, high) for name in names}


def may_be_equal(left: Node, right: Node) -> bool:
    """False when the two differ at a point where both are defined; True proves nothing."""
    compared = 0
    for at in points(symbols(left) | symbols(right)):
        a, b = value(left, at), value(right, at)
        if (a is None) != (b is None):
            return False
        if a is None or b is None:
            continue
        compared += 1
        if abs(a - b) > 1e-9 * max(1e-30, abs(a), abs(b)) and abs(a - b) > 1e-12:
            return False
    return compared > 0


def is_rational_function(node: Node) -> bool:
    """Built of numbers and symbols by + - * / and whole powers alone."""
    if node[0] == "pow":
        power = exact(node[2])
        return power is not None and power.denominator == 1 and abs(power) <= 20 and is_rational_function(node[1])
    if node[0] in ("add", "mul"):
        return is_rational_function(node[1]) and is_rational_function(node[2])
    return node[0] in ("num", "sym")


def same_rational_function(left: Node, right: Node) -> bool:
    """Equality of two rational functions, from their exact values at random points of a wide range.

    Two different ones of degree 40 agree at one such point with a chance below 1e-7; four points are compared.
    """
    names = sorted(symbols(left) | symbols(right))
    compared = 0
    for number in range(8):
        draw = random.Random(f"{names} {number}")
        at = {name: Fraction(draw.randint(-(10**9), 10**9), 7) for name in names}
        a, b = exact_at(left, at), exact_at(right, at)
        if a != b:
            return False
        compared += a is not None
        if compared == 4:
            return True
    return False


def latex(node: Node, names: dict[str, str]) -> str:
    """Unambiguous LaTeX: every product is written, every part is in brackets. `names`: letter of every variable."""
    kind = node[0]
    if kind == "num":
        number = node[1]
        text = str(abs(number.numerator))
        text = text if number.denominator == 1 else f"\\frac{{{text}}}{{{number.denominator}}}"
        return f"(-{text})" if number < 0 else text
    if kind == "sym":
        return names[node[1]]
    if kind == "const":
        return {"pi": "\\pi", "e": "e", "i": "i", "oo": "\\infty"}[node[1]]
    if kind == "fn":
        inner = latex(node[2], names)
        return f"\\left|{inner}\\right|" if node[1] == "abs" else f"\\{node[1]}({inner})"
    if kind == "log":
        return f"\\log_{{{latex(node[1], names)}}}({latex(node[2], names)})"
    if kind == "fact":
        return f"({latex(node[1], names)})!"
    left, right = latex(node[1], names), latex(node[2], names)
    if kind == "add":
        return f"({left}+{right})"
    if kind == "mul":
        return f"({left}\\cdot {right})"
    if node[2] == ("num", Fraction(1, 2)):
        return f"\\sqrt{{{left}}}"
    if node[2] == ("num", Fraction(-1)):
        return f"\\frac{{1}}{{{left}}}"
    return f"({left})^{{{right}}}"
