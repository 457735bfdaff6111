"""Checkpoints that are whole or absent, so that a stage killed at any moment goes on from the newest one.

A checkpoint is a folder `step-000040` with `policy/model.safetensors` where the stage trains the policy (apart, so that
it can be evaluated while the training goes on), `state.pt` with all else (tensors and plain values only, loaded without
pickle's code) and `state.json` with the hashes of both. It is written under another name, flushed and renamed; the two
newest are kept. One that is damaged anyway is passed over for the one before.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from integrations.alignment.names import POLICY_WEIGHTS
from integrations.common.files import hash_file, read_json, write_json

KEPT = 2


def step_folders(folder: Path) -> list[tuple[int, Path]]:
    """Complete checkpoints, newest first."""
    found = [(int(path.name[5:]), path) for path in folder.glob("step-*") if path.name[5:].isdigit()]
    return sorted(found, reverse=True)


def save(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Write the state after `step` steps, then drop all but the newest.

    Args:
        state: the policy's parameters under `policy`, where it has any.

    Raises:
        OSError: the disk is full or the folder not writable; the checkpoints before stay as they are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".step-{step:06d}.partial"
    clear_partial(folder)
    partial.mkdir()
    rest = {name: value for name, value in state.items() if name != "policy"}
    files = ["state.pt"]
    try:
        torch.save(rest, partial / "state.pt")
        if "policy" in state:
            (partial / POLICY_WEIGHTS).parent.mkdir()
            tensors = {name: value.detach().contiguous() for name, value in state["policy"].items()}
            save_file(tensors, partial / POLICY_WEIGHTS, metadata={"format": "pt"})
            files.append(POLICY_WEIGHTS)
    except (RuntimeError, SafetensorError) as error:  # what the libraries make of a failed write
        raise OSError(f"cannot write {partial}: {str(error).splitlines()[0]}") from error
    for name in files:
        flush(partial / name)
        flush((partial / name).parent)
    write_json(partial / "state.json", {"step": step, "sha256": {name: hash_file(partial / name) for name in files}})
    place(partial, folder / f"step-{step:06d}")
    for _, old in step_folders(folder)[KEPT:]:
        shutil.rmtree(old)


def newest(folder: Path) -> tuple[int, dict[str, Any]] | None:
    """Step and state of the newest checkpoint that is as it was written; damaged ones are named and passed over."""
    for step, path in step_folders(folder):
        if _is_sound(path, step):
            state = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
            weights = path / POLICY_WEIGHTS
            return step, state | ({"policy": load_file(weights)} if weights.is_file() else {})
        print(f"checkpoint {path} is damaged and is passed over", flush=True)
        shutil.rmtree(path)
    return None


def _is_sound(path: Path, step: int) -> bool:
    about = read_json(path / "state.json") or {}
    hashes = about.get("sha256")
    if about.get("step") != step or not isinstance(hashes, dict) or "state.pt" not in hashes:
        return False
    return all((path / name).is_file() and hash_file(path / name) == known for name, known in hashes.items())


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
