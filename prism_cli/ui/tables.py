"""Tables that fit 80 columns, on a terminal and in a pipe."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text


def print_table(
    headers: Sequence[str],
    rows: Sequence[Sequence[object]],
    title: str = "",
    numbers: Sequence[int] = (),
    console: Console | None = None,
) -> None:
    """Print rows under headers; nothing is read as markup, long text wraps within its column.

    Args:
        headers: one per column.
        rows: as many cells each; None is shown empty, a rich Text in its own style.
        title: a line above, left-aligned.
        numbers: columns, counted from 0, that are aligned to the right and never wrapped.
        console: standard output by default.
    """
    table = Table(box=box.SIMPLE_HEAD, title=Text(title) if title else None, title_justify="left", pad_edge=False)
    for index, header in enumerate(headers):
        number = index in numbers
        table.add_column(Text(header), justify="right" if number else "left", no_wrap=number, overflow="fold")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text("" if cell is None else str(cell)) for cell in row))
    (console or Console(highlight=False)).print(table)
