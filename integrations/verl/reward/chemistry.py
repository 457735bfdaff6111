"""Equations of reactions: `2H2 + O2 → 2H2O`, with the substances of each side in any order."""

from __future__ import annotations

import re
from collections import Counter

from integrations.verl.reward.clean import symbols_alone
from integrations.verl.reward.many import Said, Same

_ARROW = re.compile(r"\s*(?:→|⇌|\\rightleftharpoons|\\leftrightarrow|↔|=+>?|-+>)\s*")
_OVER_ARROW = re.compile(r"\\xrightarrow(?:\[[^\]]*\])?\s*\{[^{}]*\}")
_PLUS = re.compile(r"\+(?=\s*[0-9]*\s*[A-Z(\[])")
_SUBSTANCE = re.compile(
    r"([0-9]*)((?:[A-Z][a-z]?[0-9]*|[(\[](?:[A-Z][a-z]?[0-9]*)+[)\]][0-9]*|\*[0-9]*)+(?:\^\{?[0-9]*[+-]\}?)?|e\^\{?-\}?)"
    r"(?:[(](?:aq|s|l|g)[)]|[↑↓])?"
)


def reaction(answer: str, reference: str, same: Same) -> Said | None:
    """Whether two cleaned texts are one reaction; states of matter and signs for gas count for nothing."""
    right = _sides(reference) if "→" in reference or "⇌" in reference or "arrow" in reference else None
    return None if right is None else (_sides(answer) == right, "reaction")


def _sides(text: str) -> tuple[Counter[str], ...] | None:
    sides = _ARROW.split(_OVER_ARROW.sub("→", text))
    if len(sides) != 2:
        return None
    found = tuple(_substances(side) for side in sides)
    return None if None in found else tuple(side for side in found if side is not None)


def _substances(side: str) -> Counter[str] | None:
    found: Counter[str] = Counter()
    for term in _PLUS.split(side):
        match = _SUBSTANCE.fullmatch(symbols_alone(term).replace(" ", ""))
        if match is None:
            return None
        found[match[2].replace("{", "").replace("}", "")] += int(match[1] or 1)
    return found
