"""What the held-out check makes of scores: right against wrong by role, on cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from integrations.alignment.data.segments import Segments
from integrations.alignment.game.contest import Scores
from integrations.alignment.game.heldout import (
    Judged,
    accuracies,
    join,
    judge_responses,
    separation_interval,
    separations,
)
from integrations.alignment.rollouts.rollout import Generation
from tests.torch.conftest import response


def judged(caption: list[int], answer: list[int], style: list[str] | None = None) -> Judged:
    right = np.array([caption, answer], bool)
    words = np.array([style or ["x"] * len(caption)] * 2)
    return Judged(right, words, np.ones_like(right), np.ones_like(right))


def scores(perception: list[float], reasoning: list[float], which: list[int], teacher: float = 0.0) -> Scores:
    teachers = np.full((2, max(which) + 1), teacher)
    return Scores(teachers, np.array([perception, reasoning]), np.array(which))


def test_each_role_is_measured_by_its_own_score_and_truth() -> None:
    found = separations(scores([4, 3, 2, 1], [4, 1, 2, 3], [0, 0, 1, 1]), judged([1, 1, 0, 0], [1, 0, 0, 1]), seed=0)
    assert found["right_over_wrong_perception"] == 1
    assert found["right_over_wrong_perception_pairs"] == 4
    assert "right_over_wrong_perception_within" not in found, "no prompt has a right and a wrong caption"
    assert found["right_over_wrong_reasoning"] == 1
    assert found["right_over_wrong_reasoning_pairs"] == 1, "among right captions only"
    assert found["right_over_wrong_reasoning_within"] == 1
    assert found["right_over_wrong_answer"] == 1
    assert found["right_over_wrong_answer_pairs"] == 4


def test_reasoning_is_not_blamed_for_its_caption() -> None:
    """A wrong caption with a low score of its reasoning says nothing of reasoning."""
    found = separations(scores([0] * 4, [5, 4, 4.5, 1], [0] * 4), judged([1, 1, 1, 0], [1, 0, 1, 0]), seed=0)
    assert found["right_over_wrong_reasoning"] == 1
    found = separations(scores([0] * 4, [3, 4, 3.5, 1], [0] * 4), judged([1, 1, 1, 0], [1, 0, 1, 0]), seed=0)
    assert found["right_over_wrong_reasoning"] == 0
    assert found["right_over_wrong_answer"] == 0.5


def test_style_is_told_from_content_by_pairs_of_one_style() -> None:
    """Scores that only know the style: above chance where style goes with content, at chance within a style."""
    style = ["plain", "plain", "plain", "chatty", "chatty", "chatty"]
    right = [1, 1, 0, 1, 0, 0]
    known = [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    found = separations(scores(known, known, [0, 1, 2, 3, 4, 5]), judged(right, right, style), seed=0)
    assert found["right_over_wrong_perception"] == pytest.approx(6 / 9)
    assert found["right_over_wrong_perception_same_style"] == 0.5


def test_nothing_is_said_where_all_are_right() -> None:
    found = separations(scores([1, 2], [1, 2], [0, 0]), judged([1, 1], [1, 1]), seed=0)
    assert found == {}


def test_the_interval_counts_prompts() -> None:
    """The same responses a hundred times over to each prompt say no more than once."""
    rng = np.random.default_rng(0)
    right = np.arange(40) % 2 == 0
    values = rng.normal(size=40) + right
    low, high = separation_interval(values, right, np.arange(40), seed=0)
    again = separation_interval(np.repeat(values, 5), np.repeat(right, 5), np.repeat(np.arange(40), 5), seed=0)
    assert low is not None
    assert high is not None
    assert 0.5 < low < 0.8 < high < 1
    assert again == pytest.approx((low, high), abs=1e-9)
    assert separation_interval(values, np.ones(40, bool), np.arange(40), seed=0) == (None, None)


def test_responses_are_judged_by_demonstration_and_reference_answer() -> None:
    rows = [{"id": "0", "response": response("3 4", "3+4=7", "7"), "answer": "7"}]
    texts = [
        response("I see 3 4", "3+4=7", "7"),
        response("3 4", "3+4=8", "8"),
        response("3 1", "3+1=4", "4"),
        "no blocks",
        response("3 4", "3+4=7", "7"),
    ]
    teacher = Segments(tuple(range(20)), 8, "7")
    valid = [Segments(tuple(range(size)), 8, "") for size in (21, 20, 26, 20, 20)]
    groups = [[Generation([], text, True) for text in texts]]
    found = judge_responses(rows, [teacher], groups, [[*valid[:3], None, valid[4]]])
    assert found.right_2R.tolist() == [[True, True, False, True], [True, False, False, True]]
    assert found.alike_2R.tolist() == [[False, True, True, True], [True] * 4]
    assert found.long_2R.tolist() == [[True] * 4, [True, True, False, True]]
    both = join([found, found])
    assert both.right_2R.shape == both.style_2R.shape == (2, 8)
    nothing = judge_responses(rows, [teacher], groups, [[None] * 5])
    assert nothing.right_2R.shape == (2, 0)
    assert join([nothing, found]).right_2R.shape == (2, 4)


def test_matched_pairs_leave_the_others_out() -> None:
    known = judged([1, 1, 1], [1, 1, 1])
    matched = Judged(known.right_2R, known.style_2R, np.array([[1, 0, 0], [0, 0, 0]], bool), known.long_2R)
    found = accuracies(scores([-1, 1, 1], [-1, -1, 1], [0, 1, 2]), matched)
    assert found["pair_accuracy_perception"] == pytest.approx(1 / 3)
    assert found["pair_accuracy_perception_same_style"] == 1
    assert "pair_accuracy_reasoning_same_style" not in found
    assert found["pair_accuracy_reasoning_same_length"] == pytest.approx(2 / 3)
    assert found["pair_accuracy_total"] == pytest.approx(0.5), "a tie counts a half"
