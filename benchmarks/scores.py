"""A run's scores on the digits world, read from its cells for tables and comparisons.

Each finished stage has one evaluation per protocol: the cell with the most items that was made from the stage's
present weights (see `benchmarks.samples` for cells).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.samples import Cell, find_cells
from benchmarks.statistics import Rate, wilson

BENCHMARK = "digits"
"""The benchmark whose scores these are: the only one on which captions and reasoning can be marked exactly."""

METRICS = ("answer", "perception", "reasoning", "format")
"""In the order of every table. `reasoning` is undefined on items whose caption supports no answer."""

_COLUMNS = {"answer": "correct", "perception": "perception", "reasoning": "logic", "format": "format"}
"""Our names of the scores and the columns of a cell."""


@dataclass(frozen=True)
class Evaluation:
    """One checkpoint under one protocol."""

    protocol: str
    rates: Mapping[str, Rate]
    """By metric, and `truncated`."""
    facts: Mapping[str, Any]
    """cell.json as written."""
    items: Mapping[str, Sequence[Any]]
    """Columns `id`, METRICS and `truncated`, one entry per item; a score is True, False or None."""

    @property
    def n(self) -> int:
        return len(self.items["id"])


def rates(items: Mapping[str, Sequence[Any]]) -> dict[str, Rate]:
    """Rates over the items that a score is defined on.

    Args:
        items: columns of equal length; every METRICS column and `truncated` holds True, False or None.
    """
    result = {}
    for name in (*METRICS, "truncated"):
        defined = [bool(value) for value in items[name] if value is not None]
        result[name] = wilson(sum(defined), len(defined))
    return result


def to_json(found: Mapping[str, Rate], n: int) -> dict[str, Any]:
    """Rates as the part of a JSON object that every command prints: values in [0, 1], null where undefined."""
    return {
        **{name: _number(found[name].value) for name in METRICS},
        "n": n,
        "ci": {name: [_number(found[name].low), _number(found[name].high)] for name in METRICS},
        "defined": {name: found[name].n for name in METRICS},
        "truncated": _number(found["truncated"].value),
    }


def read_evaluations(run_dir: Path) -> dict[tuple[str, str], dict[str, Evaluation]]:
    """A run's evaluations by protocol, for each stage and hash of its weights.

    One response to each item counts (the first of decoding seed 0). Where a protocol was evaluated on several
    selections of items, the largest counts.
    """
    found: dict[tuple[str, str], dict[str, Evaluation]] = {}
    cells = [c for c in find_cells(run_dir / "eval") if c.benchmark == BENCHMARK and c.facts["decoding_seed"] == 0]
    for cell in sorted(cells, key=lambda c: int(c.facts["items"])):
        model = cell.facts["model"]
        found.setdefault((model.get("stage", ""), model["weights_hash"]), {})[cell.protocol] = _evaluation(cell)
    return found


def _evaluation(cell: Cell) -> Evaluation:
    names = {"id": "item_id", **_COLUMNS, "truncated": "truncated"}
    first = [sample == 0 for sample in cell.table["sample"].to_pylist()]
    columns = {
        name: [value for value, kept in zip(cell.table[column].to_pylist(), first, strict=True) if kept]
        for name, column in names.items()
    }
    return Evaluation(cell.protocol, rates(columns), cell.facts, columns)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
