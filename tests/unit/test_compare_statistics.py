"""The comparison's resampling against exact enumeration, and the properties that hold for every input."""

import importlib.util
import itertools
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.compare.estimates import Estimate, difference_of
from benchmarks.compare.resampling import MANY_SEEDS, Series, Statistic, average, holm, layout, resample

CAMPAIGN = Path(__file__).resolve().parents[1] / "campaign" / "coverage.py"


def statistic(values, groups=None, seeds=1, resamples=20_000, seed=0, units=1):
    """Of differences on one task: values [items], or [seeds][items]."""
    rows = np.atleast_2d(np.array(values, dtype=float))
    where = layout([groups or [None] * rows.shape[1]])
    series = Series(range(len(rows)), [rows], True, units)
    found = resample(where, {"d": series}, resamples, np.random.default_rng(seed))["d"]
    return Estimate(where, series, found)


def every_resample(sums, sizes):
    """Values of all equally likely bootstrap resamples of clusters."""
    picks = itertools.product(range(len(sums)), repeat=len(sums))
    return np.array([sum(sums[i] for i in pick) / sum(sizes[i] for i in pick) for pick in picks])


@pytest.mark.parametrize(
    ("values", "groups", "sums", "sizes"),
    [
        ([1, -1, 0, 1, 1], None, [1, -1, 0, 1, 1], [1] * 5),
        ([1, 1, 0, -1, 1, 1, 0], ["a", "a", "b", "b", "b", None, "c"], [2, 0, 1, 0], [2, 3, 1, 1]),
    ],
)
def test_the_bootstrap_is_that_of_all_resamples(values, groups, sums, sizes):
    draws = statistic(values, groups).statistic.draws
    exact = every_resample(sums, sizes)
    for bound in np.unique(exact):
        assert np.mean(draws <= bound + 1e-9) == pytest.approx(np.mean(exact <= bound + 1e-9), abs=0.015)


def test_the_permutation_is_that_of_all_signs():
    values, groups = [0.5, 1, 1, -0.25, 0.75, 0, 1, 0.25, -1], ["a", "a", "b", "b", "c", "d", "e", "f", "g"]
    sums = np.array([1.5, 0.75, 0.75, 0, 1, 0.25, -1])
    signs = np.array(list(itertools.product([-1, 1], repeat=7)))
    exact = np.mean(np.abs(signs @ sums) >= abs(sums.sum()) - 1e-9)
    assert statistic(values, groups, units=4).statistic.p_value() == pytest.approx(exact, abs=0.012)


def test_a_p_value_is_never_zero():
    assert statistic([1] * 40, resamples=999).statistic.p_value() == 1 / 1000


def test_swapped_models_flip_the_sign_exactly():
    @settings(max_examples=60, deadline=None)
    @given(
        st.integers(1, MANY_SEEDS + 1).flatmap(
            lambda seeds: st.lists(
                st.lists(st.integers(-3, 3), min_size=seeds, max_size=seeds), min_size=2, max_size=12
            )
        ),
        st.integers(1, 4),
        st.integers(0, 2**32),
    )
    def check(values, size, seed):
        rows = np.array(values).T / 3
        groups = [f"g{index // size}" for index in range(rows.shape[1])]
        one, other = (statistic(r, groups, resamples=200, seed=seed, units=3 * len(rows)) for r in (rows, -rows))
        first, second = difference_of(one), difference_of(other)
        assert (first.value, first.low, first.high) == (-second.value, -second.high, -second.low)
        assert first.p == second.p
        assert (first.win, first.loss, first.tie) == (second.loss, second.win, second.tie)

    check()


def test_a_group_counts_as_one_observation():
    values = [1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1, 0, 0, 0, 0]
    alone, grouped = statistic(values), statistic(values, [f"g{i // 4}" for i in range(16)])
    assert np.std(grouped.statistic.draws) == pytest.approx(2 * np.std(alone.statistic.draws), rel=0.05)
    assert difference_of(alone).test == "mcnemar"
    assert difference_of(grouped).test == "sign flips"
    assert difference_of(grouped).clusters == 4


def test_items_of_two_tasks_in_one_group_are_drawn_together():
    where = layout([["a", "b", None], ["b", "c", None]])
    assert where.strata == [2, 1, 2]  # only in the first task, in both, only in the second
    assert where.clusters[0][1] == where.clusters[1][0]
    assert sorted({*where.clusters[0], *where.clusters[1]}) == [0, 1, 2, 3, 4]
    assert where.clustered


def test_every_resample_has_the_tasks_own_sizes():
    where = layout([[None] * 2, [None] * 3])
    series = Series([0], [np.array([[1.0, 1.0]]), np.array([[0.0, 0.0, 0.0]])], True)
    draws = resample(where, {"d": series}, 500, np.random.default_rng(0))["d"].draws
    assert set(draws) == {0.5}


def test_with_many_seeds_the_interval_is_that_of_their_mean():
    of_seeds = np.array([0.00, 0.04, 0.10, 0.02, 0.09])
    found = statistic(np.repeat(of_seeds[:, None], 50, axis=1), units=100, resamples=40_000)
    half = 2.7764 * of_seeds.std(ddof=1) / math.sqrt(5)  # Student's t with 4 degrees of freedom, 97.5%
    low, high = found.statistic.interval()
    assert (low, high) == pytest.approx((0.05 - half, 0.05 + half), abs=0.04 * half)
    assert found.statistic.p_value() == pytest.approx(0.0666, abs=0.005)  # scipy.stats.ttest_1samp(of_seeds, 0)
    assert difference_of(found).over == "items and training seeds"


def test_seeds_that_differ_by_the_noise_of_responses_alone_add_little():
    random = np.random.default_rng(4)
    values = random.integers(-1, 2, size=(6, 4000)).astype(float)
    found = statistic(values, units=6, resamples=4000).statistic
    expected = math.sqrt(2 / 3 / 6 / 4000)
    low, high = found.interval()
    assert 0.9 * 2 * 1.96 * expected < high - low < 1.6 * 2 * 1.96 * expected


def test_few_seeds_are_held_fixed():
    repeated = statistic([[1, 0, -1, 1]] * 3, units=3)
    assert repeated.statistic.interval() == statistic([1, 0, -1, 1]).statistic.interval()
    assert difference_of(repeated).over == "items"
    assert difference_of(repeated).test == "sign flips"


def test_what_is_not_defined_is_left_out():
    nan = math.nan
    found = statistic([[1, nan, 0, nan], [0, nan, nan, 1]], units=2)
    assert found.statistic.value == pytest.approx((0.5 + 0 + 1) / 3)
    assert difference_of(found).n == 3
    nothing = statistic([nan, nan]).statistic
    assert math.isnan(nothing.value)
    assert math.isnan(nothing.p_value())
    assert all(map(math.isnan, nothing.interval()))


def test_the_average_of_benchmarks_is_unweighted():
    def one(value, draws):
        return Statistic(value, np.array(draws), np.array(draws), {0: value}, 4.0)

    whole = average([one(0.2, [0.1, 0.3]), one(0.4, [0.5, 0.3])])
    assert whole.value == pytest.approx(0.3)
    assert list(whole.draws) == pytest.approx([0.3, 0.3])
    assert whole.seeds == {0: pytest.approx(0.3)}
    assert whole.noise == 2.0


def test_holm():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # R: p.adjust(p, "holm")
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
    kept = holm([0.02, math.nan, 0.5])
    assert kept[0] == pytest.approx(0.04)
    assert math.isnan(kept[1])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_holm_is_ordered_and_between_p_and_bonferroni(p_values):
    adjusted = holm(p_values)
    assert all(p <= q <= min(1, p * len(p_values)) + 1e-12 for p, q in zip(p_values, adjusted, strict=True))
    ranked = [q for _, q in sorted(zip(p_values, adjusted, strict=True))]
    assert ranked == sorted(ranked)


@pytest.fixture(scope="module")
def campaign():
    spec = importlib.util.spec_from_file_location("coverage_campaign", CAMPAIGN)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # where dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


SMALL = {"items": 120, "benchmarks": 3}


@pytest.mark.parametrize("options", [{}, {"group": 5}, {"group": 3, "seeds": 5, "spread": 0.04}])
def test_intervals_hold_the_truth_and_nulls_are_kept(campaign, options):
    rates = campaign.run(campaign.Case("small", **SMALL, **options), repetitions=100, resamples=300)
    assert campaign.problems(rates, single=True) == []


def test_the_simulation_notices_groups_taken_for_independent_items(campaign, monkeypatch):
    def ungrouped(where, *rest):
        return resample(layout([[None] * len(items) for items in where.clusters]), *rest)

    monkeypatch.setattr(campaign, "resample", ungrouped)
    rates = campaign.run(campaign.Case("small", group=20, **SMALL), repetitions=100, resamples=300)
    assert any("coverage" in problem for problem in campaign.problems(rates, single=True))
