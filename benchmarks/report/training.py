"""Training as the events tell it: every stage's curves, and when each attempt ran.

A stage that is resumed reports again the steps after its newest checkpoint; the later report of a step counts, and the
step where an attempt took over is marked. A stage that started over (attempt 1 again, because its inputs changed) is
told from there.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Any

from benchmarks.report.collect import Run

EVALUATION = "eval/"
"""Stages of this prefix evaluate; they have no curves."""


@dataclass
class Attempt:
    """One launch of a stage."""

    number: int
    start: float
    """Seconds since the epoch."""
    end: float
    """Of its last word."""
    outcome: str = "unfinished"
    """`done`, `failed` or `unfinished` (killed, or still running)."""
    first_step: int | None = None
    """The first step it reported."""


@dataclass
class History:
    """One stage of one run."""

    stage: str
    total: int = 0
    """Steps when finished, as last announced."""
    attempts: list[Attempt] = field(default_factory=list)
    metrics: dict[str, dict[int, float]] = field(default_factory=lambda: defaultdict(dict))
    """By name: value at step."""

    @property
    def resumes(self) -> list[int]:
        """First steps of the attempts after the first."""
        return [a.first_step for a in self.attempts[1:] if a.first_step is not None]

    @property
    def failures(self) -> int:
        return sum(attempt.outcome == "failed" for attempt in self.attempts)

    def curve(self, metric: str) -> tuple[list[int], list[float]]:
        """Steps and values, in step order."""
        points = sorted(self.metrics.get(metric, {}).items())
        return [step for step, _ in points], [value for _, value in points]


def histories(run: Run) -> dict[str, History]:
    """Every stage that has begun, by name, in the order of its first start."""
    found: dict[str, History] = {}
    for event in run.events:
        stage, time = event.get("stage"), _seconds(event.get("time"))
        if not isinstance(stage, str) or time is None:
            continue
        if event["event"] == "stage_started":
            _start(found, stage, event, time)
        elif stage in found and found[stage].attempts:
            _continue(found[stage], event, time)
    return found


def smooth(values: Sequence[float], share: float = 0.08) -> list[float]:
    """Centred running mean over a share of the curve, shorter at its ends; short curves stay as they are."""
    half = int(len(values) * share / 2)
    windows = (values[max(0, i - half) : i + half + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def noisy(values: Sequence[float]) -> bool:
    """Whether a curve goes up and down over several times its range, so that a running mean shows more than it."""
    if len(values) < 13:
        return False
    travelled = sum(abs(after - before) for before, after in pairwise(values))
    return travelled > 3 * (max(values) - min(values)) > 0


def _start(found: dict[str, History], stage: str, event: Mapping[str, Any], time: float) -> None:
    number = event.get("attempt") if isinstance(event.get("attempt"), int) else 1
    if stage not in found or number == 1:
        found[stage] = History(stage)
    history = found[stage]
    history.total = _whole(event.get("steps")) or history.total
    history.attempts.append(Attempt(int(number or 1), time, time))


def _continue(history: History, event: Mapping[str, Any], time: float) -> None:
    attempt = history.attempts[-1]
    kind = event["event"]
    if kind == "stage_failed":
        attempt.end, attempt.outcome = time, "failed"
    elif kind == "stage_done":
        attempt.end, attempt.outcome = time, "done"
    elif kind == "progress":
        attempt.end = time
        step = _whole(event.get("step"))
        metrics = event.get("metrics")
        if step is None or not isinstance(metrics, dict):
            return
        history.total = _whole(event.get("total")) or history.total
        if attempt.first_step is None:
            attempt.first_step = step
        for name, value in metrics.items():
            if isinstance(value, int | float) and math.isfinite(value):
                history.metrics[name][step] = float(value)


def _seconds(time: Any) -> float | None:
    try:
        return datetime.fromisoformat(time).timestamp()
    except (TypeError, ValueError):
        return None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
