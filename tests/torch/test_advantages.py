"""Advantages: normalised over valid responses only, zero-mean, and silent where there is nothing to tell."""

from __future__ import annotations

import statistics

import numpy as np
import pytest

from integrations.alignment.game.advantages import (
    Rule,
    RunningMargin,
    advantages,
    format_term,
    group_normalise,
    normalise_with_lowest,
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
    earned = advantages(np.stack([perception, np.zeros((3, 2))]), valid, Rule())
    assert earned.all_invalid == 1
    assert earned.without_signal == 3
    assert earned.spreads == ([0.5, 0.0], [0.0, 0.0])
    assert not earned.empty
    assert advantages(np.zeros((2, 3, 2)), valid, Rule()).empty


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
    margin.update((None, 10.0))
    assert margin.value == pytest.approx((1.8, 1.0))
    first = RunningMargin()
    first.update((None, 3.0))
    assert first.value == (None, 3.0)
    assert first.floors(0.1) == pytest.approx((0.0, 0.3))


PAPER = Rule(format_penalty=1.5, invalid="lowest", score_clip=10.0)


def paper_group(invalid: int) -> tuple[np.ndarray, np.ndarray]:
    """Sixteen responses whose valid scores are spread evenly with a standard deviation of 0.3."""
    count = 16 - invalid
    scores = np.zeros((1, 16))
    if count > 1:
        even = np.arange(count) - (count - 1) / 2
        scores[0, :count] = even * 0.3 / even.std()
    return scores, np.arange(16)[None] < count


@pytest.mark.parametrize(("invalid", "about"), [(1, -4.4), (4, -3.1), (8, -2.4), (15, -1.75)])
def test_paper_mode_gives_the_papers_figures_for_invalid_responses(invalid: int, about: float) -> None:
    """As the paper's code works them out: the lowest score less one, a deviation of N - 1, and 1.5 off."""
    scores, valid = paper_group(invalid)
    earned = advantages(np.stack([scores, scores]), valid, PAPER)
    whole = 0.5 * earned.perception_GN + 0.5 * earned.reasoning_GN + earned.format_GN
    own = scores[valid].tolist()
    taken = [*own, *[min(own) - 1] * invalid]
    by_hand = (min(own) - 1 - statistics.mean(taken)) / statistics.stdev(taken) - 1.5
    np.testing.assert_allclose(whole[~valid], by_hand)
    assert by_hand == pytest.approx(about, abs=0.05)
    assert whole.sum() == pytest.approx(-1.5 * invalid), "the group's sum is not zero"


def test_paper_mode_pushes_an_all_invalid_group_and_its_best_valid_one_far_up() -> None:
    scores, valid = paper_group(16)
    earned = advantages(np.stack([scores, scores]), valid, PAPER)
    assert (earned.format_GN == -1.5).all()
    assert not earned.perception_GN.any()
    assert earned.all_invalid == 1
    scores, valid = paper_group(15)
    (only,) = advantages(np.stack([scores, scores]), valid, PAPER).perception_GN[valid]
    assert only == pytest.approx(3.75)


def test_an_invalid_response_drowns_the_others_in_paper_mode_only() -> None:
    scores, valid = paper_group(1)
    paper, own = (advantages(np.stack([scores, scores]), valid, rule).perception_GN for rule in (PAPER, Rule()))
    assert own[valid].std() == pytest.approx(1)
    assert paper[valid].std() == pytest.approx(0.62, abs=0.02)
    assert advantages(np.stack([scores, scores]), valid, Rule()).format_GN.sum() == pytest.approx(0)


def test_without_invalid_responses_both_ways_agree_but_for_the_deviation() -> None:
    scores, valid = RNG.normal(size=(5, 8)), np.ones((5, 8), bool)
    paper, own = normalise_with_lowest(scores, valid, 0.0)[0], group_normalise(scores, valid, 0.0)[0]
    np.testing.assert_allclose(paper, own * np.sqrt(7 / 8))


def test_the_mixed_reward_is_normalised_as_one() -> None:
    scores = np.stack([RNG.normal(size=(1, 8)) * 10, RNG.normal(size=(1, 8))])
    valid = np.ones((1, 8), bool)
    earned = advantages(scores, valid, Rule(alpha=0.25, normalise="mixed"))
    mixed = 0.25 * scores[0] + 0.75 * scores[1]
    np.testing.assert_allclose(earned.perception_GN, (mixed - mixed.mean()) / mixed.std())
    np.testing.assert_array_equal(earned.perception_GN, earned.reasoning_GN)
    by_role = advantages(scores, valid, Rule(alpha=0.25))
    assert not np.allclose(0.25 * by_role.perception_GN + 0.75 * by_role.reasoning_GN, earned.perception_GN)


def test_a_gated_role_gives_nothing_and_is_not_called_silent() -> None:
    scores, valid = RNG.normal(size=(2, 3, 8)), np.ones((3, 8), bool)
    earned = advantages(scores, valid, Rule(), gated=(True, False))
    assert not earned.perception_GN.any()
    np.testing.assert_array_equal(earned.reasoning_GN, advantages(scores, valid, Rule()).reasoning_GN)
    assert earned.without_signal == 0
    mixed = advantages(scores, valid, Rule(normalise="mixed"), gated=(True, False))
    np.testing.assert_allclose(mixed.perception_GN, earned.reasoning_GN)
    assert advantages(scores, valid, Rule(normalise="mixed"), gated=(True, True)).empty


def test_clipped_scores_are_equal_beyond_the_clip() -> None:
    scores, valid = np.array([[[-30.0, -20.0, 5.0, 6.0]]] * 2), np.ones((1, 4), bool)
    clipped = advantages(scores, valid, Rule(score_clip=10.0)).perception_GN[0]
    assert clipped[0] == clipped[1]
    free = advantages(scores, valid, Rule()).perception_GN[0]
    assert free[0] < free[1]
