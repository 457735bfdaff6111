"""Drift: how a policy's responses change from stage to stage, and how far they are from what it was shown.

Perception and reasoning are kept apart. Where a benchmark measures them (the digits world does, exactly) the rates are
given; everywhere there are proxies (`benchmarks.drift.proxies`): how many things a caption names, how many steps a
reasoning has, how long both are. A proxy says nothing about being right. For each proxy the distance between the
responses and the demonstrations that the run was trained on is given, as the paper does for two of them.

What to keep in mind when reading a distance:
    - demonstrations and responses answer other questions, so even a perfect imitator has some distance; compare the
      distances of stages with one another (`closer` in a transition does), not with 0;
    - `chance` is what a draw of as many demonstrations would show in 95 of 100 cases: below it nothing is seen.

    drift(Path("runs/digits"), find_cells(Path("runs/digits/eval")))

Intervals are 95%, over items (in clusters where the benchmark has groups) with the checkpoints held fixed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.drift.demonstrations import Pool, read_pools
from benchmarks.drift.distances import RESAMPLES
from benchmarks.drift.measure import MEASURED, Demonstrations, Responses, Work, read_responses, usable
from benchmarks.drift.proxies import PROXIES
from benchmarks.samples import Cell
from integrations.common.files import read_json

FLIPPED = ("correct", "perception", "logic", "format")
DIGITS = "digits"


def drift(run_dir: Path | None, cells: Sequence[Cell]) -> dict[str, Any]:
    """Drift over the stages that these cells evaluate.

    Args:
        run_dir: the run whose stages they are, for the order of the stages, their parents and the demonstrations;
            None: unknown, then there are neither transitions nor distances.
        cells: of one or several models, benchmarks, protocols and seeds; the same label in several training seeds is
            one stage.

    Returns:
        JSON-able; a number is null where it is undefined (no response has that part, the benchmark does not measure).

        proxies      what each proxy counts, by name
        notes        what limits the reading, for people
        groups       one per benchmark and protocol, in the cells' order:
          benchmark, protocol
          reference    pool whose distances matter most (the alignment's teacher, else the last one of SFT), or null
          bins         by proxy: edges of all histograms of this group, [bins + 1]
          supervision  by pool: rows (in the file), n (read of them), used_by (stages), format, and proxies as below,
                       without distances
          stages       by label, in the order of the run:
            responses, items, training_seeds, decoding_seeds
            parent       label of the stage that it started from and that is evaluated too, or null
            measured     by name (correct, perception, logic, format, truncated): value, low, high, n; or null
            proxies      by name: n, mean, low, high, sd, quantiles (5, 25, 50, 75, 95%), histogram (shares), and
                         distances by pool: wasserstein, scaled (wasserstein in standard deviations of the
                         demonstrations, null where those do not vary), jensen_shannon; each with value, low, high
                         and chance
          transitions  in order: from, to,
            flips        by name (correct, perception, logic, format), or null: n (pairs of responses to the same item,
                         sample and seeds), gained (wrong, then right), lost, kept_right, kept_wrong, net {value, low,
                         high, p} and by_chance: the share of verdicts that flip between two draws of the earlier
                         stage itself; 0 in greedy decoding, null where each item was drawn once
            closer       by proxy and pool: change of `scaled` and of `jensen_shannon`, value, low, high; below 0 the
                         later stage is closer to the demonstrations
    """
    run = _Run.read(run_dir)
    pools = read_pools(run_dir, run.pool_users) if run_dir is not None else []
    shown = {digits: usable(pools, digits=digits) for digits in {cell.benchmark == DIGITS for cell in cells}}
    groups = []
    ordered = sorted(cells, key=lambda cell: (cell.benchmark, cell.protocol))
    for (benchmark, protocol), part in groupby(ordered, key=lambda cell: (cell.benchmark, cell.protocol)):
        first = next(i for i, cell in enumerate(cells) if (cell.benchmark, cell.protocol) == (benchmark, protocol))
        groups.append((first, _group(benchmark, protocol, list(part), run, shown[benchmark == DIGITS])))
    return {
        "proxies": dict(PROXIES),
        "notes": _notes(run_dir, pools),
        "groups": [group for _, group in sorted(groups, key=lambda pair: pair[0])],
    }


@dataclass(frozen=True)
class _Run:
    """What a run's records say about its stages."""

    order: Sequence[str] = ()
    parents: Mapping[str, str] = field(default_factory=dict)
    pool_users: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Stages by the pool whose demonstrations they learn from."""
    reference: str | None = None

    @classmethod
    def read(cls, run_dir: Path | None) -> _Run:
        manifest = read_json(run_dir / "manifest.json") if run_dir is not None else None
        if run_dir is None or not isinstance(manifest, dict):
            return cls()
        chains = manifest.get("arms", {}).values()
        stages = manifest.get("stages", {})
        order = list(dict.fromkeys([*(name for chain in chains for name in chain), *stages]))
        parents = {
            name: stages[name]["parents"]["policy"]["stage"]
            for name in order
            if "policy" in stages.get(name, {}).get("parents", {})
        }
        users: dict[str, list[str]] = {}
        reference = None
        for name in order:
            settings = (read_json(run_dir / name / "inputs.json") or {}).get("settings", {})
            kind = settings.get("kind")
            used = settings.get("data", []) if kind == "sft" else [settings.get("teacher")]
            for pool in used if kind in ("sft", "discriminator", "align") else []:
                users.setdefault(pool, []).append(name)
                reference = pool if kind == "align" else reference
        return cls(order, parents, users, reference)

    def parent_among(self, label: str, labels: Sequence[str]) -> str | None:
        """The nearest stage before this one that is among `labels`."""
        passed = {label}
        while (label := self.parents.get(label, label)) not in passed:  # a damaged manifest may name a circle
            if label in labels:
                return label
            passed.add(label)
        return None


def _group(benchmark: str, protocol: str, cells: Sequence[Cell], run: _Run, pools: Demonstrations) -> dict[str, Any]:
    """One benchmark under one protocol."""
    labels = list(dict.fromkeys(cell.model for cell in cells))
    known = [label for label in run.order if label in labels]
    labels = [*known, *(label for label in labels if label not in known)]
    clusters: dict[Any, int] = {}
    stages = {
        label: read_responses([c for c in cells if c.model == label], clusters, digits=benchmark == DIGITS)
        for label in labels
    }
    random = np.random.default_rng(0)
    weights = random.multinomial(len(clusters), np.full(len(clusters), 1 / len(clusters)), size=RESAMPLES)
    work = Work(weights.astype(np.float64), random, stages, pools)
    measured = {name: work.proxy(name) for name in PROXIES}
    parents = {label: run.parent_among(label, labels) for label in labels}
    return {
        "benchmark": benchmark,
        "protocol": protocol,
        "reference": _reference(run, work.pools),
        "bins": {name: found["bins"] for name, found in measured.items()},
        "supervision": {
            pool: {**facts, "proxies": {name: found["supervision"].get(pool) for name, found in measured.items()}}
            for pool, (facts, _) in work.pools.items()
        },
        "stages": {
            label: {
                **_facts(label, cells, stages[label]),
                "parent": parents[label],
                "measured": {name: work.rate(stages[label], name) for name in MEASURED},
                "proxies": {name: found["stages"][label] for name, found in measured.items()},
            }
            for label in labels
        },
        "transitions": [
            {
                "from": parent,
                "to": label,
                "flips": {name: work.flips(stages[parent], stages[label], name) for name in FLIPPED},
                "closer": {name: found["closer"](parent, label) for name, found in measured.items()},
            }
            for label, parent in parents.items()
            if parent is not None
        ],
    }


def _facts(label: str, cells: Sequence[Cell], stage: Responses) -> dict[str, Any]:
    own = [cell for cell in cells if cell.model == label]
    return {
        "responses": len(stage.keys),
        "items": stage.items,
        "training_seeds": sorted({s for cell in own if (s := cell.facts.get("training_seed")) is not None}),
        "decoding_seeds": sorted({cell.facts["decoding_seed"] for cell in own}),
    }


def _reference(run: _Run, pools: Mapping[str, Any]) -> str | None:
    if run.reference in pools:
        return run.reference
    return next(reversed(list(pools)), None)


def _notes(run_dir: Path | None, pools: Sequence[Pool]) -> list[str]:
    notes = [
        "Items per caption, reasoning steps and lengths are proxies: they say how a response is built, not whether it "
        "is right.",
        "Demonstrations answer other questions than the benchmark asks, so compare distances between stages, not with "
        "0.",
    ]
    if run_dir is None:
        notes.append("No run is known for these models: no order of stages and no demonstrations to compare with.")
    for pool in pools:
        if not pool.has_form:
            notes.append(f"Pool `{pool.name}` is left out: its demonstrations have not the paper's form.")
        elif pool.rows > len(pool.responses):
            notes.append(f"Of pool `{pool.name}` {len(pool.responses)} of {pool.rows} demonstrations were drawn.")
    return notes
