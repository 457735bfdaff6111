"""SIGKILL prism in every stage of a run, finish it with the same command, and compare it with an uninterrupted run.

    python tests/campaign/kill_every_stage.py [--profile quick] [--folder DIR]

Prints a table: per stage, where it was killed, how many attempts it took, and whether its result has the same bytes
as in the uninterrupted run. SFT, the discriminator and alignment must, and their evaluations must give the same
scores; RLVR must reach the same step.
Exits with 1 when one does not, or when a process outlives its prism. Takes about two and a half times a run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from benchmarks.summary import summarize

EXACT = ("data", "model", "sft", "discriminator", "align")
"""Kinds of stages whose result must not depend on having been killed."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="quick")
    parser.add_argument("--folder", type=Path, help="where both runs go; a temporary folder by default")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="prism kills "))
    command = [sys.executable, "-m", "prism_cli", "train", "--profile", options.profile, "--runs-dir", str(folder)]
    straight, killed = folder / "straight", folder / "killed"
    subprocess.run([*command, "--run", straight.name], check=True)
    stages = [path.parent.relative_to(straight).as_posix() for path in sorted(straight.rglob("DONE"))]
    stages += sorted({e["stage"] for e in events(straight) if e["event"] == "evaluated"})
    survivors = kill_in_each([*command, "--run", killed.name], killed, stages)
    subprocess.run([*command, "--run", killed.name], check=True)
    sys.exit(report(straight, killed, stages, survivors))


def kill_in_each(command: list[str], run: Path, stages: list[str]) -> dict[str, int]:
    """Start the command again and again; kill it once in each stage. Returns surviving processes per stage."""
    survivors: dict[str, int] = {}
    while len(survivors) < len(stages):
        process = subprocess.Popen(command)
        stage = wait_for_new_stage(process, run, survivors)
        if stage is None:
            break
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
        _, alive = psutil.wait_procs(family, timeout=15)
        survivors[stage] = sum(p.status() != psutil.STATUS_ZOMBIE for p in alive)
        print(f"-- killed in {stage}; {survivors[stage]} processes left", flush=True)
    return survivors


def wait_for_new_stage(process: subprocess.Popen[bytes], run: Path, seen: dict[str, int]) -> str | None:
    """The next stage not yet killed that has made a step (or, where it counts none, that has run a moment)."""
    began = time.time()
    while process.poll() is None:
        running = {s: t for s, t in under_way(run).items() if s not in seen and t > began}
        for stage in running:
            if moved(run, stage) or time.time() - running[stage] > 4:
                return stage
        time.sleep(0.3)
    return None


def events(run: Path) -> list[dict[str, Any]]:
    path = run / "events.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def under_way(run: Path) -> dict[str, float]:
    """Stages started and not done, with the time of their last launch (seconds since the epoch)."""
    found = {}
    for event in events(run):
        if event["event"] == "evaluation_started":
            found[event["stage"]] = datetime.fromisoformat(event["time"]).timestamp()
        elif event["event"] == "evaluated":
            found.pop(event["stage"], None)
    for note in run.rglob("attempt-*/attempt.json"):
        stage = note.parent.parent
        if not (stage / "DONE").exists():
            name = stage.relative_to(run).as_posix()
            found[name] = max(found.get(name, 0.0), json.loads(note.read_text())["started"])
    return found


def moved(run: Path, stage: str) -> bool:
    """Whether the stage's latest launch has reported a step."""
    last = False
    for event in events(run):
        if event.get("stage") == stage and event["event"] == "stage_started":
            last = False
        elif event.get("stage") == stage and event["event"] == "progress":
            last = True
    return last


def report(straight: Path, killed: Path, stages: list[str], survivors: dict[str, int]) -> int:
    failures = 0
    print(f"{'stage':32} {'kills':>5} {'attempts':>8} {'left':>4}  result")
    scores = [scores_by_stage(run) for run in (straight, killed)]
    for stage in stages:
        left = survivors.get(stage, 0)
        if stage.startswith("eval/"):
            one, two = (found[stage.removeprefix("eval/")] for found in scores)
            fine = one == two or "rlvr" in stage
            print(f"{stage:32} {stage in survivors:>5} {'':>8} {left:>4}  {'same' if one == two else 'other'} scores")
            failures += (not fine) + (left > 0)
            continue
        one, two = (json.loads((run / stage / "DONE").read_text()) for run in (straight, killed))
        same = one["hash"] == two["hash"]
        fine = same if one["kind"] in EXACT else one["result"]["step"] == two["result"]["step"]
        verdict = "same bytes" if same else f"step {two['result']['step']} of {one['result']['step']}"
        failures += (not fine) + (left > 0)
        attempts = len(list((killed / stage).glob("attempt-*")))
        print(f"{stage:32} {stage in survivors:>5} {attempts:>8} {left:>4}  {verdict}{'' if fine else '  WRONG'}")
    return 1 if failures else 0


def scores_by_stage(run: Path) -> dict[str, Any]:
    return {name: {p: e.rates for p, e in stage.evaluations.items()} for name, stage in summarize(run).stages.items()}


if __name__ == "__main__":
    main()
