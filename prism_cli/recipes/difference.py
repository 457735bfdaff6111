"""In what two recipes differ, field by field, with everything applied."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prism_cli.recipes.text import write_line

ABSENT = object()
"""Stands for a field that one recipe does not have, e.g. of an arm that it lacks."""
TITLES = ("name", "description")
"""Fields in which recipes always differ, and which decide nothing."""


@dataclass(frozen=True)
class Difference:
    """One field."""

    path: str
    """Dotted, e.g. `stages.rlvr.steps`."""
    values: tuple[Any, Any]

    def shown(self, side: int) -> str:
        """The value of one side on one line; empty where it has none."""
        return "" if self.values[side] is ABSENT else write_line(self.values[side])

    def to_json(self) -> dict[str, Any]:
        """`field`, and `a` and `b` where they have it."""
        sides = zip(("a", "b"), self.values, strict=True)
        return {"field": self.path} | {name: value for name, value in sides if value is not ABSENT}


def between(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[Difference]:
    """The differing fields of two resolved recipes, in the first one's order; names and descriptions left out."""
    found = _between(one, other, ())
    return [difference for difference in found if difference.path not in TITLES]


def _between(one: Any, other: Any, path: tuple[str, ...]) -> Iterator[Difference]:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for name in [*one, *(key for key in other if key not in one)]:
            yield from _between(one.get(name, ABSENT), other.get(name, ABSENT), (*path, name))
    elif one != other or type(one) is not type(other):
        yield Difference(".".join(path), (one, other))
