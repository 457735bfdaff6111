"""Computes with the trees of expression.py: exact values, values at points, comparison, and unambiguous LaTeX."""

from __future__ import annotations

import cmath
import math
import random
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from functools import lru_cache

from integrations.verl.reward.expression import Node

MOST_BITS = 4096
"""Size to which exact powers are computed."""


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


def value(node: Node, at: Mapping[str, float]) -> complex | None:
    """The value in floating point; None where it is not defined or a symbol has no value."""
    try:
        result = _value(node, at)
    except (ZeroDivisionError, OverflowError, ValueError, RecursionError, TypeError, KeyError):
        return None
    return result if cmath.isfinite(result) else None


_COMPUTE: dict[str, Callable[[complex], complex]] = {
    "sin": cmath.sin, "cos": cmath.cos, "tan": cmath.tan, "arcsin": cmath.asin, "arccos": cmath.acos,
    "arctan": cmath.atan, "sinh": cmath.sinh, "cosh": cmath.cosh, "tanh": cmath.tanh, "arcsinh": cmath.asinh,
    "arccosh": cmath.acosh, "arctanh": cmath.atanh, "ln": cmath.log, "abs": abs,
    "cot": lambda z: 1 / cmath.tan(z), "sec": lambda z: 1 / cmath.cos(z), "csc": lambda z: 1 / cmath.sin(z),
    "arccot": lambda z: cmath.pi / 2 - cmath.atan(z),
}  # fmt: skip


def _value(node: Node, at: Mapping[str, float]) -> complex:
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
