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
from integrations.common.chat import printable

_BREAKS = ((10_000, False), (16, False), (12, False), (9, True))
"""How a table that is too wide is made narrower, step by step: from which length on words are broken into lines, and
whether numbers are broken at their spaces."""


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
    """Print one table with its notes; where it is too wide, words are broken into lines, and numbers if need be."""
    print_line(sheet.title, console, style="bold")
    for longest, numbers in _BREAKS:
        rows = [_cells(row, longest, numbers) for row in (sheet.headers, *sheet.rows)]
        if _width(rows) <= console.width:
            break
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for index, header in enumerate(rows[0]):
        word = index in sheet.words
        table.add_column(_text(header, console), justify="left" if word else "right", no_wrap=not word, overflow="fold")
    for row in rows[1:]:
        table.add_row(*(_text(cell, console) for cell in row))
    console.print(table)
    for note in sheet.notes:
        print_line(note, console, style="dim")


def _cells(row: Sequence[str], longest: int, break_numbers: bool) -> list[str]:
    """A row's cells, printable, with line breaks in words that are too long, and in numbers if that is wanted."""
    cells = [printable(cell) for cell in row]
    cells = [cell if len(cell) <= longest or _number(cell) else _broken(cell) for cell in cells]
    return [cell.replace(" ", "\n") if break_numbers and _number(cell) else cell for cell in cells]


def _number(cell: str) -> bool:
    return cell[:1] in "+-0123456789<"


def _width(rows: Sequence[Sequence[str]]) -> int:
    columns = zip(*rows, strict=True)
    return sum(1 + max(cell_len(line) for cell in column for line in cell.split("\n")) for column in columns)


def print_line(text: str, console: Console, style: str = "") -> None:
    """Print a sentence with untrusted text in it."""
    console.print(_text(printable(text, 2000), console), style=style)


def _broken(text: str) -> str:
    """Text broken after a slash or an arrow, else before a capital."""
    parts: Sequence[str] = re.findall(r".+?(?:/|->|$)", text)
    if len(parts) == 1:
        parts = re.findall(r"[A-Z][a-z]{3,}|.+?(?=[A-Z][a-z]{3,}|$)", text) or [text]
    return "\n".join(parts)


def _text(text: str, console: Console) -> Text:
    """Rich draws tables in plain characters where the output's encoding has no others; the same is due here."""
    return Text(text.replace("±", "+-") if console.options.ascii_only else text)
