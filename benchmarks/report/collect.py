"""What a report is made from: runs with their events, and cells of samples, from folders that may be half finished."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.report.text import visible
from benchmarks.samples import Cell, find_cells
from integrations.common.files import read_json
from integrations.errors import BadInput

IMAGES = "images"
"""Folder of previews in a store."""


@dataclass(frozen=True)
class Run:
    """One run's record."""

    folder: Path
    manifest: Mapping[str, Any]
    events: Sequence[Mapping[str, Any]]
    """Lines of events.jsonl in order; a line cut by a kill is left out."""

    @property
    def name(self) -> str:
        return visible(str(self.manifest.get("run", self.folder.name)))

    @property
    def seed(self) -> int | None:
        return self.manifest.get("seed")

    @property
    def arms(self) -> Mapping[str, Sequence[str]]:
        """Names of each arm's stages, in order."""
        return self.manifest["arms"]


@dataclass(frozen=True)
class Material:
    """Everything one report is made from."""

    runs: Sequence[Run]
    cells: Sequence[Cell]
    previews: Sequence[Path]
    """Folders of image previews, one for each store."""

    @property
    def stage_names(self) -> list[str]:
        """Stages of the runs' arms, each once, in order."""
        return list(dict.fromkeys(n for run in self.runs for names in run.arms.values() for n in names))


def collect(folders: Sequence[Path]) -> Material:
    """Read runs and folders of cells.

    Args:
        folders: each a run (it has a manifest.json), or any folder with finished cells below it.

    Raises:
        BadInput: a folder holds neither, two runs have the same seed, or runs are of different recipes.
    """
    runs, cells, previews = [], [], []
    for folder in folders:
        manifest = read_json(folder / "manifest.json")
        if isinstance(manifest, dict) and isinstance(manifest.get("arms"), dict):
            runs.append(Run(folder, manifest, read_events(folder / "events.jsonl")))
            store = folder / "eval"
        else:
            store = folder
        found = find_cells(store) if store.is_dir() else []
        if store == folder and not found:
            raise BadInput(
                f"{folder} holds neither a run (manifest.json) nor a finished cell of an evaluation",
                "name a run of `prism runs list`, or a folder that `prism eval` wrote to",
            )
        cells += found
        previews.append(store / IMAGES)
    _require_one_recipe(runs)
    return Material(runs, cells, previews)


def read_events(path: Path) -> list[dict[str, Any]]:
    """The events in a file, oldest first; none without the file. Lines that are no events are left out."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    events = []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and isinstance(event.get("event"), str):
            events.append(event)
    return events


def _require_one_recipe(runs: Sequence[Run]) -> None:
    seen: dict[int | None, str] = {}
    for run in runs:
        if run.manifest.get("recipe", {}).get("hash") != runs[0].manifest.get("recipe", {}).get("hash"):
            raise BadInput(
                f"the runs `{runs[0].name}` and `{run.name}` were made from different recipes",
                "report runs of one recipe that differ in their seed only",
            )
        if run.seed in seen:
            raise BadInput(
                f"the runs `{seen[run.seed]}` and `{run.name}` have the same seed {run.seed}",
                "give each run once, one for each seed",
            )
        seen[run.seed] = run.name
