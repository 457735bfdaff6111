"""`prism doctor`: will this machine carry a run? Every finding has a level and a fix."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from integrations.errors import EXIT_STAGE_FAILED

if TYPE_CHECKING:
    from prism_cli.doctor.diagnosis import Diagnosis

STYLES = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "red"}


def doctor(
    runs_dir: Annotated[Path, typer.Option(envvar="PRISM_RUNS", help="Folder that will hold the runs.")] = Path("runs"),
    hub: Annotated[bool, typer.Option(help="Ask the Hub who you are and what you may do there.")] = True,
    engines: Annotated[bool, typer.Option(help="Look into the engines' environments, importing each.")] = True,
    bench: Annotated[
        bool, typer.Option("--bench", help="Measure copies, matrix products and a short rollout, too.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Say whether this machine will carry a run, before the first hour.

    Looks at interpreter, memory, disks, limits, GPUs and their driver, environment variables, the engines' environments
    and the Hub. Changes nothing. Exit code 1 when there is an error.
    """
    found = []
    for diagnosis in _examine(runs_dir, hub, engines):
        found.append(diagnosis)
        if not json_:
            _show(diagnosis)
    speed = _speed() if bench else None
    better = _assumptions(speed) if speed else {}
    wrong = sum(diagnosis.level == "error" for diagnosis in found)
    if json_:
        told: dict[str, Any] = {"sound": not wrong, "findings": [diagnosis.to_json() for diagnosis in found]}
        print(json.dumps(told | ({"measured": speed, "assume": better} if bench else {}), indent=2))
    else:
        if speed:
            _show_speed(speed, better)
        warnings = sum(diagnosis.level == "warning" for diagnosis in found)
        print(f"{wrong} errors, {warnings} warnings among {len(found)} findings.")
    if wrong:
        raise typer.Exit(EXIT_STAGE_FAILED)


def _examine(runs_dir: Path, hub: bool, engines: bool) -> Iterator[Diagnosis]:
    from prism_cli.doctor import engines as engine_checks
    from prism_cli.doctor import gpus, machine, unverified, variables
    from prism_cli.engines import environments
    from prism_cli.pipeline.lineage import gpu_names

    yield from machine.examine({"runs": runs_dir, "environments": environments.cache_folder()})
    pins = {name: environments.pins(name) for name in environments.names()}
    yield from gpus.examine(engine_checks.cuda(pins))
    yield from unverified.examine(len(gpu_names()))
    yield from variables.examine(os.environ)
    if engines:
        yield from engine_checks.examine(environments.names(), _news)
    if hub:
        from prism_cli.doctor import hub as hub_checks

        yield from hub_checks.examine()


def _news(text: str) -> None:
    """Progress, where somebody watches."""
    if sys.stderr.isatty():
        print(f"{text} ...", file=sys.stderr)


def _show(diagnosis: Diagnosis) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=7)
    grid.add_column(overflow="fold")
    grid.add_row(Text(diagnosis.level, style=STYLES[diagnosis.level]), Text(f"{diagnosis.subject}: {diagnosis.found}"))
    if diagnosis.fix:
        grid.add_row("", Text(f"-> {diagnosis.fix}", style="dim"))
    Console(highlight=False).print(grid)


def _speed() -> dict[str, Any]:
    """What `integrations.alignment.machine_speed` measures here."""
    import tempfile
    import threading

    from integrations.common.files import read_json
    from integrations.contract import Launch
    from integrations.errors import StageFailed
    from prism_cli.engines import environments, process

    environment = environments.ensure("alignment", _news)
    with tempfile.TemporaryDirectory(prefix="prism-doctor-") as folder:
        top = Path(folder)
        threads = str(len(os.sched_getaffinity(0)))
        launch = Launch(
            "alignment",
            ["python", "-m", "integrations.alignment.machine_speed", "--out", str(top / "speed.json")],
            env={"OMP_NUM_THREADS": threads},
            what="measuring this machine",
        )
        _news("measuring copies, matrix products and a rollout, about 15 seconds")
        code = process.run(
            launch,
            environment,
            cwd=top,
            log=top / "log.txt",
            import_root=top / "import",
            tick=lambda: None,
            stop=threading.Event(),
        )
        measured = read_json(top / "speed.json")
        if code != 0 or measured is None:
            said = (top / "log.txt").read_text(errors="replace").strip().splitlines()
            raise StageFailed(f"the measurement ended with code {code}: {said[-1] if said else ''}", "")
        return dict(measured)


def _assumptions(speed: dict[str, Any]) -> dict[str, float]:
    """What a plan for this machine should assume; nothing where its GPUs are not known."""
    from integrations.errors import BadInput
    from prism_cli.doctor.speed import assume
    from prism_cli.planning.gpus import this_machine

    try:
        return assume(speed, this_machine().card)
    except BadInput:
        return {}


def _show_speed(speed: dict[str, Any], better: dict[str, float]) -> None:
    from prism_cli.ui.tables import print_table

    rows = [
        ["matrix products", f"{speed['matmul_tflops']:.2f}", "TFLOP/s"],
        ["copies in its memory, read and written", f"{speed['memory_gb_s']:.1f}", "GB/s"],
        ["rollout of a small model, 16 responses", f"{speed['rollout_tokens_s']:.0f}", "tokens/s"],
    ]
    if speed["host_to_device_gb_s"] is not None:
        rows.insert(2, ["copies from host to device", f"{speed['host_to_device_gb_s']:.1f}", "GB/s"])
    print_table(["what", "best", "unit"], rows, title=f"Measured on {speed['name']}", numbers=[1])
    if better:
        options = " ".join(f"--assume {name}={value:g}" for name, value in better.items())
        print(f"A plan for this machine: prism plan {options}")
    else:
        print("A plan is for GPUs: there is none here whose peak is known, so there is nothing for it to assume.")
