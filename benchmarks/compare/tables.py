"""A comparison on a terminal: 80 columns are enough, and nothing is read as markup."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.compare.result import Comparison
from benchmarks.compare.sheets import Sheet, sheets
from integrations.common.judge import printable

_NARROW = 9
"""Headers and labels longer than this are broken where they can be, in a table that is too wide."""


def print_comparison(found: Comparison, console: Console, metric: str | None) -> None:
    """Print every table, the notes and the conclusion."""
    for sheet in sheets(found, metric):
        print_sheet(sheet, console)
        console.print()
    for note in found.notes:
        print_line(note, console, style="dim")
    for refusal in found.refused:
        print_line(f"Left out: {refusal}", console, style="yellow")
    if found.conclusion:
        print_line(found.conclusion, console, style="bold")


def print_sheet(sheet: Sheet, console: Console) -> None:
    """Print one table with its notes; where it is too wide, what can be is broken into lines."""
    print_line(sheet.title, console, style="bold")
    columns = zip(sheet.headers, *sheet.rows, strict=True)
    width = sum(1 + max(cell_len(printable(cell)) for cell in column) for column in columns)
    console.print(_table(sheet, console, broken=width > console.width))
    for note in sheet.notes:
        print_line(note, console, style="dim")


def _table(sheet: Sheet, console: Console, broken: bool) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for index, header in enumerate(sheet.headers):
        words = index in sheet.words
        shown = _text(_broken(printable(header)) if broken else printable(header), console)
        table.add_column(shown, justify="left" if words else "right", no_wrap=not words, overflow="fold")
    for row in sheet.rows:
        cells = [printable(cell) for cell in row]
        if broken:
            cells = [_broken(cell) if i in sheet.words else cell.replace(" ", "\n") for i, cell in enumerate(cells)]
        table.add_row(*(_text(cell, console) for cell in cells))
    return table


def print_line(text: str, console: Console, style: str = "") -> None:
    """Print a sentence with untrusted text in it."""
    console.print(_text(printable(text, 2000), console), style=style)


def _broken(text: str) -> str:
    """Text broken after a slash or an arrow, or before a capital, where it is long."""
    if len(text) <= _NARROW:
        return text
    parts: Sequence[str] = re.findall(r".+?(?:/|->|$)", text)
    if len(parts) == 1:
        parts = re.findall(r"[A-Z][a-z]{3,}|.+?(?=[A-Z][a-z]{3,}|$)", text) or [text]
    return "\n".join(parts)


def _text(text: str, console: Console) -> Text:
    """Rich draws tables in plain characters where the output's encoding has no others; the same is due here."""
    return Text(text.replace("±", "+-") if console.options.ascii_only else text)
