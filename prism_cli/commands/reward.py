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
    from integrations.verl.review import Review
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


@app.command()
def review(
    run: Annotated[str | None, typer.Option(help="The run's name. [default: the latest]")] = None,
    runs_dir: Annotated[Path, typer.Option(envvar="PRISM_RUNS", help="Folder that holds the runs.")] = Path("runs"),
    stage: Annotated[str | None, typer.Option(help="One stage, e.g. `prism/rlvr`. [default: all]")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """List answers on which the reward's rules and its judge differ, for a person to decide.

    Only stages whose recipe names a judge (`rlvr.judge`) have any. Write those where the rules are wrong into a file
    for `prism reward check`, and tell us.
    """
    from integrations.errors import BadInput
    from integrations.verl.review import stages_with_judge
    from prism_cli.runs.overview import find_or_latest

    store = find_or_latest(runs_dir, run)
    found = stages_with_judge(store.root)
    if stage is not None:
        found = [one for one in found if one.stage == stage]
    if not found:
        raise BadInput(
            f"no {'stage' if stage is None else f'`{stage}`'} of run `{store.name}` was rewarded by a judge",
            "name one in the recipe's `rlvr.judge`, and train",
        )
    if json_:
        told = [{"stage": one.stage, "judged": one.judged, "agreed": one.agreed, "differ": one.differ} for one in found]
        print(json.dumps({"run": store.name, "stages": told}, indent=2, ensure_ascii=False))
        return
    for one in found:
        _print_review(one)


def _print_review(one: Review) -> None:
    from prism_cli.ui.tables import print_table

    share = f"{one.agreed / one.judged:.1%} of {one.judged} answers" if one.judged else "no answer yet"
    rows = [
        [_shown(item["reference"]), _shown(item["answer"]), f"{item['rules']} ({item['rule']})", item["judge"]]
        for item in one.differ[:SHOWN]
    ]
    more = f", the first {SHOWN} of {len(one.differ)}" if len(one.differ) > SHOWN else ""
    print_table(
        ["reference", "answer", "rules", "judge"], rows, title=f"{one.stage}: rules and judge agree on {share}{more}"
    )


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
