"""Results of runs as tables for people: 80 columns, plain characters where the output has no others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.scores import METRICS
from benchmarks.statistics import Rate
from benchmarks.summary import Comparison, Stage, Summary, conclusion, points, protocol_title

DIFFERED = ("answer", "perception", "reasoning")
"""Metrics of the table of differences; the format rate is in the JSON only, for want of width."""


def print_summary(summary: Summary, console: Console) -> None:
    """Print one run's tables, the differences and what follows from them."""
    sign = _plus_minus(console)
    if not summary.protocols:
        _print(console, "No stage is evaluated yet.")
        return
    for protocol in summary.protocols:
        _print(console, _score_table(summary, protocol, sign))
        _print(console, "")
    _print(console, _legend(summary, sign))
    if summary.comparisons:
        _print(console, "")
        _print(console, _difference_table(summary.comparisons))
        for comparison in summary.comparisons:
            _print(console, conclusion(comparison))
    for warning in summary.warnings:
        _print(console, f"Warning: {warning}", style="yellow")


def _score_table(summary: Summary, protocol: str, sign: str) -> Table:
    """One row per stage, one heading row per arm with its totals."""
    table = _table(f"{protocol_title(protocol)}: percent of held-out items", "stage")
    for heading in (*METRICS, "n", "tokens", "min"):
        table.add_column(heading, justify="right", no_wrap=True)
    groups: dict[str, list[Stage]] = {}
    for stage in summary.stages.values():
        groups.setdefault(stage.group, []).append(stage)
    for group in sorted(groups, key=lambda g: g != "shared"):  # stable: shared first, then the arms in their order
        totals = [""] * 2
        if group in summary.arms:
            tokens, seconds = summary.total(group)
            totals = [_count(tokens), _minutes(seconds)]
        table.add_row(group, *[""] * (len(METRICS) + 1), *totals, style="bold")
        for stage in groups[group]:
            table.add_row(*_stage_cells(stage, protocol, sign))
    return table


def _stage_cells(stage: Stage, protocol: str, sign: str) -> list[str]:
    evaluation = stage.evaluations.get(protocol)
    scores = [_percent(evaluation.rates[metric], sign) if evaluation else "-" for metric in METRICS]
    n = str(evaluation.n) if evaluation else "-"
    cost = [_count(stage.generated_tokens), _minutes(stage.seconds)] if stage.status == "done" else ["-", "-"]
    return [f"  {stage.short}", *scores, n, *cost]


def _difference_table(comparisons: Sequence[Comparison]) -> Table:
    table = _table(f"{comparisons[0].first} minus another arm: points, paired over items", "")
    for heading in ("", *DIFFERED):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for comparison in comparisons:
        cells = [points(comparison.differences[metric]) for metric in DIFFERED]
        table.add_row(comparison.second, protocol_title(comparison.protocol), *cells)
    return table


def _table(title: str, first: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(first, overflow="fold")
    return table


def _legend(summary: Summary, sign: str) -> str:
    truncated = [e.rates["truncated"] for s in summary.stages.values() for e in s.evaluations.values()]
    worst = max(rate.value for rate in truncated)
    return (
        f"{sign} is the wider side of the 95% Wilson interval. reasoning: the answer follows from the response's own "
        "caption (items on which a caption supports an answer). A response without the form counts as wrong. tokens: "
        "generated in training; min: minutes of training; an arm's own line is its total, shared stages included. "
        f"Evaluation took {_minutes(summary.evaluation_seconds)} minutes in all. Truncated responses: at most "
        f"{100 * worst:.1f}%. Training seed: {summary.seed}; one seed says nothing about the spread over seeds."
    )


def _print(console: Console, what: Any, style: str | None = None) -> None:
    if isinstance(what, str):
        console.print(what, style=style, markup=False, highlight=False)
    else:
        console.print(what)


def _plus_minus(console: Console) -> str:
    """Rich draws tables in plain characters where the output's encoding has no others; the same is due here."""
    return "+-" if console.options.ascii_only else "±"


def _percent(rate: Rate, sign: str) -> str:
    return f"{100 * rate.value:.1f} {sign}{100 * rate.margin:.1f}" if rate.n else "-"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f}"


def _count(number: int) -> str:
    if number < 1000:
        return str(number)
    return f"{number / 1000:.0f}k" if number < 1_000_000 else f"{number / 1_000_000:.2f}M"
