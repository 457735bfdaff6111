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
from benchmarks.report.text import visible

MARKS = {
    "stage_failed": "failed",
    "early_warning": "early warning",
    "alarm": "alarm",
    "checkpoint_selected": "checkpoint kept",
}
"""Events that are marked on a stage's curves, and the words for them."""
RESUMED = "resumed"
CHECKPOINTS = "checkpoints_"
"""Prefix of the rates of checkpoints evaluated while the stage trained."""
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
    last_step: int | None = None
    """The last step it reported."""


@dataclass
class History:
    """One stage of one run."""

    stage: str
    total: int = 0
    """Steps when finished, as last announced."""
    attempts: list[Attempt] = field(default_factory=list)
    metrics: dict[str, dict[int, float]] = field(default_factory=lambda: defaultdict(dict))
    """By name: value at step."""

    marks: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    """Steps at which something happened, by its name in MARKS."""

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
        stage = visible(stage)
        if event["event"] in ("stage_started", "evaluation_started"):
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
    if stage not in found or event.get("attempt") == 1:
        found[stage] = History(stage)
    history = found[stage]
    history.total = _whole(event.get("steps")) or history.total
    history.attempts.append(Attempt(len(history.attempts) + 1, time, time))


def _continue(history: History, event: Mapping[str, Any], time: float) -> None:
    attempt, kind = history.attempts[-1], event["event"]
    if kind in _OUTCOMES:
        attempt.end, attempt.outcome = time, _OUTCOMES[kind]
    step = _whole(event.get("step"))
    if kind == "stage_failed":
        step = attempt.last_step
    if step is None:
        return
    if kind in MARKS and step not in history.marks[MARKS[kind]]:
        history.marks[MARKS[kind]].append(step)
    elif kind == "intermediate_evaluation":
        _keep(history, step, event.get("scores"), CHECKPOINTS)
    elif kind == "progress":
        history.total = _whole(event.get("total")) or history.total
        if attempt.last_step is None and len(history.attempts) > 1:
            history.marks[RESUMED].append(step)
        attempt.end, attempt.last_step = time, step
        _keep(history, step, event.get("metrics"))


def _keep(history: History, step: int, metrics: Any, prefix: str = "") -> None:
    for name, value in metrics.items() if isinstance(metrics, dict) else ():
        if isinstance(value, int | float) and math.isfinite(value):
            history.metrics[visible(f"{prefix}{name}")][step] = float(value)


_OUTCOMES = {"stage_failed": "failed", "stage_done": "done", "evaluated": "done"}


def _seconds(time: Any) -> float | None:
    try:
        return datetime.fromisoformat(time).timestamp()
    except (TypeError, ValueError):
        return None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
