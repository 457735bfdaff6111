"""The demonstrations that a run's stages learned from, read from its pools."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from integrations.common.response import parse

DRAWN = 4000
"""Most demonstrations taken from one pool; a pool may hold a million."""


@dataclass(frozen=True)
class Pool:
    """Demonstrations of one pool."""

    name: str
    used_by: Sequence[str]
    rows: int
    """In the file."""
    responses: Sequence[tuple[str, str | None, str | None]]
    """Response, caption and reasoning of those drawn; no caption and no reasoning where the form is not met."""

    @property
    def formed(self) -> int:
        """How many of those drawn have the paper's form."""
        return sum(caption is not None for _, caption, _ in self.responses)

    @property
    def has_form(self) -> bool:
        """Whether most have it; a pool of plain answers has no captions to compare with."""
        return 2 * self.formed > len(self.responses)


def read_pools(run_dir: Path, users: Mapping[str, Sequence[str]]) -> list[Pool]:
    """The pools that these stages learned from, in this order; those that are gone or hold no responses are left out.

    Args:
        users: names of stages by pool.
    """
    found = []
    for name, stages in users.items():
        path = run_dir / "data" / "pools" / f"{name}.jsonl"
        rows, lines = _draw(path) if path.is_file() else (0, [])
        responses = [text for line in lines if (text := _response(line)) is not None]
        if responses:
            found.append(Pool(name, stages, rows, [_parts(text) for text in responses]))
    return found


def _draw(path: Path) -> tuple[int, list[bytes]]:
    """How many lines the file has, and DRAWN of them, each equally likely and the same ones every time."""
    generator = random.Random(0)
    drawn: list[bytes] = []
    count = 0
    with path.open("rb") as stream:
        for line in stream:
            if not line.strip():
                continue
            count += 1
            if len(drawn) < DRAWN:
                drawn.append(line)
            elif (place := generator.randrange(count)) < DRAWN:
                drawn[place] = line
    return count, drawn


def _response(line: bytes) -> str | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    text = row.get("response") if isinstance(row, dict) else None
    return text if isinstance(text, str) else None


def _parts(text: str) -> tuple[str, str | None, str | None]:
    parts = parse(text)
    return (text, None, None) if parts is None else (text, parts.caption, parts.think)
