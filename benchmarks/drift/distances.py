"""How far two samples of numbers are apart, with intervals.

    Wasserstein      mean distance that mass must be moved, in the numbers' own unit; sees how far, not only how much
    Jensen-Shannon   of two histograms, square root of the divergence to base 2: a metric from 0 (equal) to 1 (apart)

Both need numpy alone. The distance of two finite samples of one distribution is never 0: `chance` says how large it
gets by the draw alone. Intervals are those of a bootstrap over clusters of items on one side and over demonstrations
on the other, centred on the estimate. In simulations they hold the true distance in 95 of 100 cases where it is half a
standard deviation or more, and in about 90 near 0, where the estimate itself is too large.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]

RESAMPLES = 500
SUPPORT = 256
"""Most distinct numbers kept in a bootstrap; more are rounded to quantiles of the whole, which moves a distance by far
less than its interval's width."""
BINS = 20
"""Bins of a histogram: ranges between quantiles of the demonstrations, so that each holds enough of them."""


def wasserstein(a: Floats, b: Floats) -> float:
    """1-Wasserstein distance of two samples, each [n], n > 0."""
    support = np.union1d(a, b)
    return float(_wasserstein(_counts(a, support)[None], _counts(b, support)[None], support)[0])


def jensen_shannon(p: Floats, q: Floats) -> Floats:
    """Distances of histograms along the last axis, [..., bins] counts or shares; each holds something."""
    p, q = (side / side.sum(-1, keepdims=True) for side in (p, q))
    middle = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = [np.where(side > 0, side * np.log2(side / middle), 0.0).sum(-1) for side in (p, q)]
    return np.sqrt(np.clip((parts[0] + parts[1]) / 2, 0.0, 1.0))


def edges(demonstrations: Floats) -> Floats:
    """Upper bounds of all bins but the last, for `histogram`; the first bin lies below every demonstration."""
    bounds = np.unique(np.quantile(demonstrations, np.linspace(0, 1, BINS + 1), method="inverted_cdf"))
    return np.concatenate([[np.nextafter(bounds[0], -np.inf)], bounds])


def support_of(samples: list[Floats]) -> Floats:
    """The numbers that a bootstrap over these samples is done on, ascending."""
    every = np.concatenate(samples)
    distinct = np.unique(every)
    if len(distinct) > SUPPORT:
        distinct = np.unique(np.quantile(every, np.linspace(0, 1, SUPPORT), method="inverted_cdf"))
    return distinct


@dataclass(frozen=True)
class Sample:
    """Numbers of one side, and how often each number and bin occurs in every resample."""

    values: Floats
    """[n]."""
    numbers: Floats
    """[resamples, support] counts."""
    bins: Floats
    """[resamples, bins] counts."""


def clustered(values: Floats, cluster: NDArray[np.int64], weights: Floats, support: Floats, bounds: Floats) -> Sample:
    """A sample whose clusters are drawn together.

    Args:
        values: [n].
        cluster: [n], which cluster each value belongs to.
        weights: [resamples, clusters], how often each cluster is drawn; the same for all samples that are to be
            compared in pairs.
        support, bounds: see `support_of` and `edges`.
    """
    numbers = np.zeros((weights.shape[1], len(support)), np.float32)
    np.add.at(numbers, (cluster, _nearest(values, support)), 1)
    bins = np.zeros((weights.shape[1], len(bounds) + 1), np.float32)
    np.add.at(bins, (cluster, np.searchsorted(bounds, values)), 1)
    narrow = weights.astype(np.float32)
    return Sample(values, (narrow @ numbers).astype(np.float64), (narrow @ bins).astype(np.float64))


def independent(values: Floats, support: Floats, bounds: Floats, random: np.random.Generator, n: int = 0) -> Sample:
    """A sample whose values are drawn one by one, `n` in each resample (as many as there are by default)."""
    where, counts = np.unique(_nearest(values, support), return_counts=True)
    drawn = random.multinomial(n or len(values), counts / len(values), size=RESAMPLES)
    numbers = np.zeros((RESAMPLES, len(support)))
    numbers[:, where] = drawn
    bins = np.zeros((RESAMPLES, len(bounds) + 1))
    np.add.at(bins.T, np.searchsorted(bounds, support[where]), drawn.T)
    return Sample(values, numbers, bins)


@dataclass(frozen=True)
class Distances:
    """Both distances of two samples: the estimates, and one per resample."""

    wasserstein: float
    jensen_shannon: float
    wasserstein_R: Floats
    jensen_shannon_R: Floats


def distances(a: Sample, b: Sample, support: Floats, bounds: Floats) -> Distances:
    """How far two samples on the same support and bins are apart."""
    drawn = (a.numbers.sum(1) > 0) & (b.numbers.sum(1) > 0)  # few clusters: a resample may hold none that has a value
    histograms = [np.bincount(np.searchsorted(bounds, side.values), minlength=len(bounds) + 1) for side in (a, b)]
    return Distances(
        wasserstein(a.values, b.values),
        float(jensen_shannon(histograms[0].astype(np.float64), histograms[1].astype(np.float64))),
        _wasserstein(a.numbers[drawn], b.numbers[drawn], support),
        jensen_shannon(a.bins[drawn], b.bins[drawn]),
    )


def centred(value: float, resampled: Floats, lowest: float = -np.inf) -> tuple[float, float]:
    """95% interval: the spread of the resamples, put around the estimate."""
    low, high = np.quantile(resampled, [0.025, 0.975]) - resampled.mean() + value
    return max(lowest, float(low)), float(high)


def _wasserstein(a: Floats, b: Floats, support: Floats) -> Floats:
    """[resamples] distances of counts [resamples, support]: the area between the two distribution functions."""
    apart = np.cumsum(a / a.sum(1, keepdims=True) - b / b.sum(1, keepdims=True), axis=1)[:, :-1]
    return np.abs(apart) @ np.diff(support)


def _counts(values: Floats, support: Floats) -> Floats:
    return np.bincount(np.searchsorted(support, values), minlength=len(support)).astype(np.float64)


def _nearest(values: Floats, support: Floats) -> NDArray[np.int64]:
    right = np.clip(np.searchsorted(support, values), 0, len(support) - 1)
    left = np.maximum(right - 1, 0)
    return np.where(values - support[left] < support[right] - values, left, right)
