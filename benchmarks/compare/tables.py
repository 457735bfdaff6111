"""A comparison as tables for a terminal: 80 columns, nothing read as markup."""

from __future__ import annotations

from rich.console import Console

from benchmarks.compare.result import Comparison


def print_comparison(found: Comparison, console: Console, metric: str) -> None:
    console.print(found.conclusion or "", markup=False)
