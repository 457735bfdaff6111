"""Intervals and paired tests against known values, against brute force, and by simulated coverage."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.statistics import mcnemar, paired_difference, wilson


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [  # scipy.stats.binomtest(hits, n).proportion_ci(method="wilson")
        (15, 50, 0.1910355, 0.4375035),
        (629, 1000, 0.5986190, 0.6583937),
        (0, 10, 0.0, 0.2775328),
        (10, 10, 0.7224672, 1.0),
        (1, 1, 0.2065493, 1.0),
    ],
)
def test_wilson_known_values(hits, n, low, high):
    rate = wilson(hits, n)
    assert rate.value == hits / n
    assert (rate.low, rate.high) == pytest.approx((low, high), abs=1e-7)


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_rate_and_mirrors(case):
    hits, n = case
    rate, mirrored = wilson(hits, n), wilson(n - hits, n)
    assert 0 <= rate.low <= rate.value <= rate.high <= 1
    assert rate.low == pytest.approx(1 - mirrored.high, abs=1e-12)
    assert rate.margin >= (rate.high - rate.low) / 2 - 1e-12


def test_wilson_without_items_and_with_impossible_counts():
    assert math.isnan(wilson(0, 0).value)
    for hits, n in [(-1, 5), (6, 5)]:
        with pytest.raises(ValueError, match="hits"):
            wilson(hits, n)


@pytest.mark.parametrize("rate", [0.05, 0.6, 0.98])
def test_wilson_covers_the_truth_about_95_times_in_100(rate):
    draws = np.random.default_rng(1).binomial(400, rate, size=2000)
    inside = [(interval := wilson(int(hits), 400)).low <= rate <= interval.high for hits in draws]
    assert 0.93 <= np.mean(inside) <= 0.975


def test_mcnemar_known_values():
    assert mcnemar(0, 0) == 1
    assert mcnemar(5, 5) == 1
    assert mcnemar(1, 5) == 2 * 7 / 64
    assert mcnemar(10, 2) == mcnemar(2, 10) == 2 * (1 + 12 + 66) / 4096
    assert mcnemar(3000, 2800) == pytest.approx(0.008969436001193)  # scipy.stats.binomtest(3000, 5800).pvalue
    assert mcnemar(3000, 0) == 0  # far below the smallest float: no overflow, no error


def test_difference_on_known_items():
    a, b = [1, 1, 1, 0, 0, 1, 1, 0], [1, 0, 0, 0, 1, 0, 0, 0]
    difference = paired_difference(a, b)
    assert (difference.n, difference.value) == (8, 3 / 8)
    assert difference.p == mcnemar(4, 1)
    back = paired_difference(b, a)
    assert back.value == -difference.value
    assert (back.low, back.high) == pytest.approx((-difference.high, -difference.low), abs=0.03)


def test_difference_equals_drawing_items_one_by_one():
    generator = np.random.default_rng(3)
    a, b = generator.random(300) < 0.6, generator.random(300) < 0.5
    fast = paired_difference(a, b)
    difference = a.astype(float) - b
    drawn = difference[generator.integers(0, 300, size=(20_000, 300))].mean(axis=1)
    assert (fast.low, fast.high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.005)


def test_difference_repeats_with_its_seed():
    generator = np.random.default_rng(4)
    a, b = generator.random(200) < 0.6, generator.random(200) < 0.5
    assert paired_difference(a, b, seed=7) == paired_difference(a, b, seed=7)


def test_undefined_items_leave_pairs():
    difference = paired_difference([1, math.nan, 1, 0], [0, 1, math.nan, 0])
    assert (difference.n, difference.value) == (2, 0.5)
    nothing = paired_difference([math.nan], [1])
    assert nothing.n == 0
    assert math.isnan(nothing.value)
    assert not nothing.better
    assert not nothing.worse


def test_items_that_do_not_pair_are_refused():
    with pytest.raises(ValueError, match="pair"):
        paired_difference([1, 0], [1])
    with pytest.raises(ValueError, match="pair"):
        paired_difference([[1]], [[1], [0]])


def test_equal_sides_differ_by_nothing():
    same = paired_difference([1, 0, 1], [1, 0, 1])
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)
    assert not same.better
    assert not same.worse


def test_runs_are_averaged_item_by_item():
    nan = math.nan
    difference = paired_difference([[1, 1, nan, nan], [1, 0, 1, nan]], [[0, 0, 0, 1], [0, 0, 0, nan]])
    assert difference.n == 3  # the last item is defined on no side of any run
    assert difference.value == pytest.approx((1 + 0.5 + 1) / 3)
    assert math.isnan(difference.p)


def test_repeating_a_run_adds_no_certainty():
    generator = np.random.default_rng(6)
    a, b = generator.random(300) < 0.6, generator.random(300) < 0.5
    once, twice = paired_difference(a, b), paired_difference([a, a], [b, b])
    assert (twice.value, twice.low, twice.high) == pytest.approx((once.value, once.low, once.high))


def test_difference_covers_the_truth_about_95_times_in_100():
    generator = np.random.default_rng(5)
    inside = []
    for repetition in range(400):
        skill = generator.random(250)  # items differ in difficulty, so the two sides are correlated
        a, b = generator.random(250) < skill, generator.random(250) < skill**1.3
        interval = paired_difference(a, b, seed=repetition, resamples=1000)
        inside.append(interval.low <= 0.5 - 1 / 2.3 <= interval.high)
    assert 0.92 <= np.mean(inside) <= 0.98
