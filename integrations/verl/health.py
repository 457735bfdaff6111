"""Alarms of an RLVR stage, in plain words, while it runs.

Each compares the mean over the last `WINDOW` steps with a bound or with the first `WINDOW` steps, and is told once. An
alarm stops nothing: it is for whoever can still lower a rate or stop a run that costs money.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

WINDOW = 10
"""Steps averaged over: single steps of a few dozen prompts go up and down by chance."""


@dataclass(frozen=True)
class Alarm:
    """What is wrong where `holds(first, last)`, given the means of the first and the last steps."""

    metric: str
    holds: Callable[[float, float], bool]
    words: str
    """With `{first}` and `{last}`."""


ALARMS = (
    Alarm(
        "reward",
        lambda first, last: last < first - 0.1,
        "reward fell from {first:.2f} to {last:.2f}; a lower learning_rate often helps",
    ),
    Alarm(
        "format",
        lambda first, last: last < min(0.9, first - 0.05),
        "responses lose the form: {first:.0%} had it, now {last:.0%}; lower learning_rate, or look at the responses",
    ),
    Alarm(
        "truncated",
        lambda first, last: last > 0.2 and last > first + 0.1,
        "{last:.0%} of the responses reach max_response_length ({first:.0%} at the start); raise it, or set "
        "overlong_share",
    ),
    Alarm(
        "entropy",
        lambda first, last: last < 0.25 * first,
        "entropy fell from {first:.3f} to {last:.3f}: the policy says nearly always the same, and there is little left "
        "to learn from; raise clip_high, or stop here",
    ),
    Alarm(
        "silent_groups",
        lambda first, last: last > 0.8,
        "in {last:.0%} of the groups all responses have the same reward, which teaches nothing; take prompts of "
        "another difficulty, or filter_groups",
    ),
    Alarm(
        "evicted_share",
        lambda first, last: last > 0.8,
        "{last:.0%} of the sampled groups are thrown away for equal answers; take prompts of another difficulty",
    ),
    Alarm(
        "lost",
        lambda first, last: last > 0.01,
        "{last:.1%} of the responses are lost to errors; look for `Error in _run_prompt` in the engine's log",
    ),
    Alarm(
        "rollout_gap",
        lambda first, last: last > 0.05,
        "rollout engine and trainer give probabilities {last:.3f} apart; the gradient is off by as much",
    ),
)


class Health:
    """Follows one stage's metrics, in the names shown to people plus `lost` and `evicted_share`."""

    def __init__(self) -> None:
        self._seen: dict[str, list[float]] = {}
        self._told: set[str] = set()

    def look(self, metrics: Mapping[str, float]) -> Sequence[str]:
        """Take in one step's metrics; what is wrong since then and was not told before."""
        news = []
        for alarm in ALARMS:
            if alarm.metric not in metrics:
                continue
            values = self._seen.setdefault(alarm.metric, [])
            values.append(metrics[alarm.metric])
            if len(values) < WINDOW or alarm.metric in self._told:
                continue
            first, last = sum(values[:WINDOW]) / WINDOW, sum(values[-WINDOW:]) / WINDOW
            if alarm.holds(first, last):
                self._told.add(alarm.metric)
                news.append(alarm.words.format(first=first, last=last))
        return news
