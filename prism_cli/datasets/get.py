"""Fetch what a recipe needs, convert it, and keep a receipt beside each result.

    plans = [plan(wanted, downloads, update=False) for wanted in needed(recipe)[0]]
    check_space(plans)
    for one in plans: fetch(one, jobs=4, news=print)

A receipt (`<name>.receipt.json` beside the pool or folder) has repository, commit, and size and checksum of every file.
The next run takes the commit that the receipt names, and nothing is done where the result is there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from integrations.common.files import hash_file, read_json, write_json
from integrations.errors import BadInput, RunLocked
from prism_cli.datasets import convert, hub
from prism_cli.datasets.catalogue import Wanted

SPARE = 0.05
"""Share of the bytes needed that must be free on top of them."""
UNPACKED = 1.2
"""Bytes of rows and images for each byte of the parquet files and archives that they come from."""


@dataclass(frozen=True)
class Plan:
    """What fetching one thing means."""

    wanted: Wanted
    commit: str
    files: list[hub.RemoteFile]
    downloads: Path
    """Folder that the files are fetched into; the target itself where they stay as they are."""
    done: bool
    """Whether the result of this commit is there."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def to_fetch(self) -> int:
        """Bytes that are not there yet."""
        return 0 if self.done else sum(file.size for file in hub.missing(self.files, self.downloads))

    @property
    def to_write(self) -> int:
        """Bytes that the conversion will write, about."""
        if self.done or self.wanted.source.form == "folder":
            return 0
        packed = convert.ARCHIVES + ((".parquet",) if self.wanted.source.form == "pool" else ())
        return int(UNPACKED * sum(file.size for file in self.files if file.path.endswith(packed)))

    def told(self) -> dict[str, Any]:
        return {
            "name": self.wanted.name,
            "repo": self.wanted.source.repo,
            "revision": self.commit,
            "files": len(self.files),
            "bytes": self.size,
            "to_fetch": self.to_fetch,
            "to_write": self.to_write,
            "target": str(self.wanted.target),
            "done": self.done,
        }


def receipt_of(target: Path) -> Path:
    """The receipt's place."""
    stem = target.stem if target.suffix == ".jsonl" else target.name
    return target.with_name(f"{stem}.receipt.json")


def fetched_model(repo: str, revision: str | None) -> Path | None:
    """A model that `prism data get` fetched into `models/`, at this revision or, where none is asked for, at any."""
    folder = Path("models", repo.split("/")[1]).absolute()
    receipt = read_json(receipt_of(folder)) or {}
    fits = receipt.get("repo") == repo and revision in (None, receipt.get("revision"))
    return folder if fits and receipt.get("done") and (folder / "config.json").is_file() else None


def plan(wanted: Wanted, downloads: Path, update: bool, revision: str | None = None) -> Plan:
    """Ask the Hub what there is to fetch.

    Args:
        downloads: folder for files that are converted.
        update: take the newest commit even if a receipt names one.
        revision: goes before everything else.

    Raises:
        BadInput, StageFailed: as `hub.listing`; or the target is there and was not fetched by prism.
    """
    receipt = read_json(receipt_of(wanted.target)) or {}
    pinned = receipt.get("revision") if receipt.get("repo") == wanted.source.repo else None
    if not pinned and (wanted.target.is_file() or (wanted.target.is_dir() and any(wanted.target.iterdir()))):
        raise BadInput(
            f"{wanted.target} is there already, and has no receipt: it is not from here",
            "move it away, or leave this out with --only",
        )
    asked = revision or (wanted.source.revision or (None if update else pinned))
    commit, files = hub.listing(wanted.source, asked)
    folder = wanted.target if wanted.source.form == "folder" else downloads / wanted.source.repo
    done = pinned == commit and receipt.get("done", False) and _there(wanted, files, receipt)
    return Plan(wanted, commit, files, folder, done)


def _there(wanted: Wanted, files: Sequence[hub.RemoteFile], receipt: dict[str, Any]) -> bool:
    if wanted.source.form == "folder":
        return not hub.missing(files, wanted.target)
    return wanted.target.is_file() and wanted.target.stat().st_size == receipt.get("bytes")


def check_space(plans: Sequence[Plan]) -> None:
    """Refuse what would not fit, for each file system by itself.

    Raises:
        BadInput: with what is needed and what is free.
    """
    needed: dict[int, tuple[Path, int]] = {}
    for one in plans:
        for folder, size in ((one.downloads, one.to_fetch), (one.wanted.target.parent, one.to_write)):
            existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
            device = existing.stat().st_dev
            needed[device] = existing, needed.get(device, (existing, 0))[1] + size
    for existing, size in needed.values():
        free = shutil.disk_usage(existing).free
        if size and size * (1 + SPARE) > free:
            raise BadInput(
                f"{gigabytes(size * (1 + SPARE))} are needed below {existing} and {gigabytes(free)} are free",
                "free some space, choose another disk with --data-dir, or fetch less with --only",
            )


def gigabytes(size: float) -> str:
    """`6.8 GB`, in units of 1000; small amounts in MB or kB."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size / 1e3:.1f} kB"


def fetch(one: Plan, jobs: int, news: convert.News) -> dict[str, Any]:
    """Fetch and convert one thing, unless it is done. Returns its receipt.

    Raises:
        BadInput, StageFailed: as `hub.download` and `convert.pool`.
        RunLocked: another process fetches the same.
    """
    from filelock import FileLock, Timeout

    source, target = one.wanted.source, one.wanted.target
    receipt = receipt_of(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    if one.done:
        return dict(read_json(receipt) or {})
    one.downloads.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(one.downloads.with_name(f".{one.downloads.name}.lock"), timeout=0)
    try:
        with lock:
            told = _receipt(one)
            write_json(receipt, {**told, "done": False})
            news(f"fetching {gigabytes(one.to_fetch)} of {source.repo} at {one.commit[:12]}")
            hub.download(source, one.commit, one.files, one.downloads)
            told |= _converted(one, jobs, news)
            write_json(receipt, {**told, "done": True})
            return {**told, "done": True}
    except Timeout as error:
        raise RunLocked(f"another process is fetching {source.repo}", "wait for it, or end it") from error
    except OSError as error:
        if error.errno != 28:
            raise
        raise BadInput(
            f"the disk filled up while {source.repo} was fetched", "free some space, run it again"
        ) from error


def _receipt(one: Plan) -> dict[str, Any]:
    source = one.wanted.source
    return {
        "repo": source.repo,
        "kind": source.kind,
        "revision": one.commit,
        "hub": os.environ.get("HF_ENDPOINT", "https://huggingface.co"),
        "files": [file.told() for file in one.files],
    }


def _converted(one: Plan, jobs: int, news: convert.News) -> dict[str, Any]:
    target, names = one.wanted.target, [file.path for file in one.files]
    if one.wanted.source.form == "folder":
        return {}
    if one.wanted.source.form == "pairs":
        told = convert.pairs(names, one.downloads, target, one.commit, news)
    else:
        told = convert.pool(names, one.downloads, target, one.commit, jobs, news)
    return {**told, "bytes": target.stat().st_size, "sha256": hash_file(target)}
