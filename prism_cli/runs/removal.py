"""Removing a run's folder: all of it or nothing, and nothing else."""

from __future__ import annotations

import os
import shutil

from prism_cli.runs.overview import is_run
from prism_cli.runs.store import RunStore

_PREFIX = ".removed-"


def remove(store: RunStore) -> None:
    """Remove a run.

    The folder is renamed first, under the run's lock, so that no half-removed run is ever seen and no process can
    begin to work in it; then it is deleted. Links in it are removed, what they point to is not. What an earlier,
    killed removal left is deleted too.

    Raises:
        RunLocked: another process works on the run.
        OSError: the folder cannot be renamed or deleted.
    """
    if not is_run(store.root):
        raise ValueError(f"{store.root} is not a run's folder")
    runs_dir = store.root.parent
    doomed = runs_dir / f"{_PREFIX}{os.getpid()}-{store.name}"
    with store.locked():
        os.replace(store.root, doomed)
    shutil.rmtree(doomed)
    for leftover in runs_dir.glob(f"{_PREFIX}*-*"):
        if not leftover.is_symlink():
            shutil.rmtree(leftover, ignore_errors=True)  # another removal may be at work on it
