"""The game's control: the band holds, a fall is more than chance, gates close on style, the best state is chosen."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from integrations.alignment.game import control
from integrations.alignment.game.control import Control

ROLES = ("perception", "reasoning")


def check(accuracy: float = 0.8, half: float = 0.1, **more: float) -> dict[str, float]:
    found = {"held_out_valid": 0.95, "held_out_answer": 0.5} | {f"held_out_{name}": more[name] for name in more}
    for role in ROLES:
        found[f"held_out_pair_accuracy_{role}"] = accuracy
        found[f"held_out_pair_accuracy_{role}_low"] = accuracy - half
        found[f"held_out_pair_accuracy_{role}_high"] = accuracy + half
    return found


def settings(**change: Any) -> SimpleNamespace:
    given = {"stop_when": "never", "min_separation": 0.0, "min_valid_share": 0.5}
    return SimpleNamespace(**(given | change))


def test_the_scale_leaves_the_band_and_returns() -> None:
    scale = 1.0
    for _ in range(40):
        scale = control.next_scale(scale, 0.99, 0.55, 0.95)
    assert scale == control.SLOWEST
    for _ in range(40):
        scale = control.next_scale(scale, 0.8, 0.55, 0.95)
    assert scale == 1.0
    for _ in range(40):
        scale = control.next_scale(scale, 0.5, 0.55, 0.95)
    assert scale == control.FASTEST
    for _ in range(40):
        scale = control.next_scale(scale, 0.8, 0.55, 0.95)
    assert scale == 1.0


def test_without_a_band_the_scale_stays() -> None:
    for accuracy in (0.0, 0.5, 1.0):
        assert control.next_scale(1.0, accuracy, 0.0, 1.0) == 1.0


def test_the_band_holds_a_discriminator_that_learns_too_fast() -> None:
    """A judge whose skill grows with its own rate, and wanes as the policy follows, ends about the band's upper end."""

    def mean_accuracy(high: float) -> float:
        state, skill, seen = Control(), 0.0, []
        for _ in range(400):
            skill += 0.2 * state.scale - 0.05 * skill
            seen.append(0.5 + 0.5 * skill / (1 + skill))
            state.observe(round(1000 * seen[-1]), 1000, 0.0, high)
        return sum(seen[200:]) / 200

    assert mean_accuracy(1.0) == pytest.approx(0.9, abs=0.01)
    assert mean_accuracy(0.75) == pytest.approx(0.75, abs=0.05)


def test_a_step_without_pairs_changes_nothing() -> None:
    state = Control(wins=7.0, pairs=10.0, scale=0.5)
    state.observe(0, 0, 0.55, 0.95)
    assert (state.accuracy, state.scale) == (0.7, 0.5)
    assert Control().accuracy is None


def test_steps_with_few_pairs_weigh_little() -> None:
    state = Control()
    for wins, pairs in ((70, 100), (0, 2)):
        state.observe(wins, pairs, 0.55, 0.95)
    assert state.accuracy == pytest.approx(56 / 82)
    assert state.scale == 1.0


def test_a_fall_is_more_than_chance() -> None:
    first = check(answer=0.6, caption=0.9)
    assert control.fallen(first, check(answer=0.55, caption=0.85), 64) == []
    assert control.fallen(first, check(answer=0.3, caption=0.85), 64) == ["answer"]
    assert control.fallen(first, check(answer=0.55, caption=0.6, valid=0.1), 64) == ["caption", "valid"]
    assert control.fallen(first, check(answer=0.55, caption=0.85), 100_000) == ["answer", "caption"]
    assert control.fallen({}, first, 64) == []


def test_the_game_stops_for_what_it_is_told_to() -> None:
    first, equal, worse = check(0.9), check(0.52, 0.1), check(0.9, answer=0.1)
    assert control.reason_to_stop("never", first, equal, 64) == ""
    assert control.reason_to_stop("falling", first, equal, 64) == ""
    assert "no longer be told apart" in control.reason_to_stop("indistinguishable", first, equal, 64)
    assert "answer 50% -> 10%" in control.reason_to_stop("either", first, worse, 64)
    assert control.reason_to_stop("indistinguishable", first, worse, 64) == ""
    one_role = check(0.9) | {
        f"held_out_pair_accuracy_perception{end}": equal["held_out_pair_accuracy_perception" + end]
        for end in ("", "_low", "_high")
    }
    assert not control.indistinguishable(one_role)
    assert not control.indistinguishable({"held_out_valid": 0.0})


def test_gates_close_on_roles_that_see_style_only() -> None:
    found = check(right_over_wrong_perception=0.52, right_over_wrong_reasoning=0.83)
    assert control.gates(found, 0.0) == (False, False)
    assert control.gates(found, 0.6) == (True, False)
    assert control.gates(found, 0.9) == (True, True)
    assert control.gates(check(), 0.9) == (False, False), "without wrong responses nothing can be said"


def test_the_best_check_wins_most_and_has_not_fallen() -> None:
    state = Control()
    assert not state.check(0, check(0.55), settings(), 64), "the starting policy is no result of the stage"
    assert state.check(10, check(0.8), settings(), 64)
    assert not state.check(20, check(0.85), settings(), 64)
    assert state.check(30, check(0.7), settings(), 64)
    assert not state.check(40, check(0.5, answer=0.1), settings(), 64), "it wins, but its answers are gone"
    assert not state.check(50, check(0.5, valid=0.4), settings(), 64)
    assert not state.check(55, check(0.5, answer=0.4), settings(stop_when="falling"), 64), "in doubt it is not the best"
    assert not state.stopped
    gated = check(0.5, right_over_wrong_perception=0.5)
    assert not state.check(60, gated, settings(min_separation=0.6), 64)
    assert state.best_step == 30
    assert state.check(70, check(0.7), settings(), 64), "of equals the later"
    assert (state.best_step, state.last) == (70, check(0.7))


def test_a_restored_control_goes_on_as_it_would_have() -> None:
    straight, halves = Control(), Control()
    steps = [0.99, 0.98, 0.7, 0.5, 0.99]
    for index, accuracy in enumerate(steps):
        if index == 2:
            halves = Control(**halves.state())
        for state in (straight, halves):
            state.observe(round(64 * accuracy), 64, 0.55, 0.95)
            state.count({"groups": 4.0})
            state.check(index, check(accuracy), settings(stop_when="either"), 64)
    assert halves == straight
    assert straight.totals == {"groups": 20.0}
