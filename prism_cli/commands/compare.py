"""`prism compare`: models on the same items, from the samples that evaluations left. Needs no inference."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from benchmarks.compare import Comparison
    from benchmarks.samples import Cell

CHOOSE, STATISTICS, OUTPUT = "What to compare", "Statistics", "Output"


class Format(StrEnum):
    """How the comparison is printed."""

    TABLE = "table"
    MARKDOWN = "markdown"
    CSV = "csv"
    LATEX = "latex"
    JSON = "json"


class Metric(StrEnum):
    """A column of the samples."""

    CORRECT = "correct"
    PERCEPTION = "perception"
    LOGIC = "logic"
    FORMAT = "format"


def compare(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN|FOLDER]...",
            help="Runs by name, or folders with samples anywhere below them; runs of one recipe are its training "
            "seeds. [default: the latest evaluated run]",
        ),
    ] = None,
    samples: Annotated[
        list[Path] | None, typer.Option(metavar="DIR", help="A folder with samples, also given as an argument.")
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(help="The model all others are compared with. [default: baseline/rlvr]", rich_help_panel=CHOOSE),
    ] = None,
    treated: Annotated[
        str | None,
        typer.Option(help="The model that the conclusion is about. [default: prism/rlvr]", rich_help_panel=CHOOSE),
    ] = None,
    suite: Annotated[
        str | None, typer.Option(help="Only this suite. [default: each by itself]", rich_help_panel=CHOOSE)
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(help="Only paper, sample or greedy. [default: each by itself]", rich_help_panel=CHOOSE),
    ] = None,
    benchmark: Annotated[
        list[str] | None,
        typer.Option(help="Only this benchmark; may be repeated. [default: the whole suite]", rich_help_panel=CHOOSE),
    ] = None,
    metric: Annotated[
        Metric | None,
        typer.Option(
            help="What to show in tables. [default: correct; all that a single benchmark measures]",
            rich_help_panel=CHOOSE,
        ),
    ] = None,
    leave_out: Annotated[
        bool,
        typer.Option(
            "--leave-out", help="Leave out and name what does not match, instead of refusing.", rich_help_panel=CHOOSE
        ),
    ] = False,
    paper: Annotated[
        bool,
        typer.Option("--paper", help="Also show the paper's numbers, in tables of their own.", rich_help_panel=OUTPUT),
    ] = False,
    resamples: Annotated[
        int,
        typer.Option(min=100, help="Resamples of the bootstrap and the permutation.", rich_help_panel=STATISTICS),
    ] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of both.", rich_help_panel=STATISTICS)] = 0,
    format_: Annotated[
        Format,
        typer.Option("--format", help="How to print it; csv and json have all metrics.", rich_help_panel=OUTPUT),
    ] = Format.TABLE,
    json_: Annotated[bool, typer.Option("--json", help="The same as --format json.", rich_help_panel=OUTPUT)] = False,
    out: Annotated[
        Path | None, typer.Option(help="Write to this file instead of the screen.", rich_help_panel=OUTPUT)
    ] = None,
    runs_dir: Annotated[Path, typer.Option(envvar="PRISM_RUNS", help="Folder that holds the runs.")] = Path("runs"),
) -> None:
    """Compare models on the same items with a baseline: differences, intervals, tests.

    Differences are paired over items. Their 95% intervals come from a bootstrap over items, or over groups of items
    that share a figure or a problem; p from McNemar's exact test or a permutation test, corrected over benchmarks with
    Holm's method. Results of different items, prompts, protocols, judges or harnesses are refused.
    """
    from benchmarks.compare import compare_all

    given = [*(sources or []), *map(str, samples or [])]
    folders = [_folder(name, runs_dir) for name in given] or _evaluated(runs_dir)[:1]
    options: dict[str, Any] = {"treated": treated, "benchmarks": benchmark, "resamples": resamples, "seed": seed}
    found: list[Comparison] = []
    if folders or not paper:
        with _patience():
            cells = _chosen(_cells(folders, runs_dir), suite, protocol)
            found = compare_all(cells, baseline, strict=not leave_out, **options)
    how = Format.JSON if json_ else format_
    _tell(found, [str(folder) for folder in folders], paper, how, None if metric is None else metric.value, out)


def _patience() -> AbstractContextManager[object]:
    """Something that moves on a terminal while samples are read and resampled."""
    from rich.console import Console

    return Console(stderr=True).status("comparing")


def _evaluated(runs_dir: Path) -> list[Path]:
    """Folders of samples of the evaluated runs, the last active run first."""
    from benchmarks.samples import CELL
    from prism_cli.runs.overview import list_runs

    stores = [run.path / "eval" for run in list_runs(runs_dir)]
    return [store for store in stores if next(store.rglob(CELL), None) is not None]


def _cells(folders: Sequence[Path], runs_dir: Path) -> list[Cell]:
    """Every finished cell in the folders."""
    from benchmarks.compare import COLUMNS
    from benchmarks.samples import find_cells
    from integrations.errors import BadInput

    if not folders:
        raise BadInput(
            f"no run in {runs_dir} has been evaluated", "run `prism eval`, or name a folder of samples or of runs"
        )
    cells = {cell.folder.resolve(): cell for folder in folders for cell in find_cells(folder, COLUMNS)}
    if not cells:
        raise BadInput(
            f"there are no finished samples in {', '.join(map(str, folders))}", "`prism eval` makes them, or resumes"
        )
    return list(cells.values())


def _folder(name: str, runs_dir: Path) -> Path:
    """A run's samples, or any folder; a run's own folder stands for its samples."""
    from prism_cli.runs.overview import find_run, is_run

    folder = Path(name).expanduser()
    if Path(name).name == name and is_run(runs_dir / name):
        folder = runs_dir / name
    if not folder.is_dir():
        find_run(runs_dir, name)  # says which runs there are
    return folder / "eval" if is_run(folder) else folder


def _chosen(cells: Sequence[Cell], suite: str | None, protocol: str | None) -> list[Cell]:
    from integrations.errors import BadInput

    for what, wanted, there in (
        ("suite", suite, sorted({str(cell.facts["suite"]) for cell in cells})),
        ("protocol", protocol, sorted({cell.protocol for cell in cells})),
    ):
        if cells and wanted is not None and wanted not in there:
            raise BadInput(f"there are no finished samples of the {what} `{wanted}`", f"there are: {', '.join(there)}")
    return [c for c in cells if suite in (None, c.facts["suite"]) and protocol in (None, c.protocol)]


def _tell(
    found: Sequence[Comparison], sources: Sequence[str], paper: bool, how: Format, metric: str | None, out: Path | None
) -> None:
    """Print or write it."""
    text = (
        _table(found, sources, paper, metric, None if out is None else 80)
        if how is Format.TABLE
        else _text(found, sources, paper, how, metric)
    )
    if out is not None:
        _write(out, text)
    elif text:
        print(text, end="")


def _table(
    found: Sequence[Comparison], sources: Sequence[str], paper: bool, metric: str | None, width: int | None
) -> str:
    """Print tables on the terminal; with a width, return them as text instead."""
    import io

    from rich.console import Console

    from benchmarks.compare.paper import sheets as paper_sheets
    from benchmarks.compare.tables import print_line, print_sheet

    stream = io.StringIO()
    console = Console(highlight=False) if width is None else Console(file=stream, width=width, highlight=False)
    for comparison in found:
        comparison.render(console, metric)
        console.print()
    for sheet in paper_sheets() if paper else []:
        print_sheet(sheet, console)
        console.print()
    if found:
        print_line(f"Samples: {', '.join(sources)}", console, style="dim")
    return stream.getvalue()


def _text(found: Sequence[Comparison], sources: Sequence[str], paper: bool, how: Format, metric: str | None) -> str:
    import json

    from benchmarks.compare import formats
    from benchmarks.compare import paper as quoted

    if how is Format.JSON:
        told: dict[str, Any] = {"sources": list(sources), "comparisons": [one.to_json() for one in found]}
        told |= {"paper": quoted.to_json()} if paper else {}
        return json.dumps(told, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if how is Format.CSV:
        return formats.csv_text(found)
    write = formats.markdown if how is Format.MARKDOWN else formats.latex
    return write(found, quoted.sheets() if paper else [], metric)


def _write(out: Path, text: str) -> None:
    from integrations.common.files import write_text
    from integrations.errors import BadInput

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, text)
    except OSError as error:
        raise BadInput(f"cannot write {out}: {error.strerror}", "choose another file with --out") from error
