"""What there is to know about runs from their folders alone, for `prism runs`. Reads; never writes.

A run's state is not kept anywhere, it follows from what is there, so that it is right after a power cut too:

    running       a process holds the run's lock
    done          every stage of every arm is finished
    failed        the last `prism train` ended because a stage failed
    interrupted   the last `prism train` was stopped or killed
    partial       the last `prism train` did what it was asked for, and stages remain
    planned       only a dry run has been here
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from integrations.common.files import read_json
from integrations.errors import BadInput
from prism_cli.runs.store import RunStore

_LAST_EVENTS_BYTES = 64 * 1024


@dataclass(frozen=True)
class Overview:
    """One run in one line."""

    name: str
    path: Path
    recipe: str
    seed: int | None
    state: str
    stages_done: int
    stages: int
    size: int
    """Bytes on the disk, hard links counted once."""
    last_active: datetime


def is_run(folder: Path) -> bool:
    """Whether prism made this folder: a real folder (no link to one, not hidden) with a run's record in it."""
    if folder.name.startswith(".") or folder.is_symlink() or not folder.is_dir():
        return False
    return (folder / "manifest.json").is_file() or all((folder / f).is_file() for f in ("recipe.yaml", "events.jsonl"))


def list_runs(runs_dir: Path) -> list[Overview]:
    """Every run in a folder, the last active first; none where the folder does not exist."""
    if not runs_dir.is_dir():
        return []
    found = [overview(folder) for folder in runs_dir.iterdir() if is_run(folder)]
    return sorted(found, key=lambda run: (run.last_active, run.name), reverse=True)


def find_run(runs_dir: Path, name: str) -> RunStore:
    """A run by name.

    Raises:
        BadInput: there is no such run.
    """
    if Path(name).name != name or not is_run(runs_dir / name):
        known = ", ".join(run.name for run in list_runs(runs_dir))
        raise BadInput(
            f"there is no run `{name}` in {runs_dir}",
            f"choose one of: {known}" if known else "name the folder of your runs with --runs-dir",
        )
    return RunStore(runs_dir / name)


def find_or_latest(runs_dir: Path, name: str | None) -> RunStore:
    """A run by name, or the one that was last worked on.

    Raises:
        BadInput: there is no such run, or none at all.
    """
    if name is not None:
        return find_run(runs_dir, name)
    runs = list_runs(runs_dir)
    if not runs:
        raise BadInput(f"there is no run in {runs_dir}", "train one (prism train), or name its folder with --runs-dir")
    return RunStore(runs[0].path)


def overview(folder: Path) -> Overview:
    """One run's line. A damaged manifest leaves its facts unknown."""
    store, manifest = RunStore(folder), _mapping(read_json(folder / "manifest.json"))
    names = stage_names(manifest)
    done = sum(store.stage(name).done() is not None for name in names)
    return Overview(
        name=folder.name,
        path=folder,
        recipe=str(_mapping(manifest.get("recipe")).get("name", "?")),
        seed=manifest.get("seed"),
        state=_state(folder, done, len(names)),
        stages_done=done,
        stages=len(names),
        size=size_of(folder),
        last_active=_last_active(folder),
    )


def stage_names(manifest: Mapping[str, Any]) -> list[str]:
    """Names of the stages of all arms, each once, in order."""
    return list(dict.fromkeys(name for names in _mapping(manifest.get("arms")).values() for name in names))


def is_locked(folder: Path) -> bool:
    """Whether a process works on the run now.

    `lock.json` is there while one does and stays behind when it is killed, so only then is the lock itself tried.
    """
    if not (folder / "lock.json").exists():
        return False
    try:
        with FileLock(folder / "lock", timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # a read-only folder: nobody can be working there
        return False


def size_of(folder: Path) -> int:
    """Bytes that the folder takes on the disk; links are not followed, files with several names counted once."""
    sizes: dict[tuple[int, int], int] = {}
    for top, _, files in os.walk(folder):
        for file in files:
            try:
                found = os.lstat(os.path.join(top, file))
            except OSError:  # removed while we look
                continue
            sizes[found.st_dev, found.st_ino] = found.st_blocks * 512
    return sum(sizes.values())


def _state(folder: Path, done: int, stages: int) -> str:
    if is_locked(folder):
        return "running"
    if stages and done == stages:
        return "done"
    if not (folder / "manifest.json").exists():
        return "planned"
    decisive = (e for e in reversed(_last_events(folder)) if e.get("event") in ("started", "finished", "stopped"))
    last: dict[str, Any] = next(decisive, {})
    if last.get("event") == "finished":
        return "partial"
    return "failed" if last.get("event") == "stopped" and last.get("reason") != "Interrupted" else "interrupted"


def _last_events(folder: Path) -> list[dict[str, Any]]:
    """The newest lines of events.jsonl, oldest first; a line cut by a kill is left out."""
    try:
        with (folder / "events.jsonl").open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - _LAST_EVENTS_BYTES))
            lines = stream.read().splitlines()
    except OSError:
        return []
    events = []
    for line in lines:
        try:
            events.append(json.loads(line))
        except ValueError:
            continue
    return [event for event in events if isinstance(event, dict)]


def _last_active(folder: Path) -> datetime:
    try:
        return datetime.fromisoformat(_last_events(folder)[-1]["time"])
    except (IndexError, KeyError, ValueError):
        return datetime.fromtimestamp(folder.stat().st_mtime, UTC)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
