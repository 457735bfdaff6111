"""What `drift` found, as tables for people: 80 columns."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

_COUNTED = ("items", "steps", "tokens", "caption_length", "reasoning_length")
_HEADINGS = ("items", "steps", "tokens", "caption", "reasoning")
_LEGEND = (
    "Means of what a response holds: things named in its caption, steps of its reasoning, tokens, and characters of "
    "both parts. After a mean stands the distance of the whole distribution to the demonstrations (1-Wasserstein, in "
    "their standard deviations); ! marks a distance that a draw of as many demonstrations would show in fewer than 5 "
    "of 100 cases."
)
_FLIPS = (
    "Answers that turned right or wrong, and the difference in points with its 95% interval over items; read and "
    "reason: the same difference for the caption's and for the reasoning's verdicts. Checkpoints are held fixed: "
    "other training seeds may differ by more."
)


def print_drift(found: Mapping[str, Any], console: Console) -> None:
    """Print every group's rates, proxies and flips, and what limits their reading."""
    for group in found["groups"]:
        for table in (_rates(group, console), _proxies(group), *_flips(group)):
            console.print(table)
    for note in (_LEGEND, _FLIPS, *found["notes"]):
        console.print(Text(note, style="dim"))


def _rates(group: Mapping[str, Any], console: Console) -> Table:
    names = {"correct": "correct", "perception": "read", "logic": "reason", "format": "format", "truncated": "cut off"}
    sign = "+-" if console.options.ascii_only else "±"
    shown = [name for name in names if any(stage["measured"][name] for stage in group["stages"].values())]
    table = _table(f"{group['benchmark']}, {group['protocol']}: percent of responses", "stage", "n")
    for name in shown:
        table.add_column(names[name], justify="right", no_wrap=True)
    for label, stage in group["stages"].items():
        rates = [_percent(stage["measured"][name], sign) for name in shown]
        table.add_row(_plain(label), str(stage["responses"]), *rates)
    return table


def _proxies(group: Mapping[str, Any]) -> Table:
    pool = group["reference"]
    table = _table(f"Distance to the demonstrations `{pool}`" if pool else "No demonstrations are known", "stage")
    for heading in _HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    if pool:
        shown = group["supervision"][pool]["proxies"]
        table.add_row("demonstrations", *(_mean(shown[name], pool) for name in _COUNTED), style="bold")
    for label, stage in group["stages"].items():
        table.add_row(_plain(label), *(_mean(stage["proxies"][name], pool) for name in _COUNTED))
    return table


def _flips(group: Mapping[str, Any]) -> Sequence[Table]:
    if not group["transitions"]:
        return ()
    table = _table("From stage to stage", "stage", "after")
    for heading in ("n", "+right", "+wrong", "points", "read", "reason"):
        table.add_column(heading, justify="right", no_wrap=True)
    for step in group["transitions"]:
        flips = step["flips"]
        correct = flips["correct"]
        counts = [str(correct[name]) for name in ("n", "gained", "lost")] if correct else [""] * 3
        table.add_row(
            _plain(step["to"]),
            _plain(step["from"].rsplit("/", 1)[-1]),
            *counts,
            _points(correct, interval=True),
            _points(flips["perception"]),
            _points(flips["logic"]),
        )
    return (table,)


def _percent(rate: Mapping[str, Any] | None, sign: str) -> str:
    if rate is None:
        return "-"
    margin = max(rate["value"] - rate["low"], rate["high"] - rate["value"])
    return f"{100 * rate['value']:.1f} {sign}{100 * margin:.1f}"


def _mean(proxy: Mapping[str, Any] | None, pool: str | None) -> str:
    if proxy is None:
        return "-"
    mean = f"{proxy['mean']:.1f}"
    scaled = (proxy.get("distances", {}).get(pool) or {}).get("scaled")
    if scaled is None:
        return f"{mean}      "
    return f"{mean} {scaled['value']:.2f}{'!' if scaled['value'] > scaled['chance'] else ' '}"


def _points(flips: Mapping[str, Any] | None, *, interval: bool = False) -> str:
    if flips is None:
        return "-"
    net = flips["net"]
    text = f"{100 * net['value']:+.1f}"
    return f"{text} [{100 * net['low']:.1f}, {100 * net['high']:.1f}]" if interval else text


def _table(title: str, *columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=Text(title), title_justify="left", pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, justify="right" if column == "n" else "left", overflow="fold")
    return table


def _plain(label: str) -> str:
    """A label without control and direction characters: it may come from a file that others wrote."""
    return "".join(c for c in label if unicodedata.category(c) not in ("Cc", "Cf"))
