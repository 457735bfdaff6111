"""`prism report`: one HTML file about runs and their evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN]...",
            help="A run's name or folder, several that differ in their seed, or any folder of evaluated samples. "
            "[default: the latest run]",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The file to write. [default: report/report.html in the run, else report.html here]"),
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
    runs_dir: Annotated[Path, typer.Option(envvar="PRISM_RUNS", help="Folder that holds the runs.")] = Path("runs"),
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Write one HTML file: results, curves, cost, provenance, every response.

    The file opens from disk, loads nothing and sends nothing. It shows what is there, also of a run that is not
    finished or not evaluated, and names what is missing.

    Exit codes: 0 done, 2 bad input.
    """
    from benchmarks.report import report as make_report

    folders = _folders(runs or [], runs_dir)
    path = out or _default_path(folders)
    _require_file_name(path)
    with _said(json_) as say:
        made = make_report(folders, say)
        _write(path, made.html)
    if json_:
        typer.echo(json.dumps({"path": str(path), **made.to_json()}, indent=2))
    else:
        for sentence in made.page.headline:
            typer.echo(sentence)
        typer.echo(f"\n{path} ({len(made.html.encode()) / 1e6:.1f} MB)")
    if open_:
        import webbrowser

        webbrowser.open(path.absolute().as_uri())


def _folders(names: Sequence[str], runs_dir: Path) -> list[Path]:
    from integrations.errors import BadInput
    from prism_cli.runs.overview import list_runs

    if names:
        return [_folder(name, runs_dir) for name in dict.fromkeys(names)]
    latest = list_runs(runs_dir)
    if not latest:
        raise BadInput(
            f"there is no run in {runs_dir}", "train one with `prism train`, or name a folder of evaluated samples"
        )
    return [latest[0].path]


def _folder(name: str, runs_dir: Path) -> Path:
    """A run by name first, then any folder."""
    from prism_cli.runs.overview import find_run, is_run

    if Path(name).name == name and is_run(runs_dir / name):
        return runs_dir / name
    return Path(name) if Path(name).is_dir() else find_run(runs_dir, name).root


def _default_path(folders: Sequence[Path]) -> Path:
    from prism_cli.runs.overview import is_run

    one_run = len(folders) == 1 and is_run(folders[0])
    return folders[0] / "report" / "report.html" if one_run else Path("report.html")


def _require_file_name(path: Path) -> None:
    from integrations.errors import BadInput

    if path.is_dir():
        raise BadInput(f"{path} is a folder", f"name a file, e.g. --out {path / 'report.html'}")


def _write(path: Path, html: str) -> None:
    from integrations.common.files import write_text

    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, html)


@contextmanager
def _said(quiet: bool) -> Iterator[Callable[[str], None]]:
    """What is being done, on one changing line of the terminal; nothing elsewhere."""
    from rich.console import Console

    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda what: None
        return
    with console.status("reading") as status:
        yield status.update
