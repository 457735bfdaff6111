"""Checkpoints that are whole or absent, so that a stage killed at any moment goes on from the newest one.

A checkpoint is a folder `step-000040` with `state.pt` (tensors and plain values only, loaded without pickle's code)
and `state.json` with its hash. It is written under another name, flushed and renamed; the two newest are kept. One
that is damaged anyway is passed over for the one before.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch

from integrations.common.files import hash_file, read_json, write_json

KEPT = 2


def step_folders(folder: Path) -> list[tuple[int, Path]]:
    """Complete checkpoints, newest first."""
    found = [(int(path.name[5:]), path) for path in folder.glob("step-*") if path.name[5:].isdigit()]
    return sorted(found, reverse=True)


def save(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Write the state after `step` steps, then drop all but the newest.

    Raises:
        OSError: the disk is full or the folder not writable; the checkpoints before stay as they are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".step-{step:06d}.partial"
    clear_partial(folder)
    partial.mkdir()
    try:
        torch.save(state, partial / "state.pt")
    except RuntimeError as error:  # what torch makes of a failed write
        raise OSError(f"cannot write {partial}: {str(error).splitlines()[0]}") from error
    flush(partial / "state.pt")
    write_json(partial / "state.json", {"step": step, "sha256": hash_file(partial / "state.pt")})
    place(partial, folder / f"step-{step:06d}")
    for _, old in step_folders(folder)[KEPT:]:
        shutil.rmtree(old)


def newest(folder: Path) -> tuple[int, dict[str, Any]] | None:
    """Step and state of the newest checkpoint that is as it was written; damaged ones are named and passed over."""
    for step, path in step_folders(folder):
        about = read_json(path / "state.json")
        state = path / "state.pt"
        if about and about.get("step") == step and state.is_file() and about.get("sha256") == hash_file(state):
            return step, torch.load(state, map_location="cpu", weights_only=True)
        print(f"checkpoint {path} is damaged and is passed over", flush=True)
        shutil.rmtree(path)
    return None


def clear_partial(folder: Path) -> None:
    """Remove what an interrupted write left."""
    for path in folder.glob(".*.partial"):
        shutil.rmtree(path)


def place(partial: Path, final: Path) -> None:
    """Rename a finished folder into place and flush the folders' entries to disk."""
    if final.exists():
        shutil.rmtree(final)
    flush(partial)
    os.replace(partial, final)
    flush(final.parent)


def flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
