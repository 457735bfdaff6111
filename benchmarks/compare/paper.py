"""The paper's own numbers, to stand beside a table of ours and never in it.

They were measured with other data, judge, sampling and harness, with one training run each and without intervals, so a
difference between a number of ours and one of these tells nothing by itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from benchmarks.compare.sheets import Sheet

FILE = Path(__file__).with_name("paper.yaml")
QUOTED = "Quoted, not measured here: other judge, harness and sampling; one training run each, no intervals."


def load() -> dict[str, Any]:
    """paper.yaml: `source`, `url`, `benchmarks`, `tables` (rows: name, one accuracy per benchmark in percent, stated
    average) and `tokens` (rows: name, one mean length per benchmark)."""
    content: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return content


def to_json() -> dict[str, Any]:
    """The numbers with their source, as one JSON object."""
    return {"quoted": True, **load()}


def sheets() -> list[Sheet]:
    """The numbers as tables, each with its source in the title."""
    paper = load()
    source = paper["source"]
    found = [
        Sheet(
            title=f"Quoted from {source}, {table['where']}: {table['title']}, {table['unit']}",
            headers=["model", *paper["benchmarks"], "average"],
            rows=[[row[0], *(f"{value:.1f}" for value in row[1:])] for row in table["rows"]],
        )
        for table in paper["tables"]
    ]
    tokens = paper["tokens"]
    found.append(
        Sheet(
            title=f"Quoted from {source}, {tokens['where']}: {tokens['title']}",
            headers=["model", *tokens["benchmarks"]],
            rows=[[row[0], *map(str, row[1:])] for row in tokens["rows"]],
            notes=[QUOTED],
        )
    )
    return found
