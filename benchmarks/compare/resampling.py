"""Resampling over clusters of items, and over training seeds where there are enough: intervals and p values.

A cluster holds the items of one benchmark that share a figure or a problem; an item on its own is a cluster of one.
Three things are drawn, each with numpy alone and for all models at once:

    bootstrap    clusters with replacement; the weights are shared by all models, so a difference between two of them
                 is paired and changes its sign exactly when they are swapped
    sign flips   a cluster's difference keeps or changes its sign: the permutation test of "the two models do equally
                 well", conditional on the trained checkpoints
    seeds        with `MANY_SEEDS` or more training seeds, what another set of seeds would have given. Resampling five
                 values covers the truth in about 85 of 100 cases where 95 are promised, so the level of the seeds is
                 drawn from the t distribution of their mean, its variance freed of what the clusters explain already.

Clusters in one task of a benchmark are resampled apart from those in another or in both, so that every resample has
the tasks' own sizes.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]

RESAMPLES = 10_000
CONFIDENCE = 0.95
MANY_SEEDS = 5
"""From this many training seeds on, the spread over seeds is part of every interval and test."""
_BLOCK = 2**17
"""Weights made at a time: small enough for a core's cache."""
_ROWS = 64
_SMALL = 2**17
"""Multiplications in one matrix product, few enough for BLAS not to start threads: benchmarks have a thread each, and
on a busy machine threads of BLAS beside them wait for one another many times longer than they work."""


@dataclass(frozen=True)
class Layout:
    """Which items of a benchmark belong together."""

    clusters: Sequence[NDArray[np.int64]]
    """By task: [items] the cluster of each item, from 0."""
    strata: Sequence[int]
    """Number of clusters in each stratum; strata are contiguous, in order."""

    @property
    def count(self) -> int:
        return sum(self.strata)

    @property
    def clustered(self) -> bool:
        """Some cluster holds several items."""
        return self.count < sum(len(items) for items in self.clusters)


def layout(groups: Sequence[Sequence[str | None]]) -> Layout:
    """The layout of a benchmark's tasks.

    Args:
        groups: by task: [items] the group of each item, the same name in two tasks being the same group; None: the
            item is on its own.
    """
    members: dict[tuple[str, int, int], list[tuple[int, int]]] = {}
    for task, names in enumerate(groups):
        for index, name in enumerate(names):
            key = ("", task, index) if name is None else (name, -1, -1)
            members.setdefault(key, []).append((task, index))
    strata: dict[tuple[int, ...], list[tuple[str, int, int]]] = {}
    for key in sorted(members):
        strata.setdefault(tuple(sorted({task for task, _ in members[key]})), []).append(key)
    clusters: list[NDArray[np.int64]] = [np.zeros(len(names), dtype=np.int64) for names in groups]
    ordered = [key for touched in sorted(strata) for key in strata[touched]]
    for number, key in enumerate(ordered):
        for task, index in members[key]:
            clusters[task][index] = number
    return Layout(clusters, [len(strata[touched]) for touched in sorted(strata)])


@dataclass(frozen=True)
class Statistic:
    """One number, and what it was under resampling."""

    value: float
    """nan where it is defined on no item."""
    draws: Floats
    """[resamples] under the bootstrap over clusters, training seeds held fixed."""
    flips: Floats
    """[resamples] of a difference under sign flips; empty for a score."""
    seeds: Mapping[int | None, float]
    """Each training seed's own value."""
    noise: float
    """Variance between two training seeds' values that remains when training has no influence: the noise of their
    responses on the items."""
    spare: Floats = field(default_factory=lambda: np.zeros(0))
    """[resamples] standard t draws for the level of the seeds; empty below `MANY_SEEDS`."""

    @property
    def over_seeds(self) -> bool:
        return len(self.spare) > 0

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """Percentile interval."""
        draws = np.sort(self._draws())
        if math.isnan(self.value) or not len(draws):
            return math.nan, math.nan
        # Order statistics counted from both ends, so that the interval of the negative is the negative interval.
        cut = max(0, math.floor((1 - confidence) / 2 * (len(draws) + 1)) - 1)
        return float(draws[cut]), float(draws[-1 - cut])

    def p_value(self) -> float:
        """Two-sided p of "the value is 0", never below 1 / (resamples + 1)."""
        if math.isnan(self.value):
            return math.nan
        null = self._draws() - self.value if self.over_seeds else self.flips
        slack = 1e-6 * max(1e-3, abs(self.value))  # equal up to the rounding of sums is equal
        return float((1 + np.count_nonzero(np.abs(null) >= abs(self.value) - slack)) / (1 + len(null)))

    def _draws(self) -> Floats:
        draws = self.draws[~np.isnan(self.draws)]
        if not self.over_seeds:
            return draws
        values = np.array(list(self.seeds.values()))
        between = max(0.0, float(values.var(ddof=1)) - self.noise)
        moved = self.spare[: len(draws)] * math.sqrt(between / len(values))
        return np.concatenate([draws + moved, draws - moved])  # both, so that swapping two models flips every draw


def average(statistics: Sequence[Statistic]) -> Statistic:
    """The unweighted mean of statistics of different benchmarks, whose items are independent.

    Args:
        statistics: with the same training seeds and number of resamples.
    """
    n = len(statistics)
    return Statistic(
        value=sum(s.value for s in statistics) / n,
        draws=np.mean([s.draws for s in statistics], axis=0),
        flips=np.mean([s.flips for s in statistics], axis=0),
        seeds={seed: sum(s.seeds[seed] for s in statistics) / n for seed in statistics[0].seeds},
        noise=sum(s.noise for s in statistics) / n**2,
        spare=statistics[0].spare,
    )


@dataclass(frozen=True)
class Series:
    """Scores of one model, or differences between two, on the items of one benchmark."""

    seeds: Sequence[int | None]
    """Training seeds."""
    values: Sequence[Floats]
    """By task: [seeds, items]; nan where not defined."""
    difference: bool
    """Differences are tested, scores are not."""
    units: int = 1
    """Verdicts behind each mean over seeds. Multiplied by it, sums are whole numbers where every value is defined, and
    single precision adds them without rounding, in any order."""


def resample(
    where: Layout, series: Mapping[Hashable, Series], resamples: int, random: np.random.Generator
) -> dict[Hashable, Statistic]:
    """Every series' mean over tasks of its mean over items, under resampling.

    The same weights serve every series, so draws of two of them are paired.

    Args:
        where: the benchmark's clusters.
        series: any hashable name to its values.
        resamples: of the bootstrap, and of the sign flips.
        random: its state decides every draw.
    """
    parts = {name: _Parts.of(where, one) for name, one in series.items()}
    columns = _Columns()
    places = {
        name: [(columns.add(np.round(total * series[name].units, 6)), columns.add(count)) for total, count in part.sums]
        for name, part in parts.items()
    }
    totals = _bootstrap(columns.matrix(), where.strata, resamples, random)
    tested = [name for name, one in series.items() if one.difference]
    flips = _flips([parts[name].influence for name in tested], where.count, resamples, random)
    flipped = {name: flips[:, index] for index, name in enumerate(tested)}
    many = sorted({len(one.seeds) for one in series.values() if len(one.seeds) >= MANY_SEEDS})
    spare = {seeds: random.standard_t(seeds - 1, resamples) for seeds in many}
    result: dict[Hashable, Statistic] = {}
    for name, one in series.items():
        with np.errstate(invalid="ignore", divide="ignore"):
            ratios = [totals[:, n].astype(np.float64) / totals[:, d] / one.units for n, d in places[name]]
        result[name] = Statistic(
            value=parts[name].value,
            draws=np.mean(ratios, axis=0),
            flips=flipped.get(name, np.zeros(0, dtype=np.float32)),
            seeds=dict(zip(one.seeds, parts[name].by_seed, strict=True)),
            noise=parts[name].noise,
            spare=spare.get(len(one.seeds), np.zeros(0)),
        )
    return result


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted by Holm's step-down method, in the order given; an undefined one is no hypothesis."""
    order = sorted((p, index) for index, p in enumerate(p_values) if not math.isnan(p))
    adjusted, highest = [math.nan] * len(p_values), 0.0
    for rank, (p, index) in enumerate(order):
        highest = max(highest, min(1.0, p * (len(order) - rank)))
        adjusted[index] = highest
    return adjusted


@dataclass(frozen=True)
class _Parts:
    """A series, summed by cluster."""

    value: float
    by_seed: Sequence[float]
    sums: Sequence[tuple[Floats, Floats]]
    """By task: [clusters] sum of the values averaged over seeds, and number of items they are defined on."""
    influence: Floats
    """[clusters] what each adds to the value."""
    noise: float

    @classmethod
    def of(cls, where: Layout, series: Series) -> _Parts:
        sums = [
            _sums(ids, _mean(values), where.count) for ids, values in zip(where.clusters, series.values, strict=True)
        ]
        tasks = len(sums)
        with np.errstate(invalid="ignore", divide="ignore"):
            value = float(np.mean([round(total.sum(), 9) / count.sum() for total, count in sums]))
            influence = sum((total / count.sum() for total, count in sums), np.zeros(where.count)) / tasks
            of_seeds = [_of_seed(where, [v[index] for v in series.values]) for index in range(len(series.seeds))]
        rest = np.array([one for _, one in of_seeds])
        rest -= rest.mean(axis=0)
        spread = where.count / max(1, where.count - 1) / max(1, len(rest) - 1)
        return cls(value, [one for one, _ in of_seeds], sums, influence, float((rest**2).sum()) * spread)


def _of_seed(where: Layout, values: Sequence[Floats]) -> tuple[float, Floats]:
    """One training seed's value, and [clusters] how each cluster moves it."""
    sums = [_sums(ids, one, where.count) for ids, one in zip(where.clusters, values, strict=True)]
    means = [round(total.sum(), 9) / count.sum() for total, count in sums]  # what rounding leaves of 0 is 0
    moves = [(total - mean * count) / count.sum() for (total, count), mean in zip(sums, means, strict=True)]
    return float(np.mean(means)), np.mean(moves, axis=0)


def _mean(values: Floats) -> Floats:
    """[items] mean over the seeds that a value is defined for."""
    known = ~np.isnan(values)
    count = known.sum(axis=0)
    total = np.where(known, values, 0.0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _sums(clusters: NDArray[np.int64], values: Floats, count: int) -> tuple[Floats, Floats]:
    known = ~np.isnan(values)
    total = np.bincount(clusters, weights=np.where(known, values, 0.0), minlength=count)
    return total, np.bincount(clusters, weights=known, minlength=count).astype(np.float64)


class _Columns:
    """Columns of a matrix, each distinct one once: the number of items is the same for most series."""

    def __init__(self) -> None:
        self._places: dict[bytes, int] = {}
        self._columns: list[Floats] = []

    def add(self, column: Floats) -> int:
        place = self._places.setdefault(column.tobytes(), len(self._columns))
        if place == len(self._columns):
            self._columns.append(column)
        return place

    def matrix(self) -> NDArray[np.float32]:
        return np.stack(self._columns, axis=1).astype(np.float32)


def _bootstrap(
    columns: NDArray[np.float32], strata: Sequence[int], resamples: int, random: np.random.Generator
) -> NDArray[np.float32]:
    """[resamples, columns] sums over clusters drawn with replacement within each stratum."""
    totals = np.zeros((resamples, columns.shape[1]), dtype=np.float32)
    start = 0
    for size in strata:
        block = min(_ROWS, max(1, _BLOCK // size))
        for first in range(0, resamples, block):
            rows = min(block, resamples - first)
            kind = np.uint16 if size <= 2**16 else np.uint32
            drawn = random.integers(0, size, size=(rows, size), dtype=kind) + np.arange(rows)[:, None] * size
            weights = np.bincount(drawn.ravel(), minlength=rows * size).reshape(rows, size)
            totals[first : first + rows] += _product(weights.astype(np.float32), columns[start : start + size])
        start += size
    return totals


def _flips(
    influences: Sequence[Floats], clusters: int, resamples: int, random: np.random.Generator
) -> NDArray[np.float32]:
    """[resamples, series] sums of the influences with signs drawn anew."""
    if not influences:
        return np.zeros((resamples, 0), dtype=np.float32)
    columns = np.stack(influences, axis=1).astype(np.float32)
    result = np.zeros((resamples, columns.shape[1]), dtype=np.float32)
    width = -(-clusters // 8)
    block = min(_ROWS, max(1, _BLOCK // clusters))
    for first in range(0, resamples, block):
        rows = min(block, resamples - first)
        bits = np.unpackbits(np.frombuffer(random.bytes(rows * width), dtype=np.uint8).reshape(rows, width), axis=1)
        result[first : first + rows] = _product(bits[:, :clusters].astype(np.float32), columns)
    return 2 * result - columns.sum(axis=0)


def _product(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float32]:
    """left @ right as a sum of small products."""
    rows, inner = left.shape
    step = min(inner, max(1, _SMALL // (rows * right.shape[1])))
    whole = inner // step * step
    lefts = left[:, :whole].reshape(rows, -1, step).transpose(1, 0, 2)
    product: NDArray[np.float32] = np.matmul(lefts, right[:whole].reshape(-1, step, right.shape[1])).sum(axis=0)
    return product + left[:, whole:] @ right[whole:]
