"""Intervals and paired comparisons for rates measured on a fixed set of items.

Every rate gets a Wilson interval, every difference between two checkpoints a bootstrap interval and an exact McNemar
test over the same items: two checkpoints answer the same questions, so their scores are correlated and comparing two
separate intervals would waste most of the power. Needs numpy alone, so that prism's own process (no scipy there) and
the engines' environments share it. With several training runs of one recipe each item's difference is averaged over
the runs first, and the runs are held fixed: an interval says how far the result would move with other items, not with
other seeds; the spread over seeds is to be shown beside it, never hidden in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
RESAMPLES = 10_000


@dataclass(frozen=True)
class Rate:
    """A share of items, with its Wilson interval."""

    hits: int
    n: int
    """Items the rate is defined on; 0 makes value and bounds nan."""
    value: float
    """hits / n, in [0, 1]."""
    low: float
    high: float

    @property
    def margin(self) -> float:
        """Distance from the value to the farther bound: the interval is not symmetric near 0 and 1."""
        return max(self.value - self.low, self.high - self.value)


@dataclass(frozen=True)
class Difference:
    """Mean of a paired difference over items, with a bootstrap interval."""

    n: int
    """Items on which both sides are defined."""
    value: float
    """In [-1, 1]; above 0 where the first side is better. nan without items."""
    low: float
    high: float
    p: float
    """Exact two-sided McNemar p of "neither side is better" (1 without items on which the sides differ); nan over
    several runs, whose items are not independent."""

    @property
    def better(self) -> bool:
        """The whole interval lies above 0."""
        return self.low > 0

    @property
    def worse(self) -> bool:
        """The whole interval lies below 0."""
        return self.high < 0


def wilson(hits: int, n: int, confidence: float = CONFIDENCE) -> Rate:
    """Share of `hits` among `n` with its Wilson score interval (Wilson 1927; Brown, Cai and DasGupta 2001).

    Keeps its coverage where the textbook interval fails: small n, and rates near 0 or 1 such as the format rate.

    Raises:
        ValueError: hits is not in [0, n].
    """
    if not 0 <= hits <= n:
        raise ValueError(f"{hits} hits among {n} items")
    if n == 0:
        return Rate(0, 0, math.nan, math.nan, math.nan)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    value = hits / n
    centre = (value + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(value * (1 - value) / n + z * z / (4 * n * n))
    # At 0 and n the bound equals the value up to rounding; it must not lie past it.
    low = 0.0 if hits == 0 else centre - half
    high = 1.0 if hits == n else centre + half
    return Rate(hits, n, value, low, high)


def paired_difference(
    first: ArrayLike,
    second: ArrayLike,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Difference:
    """Mean of first minus second over items, with a percentile bootstrap over items.

    Args:
        first, second: [items] or [runs, items] scores of 0 and 1, nan where not defined (the pair is left out); the
            same items in the same order on both sides and in every run.
        seed: of the bootstrap; the same input and seed give the same interval.
        resamples: bootstrap samples.
        confidence: of the interval, in (0, 1).

    Raises:
        ValueError: the two sides do not have the same runs and items.
    """
    a, b = (np.atleast_2d(np.asarray(side, dtype=np.float64)) for side in (first, second))
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(f"items do not pair: {a.shape} against {b.shape}")
    difference = (a - b)[:, ~np.isnan(a - b).all(axis=0)]
    n = difference.shape[1]
    if n == 0:
        return Difference(0, math.nan, math.nan, math.nan, 1.0)
    by_item = np.nanmean(difference, axis=0)
    means = _bootstrap_means(by_item, resamples, np.random.default_rng(seed))
    tail = (1 - confidence) / 2
    bounds: NDArray[np.float64] = np.quantile(means, [tail, 1 - tail])
    single = len(difference) == 1
    return Difference(
        n=n,
        value=float(by_item.mean()),
        low=float(bounds[0]),
        high=float(bounds[1]),
        p=mcnemar(int((by_item > 0).sum()), int((by_item < 0).sum())) if single else math.nan,
    )


def mcnemar(wins: int, losses: int) -> float:
    """Exact two-sided p of McNemar's test: the sign test on the items that exactly one side got right.

    Args:
        wins: items only the first side got right.
        losses: items only the second side got right.
    """
    n, fewer = wins + losses, min(wins, losses)
    ways = tail = 1
    for k in range(1, fewer + 1):
        ways = ways * (n - k + 1) // k  # n over k
        tail += ways
    return min(1.0, 2 * tail / 2**n)  # integers up to the division, so nothing underflows


def _bootstrap_means(values: NDArray[np.float64], resamples: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Means of `resamples` bootstrap samples, [resamples].

    Scores of 0 and 1 leave few distinct differences (three in a single run). Drawing how often each distinct value
    occurs (a multinomial) has exactly the distribution of drawing items one by one, at a cost that does not grow with
    their number.
    """
    distinct, counts = np.unique(values, return_counts=True)
    drawn = random.multinomial(len(values), counts / len(values), size=resamples)
    return drawn @ distinct / len(values)
