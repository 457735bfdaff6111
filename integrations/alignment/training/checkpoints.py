"""Checkpoints that are whole or absent, so that a stage killed at any moment goes on from the newest one.

A checkpoint is a folder `step-000040` with `policy/model.safetensors` where the stage trains the policy (apart, so that
it can be evaluated while the training goes on), `discriminator/model.safetensors`, `state.pt` with all else (tensors
and plain values only, loaded without pickle's code) and `state.json` with the hashes of all. Of several processes each
writes its own `state-RANK.pt`, and the first one the weights. It is written under another name, flushed and renamed
once all have written; the two newest are kept. One that is damaged anyway is passed over for the one before.
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
from integrations.alignment.training.world import World
from integrations.common.files import flush, hash_file, read_json, write_json
from integrations.errors import BadInput

KEPT = 2
WEIGHTS = {"policy": POLICY_WEIGHTS, "discriminator": "discriminator/model.safetensors"}
"""Parts of the state that are a model's weights, and their files."""
ALONE = World()


def step_folders(folder: Path) -> list[tuple[int, Path]]:
    """Complete checkpoints, newest first."""
    found = [(int(path.name[5:]), path) for path in folder.glob("step-*") if path.name[5:].isdigit()]
    return sorted(found, reverse=True)


def save(folder: Path, step: int, state: dict[str, Any], protect: int | None = None, world: World = ALONE) -> None:
    """Write the state after `step` steps, then drop all but the newest and the one of step `protect`.

    Args:
        state: weights under `policy` and `discriminator`, where there are such, of which the first process's count.

    Raises:
        OSError: the disk is full or the folder not writable; the checkpoints before stay as they are.
    """
    partial = folder / f".step-{step:06d}.partial"
    if world.first:
        folder.mkdir(parents=True, exist_ok=True)
        clear_partial(folder)
        partial.mkdir()
    world.wait()
    try:
        files = _write(partial, state, world)
    except (RuntimeError, SafetensorError) as error:  # what the libraries make of a failed write
        raise OSError(f"cannot write {partial}: {str(error).splitlines()[0]}") from error
    for name in files:
        flush(partial / name)
        flush((partial / name).parent)
    shares = world.gather({name: hash_file(partial / name) for name in files})
    if world.first:
        hashes = {name: value for share in shares for name, value in share.items()}
        write_json(partial / "state.json", {"step": step, "processes": world.size, "sha256": hashes})
        place(partial, folder / f"step-{step:06d}")
        for number, old in step_folders(folder)[KEPT:]:
            if number != protect:
                shutil.rmtree(old)
    world.wait()


def _write(partial: Path, state: dict[str, Any], world: World) -> list[str]:
    """Write this process's files; returns their names."""
    files = [_state_file(world)]
    torch.save({name: value for name, value in state.items() if name not in WEIGHTS}, partial / files[0])
    for name in [name for name in WEIGHTS if name in state and world.first]:
        path = partial / WEIGHTS[name]
        path.parent.mkdir()
        tensors = {key: value.detach().contiguous() for key, value in state[name].items()}
        save_file(tensors, path, metadata={"format": "pt"})
        files.append(WEIGHTS[name])
    return files


def _state_file(world: World) -> str:
    return "state.pt" if world.size == 1 else f"state-{world.rank}.pt"


def policy_weights(folder: Path, step: int) -> Path | None:
    """The policy's weights in the checkpoint of that step; None where there is none that is as it was written."""
    path = folder / f"step-{step:06d}"
    return path / POLICY_WEIGHTS if _is_sound(path, step, ALONE) and (path / POLICY_WEIGHTS).is_file() else None


def newest(folder: Path, world: World = ALONE) -> tuple[int, dict[str, Any]] | None:
    """Step and state of the newest checkpoint that is as it was written; damaged ones are named and passed over.

    Raises:
        BadInput: it was written by another number of processes, each of which kept its part.
    """
    for step, path in world.gather(step_folders(folder))[0]:
        if all(world.gather(_is_sound(path, step, world))):
            return step, _read(path, world)
        if world.first:
            print(f"checkpoint {path} is damaged and is passed over", flush=True)
            shutil.rmtree(path)
    return None


def _read(path: Path, world: World) -> dict[str, Any]:
    wrote = (read_json(path / "state.json") or {})["processes"]
    if wrote != world.size:
        raise BadInput(
            f"{path} was written by {wrote} processes, and the stage now runs in {world.size}",
            f"set the stage's `processes: {wrote}`, or remove its checkpoints to start it anew",
        )
    state = torch.load(path / _state_file(world), map_location="cpu", weights_only=True)
    return state | {name: load_file(path / file) for name, file in WEIGHTS.items() if (path / file).is_file()}


def _is_sound(path: Path, step: int, world: World) -> bool:
    """Whether this process's share of the files is as it was written."""
    about = read_json(path / "state.json") or {}
    hashes = about.get("sha256")
    if about.get("step") != step or "processes" not in about or not isinstance(hashes, dict) or not hashes:
        return False
    files = sorted(hashes)[world.rank :: world.size]
    return all((path / name).is_file() and hash_file(path / name) == hashes[name] for name in files)


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
