"""From resampled statistics to scores and differences: which interval and which test, and what is counted beside them.

One response per item and independent items are what Wilson's interval and McNemar's exact test ask for; there they are
used. Everything else has the bootstrap's interval and the permutation's p, or from five training seeds on both from the
bootstrap over seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.compare.resampling import Layout, Series, Statistic
from benchmarks.compare.result import Difference, Score
from benchmarks.statistics import mcnemar, wilson


@dataclass(frozen=True)
class Estimate:
    """A statistic of one benchmark with the values it came from."""

    where: Layout
    series: Series
    statistic: Statistic

    @property
    def binary(self) -> bool:
        """One response to each of a set of independent items, from one checkpoint."""
        return self.series.units == 1 and len(self.series.values) == 1 and not self.where.clustered


def score_of(estimate: Estimate) -> Score:
    """A score with its interval."""
    known = [(~np.isnan(values)).any(axis=0) for values in estimate.series.values]
    n = sum(int(items.sum()) for items in known)
    low, high = estimate.statistic.interval()
    if estimate.binary:
        rate = wilson(int(np.nansum(estimate.series.values[0])), n)
        low, high = rate.low, rate.high
    return Score(
        value=estimate.statistic.value,
        low=low,
        high=high,
        n=n,
        clusters=_touched(estimate.where, known),
        method="wilson" if estimate.binary else "bootstrap",
        over=_over(estimate.statistic),
        seeds=estimate.statistic.seeds,
    )


def difference_of(estimate: Estimate) -> Difference:
    """A difference with its interval and test, not corrected yet."""
    by_item = [_over_seeds(values) for values in estimate.series.values]
    flat = np.concatenate(by_item)
    win, loss = int((flat > 0).sum()), int((flat < 0).sum())
    low, high = estimate.statistic.interval()
    return Difference(
        value=estimate.statistic.value,
        low=low,
        high=high,
        p=mcnemar(win, loss) if estimate.binary else estimate.statistic.p_value(),
        p_holm=math.nan,
        test="mcnemar" if estimate.binary else _test(estimate.statistic),
        win=win,
        loss=loss,
        tie=int((flat == 0).sum()),
        clusters=_touched(estimate.where, [~np.isnan(values) for values in by_item]),
        differing=_touched(estimate.where, [np.nan_to_num(values) != 0 for values in by_item]),
        over=_over(estimate.statistic),
        seeds=estimate.statistic.seeds,
    )


def macro_score(whole: Statistic, parts: Sequence[Estimate]) -> Score:
    """The macro-average's score; counts are sums over benchmarks."""
    scores = [score_of(part) for part in parts]
    low, high = whole.interval()
    n, clusters = sum(score.n for score in scores), sum(score.clusters for score in scores)
    return Score(whole.value, low, high, n, clusters, "bootstrap", _over(whole), whole.seeds)


def macro_difference(whole: Statistic, parts: Sequence[Estimate]) -> Difference:
    """The macro-average's difference; counts are sums over benchmarks. It is not in their Holm family."""
    differences = [difference_of(part) for part in parts]
    low, high = whole.interval()
    return Difference(
        value=whole.value,
        low=low,
        high=high,
        p=whole.p_value(),
        p_holm=math.nan,
        test=_test(whole),
        win=sum(d.win for d in differences),
        loss=sum(d.loss for d in differences),
        tie=sum(d.tie for d in differences),
        clusters=sum(d.clusters for d in differences),
        differing=sum(d.differing for d in differences),
        over=_over(whole),
        seeds=whole.seeds,
    )


def _test(statistic: Statistic) -> str:
    return "seeds" if statistic.over_seeds else "sign flips"


def _over(statistic: Statistic) -> str:
    return "items and training seeds" if statistic.over_seeds else "items"


def _over_seeds(values: NDArray[Any]) -> NDArray[np.float64]:
    """[items] mean over training seeds, nan where none defines it; what rounding leaves of an equality is 0."""
    known = ~np.isnan(values)
    count = known.sum(axis=0)
    mean = np.where(known, values, 0.0).sum(axis=0) / np.maximum(count, 1)
    return np.where(count > 0, np.where(np.abs(mean) < 1e-9, 0.0, mean), np.nan)


def _touched(where: Layout, chosen: Sequence[NDArray[Any]]) -> int:
    """Number of clusters with one of the chosen items.

    Args:
        chosen: by task: [items].
    """
    touched: NDArray[np.bool_] = np.zeros(where.count, dtype=bool)
    for ids, items in zip(where.clusters, chosen, strict=True):
        touched[ids[items]] = True
    return int(touched.sum())
