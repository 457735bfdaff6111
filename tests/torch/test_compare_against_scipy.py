"""The comparison's statistics against SciPy's, which this environment has and prism's own has not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from benchmarks.compare.estimates import Estimate, difference_of, score_of
from benchmarks.compare.resampling import Series, holm, layout, resample
from benchmarks.statistics import mcnemar, wilson


def estimate(values: np.ndarray, groups: list[str | None], difference: bool = True) -> Estimate:
    where = layout([groups])
    series = Series(range(len(values)), [values], difference, len(values))
    found = resample(where, {"it": series}, 20_000, np.random.default_rng(0))["it"]
    return Estimate(where, series, found)


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (1, 0), (7, 3), (30, 12), (200, 250)])
def test_mcnemar_is_the_exact_binomial_test(wins: int, losses: int) -> None:
    expected = stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert mcnemar(wins, losses) == pytest.approx(expected, rel=1e-9)


def test_the_permutation_test_over_items_and_groups() -> None:
    random = np.random.default_rng(1)
    values = random.choice([-1, -0.5, 0, 0.5, 1], p=[0.1, 0.2, 0.3, 0.2, 0.2], size=36)
    groups: list[str | None] = [f"g{index // 3}" for index in range(36)]
    sums = values.reshape(12, 3).sum(axis=1)
    expected = stats.permutation_test((sums,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    assert estimate(values[None], groups).statistic.p_value() == pytest.approx(expected, abs=0.015)


def test_the_percentile_bootstrap() -> None:
    values = np.random.default_rng(2).choice([-1.0, 0.0, 1.0], p=[0.2, 0.5, 0.3], size=150)
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(3)
    ).confidence_interval
    found = difference_of(estimate(values[None], [None] * 150))
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1.5 / 150)


def test_one_score_has_wilsons_interval() -> None:
    values = (np.arange(80) < 61).astype(float)
    expected = stats.binomtest(61, 80).proportion_ci(method="wilson")
    found = score_of(estimate(values[None], [None] * 80, difference=False))
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9)
    assert (wilson(61, 80).low, found.method) == (found.low, "wilson")


def test_many_seeds_on_endless_items_are_students_t() -> None:
    of_seeds = np.array([0.02, 0.07, -0.01, 0.05, 0.06, 0.03, 0.04])
    found = estimate(np.repeat(of_seeds[:, None], 30, axis=1), [None] * 30)
    whole = stats.ttest_1samp(of_seeds, 0)
    expected = whole.confidence_interval(0.95)
    width = expected.high - expected.low
    assert found.statistic.interval() == pytest.approx((expected.low, expected.high), abs=0.03 * width)
    assert found.statistic.p_value() == pytest.approx(whole.pvalue, abs=0.003)


def test_holm_rejects_what_its_definition_rejects() -> None:
    p_values = [0.011, 0.02, 0.6, 0.004, 0.012]
    ordered = sorted(p_values)
    rejected = 0
    while rejected < len(ordered) and ordered[rejected] <= 0.05 / (len(ordered) - rejected):
        rejected += 1
    assert sum(p <= 0.05 for p in holm(p_values)) == rejected
