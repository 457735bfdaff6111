"""A run's folder: the only place that writes there, apart from the engines in their own stage's folder.

    <run>/recipe.yaml            resolved, as run
    <run>/manifest.json          lineage: what was made from what, with which code, on which machine
    <run>/events.jsonl           everything that happened, one line each
    <run>/<arm>/<stage>/inputs.json     what the stage is made from; a change makes the old result stale
    <run>/<arm>/<stage>/attempt-N/      one launch: rendered configuration, engine.log, progress
    <run>/<arm>/<stage>/checkpoints/    the engine's own, kept across attempts until the stage is done
    <run>/<arm>/<stage>/model/          the result
    <run>/<arm>/<stage>/DONE            written last: the stage's record, with the result's hash

A run is locked while a process works on it. The operating system drops the lock when that process ends, however it
ends, so a killed run is never locked.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from integrations.common.files import hash_json, read_json, write_json, write_text
from integrations.errors import BadInput, RunLocked

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class RunStore:
    """One run's folder.

    Args:
        root: the run's folder; created by `create`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._event_lock = threading.Lock()
        self._listeners: list[Callable[[dict[str, Any]], None]] = []

    @classmethod
    def create(cls, runs_dir: Path, name: str) -> RunStore:
        """Open a run, creating its folder when it does not exist.

        Raises:
            BadInput: the name cannot be a folder's name, or the folder cannot be written to.
        """
        if not _NAME.fullmatch(name):
            raise BadInput(f"`{name}` cannot be a run's name", "use letters, digits, dots, dashes and underscores")
        store = cls(runs_dir / name)
        probe = store.root / f".writable-{os.getpid()}"
        try:
            store.root.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise BadInput(
                f"the run folder {store.root} cannot be written to ({error.strerror})",
                "choose another place with --runs-dir",
            ) from error
        return store

    @property
    def name(self) -> str:
        return self.root.name

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process.

        Raises:
            RunLocked: another process holds it; the message says which.
        """
        lock = FileLock(self.root / "lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise RunLocked(
                f"run `{self.name}` is being worked on by {self.holder()}",
                f"wait for it, stop it, or give this one another name with --run (the run is {self.root})",
            ) from None
        try:
            holder = {"pid": os.getpid(), "host": socket.gethostname(), "started": _now()}
            write_json(self.root / "lock.json", holder)
            yield
        finally:
            (self.root / "lock.json").unlink(missing_ok=True)
            lock.release()

    def holder(self) -> str:
        """Who holds the lock, for people."""
        who = read_json(self.root / "lock.json") or {}
        return f"process {who.get('pid', '?')} on {who.get('host', '?')}, since {who.get('started', '?')}"

    def event(self, kind: str, **fields: Any) -> None:
        """Append one line to events.jsonl; safe from several threads."""
        event = {"time": _now(), "event": kind, **fields}
        line = json.dumps(event, ensure_ascii=False) + "\n"
        with self._event_lock, (self.root / "events.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(line)
        for listener in self._listeners:
            listener(event)

    @contextmanager
    def listening(self, listener: Callable[[dict[str, Any]], None]) -> Iterator[None]:
        """Have a function hear every event from now on, in the thread that it happens in; it must not take long."""
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)

    def write_recipe(self, text: str) -> None:
        write_text(self.root / "recipe.yaml", text)

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        write_json(self.root / "manifest.json", manifest)

    def manifest(self) -> dict[str, Any]:
        """The manifest, empty for a new run.

        Raises:
            BadInput: the file is there but is not a manifest.
        """
        path = self.root / "manifest.json"
        value = read_json(path)
        if value is None and path.exists():
            raise BadInput(f"{path} is damaged", "move the run folder away and train again")
        return value or {}

    def require_space(self, need: int, what: str) -> None:
        """Refuse work whose files would not fit.

        Args:
            need: bytes.
            what: what needs them, for people.

        Raises:
            BadInput: the disk of the run's folder has less free space.
        """
        free = shutil.disk_usage(self.root).free
        if free < need:
            has = f"the disk of {self.root} has {free / 2**20:.0f} MiB free"
            raise BadInput(
                f"{what} needs about {need / 2**20:.0f} MiB, but {has}",
                "free some space, or move the runs to another disk with --runs-dir",
            )

    def stage(self, name: str) -> StageFolder:
        return StageFolder(self.root / name, name)


class StageFolder:
    """One stage's folder in a run: its attempts, checkpoints, result and record."""

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.name = name
        self.model_dir = path / "model"
        self.checkpoint_dir = path / "checkpoints"

    def done(self) -> dict[str, Any] | None:
        """The record of a finished stage, or None."""
        return read_json(self.path / "DONE")

    def is_current(self, inputs: dict[str, Any]) -> bool:
        """Is the stage finished, made from exactly these inputs, and is its result still there?"""
        record = self.done()
        return (
            record is not None
            and record.get("inputs_hash") == hash_json(inputs)
            and record.get("files") == result_files(self.path, record.get("results", []))
        )

    def prepare(self, inputs: dict[str, Any]) -> str | None:
        """Make the folder ready for these inputs; what was made from other inputs is moved aside, never resumed.

        Returns:
            The name of the folder that earlier work was moved to, or None.
        """
        known = read_json(self.path / "inputs.json")
        moved = None
        if self.path.exists() and known != inputs and (known is not None or self.done() is not None):
            moved = next(f"{self.path.name}.old-{n}" for n in range(1, 10_000) if not self._sibling(n).exists())
            os.replace(self.path, self.path.with_name(moved))
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / "DONE").unlink(missing_ok=True)
        self.checkpoint_dir.mkdir(exist_ok=True)
        write_json(self.path / "inputs.json", inputs)
        return moved

    def _sibling(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.old-{number}")

    def attempts(self) -> list[Path]:
        """Folders of the launches so far, oldest first."""
        found = [p for p in self.path.glob("attempt-*") if p.name.removeprefix("attempt-").isdigit()]
        return sorted(found, key=lambda p: int(p.name.removeprefix("attempt-")))

    def new_attempt(self) -> Path:
        """A new, empty folder for one launch."""
        attempts = self.attempts()
        number = int(attempts[-1].name.removeprefix("attempt-")) + 1 if attempts else 1
        folder = self.path / f"attempt-{number}"
        folder.mkdir()
        write_json(folder / "attempt.json", {"started": time.time()})
        return folder

    def seconds(self) -> float:
        """Wall time that all attempts took together, as their logs show; killed ones count up to their last word."""
        total = 0.0
        for attempt in self.attempts():
            note, log = read_json(attempt / "attempt.json"), attempt / "engine.log"
            if note and log.exists():
                total += max(0.0, log.stat().st_mtime - note["started"])
        return total

    def clear_result(self) -> None:
        """Remove a result that no DONE vouches for."""
        shutil.rmtree(self.model_dir, ignore_errors=True)

    def finish(self, inputs: dict[str, Any], results: list[str], record: dict[str, Any]) -> dict[str, Any]:
        """Write DONE, for files and folders `results`, and give the checkpoints' space back."""
        full = {
            **record,
            "finished": _now(),
            "inputs_hash": hash_json(inputs),
            "results": results,
            "files": result_files(self.path, results),
        }
        write_json(self.path / "DONE", full)
        shutil.rmtree(self.checkpoint_dir, ignore_errors=True)
        return full


def result_files(folder: Path, results: list[str]) -> dict[str, int]:
    """Sizes in bytes of every file of a result, by path relative to the stage; missing ones are left out."""
    sizes = {}
    for result in results:
        top = folder / result
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if path.is_file():
                sizes[path.relative_to(folder).as_posix()] = path.stat().st_size
    return sizes


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
