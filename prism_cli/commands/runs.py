"""`prism runs`: what runs there are, what one of them is made of, how its stages drift, and removing one.

Reads the runs' folders only, so it works on runs that other machines made, while one is training, and on damaged ones.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from datetime import datetime

    from benchmarks.summary import Stage, Summary
    from prism_cli.runs.overview import Overview
    from prism_cli.runs.store import RunStore

app = typer.Typer()

Name = Annotated[str, typer.Argument(metavar="NAME", help="A run's name, as `prism runs list` shows it.")]
RunsDir = Annotated[Path, typer.Option(envvar="PRISM_RUNS", help="Folder that holds the runs.")]
_TITLES = {"sample": "% T=1", "greedy": "% greedy"}

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


@app.command("list")
def list_runs(runs_dir: RunsDir = Path("runs"), json_: Json = False) -> None:
    """List the runs, the last active first."""
    from prism_cli.runs import overview

    runs = overview.list_runs(runs_dir)
    if json_:
        _print_json({"runs_dir": str(runs_dir.absolute()), "runs": [_overview_json(run) for run in runs]})
        return
    if not runs:
        print(f"No runs in {runs_dir.absolute()}. `prism train` makes one; --runs-dir names another folder.")
        return
    from prism_cli.ui.tables import print_table

    rows = [
        [r.name, r.recipe, r.seed, r.state, f"{r.stages_done}/{r.stages}", _size(r.size), _age(r.last_active)]
        for r in runs
    ]
    print_table(["run", "recipe", "seed", "state", "stages", "size", "active"], rows, numbers=[2, 4, 5, 6])


@app.command()
def show(name: Name, runs_dir: RunsDir = Path("runs"), json_: Json = False) -> None:
    """Show what a run was made from, its stages and their right answers. `prism compare` takes several runs."""
    from benchmarks.summary import conclusion, summarize
    from prism_cli.runs.overview import find_run, overview

    store = find_run(runs_dir, name)
    told = overview(store.root)
    manifest = store.manifest()
    summary = summarize(store.root) if manifest else None
    if json_:
        _print_json(_run_json(store, told, manifest, summary))
        return
    _print_facts(store, told, manifest)
    if summary is not None:
        _print_stages(store, summary)
        for comparison in summary.comparisons:
            print(conclusion(comparison))


@app.command()
def drift(name: Name, runs_dir: RunsDir = Path("runs"), json_: Json = False) -> None:
    """Show how responses change from stage to stage, and how far they are from the demonstrations.

    Reads what `prism eval` has scored in the run. Perception and reasoning apart where the benchmark measures them;
    everywhere counts of what captions and reasonings hold, which are proxies.
    """
    from benchmarks.drift import drift as drift_of
    from benchmarks.samples import find_cells
    from integrations.errors import BadInput
    from prism_cli.runs.overview import find_run

    store = find_run(runs_dir, name)
    cells = find_cells(store.root / "eval")
    if not cells:
        raise BadInput(f"no stage of run `{name}` is evaluated yet", f"run `prism eval --run {name}` first")
    from rich.console import Console

    from benchmarks.drift.tables import print_drift

    with Console(stderr=True).status("reading responses"):
        found = drift_of(store.root, cells)
    if json_:
        _print_json({"run": name, **found})
        return

    print_drift(found, Console(highlight=False))


@app.command()
def rm(
    name: Name,
    runs_dir: RunsDir = Path("runs"),
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json_: Json = False,
) -> None:
    """Remove a run with everything in it. A run that is being worked on is refused (exit code 3)."""
    from integrations.errors import BadInput
    from prism_cli.runs.overview import find_run, overview
    from prism_cli.runs.removal import remove

    store = find_run(runs_dir, name)
    told = overview(store.root)
    if not yes:
        if json_ or not sys.stdin.isatty():
            raise BadInput(f"removing run `{name}` needs a yes, and nobody can be asked here", "add --yes")
        about = f"{told.stages_done} of {told.stages} stages done, {_size(told.size)}"
        if not _agreed(f"Remove {store.root} ({about})?"):
            print("kept")
            return
    remove(store)
    if json_:
        _print_json({"removed": name, "path": str(store.root), "bytes": told.size})
    else:
        print(f"removed {store.root} ({_size(told.size)})")


def _agreed(question: str) -> bool:
    from integrations.errors import Interrupted

    try:
        return typer.confirm(question)
    except typer.Abort:  # Ctrl-C or the end of input
        raise Interrupted("interrupted", "nothing was removed") from None


def _print_facts(store: RunStore, told: Overview, manifest: dict[str, Any]) -> None:
    recipe, machine = manifest.get("recipe", {}), manifest.get("machine", {})
    facts = {
        "run": f"{told.name} ({told.state}, last active {_age(told.last_active)} ago)",
        "held by": store.holder() if told.state == "running" else "",
        "folder": f"{store.root} ({_size(told.size)})",
        "recipe": _listed(told.recipe, ("profile", recipe.get("profile")), ("hash", _short(recipe.get("hash")))),
        "changed": _listed(*(recipe.get("set") or [])),
        "seed": told.seed,
        "data": _short(manifest.get("data", {}).get("hash")),
        "code": _code(manifest.get("code", {})),
        "engines": _listed(*((name, engine.get("key")) for name, engine in manifest.get("engines", {}).items())),
        "machine": _machine(machine),
    }
    for label, fact in facts.items():
        if fact not in ("", None):
            print(f"{label:<8} {fact}")
    print()


def _code(code: dict[str, Any]) -> str:
    commit = f"{_short(code.get('commit'))}{' with changes' if code.get('dirty') else ''}"
    return _listed(("prism", code.get("prism")), ("commit", commit))


def _machine(machine: dict[str, Any]) -> str:
    cores = f"{machine['cores']} cores" if machine.get("cores") else None
    return _listed(cores, machine.get("processor"), *machine.get("gpus", []))


def _listed(*facts: Any) -> str:
    """Facts with commas between; a pair is a label and its value. Unknown ones are left out."""
    known = [fact if isinstance(fact, tuple) else ("", fact) for fact in facts]
    return ", ".join(f"{label} {value}".strip() for label, value in known if value not in (None, ""))


def _print_stages(store: RunStore, summary: Summary) -> None:
    from prism_cli.ui.tables import print_table

    protocols = summary.protocols
    rows = []
    for stage in summary.stages.values():
        folder = store.stage(stage.name)
        done = folder.done() or {}
        policy = done.get("parents", {}).get("policy", {}).get("stage", "").rsplit("/", 1)[-1]
        rates = [stage.evaluations[p].rates["answer"] if p in stage.evaluations else None for p in protocols]
        answers = [f"{100 * rate.value:.1f}" if rate else "" for rate in rates]
        state = stage.status if done else "begun" if folder.attempts() else ""
        minutes = f"{stage.seconds / 60:.1f}" if done else ""
        rows.append([stage.name, policy, state, len(folder.attempts()), minutes, *answers])
    headers = ["stage", "from", "state", "tries", "min", *(_TITLES.get(p, p) for p in protocols)]
    print_table(headers, rows, numbers=range(3, 5 + len(protocols)))


def _run_json(store: RunStore, told: Overview, manifest: dict[str, Any], summary: Summary | None) -> dict[str, Any]:
    stages = {stage.name: _stage_json(store, stage) for stage in summary.stages.values()} if summary else {}
    return {**_overview_json(told), "manifest": manifest, "stages": stages, "results": summary and summary.to_json()}


def _stage_json(store: RunStore, stage: Stage) -> dict[str, Any]:
    folder = store.stage(stage.name)
    done = folder.done() or {}
    return {
        "status": stage.status,
        "attempts": len(folder.attempts()),
        "seconds": stage.seconds,
        "parents": done.get("parents", {}),
        "hash": done.get("hash"),
        "finished": done.get("finished"),
    }


def _overview_json(run: Overview) -> dict[str, Any]:
    return {
        "run": run.name,
        "path": str(run.path.absolute()),
        "recipe": run.recipe,
        "seed": run.seed,
        "state": run.state,
        "stages_done": run.stages_done,
        "stages": run.stages,
        "bytes": run.size,
        "last_active": run.last_active.isoformat(),
    }


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def _short(digest: str | None) -> str:
    return digest[:12] if digest else ""


def _size(size: int) -> str:
    value = float(size)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def _age(moment: datetime) -> str:
    from datetime import UTC, datetime

    seconds = max(0.0, (datetime.now(UTC) - moment).total_seconds())
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"
