"""Which cells can be compared: sorted by model, benchmark, task and seeds, and refused where they do not match.

Two cells match when the same items were asked with the same prompts, in the same protocol, and scored by the same
code, harness and judge. Everything is measured against the baseline's cell of the task (the first model's where the
baseline has none).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from benchmarks.samples import Cell
from benchmarks.suites import PROTOCOLS, Suite, load_suite
from integrations.errors import BadInput

METRICS = ("correct", "perception", "logic", "format")
"""Columns of a cell that can be compared, the main one first. perception and logic exist where a benchmark measures
them; logic is undefined on items whose caption supports no answer."""
BASELINE = "baseline/rlvr"
"""SFT->RLVR, the default baseline."""
TREATED_ARM, SHARED = "prism", "shared"

_READ = ("item_id", "sample", "prompt_hash", "group_id", "subset", "rule", "answer", "judged", "tokens", "truncated")
COLUMNS = (*METRICS, *_READ)
"""What a comparison reads of a cell's samples."""

_VERDICTS = {"counts", "rules", "fingerprints"}
"""Parts of cell.json's `judge` that tell of its work, not of itself."""

Seeds = tuple[int | None, int]
"""Training seed and decoding seed."""


@dataclass
class Model:
    """One row: a label with its cells of one suite and protocol."""

    label: str
    """With the algorithm in brackets where cells of one label come from several algorithms."""
    stage: str
    """The label as the cells have it."""
    algorithm: str | None
    cells: dict[str, dict[Seeds, Cell]] = field(default_factory=dict)
    """By task."""

    @property
    def every(self) -> list[Cell]:
        return [cell for by_seeds in self.cells.values() for cell in by_seeds.values()]


@dataclass(frozen=True)
class Column:
    """One benchmark."""

    name: str
    title: str
    tasks: Sequence[str]
    also: Sequence[str] = ()
    """Further numbers by the names of `benchmarks.metrics`, apart from METRICS."""


@dataclass(frozen=True)
class Refusal:
    """A cell that was left out."""

    model: str
    task: str
    training_seed: int | None
    decoding_seed: int
    reason: str

    def __str__(self) -> str:
        seeds = f"training seed {self.training_seed}, decoding seed {self.decoding_seed}"
        return f"{self.model} on {self.task} ({seeds}): {self.reason}"


@dataclass(frozen=True)
class Items:
    """A task's items, in the order of their ids."""

    ids: pa.Array
    prompts: pa.Array
    groups: pa.Array


def select(
    cells: Sequence[Cell], suite: str | None, protocol: str | None, benchmarks: Sequence[str] | None
) -> list[Cell]:
    """The cells of one suite and protocol, and of the chosen benchmarks.

    Raises:
        BadInput: there are none, or there are several suites or protocols and none was chosen.
    """
    if not cells:
        raise BadInput("there are no finished cells here", "evaluate with `prism eval`, or name another folder")
    for what, wanted, value in (("suite", suite, suite_of), ("protocol", protocol, protocol_of)):
        there = sorted({value(cell) for cell in cells})
        if wanted is not None and wanted not in there:
            raise BadInput(f"there are no finished cells of the {what} `{wanted}`", _choice(what, there))
        if wanted is None and len(there) > 1:
            raise BadInput(f"the cells are of several {what}s: {', '.join(there)}", _choice(what, there))
        cells = [cell for cell in cells if wanted is None or value(cell) == wanted]
    there = sorted({cell.benchmark for cell in cells})
    for name in benchmarks or ():
        if name not in there:
            raise BadInput(f"there are no finished cells of the benchmark `{name}`", _choice("benchmark", there))
    return [cell for cell in cells if not benchmarks or cell.benchmark in benchmarks]


def suite_of(cell: Cell) -> str:
    return str(cell.facts["suite"])


def protocol_of(cell: Cell) -> str:
    return cell.protocol


def kinds(cells: Sequence[Cell]) -> list[tuple[str, str]]:
    """Every (suite, protocol) there is; a suite's main protocol first."""
    found = {(suite_of(cell), cell.protocol) for cell in cells}

    def rank(kind: tuple[str, str]) -> tuple[str, int, str]:
        suite = known_suite(kind[0])
        order: list[str] = list(suite.protocols) if suite else list(PROTOCOLS)
        return kind[0], order.index(kind[1]) if kind[1] in order else len(order), kind[1]

    return sorted(found, key=rank)


def known_suite(name: str) -> Suite | None:
    """The suite's definition, or None when it is not one that comes with prism."""
    try:
        return load_suite(name)
    except BadInput:
        return None


def models_of(cells: Sequence[Cell]) -> list[Model]:
    """One model per label, and per algorithm where a label has several; in the order of a table.

    Raises:
        BadInput: two different models claim the same label, task and seeds.
    """
    algorithms: dict[str, set[str | None]] = {}
    for cell in cells:
        algorithms.setdefault(cell.model, set()).add(_algorithm(cell))
    models: dict[tuple[str, str | None], Model] = {}
    for cell in cells:
        several, algorithm = len(algorithms[cell.model]) > 1, _algorithm(cell)
        label = f"{cell.model} [{algorithm or '?'}]" if several else cell.model
        key = (cell.model, algorithm)
        model = models.setdefault(key, Model(label, cell.model, algorithm))
        by_seeds = model.cells.setdefault(cell.task, {})
        seeds: Seeds = (cell.facts["training_seed"], int(cell.facts["decoding_seed"]))
        by_seeds[seeds] = _only(label, by_seeds.get(seeds), cell)
    return sorted(models.values(), key=_place)


def _algorithm(cell: Cell) -> str | None:
    value = cell.facts["model"].get("algorithm")
    return None if value is None else str(value)


def _only(label: str, known: Cell | None, cell: Cell) -> Cell:
    """The one cell for its place: of two copies of one evaluation, the later."""
    if known is None:
        return cell
    hashes = [str(c.facts["model"]["weights_hash"]) for c in (known, cell)]
    if hashes[0] != hashes[1]:
        seeds = f"training seed {cell.facts['training_seed']}, decoding seed {cell.facts['decoding_seed']}"
        raise BadInput(
            f"two different models are called `{label}` on {cell.task} with the same {seeds}: weights "
            f"{hashes[0][:8]} in {known.folder} and {hashes[1][:8]} in {cell.folder}",
            "compare them from folders of their own, or evaluate one of them under another label",
        )
    return max(known, cell, key=lambda c: str(c.facts.get("created", "")))


def _place(model: Model) -> tuple[int, str, int, str]:
    """Models from elsewhere first, then what the arms share, the other arms by name, and the treated arm last."""
    arm, _, stage = model.stage.rpartition("/")
    stages = ("init", "base", "sft", "align", "rlvr")
    group = 0 if not arm else 1 if arm == SHARED else 3 if arm == TREATED_ARM else 2
    return group, arm, stages.index(stage) if stage in stages else len(stages), model.label


def baselines_of(models: Sequence[Model], wanted: str | None) -> dict[str, str | None]:
    """Each model's baseline by label, None for a baseline itself and for a model that has none.

    Args:
        wanted: a label; None: SFT->RLVR with the model's own algorithm.

    Raises:
        BadInput: the label does not exist, or there is no default baseline.
    """
    labels = [model.label for model in models]
    listed = f"choose one with --baseline: {', '.join(labels)}"
    if wanted is not None:
        if wanted not in labels:
            raise BadInput(f"there is no model `{wanted}` here", listed)
        return {label: wanted if label != wanted else None for label in labels}
    usual = {model.algorithm: model.label for model in models if model.stage == BASELINE}
    if not usual:
        raise BadInput(f"no model here is the usual baseline `{BASELINE}`", listed)
    if len(usual) == 1:
        only = next(iter(usual.values()))
        return {label: only if label != only else None for label in labels}
    return {m.label: usual.get(m.algorithm) if m.label not in usual.values() else None for m in models}


def columns_of(models: Sequence[Model], chosen: Sequence[str] | None) -> tuple[list[Column], list[str]]:
    """The benchmarks in the suite's order, and names of those that the suite has and no model was asked.

    Args:
        chosen: names of benchmarks; none: the whole suite.
    """
    cells = [cell for model in models for cell in model.every]
    tasks: dict[str, list[str]] = {}
    for cell in cells:
        known = tasks.setdefault(cell.benchmark, [])
        if cell.task not in known:
            known.append(cell.task)
    suite = known_suite(suite_of(cells[0]))
    defined = {b.name: b for b in suite.benchmarks} if suite else {}
    order = [*(name for name in defined if name in tasks), *(name for name in tasks if name not in defined)]
    columns = []
    for name in order:
        of_suite = list(defined[name].tasks) if name in defined else []
        listed = [*of_suite, *sorted(t for t in tasks[name] if t not in of_suite)]
        also = [part for part in defined[name].also if part not in (*METRICS, "reasoning")] if name in defined else []
        columns.append(Column(name, defined[name].title if name in defined else name, listed, also))
    return columns, [] if chosen else [name for name in defined if name not in tasks]


def match(models: Sequence[Model], first: Sequence[str]) -> tuple[dict[str, Items], list[Refusal]]:
    """Take out of the models every cell that does not match, and give each task's items.

    Args:
        first: labels whose cells are the reference, in this order of preference.
    """
    items: dict[str, Items] = {}
    refused: list[Refusal] = []
    ordered = sorted(models, key=lambda m: first.index(m.label) if m.label in first else len(first))
    for task in dict.fromkeys(task for model in ordered for task in model.cells):
        reference: Cell | None = None
        for model in ordered:
            for seeds, cell in sorted(model.cells.get(task, {}).items(), key=_seed_order):
                ordered_cell = in_order(cell)
                if ordered_cell is None:
                    reason: str | None = "it does not hold the same number of responses for every item"
                else:
                    model.cells[task][seeds] = ordered_cell
                    reason = mismatch(ordered_cell, reference, items[task]) if reference else None
                if reason is not None:
                    refused.append(Refusal(model.label, task, *seeds, reason))
                    del model.cells[task][seeds]
                elif reference is None and ordered_cell is not None:
                    reference, items[task] = ordered_cell, items_of(ordered_cell)
    return items, refused


def _seed_order(entry: tuple[Seeds, Cell]) -> tuple[bool, int, int]:
    (training, decoding), _ = entry
    return training is not None, training or 0, decoding


def in_order(cell: Cell) -> Cell | None:
    """The cell with its rows by item and sample, or None when items differ in their number of responses."""
    each = int(cell.facts["samples_per_item"])
    order = pc.sort_indices(cell.table, sort_keys=[("item_id", "ascending"), ("sample", "ascending")])
    table = cell.table.select(COLUMNS).take(order).combine_chunks()
    ids, samples = (table.column(name).to_numpy() for name in ("item_id", "sample"))
    if len(ids) == 0 or len(ids) % each:
        return None
    of_items, of_samples = ids.reshape(-1, each), samples.reshape(-1, each)
    whole = (of_items == of_items[:, :1]).all() and (of_samples == np.arange(each)).all()
    return replace(cell, table=table) if whole and (of_items[1:, 0] != of_items[:-1, 0]).all() else None


def mismatch(cell: Cell, reference: Cell, items: Items) -> str | None:
    """Why a cell cannot be compared with the reference, in words that end a sentence; None when it can."""
    for name, ours, theirs in _facts(cell, reference):
        if ours != theirs:
            return f"its {name} is {_told(ours)}, that of {reference.model} is {_told(theirs)}"
    own = items_of(cell)
    if not own.ids.equals(items.ids):
        ours, theirs = set(own.ids.to_pylist()), set(items.ids.to_pylist())
        return (
            f"it was asked {len(ours)} items, {len(ours & theirs)} of them among the {len(theirs)} of {reference.model}"
        )
    if not own.prompts.equals(items.prompts):
        different = pc.sum(pc.not_equal(own.prompts, items.prompts)).as_py()
        return f"{different} of its {len(own.ids)} items were asked with another prompt than for {reference.model}"
    if not own.groups.equals(items.groups):
        return f"its items are grouped otherwise than those of {reference.model}"
    return None


def _facts(cell: Cell, reference: Cell) -> list[tuple[str, Any, Any]]:
    """Facts of both cells that must be equal, with their names for people."""
    ours, theirs = cell.facts, reference.facts
    pairs = [
        (f"protocol's {key}", ours["protocol"].get(key), theirs["protocol"].get(key))
        for key in sorted({*ours["protocol"], *theirs["protocol"]})
    ]
    pairs += [
        (f"harness {key}", ours["harness"].get(key), theirs["harness"].get(key)) for key in ("name", "version", "lock")
    ]
    names = {
        "dataset_hash": "dataset hash",
        "task_hash": "hash of the task and its scoring",
        "samples_per_item": "number of samples per item",
        "limit": "limit on items",
    }
    pairs += [(told, ours.get(key), theirs.get(key)) for key, told in names.items()]
    return [*pairs, ("judge", judge_of(ours), judge_of(theirs))]


def judge_of(facts: Mapping[str, Any]) -> Any:
    """Who judged, without what the judge said."""
    judge = facts.get("judge")
    return {key: judge[key] for key in sorted({*judge} - _VERDICTS)} if isinstance(judge, Mapping) else judge


def _told(value: Any) -> str:
    if isinstance(value, Mapping) and {"model", "served", "fingerprint", "prompt"} <= {*value}:
        from benchmarks.judging import identity_text

        return identity_text(value)
    text = "none" if value is None else str(value)
    return text[:12] if len(text) == 64 else text


def items_of(cell: Cell) -> Items:
    """The items of a cell in order."""
    each = int(cell.facts["samples_per_item"])
    names = ("item_id", "prompt_hash", "group_id")
    return Items(*(cell.table.column(name).combine_chunks()[::each] for name in names))


def verdicts(cell: Cell, metric: str) -> NDArray[np.float64]:
    """[items] mean over the samples of a cell in order, nan where no sample defines it.

    An undecided answer is not correct.
    """
    values = cell.table.column(metric).cast("float64").to_numpy().reshape(-1, int(cell.facts["samples_per_item"]))
    if metric == METRICS[0]:
        values = np.nan_to_num(values)
    known = ~np.isnan(values)
    count = known.sum(axis=1)
    return np.where(count > 0, np.where(known, values, 0.0).sum(axis=1) / np.maximum(count, 1), np.nan)


def _choice(what: str, there: Sequence[str]) -> str:
    return f"choose one with --{what}: {', '.join(there)}"
