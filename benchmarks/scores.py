"""What an evaluation leaves behind, written by the evaluator and read by tables and comparisons.

    <evaluation>/<protocol>/items.parquet   one row per item: what was asked, answered, and how it was scored
    <evaluation>/<protocol>/scores.json     the rates with their intervals, written last

Runs in prism's own process and in the engines' environments (numpy and pyarrow).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.statistics import Rate, wilson
from integrations.common.files import read_json, write_json

METRICS = ("answer", "perception", "reasoning", "format")
"""In the order of every table. `reasoning` is undefined on items whose caption supports no answer."""

ITEMS = "items.parquet"
SCORES = "scores.json"
_COLUMNS = pa.schema(
    [
        ("id", pa.string()),
        ("kind", pa.string()),
        ("level", pa.string()),
        ("multiple_choice", pa.bool_()),
        ("prompt", pa.string()),
        ("response", pa.string()),
        ("tokens", pa.int32()),
        ("truncated", pa.bool_()),
        *((metric, pa.bool_()) for metric in METRICS),
    ]
)


@dataclass(frozen=True)
class Evaluation:
    """One checkpoint under one protocol."""

    protocol: str
    rates: Mapping[str, Rate]
    """By metric, and `truncated`."""
    facts: Mapping[str, Any]
    """scores.json as written."""
    items: Mapping[str, Sequence[Any]]
    """Columns `id` and METRICS of items.parquet; a score is True, False or None."""

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


def write(folder: Path, items: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write both files, scores.json last; returns its content.

    Args:
        folder: of one protocol; created.
        items: one mapping per item with all columns of items.parquet.
        facts: protocol, decoding, seed, model and what else a reader needs to repeat the evaluation.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist([dict(item) for item in items], schema=_COLUMNS)
    temporary = folder / f".{ITEMS}.{os.getpid()}.tmp"
    pq.write_table(table, temporary)
    with temporary.open("rb") as stream:
        os.fsync(stream.fileno())
    os.replace(temporary, folder / ITEMS)
    scores = {**facts, **to_json(rates(table.to_pydict()), table.num_rows)}
    write_json(folder / SCORES, scores)
    return scores


def read(folder: Path) -> Evaluation | None:
    """The evaluation in a protocol's folder, or None when it is missing, unfinished or damaged."""
    facts = read_json(folder / SCORES)
    if not isinstance(facts, dict):
        return None
    try:
        items = pq.read_table(folder / ITEMS, columns=["id", *METRICS, "truncated"]).to_pydict()
    except (OSError, pa.ArrowException):
        return None
    if facts.get("n") != len(items["id"]):
        return None
    return Evaluation(folder.name, rates(items), facts, items)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
