"""What is measured of the stages of one benchmark under one protocol, with intervals from shared resamples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchmarks.drift.demonstrations import Pool
from benchmarks.drift.distances import (
    Distances,
    Floats,
    Sample,
    centred,
    clustered,
    distances,
    edges,
    independent,
    support_of,
)
from benchmarks.drift.proxies import PROXIES, proxies
from benchmarks.samples import Cell
from benchmarks.statistics import mcnemar, wilson

MEASURED = ("correct", "perception", "logic", "format", "truncated")
"""Verdict columns of the samples. `perception` and `logic` are null where a benchmark cannot measure them."""
_HISTOGRAM_BINS = 30

Demonstrations: TypeAlias = Mapping[str, tuple[Mapping[str, Any], Mapping[str, Floats]]]
"""Facts and proxies by pool; a proxy is [rows], nan where undefined."""


@dataclass(frozen=True)
class Responses:
    """All responses of one stage in a group; lists have one entry per response."""

    keys: list[tuple[Any, ...]]
    """Task, item, sample, decoding seed, training seed."""
    cluster: NDArray[np.int64]
    verdicts: dict[str, Floats]
    """By name of MEASURED: 0, 1, or nan where undefined."""
    proxies: dict[str, Floats]
    """By name of PROXIES, nan where undefined."""
    greedy: bool

    @property
    def items(self) -> int:
        return len({key[:2] for key in self.keys})


def read_responses(cells: Sequence[Cell], clusters: dict[Any, int], *, digits: bool) -> Responses:
    """Read a stage's cells; numbers its clusters of items in `clusters`."""
    keys: list[tuple[Any, ...]] = []
    cluster: list[int] = []
    verdicts: dict[str, list[float]] = {name: [] for name in MEASURED}
    found: dict[str, list[float]] = {name: [] for name in PROXIES}
    for cell in cells:
        table = cell.table.drop_columns(["question", "reference", "images", "prompt_hash"])
        for row in table.to_pylist():
            keys.append((cell.task, row["item_id"], row["sample"], row["decoding_seed"], row["training_seed"]))
            name = row["group_id"] if row["group_id"] is not None else ("item", row["item_id"])
            cluster.append(clusters.setdefault((cell.task, name), len(clusters)))
            for verdict in MEASURED:
                verdicts[verdict].append(_number(row[verdict]))
            counted = proxies(row["response"] or "", row["caption"], row["reasoning"], digits=digits)
            for proxy in PROXIES:
                found[proxy].append(_number(row["tokens"] if proxy == "tokens" else counted[proxy]))
    return Responses(
        keys,
        np.array(cluster, np.int64),
        {name: np.array(values) for name, values in verdicts.items()},
        {name: np.array(values) for name, values in found.items()},
        all(cell.facts["protocol"].get("temperature") == 0 for cell in cells),
    )


def usable(pools: Sequence[Pool], *, digits: bool) -> Demonstrations:
    """Facts and proxies of the pools whose demonstrations mostly have the paper's form."""
    found = {}
    for pool in [pool for pool in pools if pool.has_form]:
        counted = [proxies(text, caption, reasoning, digits=digits) for text, caption, reasoning in pool.responses]
        values = {
            name: np.array([_number(row[name]) for row in counted]) if name != "tokens" else np.array([math.nan])
            for name in PROXIES
        }
        facts = {
            "rows": pool.rows,
            "n": len(pool.responses),
            "used_by": list(pool.used_by),
            "format": rate_of(pool.formed, len(pool.responses)),
        }
        found[pool.name] = (facts, values)
    return found


@dataclass(frozen=True)
class Work:
    """The resamples of one group, shared by everything measured in it."""

    weights: Floats
    """[resamples, clusters], how often each is drawn."""
    random: np.random.Generator
    stages: Mapping[str, Responses]
    pools: Demonstrations

    def rate(self, stage: Responses, name: str) -> dict[str, Any] | None:
        """A share of responses: Wilson where each item was asked once and stands alone, else a cluster bootstrap."""
        value = stage.verdicts[name]
        defined = ~np.isnan(value)
        if not defined.any():
            return None
        hits, n = int(value[defined].sum()), int(defined.sum())
        if len(np.unique(stage.cluster[defined])) == n:
            return rate_of(hits, n)
        low, high = self._bounds(value[defined], stage.cluster[defined])
        return {"value": _rounded(hits / n), "low": _rounded(low), "high": _rounded(high), "n": n}

    def _bounds(self, values: Floats, cluster: Any) -> tuple[float, float]:
        """95% interval of a mean over responses, clusters drawn together."""
        means = self._means(values, cluster)
        low, high = np.quantile(means, [0.025, 0.975])
        return float(low), float(high)

    def _means(self, values: Floats, cluster: Any) -> Floats:
        size = self.weights.shape[1]
        drawn = self.weights @ np.bincount(cluster, minlength=size).astype(np.float64)
        sums = self.weights @ np.bincount(cluster, weights=values, minlength=size)
        means: Floats = sums[drawn > 0] / drawn[drawn > 0]
        return means

    def flips(self, before: Responses, after: Responses, name: str) -> dict[str, Any] | None:
        """Verdicts that changed between two stages, on the same items, samples and seeds."""
        earlier = {key: index for index, key in enumerate(before.keys)}
        pairs = [(earlier[key], index) for index, key in enumerate(after.keys) if key in earlier]
        old, new = (np.array([pair[side] for pair in pairs], np.int64) for side in (0, 1))
        was, now, cluster = before.verdicts[name][old], after.verdicts[name][new], after.cluster[new]
        defined = ~np.isnan(was) & ~np.isnan(now)
        if not defined.any():
            return None
        was, now, cluster = was[defined], now[defined], cluster[defined]
        gained, lost = int(((was == 0) & (now == 1)).sum()), int(((was == 1) & (now == 0)).sum())
        low, high = self._bounds(now - was, cluster)
        alone = len(np.unique(cluster)) == len(cluster)
        return {
            "n": len(was),
            "gained": gained,
            "lost": lost,
            "kept_right": int(((was == 1) & (now == 1)).sum()),
            "kept_wrong": int(((was == 0) & (now == 0)).sum()),
            "net": {
                "value": _rounded((gained - lost) / len(was)),
                "low": _rounded(low),
                "high": _rounded(high),
                "p": mcnemar(gained, lost) if alone else None,
            },
            "by_chance": _flips_by_chance(before, name),
        }

    def proxy(self, name: str) -> dict[str, Any]:
        """One proxy in every stage and pool of the group, with distances, and a function for their changes."""
        values = {label: stage.proxies[name] for label, stage in self.stages.items()}
        shown = {pool: columns[name] for pool, (_, columns) in self.pools.items()}
        shown = {pool: column[~np.isnan(column)] for pool, column in shown.items()}
        shown = {pool: column for pool, column in shown.items() if len(column)}
        every = [column[~np.isnan(column)] for column in values.values()]
        every = [column for column in [*every, *shown.values()] if len(column)]
        bins = _bins(np.concatenate(every)) if every else None
        between = _Between(self, name, shown, support_of(every) if every else None)
        stages: dict[str, dict[str, Any] | None] = {}
        for label, stage in self.stages.items():
            defined = ~np.isnan(values[label])
            numbers = values[label][defined]
            stages[label] = None
            if len(numbers):
                low, high = self._bounds(numbers, stage.cluster[defined])
                interval = {"low": _rounded(low), "high": _rounded(high)}
                stages[label] = {**_described(numbers, bins), **interval, "distances": between.of(label)}
        return {
            "bins": None if bins is None else [float(edge) for edge in bins],
            "supervision": {pool: _described(column, bins) for pool, column in shown.items()},
            "stages": stages,
            "closer": between.changes,
        }


class _Between:
    """Distances of every stage to every pool in one proxy."""

    def __init__(self, work: Work, name: str, shown: Mapping[str, Floats], support: Floats | None) -> None:
        self.units = {pool: float(column.std()) for pool, column in shown.items()}
        self.found: dict[tuple[str, str], Distances] = {}
        self.chance: dict[tuple[str, str], Distances] = {}
        for pool, column in shown.items():
            assert support is not None
            bounds = edges(column)
            resampled = independent(column, support, bounds, work.random)
            for label, stage in work.stages.items():
                defined = ~np.isnan(stage.proxies[name])
                if defined.any():
                    numbers, cluster = stage.proxies[name][defined], stage.cluster[defined]
                    side = clustered(numbers, cluster, work.weights, support, bounds)
                    self.found[label, pool] = distances(side, resampled, support, bounds)
                    self.chance[label, pool] = self._null(column, resampled, cluster, support, bounds, work.random)

    def _null(
        self, column: Floats, resampled: Sample, cluster: Any, support: Floats, bounds: Floats, random: Any
    ) -> Distances:
        """Distances between two draws of the demonstrations, one as large as there are clusters of responses."""
        drawn = independent(column, support, bounds, random, n=len(np.unique(cluster)))
        return distances(drawn, resampled, support, bounds)

    def of(self, label: str) -> dict[str, Any]:
        return {pool: self._one(label, pool) for pool in self.units if (label, pool) in self.found}

    def _one(self, label: str, pool: str) -> dict[str, Any]:
        found, chance, unit = self.found[label, pool], self.chance[label, pool], self.units[pool]
        raw = _distance(found.wasserstein, found.wasserstein_R, chance.wasserstein_R)
        return {
            "wasserstein": raw,
            "scaled": {key: _rounded(value / unit) for key, value in raw.items()} if unit > 0 else None,
            "jensen_shannon": _distance(found.jensen_shannon, found.jensen_shannon_R, chance.jensen_shannon_R),
        }

    def changes(self, before: str, after: str) -> dict[str, Any]:
        """How much farther the later stage is; the same items and demonstrations are drawn for both."""
        found = {}
        for pool, unit in self.units.items():
            if (before, pool) in self.found and (after, pool) in self.found:
                old, new = self.found[before, pool], self.found[after, pool]
                found[pool] = {
                    "scaled": _change(
                        old.wasserstein / unit,
                        new.wasserstein / unit,
                        old.wasserstein_R / unit,
                        new.wasserstein_R / unit,
                    )
                    if unit > 0
                    else None,
                    "jensen_shannon": _change(
                        old.jensen_shannon, new.jensen_shannon, old.jensen_shannon_R, new.jensen_shannon_R
                    ),
                }
        return found


def _distance(value: float, resampled: Floats, by_chance: Floats) -> dict[str, Any]:
    low, high = centred(value, resampled, lowest=0.0)
    chance = float(np.quantile(by_chance, 0.95))
    return {"value": _rounded(value), "low": _rounded(low), "high": _rounded(high), "chance": _rounded(chance)}


def _change(before: float, after: float, before_R: Floats, after_R: Floats) -> dict[str, Any]:
    paired = min(len(before_R), len(after_R))  # differ only where a resample holds no value at all
    low, high = centred(after - before, after_R[:paired] - before_R[:paired])
    return {"value": _rounded(after - before), "low": _rounded(low), "high": _rounded(high)}


def _flips_by_chance(stage: Responses, name: str) -> float | None:
    """Share of verdicts that differ between two draws for the same item by the same checkpoint."""
    if stage.greedy:
        return 0.0
    draws: dict[tuple[Any, ...], list[float]] = {}
    for key, value in zip(stage.keys, stage.verdicts[name], strict=True):
        if not math.isnan(value):
            draws.setdefault((key[0], key[1], key[4]), []).append(value)
    differ = [
        2 * sum(own) * (len(own) - sum(own)) / (len(own) * (len(own) - 1)) for own in draws.values() if len(own) > 1
    ]
    return _rounded(sum(differ) / len(differ)) if differ else None


def _described(numbers: Floats, bins: Floats | None) -> dict[str, Any]:
    assert bins is not None
    shares = np.histogram(numbers, bins)[0] / len(numbers)
    return {
        "n": len(numbers),
        "mean": _rounded(float(numbers.mean())),
        "sd": _rounded(float(numbers.std())),
        "quantiles": [float(q) for q in np.quantile(numbers, [0.05, 0.25, 0.5, 0.75, 0.95], method="inverted_cdf")],
        "histogram": [_rounded(float(share)) for share in shares],
    }


def _bins(numbers: Floats) -> Floats:
    """Edges of equal bins over all numbers; one bin per number where they are few and whole."""
    low, high = float(numbers.min()), float(numbers.max())
    if high - low < _HISTOGRAM_BINS:
        return np.arange(math.floor(low), math.ceil(high) + 2) - 0.5
    return np.linspace(low, high, _HISTOGRAM_BINS + 1)


def rate_of(hits: int, n: int) -> dict[str, Any]:
    rate = wilson(hits, n)
    return {"value": _rounded(rate.value), "low": _rounded(rate.low), "high": _rounded(rate.high), "n": n}


def _number(value: float | bool | None) -> float:
    return math.nan if value is None else float(value)


def _rounded(value: float) -> float:
    return round(value, 6)
