"""Which cells an evaluation consists of, where each is kept, and which are done already.

A cell is done when it was made from the same weights, task, data, protocol, seed and harness, and is whole. A cell
made from anything else is moved aside, never mixed with a new one and never deleted.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.samples import CELL, cell_facts, read_cell
from benchmarks.suites import PROTOCOLS, Benchmark, Suite
from integrations.common.files import hash_file, hash_folder, read_json
from integrations.errors import BadInput
from integrations.lmms_eval import adapter as harness
from prism_cli.evaluation.models import Model

_DECISIVE = ("task_hash", "protocol", "decoding_seed", "samples_per_item", "limit", "harness", "data")


@dataclass(frozen=True)
class Ask:
    """What every model is asked."""

    suite: Suite
    protocols: Sequence[str]
    seeds: Sequence[int] = (0,)
    """Decoding seeds; greedy decoding has one."""
    samples: int = 1
    """Responses to each item; greedy decoding gives one."""
    limit: int | None = None
    """Items of each task, from its start; None: all."""
    prompt: str = "format"
    """`format`: the paper's response form is asked for; `native`: each benchmark's own wording."""
    max_new_tokens: int | None = None
    """Instead of each benchmark's own limit."""
    data: Path | None = None
    """Folder with local copies of the data sets; None: the Hub, or the run's own pool."""
    pool: str = "test"
    """Pool of the run's world, for suites on it."""


@dataclass(frozen=True)
class PlannedCell:
    """One cell to be had."""

    folder: Path
    facts: Mapping[str, Any]
    """As far as they are known beforehand (`benchmarks.samples.cell_facts`), and `data`: what the items come from."""
    dataset: Mapping[str, Any] | None
    """For the harness: where the items are, None for the task's own data set on the Hub."""

    @property
    def title(self) -> str:
        """For people: model, task, protocol."""
        return f"{self.facts['model']['label']} {self.facts['benchmark']} {self.folder.name}"

    def is_done(self) -> bool:
        """Is the cell there, whole, and made from exactly this?"""
        known = read_json(self.folder / CELL)
        if not isinstance(known, dict) or known.get("model", {}).get("weights_hash") != self.weights_hash:
            return False
        return all(known.get(key) == self.facts[key] for key in _DECISIVE) and read_cell(self.folder) is not None

    def has_responses(self) -> bool:
        """Is a whole cell there whose responses came from these weights, data, protocol and seed, however scored?"""
        found = read_cell(self.folder)
        asked = [key for key in _DECISIVE if key not in ("task_hash", "harness")]
        return (
            found is not None
            and all(found.facts.get(key) == self.facts[key] for key in asked)
            and found.facts["model"].get("weights_hash") == self.weights_hash
        )

    @property
    def store(self) -> Path:
        """The store that the cell is in."""
        return self.folder.parents[2]

    @property
    def weights_hash(self) -> str:
        return str(self.facts["model"]["weights_hash"])

    def make_room(self) -> str | None:
        """Move what was made from something else aside; an unfinished cell of the same kind stays and is resumed.

        Returns:
            The name that the old cell was given, or None.
        """
        known = read_json(self.folder / CELL)
        if not isinstance(known, dict) or all(known.get(key) == self.facts[key] for key in _DECISIVE):
            return None
        moved = next(f"{self.folder.name}.old-{n}" for n in range(1, 10_000) if not self._beside(n).exists())
        os.replace(self.folder, self.folder.with_name(moved))
        return moved

    def _beside(self, number: int) -> Path:
        return self.folder.with_name(f"{self.folder.name}.old-{number}")


def plan_cells(model: Model, ask: Ask, server: Mapping[str, Any]) -> list[PlannedCell]:
    """A model's cells, the suite's benchmarks in order.

    Args:
        server: what else of the server can change a response (`benchmarks.samples.cell_facts`).

    Raises:
        BadInput: the data of a task are not there.
    """
    return [
        _cell(model, ask, server, benchmark, task, protocol, seed)
        for benchmark in ask.suite.benchmarks
        for task in benchmark.tasks
        for protocol in ask.protocols
        for seed in (ask.seeds if _random(protocol) else ask.seeds[:1])
    ]


def _random(protocol: str) -> bool:
    return PROTOCOLS[protocol]["temperature"] > 0


def _cell(
    model: Model, ask: Ask, server: Mapping[str, Any], benchmark: Benchmark, task: str, protocol: str, seed: int
) -> PlannedCell:
    samples = ask.samples if _random(protocol) else 1
    decoding = {"max_new_tokens": ask.max_new_tokens or benchmark.max_new_tokens, "prompt": ask.prompt}
    dataset = _dataset(model, ask, task)
    facts = cell_facts(
        model=model.facts,
        suite=ask.suite.name,
        benchmark=benchmark.name,
        task=task,
        protocol={"name": protocol, **PROTOCOLS[protocol], **decoding},
        decoding_seed=seed if _random(protocol) else 0,
        training_seed=model.training_seed,
        samples_per_item=samples,
        limit=ask.limit,
        task_hash=harness.task_hash(task),
        harness=harness.harness_facts(),
        server=server,
    )
    facts["data"] = _fingerprint(dataset)
    return PlannedCell(model.store / model.slug / task / _name(ask, protocol, facts), facts, dataset)


def _name(ask: Ask, protocol: str, facts: Mapping[str, Any]) -> str:
    """Name of the cell's folder: whatever a person may ask for differently has a place in it."""
    parts = [f"{protocol}-s{facts['decoding_seed']}"]
    parts += [f"k{facts['samples_per_item']}"] if facts["samples_per_item"] > 1 else []
    parts += [f"first{ask.limit}"] if ask.limit else []
    parts += [ask.prompt] if ask.prompt != "format" else []
    parts += [f"{ask.max_new_tokens}tokens"] if ask.max_new_tokens else []
    parts += [ask.pool] if ask.pool != "test" else []
    return "-".join(parts)


def _dataset(model: Model, ask: Ask, task: str) -> dict[str, Any] | None:
    if harness.reads_pool(task):
        if model.pools is None:
            raise BadInput(
                f"`{task}` asks items of a run's own world, and {model.label} belongs to no run",
                "name a run with --run: its held-out items are asked",
            )
        pool = model.pools / f"{ask.pool}.jsonl"
        if not pool.is_file():
            raise BadInput(f"there is no data pool {pool}", "train the run's first stages, or name another run")
        return {"pool": str(pool)}
    return harness.local_dataset(ask.data, task) if ask.data else None


_fingerprints: dict[tuple[str, int, int], str] = {}


def _fingerprint(dataset: Mapping[str, Any] | None) -> dict[str, str]:
    """What the items come from, by content where they are local (images of a pool are named by their content)."""
    if dataset is None:
        return {"hub": "main"}
    if "pool" in dataset:
        return {"pool": _hash(Path(dataset["pool"]))}
    return {"local": _hash(Path(dataset["path"]))}


def _hash(path: Path) -> str:
    status = path.stat()
    key = (str(path), status.st_mtime_ns, status.st_size)
    if path.is_dir():
        return hash_folder(path)
    if key not in _fingerprints:
        _fingerprints[key] = hash_file(path)
    return _fingerprints[key]
