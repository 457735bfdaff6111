"""Alarms: each is told when its figure turns bad, once, and never on a healthy stage."""

from __future__ import annotations

import pytest

from integrations.verl.health import ALARMS, WINDOW, Health

HEALTHY = {
    "reward": 0.5,
    "format": 0.97,
    "truncated": 0.02,
    "entropy": 0.4,
    "silent_groups": 0.4,
    "evicted_share": 0.5,
    "lost": 0.0,
    "rollout_gap": 1e-3,
}
BAD = {
    "reward": (0.3, "reward fell from 0.50 to 0.30"),
    "format": (0.6, "97% had it, now 60%"),
    "truncated": (0.4, "40% of the responses"),
    "entropy": (0.05, "entropy fell from 0.400 to 0.050"),
    "silent_groups": (0.9, "90% of the groups"),
    "evicted_share": (0.95, "95% of the sampled groups"),
    "lost": (0.03, "3.0% of the responses"),
    "rollout_gap": (0.2, "0.200 apart"),
}


def test_a_healthy_stage_alarms_nobody() -> None:
    health = Health()
    assert [health.look(HEALTHY) for _ in range(5 * WINDOW)] == [[]] * 5 * WINDOW


@pytest.mark.parametrize("metric", [alarm.metric for alarm in ALARMS])
def test_each_figure_has_its_alarm_told_once(metric: str) -> None:
    value, _ = BAD[metric]
    health = Health()
    for _ in range(WINDOW):
        assert health.look(HEALTHY) == []
    told = [alarm for _ in range(3 * WINDOW) for alarm in health.look({**HEALTHY, metric: value})]
    assert len(told) == 1
    assert health.look({**HEALTHY, metric: value}) == []


@pytest.mark.parametrize("metric", [alarm.metric for alarm in ALARMS])
def test_the_words_have_the_figures(metric: str) -> None:
    value, words = BAD[metric]
    (alarm,) = [alarm for alarm in ALARMS if alarm.metric == metric]
    assert alarm.holds(HEALTHY[metric], value)
    assert words in alarm.words.format(first=HEALTHY[metric], last=value)


def test_a_single_bad_step_is_chance() -> None:
    health = Health()
    for _ in range(2 * WINDOW):
        health.look(HEALTHY)
    assert health.look({**HEALTHY, "reward": 0.0}) == []
