"""`prism reward`: see how the reward judges answers."""

from __future__ import annotations

import json
import sys
import time
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from integrations.verl.reward.check import Report

app = typer.Typer()

SHOWN = 20


@app.callback()
def reward() -> None:
    """See how the reward judges answers."""


@app.command()
def check(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="JSON lines with `type`, `prediction`, `reference` (text or list) and `expected`."
        ),
    ],
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Compare the reward's verdicts with labelled answers: precision and recall, overall and by type.

    Precision is the share of the answers called right that are; recall the share of the right answers called so.
    """
    from integrations.verl.reward.check import check as run
    from integrations.verl.reward.check import read_pairs

    pairs = read_pairs(file)
    report = run(pairs, _progress(len(pairs)))
    if json_:
        print(json.dumps(report.told(), indent=2, ensure_ascii=False))
    else:
        _print(report)


def _progress(total: int) -> Any:
    """A line on standard error that counts, after two seconds and on a terminal only."""
    started, quiet = time.monotonic(), not sys.stderr.isatty()

    def tick(done: int) -> None:
        if quiet or time.monotonic() - started < 2:
            return
        end = "\n" if done == total else ""
        print(f"\r{done} of {total} answers", end=end, file=sys.stderr, flush=True)

    return tick


def _print(report: Report) -> None:
    from prism_cli.ui.tables import print_table

    counts = [*sorted(report.by_type.items()), ("all", report.total)]
    told = [(name, one.told()) for name, one in counts]
    rows = [
        [name, one["answers"], f"{one['precision']:.1%}", f"{one['recall']:.1%}", one["errors"] or ""]
        for name, one in told
    ]
    print_table(["type", "answers", "precision", "recall", "no verdict"], rows, numbers=[1, 2, 3, 4])
    if not report.disagreements:
        return
    rows = [
        [one["type"], _shown(one["prediction"]), _shown(one["reference"]), "right" if one["expected"] else "wrong",
         one["error"] or one["rule"]]
        for one in report.disagreements[:SHOWN]
    ]  # fmt: skip
    title = f"{len(report.disagreements)} disagreements" + (f", the first {SHOWN}" if len(rows) == SHOWN else "")
    print_table(["type", "answer", "reference", "labelled", "decided by"], rows, title=title)


def _shown(text: str | list[str]) -> str:
    """A text for the terminal: short, without characters that steer it."""
    joined = text if isinstance(text, str) else " | ".join(text)
    safe = "".join(c if unicodedata.category(c)[0] != "C" else "·" for c in joined)
    return safe if len(safe) <= 60 else safe[:59] + "…"
