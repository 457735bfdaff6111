"""Reads a formula in LaTeX or plain text into a small tree.

Only what is listed here is read: numbers, letters, + - * / ^, roots, fractions, absolute values, factorials, degrees,
per cent and the functions of FUNCTIONS. Whatever holds anything else is not a formula, so that no text of a model
reaches computer algebra unless this module has understood all of it.

A node is a tuple: ("num", Fraction), ("sym", name), ("const", "pi" | "e" | "i" | "oo"), ("add" | "mul" | "pow", a, b),
("fn", name, argument), ("log", base, argument), ("fact", a).
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

from integrations.verl.reward.tokens import Unreadable, tokens

Node = tuple[Any, ...]

LONGEST = 400
"""Characters above which a text is not read as a formula."""
DEEPEST = 40

_MIXED = re.compile(r"(?<![0-9.^/)}a-zA-Z])([0-9]+)\s+([0-9]+)\s*/\s*([0-9]+)(?![0-9.])")
_MIXED_LATEX = re.compile(r"(?<![0-9.^/)}a-zA-Z])([0-9]+)\s*\\frac\s*\{\s*([0-9]+)\s*\}\s*\{\s*([0-9]+)\s*\}")
_SHORT_FRACTION = re.compile(r"\\frac\s*([0-9])\s*([0-9])(?![0-9])|\\frac\s*([0-9])(?=\s*\{)")
_LOG_BASE = re.compile(r"\\?(?<![a-zA-Z])log\s?(2|10)(?=\s*\()")
_CHOOSE = re.compile(r"\bC\(\s*([0-9]+)\s*,\s*([0-9]+)\s*\)")
_THOUSANDS = re.compile(r"(?<![0-9.,])([0-9]{1,3}(?:,[0-9]{3})+)(?![0-9,])")


@lru_cache(maxsize=4096)
def read(text: str) -> Node | None:
    """The tree of a cleaned text; None when it is not a formula."""
    if not text or len(text) > LONGEST:
        return None
    text = _LOG_BASE.sub(r"\\log_{\1}", text)
    text = _CHOOSE.sub(r"\\binom{\1}{\2}", text)
    text = _THOUSANDS.sub(lambda m: m.group(1).replace(",", ""), text)
    text = _SHORT_FRACTION.sub(lambda m: f"\\frac{{{m[1]}}}{{{m[2]}}}" if m[1] else f"\\frac{{{m[3]}}}", text)
    text = _MIXED.sub(r"(\1+\2/\3)", _MIXED_LATEX.sub(r"(\1+\2/\3)", text))
    try:
        reader = _Reader(list(tokens(text)))
        node = reader.sum()
        return node if reader.at == len(reader.tokens) else None
    except (Unreadable, IndexError, RecursionError, ZeroDivisionError, OverflowError, ValueError):
        return None


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
        over_function = self.tokens[self.at + 1 : self.at + 2] and self.tokens[self.at + 1][0] == "function"
        if not over_function and self.take("/"):  # sin π/6: the whole quotient is meant, not so in sin θ/cos θ
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
