"""What a run's samples say about its models, for a release: the comparison, and how responses were made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import yaml

from prism_cli.runs.store import RunStore
from release.facts import Evaluation, Setup

if TYPE_CHECKING:
    from benchmarks.samples import Cell


class Measured:
    """Everything that a run's samples say about its present weights; made once for a whole family.

    Args:
        run: its finished evaluations are read, those of earlier results of a stage are not.
    """

    def __init__(self, run: RunStore) -> None:
        from benchmarks.compare import COLUMNS, compare_all
        from benchmarks.samples import find_cells

        hashes = {name: record["hash"] for name in _stages(run) if (record := run.stage(name).done())}
        self.cells = [c for c in find_cells(run.root / "eval", COLUMNS) if hashes.get(c.model) == _weights(c)]
        found = compare_all(self.cells, strict=False) if self.cells else []
        self.comparisons: list[dict[str, Any]] = [one.to_json() for one in found]

    def of(self, label: str, others: Sequence[str], titles: Mapping[str, str]) -> Evaluation | None:
        """What concerns one model; None where it was not evaluated.

        Args:
            label: the model.
            others: labels of models to keep beside it.
            titles: names of models for tables.
        """
        if not any(cell.model == label for cell in self.cells):
            return None
        shown = [_trimmed(one, {label, *others}) for one in self.comparisons]
        shown = [one for one in shown if any(model["label"] == label for model in one["models"])]
        if not shown:
            return None
        labels = {model["label"] for one in shown for model in one["models"]}
        return Evaluation(
            comparisons=shown,
            setups=_setups([cell for cell in self.cells if cell.model == label]),
            titles={name: titles.get(name, name) for name in sorted(labels)},
        )

    def response(self, label: str, item: str) -> tuple[str, bool] | None:
        """A model's greedy response to an item and whether it is right, as recorded; None where it was not asked."""
        from benchmarks.samples import read_cell

        for cell in self.cells:
            if cell.model == label and cell.facts["protocol"]["temperature"] == 0:
                whole = read_cell(cell.folder, ["item_id", "response", "correct"])
                rows = whole.table.to_pylist() if whole else []
                found = next((row for row in rows if row["item_id"] == item), None)
                if found and found["response"]:
                    return str(found["response"]), bool(found["correct"])
        return None


def _stages(run: RunStore) -> list[str]:
    return list(dict.fromkeys(name for names in run.manifest().get("arms", {}).values() for name in names))


def _weights(cell: Cell) -> str:
    return str(cell.facts["model"]["weights_hash"])


def _trimmed(comparison: Mapping[str, Any], labels: set[str]) -> dict[str, Any]:
    """A comparison with some of its models, and always with its headline pair."""
    labels = labels | {comparison["baseline"], comparison["treated"]}
    refused = [one for one in comparison["refused"] if one["model"] in labels]
    kept = [model for model in comparison["models"] if model["label"] in labels]
    return {**comparison, "models": kept, "refused": refused}


def _setups(cells: Sequence[Cell]) -> list[Setup]:
    """One for each task and protocol, in the order of cells; decoding seeds joined."""
    found: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for cell in cells:
        found.setdefault((str(cell.facts["suite"]), cell.task, cell.protocol), []).append(cell.facts)
    return [_setup(facts) for facts in found.values()]


def _setup(facts: Sequence[Mapping[str, Any]]) -> Setup:
    from benchmarks.judging import identity_text

    first = facts[0]
    harness, protocol = first["harness"], first["protocol"]
    data = first.get("data") or {}
    return Setup(
        suite=first["suite"],
        benchmark=first["benchmark"],
        task=first["task"],
        protocol=protocol["name"],
        harness=f"{harness['name']} {harness['version']}",
        harness_lock=harness.get("lock"),
        server=", ".join(str(value) for value in first["server"].values()),
        temperature=protocol["temperature"],
        top_p=protocol["top_p"],
        top_k=protocol["top_k"],
        max_new_tokens=protocol["max_new_tokens"],
        prompt=protocol["prompt"],
        samples_per_item=first["samples_per_item"],
        decoding_seeds=sorted({int(one["decoding_seed"]) for one in facts}),
        items=first["items"],
        limited=first["limit"] is not None,
        dataset=_dataset(first["task"]),
        dataset_revision=data.get("revision"),
        dataset_hash=first["dataset_hash"],
        task_hash=first["task_hash"],
        judge=identity_text(first.get("judge")),
        created=max(str(one["created"]) for one in facts),
    )


@cache
def _dataset(task: str) -> str | None:
    """The Hub's data set behind a task of ours, None for a run's own pool."""
    from benchmarks.suites import TASKS

    path = TASKS / f"{task}.yaml"
    if not path.is_file():
        return None
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("dataset_path:")]
    named = yaml.safe_load(lines[0])["dataset_path"] if lines else None  # functions make the rest no plain YAML
    return named if named and "/" in named else None
