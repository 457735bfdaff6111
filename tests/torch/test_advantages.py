"""Advantages: normalised over valid responses only, zero-mean, and silent where there is nothing to tell."""

from __future__ import annotations

import numpy as np
import pytest

from integrations.alignment.advantages import (
    RunningMargin,
    advantages,
    format_term,
    group_normalise,
    token_weights,
)

RNG = np.random.default_rng(0)


def test_valid_responses_are_normalised_and_others_left_alone() -> None:
    scores, valid = RNG.normal(size=(20, 8)), RNG.random((20, 8)) < 0.7
    normalised, signal = group_normalise(scores, valid, 0.0)
    for group in range(20):
        inside = normalised[group, valid[group]]
        if valid[group].sum() > 1:
            assert signal[group]
            assert abs(inside.mean()) < 1e-12
            assert inside.std() == pytest.approx(1)
        assert (normalised[group, ~valid[group]] == 0).all()


def test_an_invalid_response_changes_nothing_for_the_valid_ones() -> None:
    scores = RNG.normal(size=(1, 8))
    valid = np.ones((1, 8), bool)
    valid[0, 3] = False
    seven = np.delete(scores, 3, 1)
    with_invalid, _ = group_normalise(scores, valid, 0.0)
    alone, _ = group_normalise(seven, np.ones((1, 7), bool), 0.0)
    np.testing.assert_allclose(np.delete(with_invalid, 3, 1), alone)
    scores[0, 3] = -1e9
    np.testing.assert_array_equal(group_normalise(scores, valid, 0.0)[0], with_invalid)


def test_groups_without_spread_give_nothing() -> None:
    scores = np.array([[1.0, 1.0, 1.0, 1.0 + 1e-6], [0.0, 0.1, 0.2, 0.3], [5.0, -5.0, 5.0, -5.0]])
    valid = np.ones_like(scores, bool)
    normalised, signal = group_normalise(scores, valid, 0.5)
    assert signal.tolist() == [False, False, True]
    assert not normalised[:2].any()
    assert group_normalise(scores, valid, 0.0)[1].tolist() == [False, True, True]


def test_a_single_valid_response_has_nothing_to_be_compared_with() -> None:
    normalised, signal = group_normalise(np.array([[3.0, 1.0]]), np.array([[True, False]]), 0.0)
    assert not signal.any()
    assert not normalised.any()


def test_the_format_term_is_bounded_and_sums_to_zero() -> None:
    valid = RNG.random((200, 8)) < RNG.random((200, 1))
    term = format_term(valid, 1.5)
    assert np.abs(term).max() <= 1.5
    np.testing.assert_allclose(term.sum(1), 0, atol=1e-12)
    uniform = valid.all(1) | ~valid.any(1)
    assert uniform.any()
    assert not term[uniform].any()
    mixed = ~uniform
    assert (term[mixed][~valid[mixed]] < 0).all()
    assert (term[mixed][valid[mixed]] > 0).all()


def test_all_invalid_and_silent_groups_are_counted() -> None:
    valid = np.array([[True, True], [False, False], [True, True]])
    perception = np.array([[0.0, 1.0], [0.0, 9.0], [2.0, 2.0]])
    earned = advantages(perception, np.zeros((3, 2)), valid, floors=(0.0, 0.0), penalty=1.0)
    assert earned.all_invalid == 1
    assert earned.without_signal == 3
    assert not earned.empty
    assert advantages(np.zeros((3, 2)), np.zeros((3, 2)), valid, floors=(0, 0), penalty=1.0).empty


def test_credit_by_role_and_mixed() -> None:
    parts = {"tokens": 5, "boundary": 2, "alpha": 0.25}
    by_role = token_weights(1.0, -2.0, 0.5, credit="per_role", **parts)
    np.testing.assert_allclose(by_role, [1.0, 1.0, -2.5, -2.5, -2.5])
    mixed = token_weights(1.0, -2.0, 0.5, credit="mixed", **parts)
    np.testing.assert_allclose(mixed, 0.25 * 1 + 0.75 * -2 + 0.5)


def test_the_running_margin_sets_the_floor() -> None:
    margin = RunningMargin()
    assert margin.floors(0.1) == (0.0, 0.0)
    margin.update((2.0, -1.0))
    assert margin.floors(0.1) == (0.2, 0.0)
    margin.update((0.0, 9.0))
    assert margin.value == pytest.approx((1.8, 0.0))
