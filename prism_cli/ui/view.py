"""What a person sees of a run while it works: a live display on a terminal, plain lines in a pipe, nothing for --json.

A view only shows; what happened is kept in the run's events. Every method may be called from any thread.
"""

from __future__ import annotations

import collections
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.live import Live

SHOWN_FIRST = (
    "reward",
    "loss",
    "validation",
    "answer",
    "accuracy",
    "format",
    "valid",
    "margin_perception",
    "margin_reasoning",
)
"""Metrics in the order of preference for the one that fits on a line."""


class View(Protocol):
    """How the pipeline tells what it is doing."""

    def stage_started(self, name: str, total: int, attempt: int) -> None:
        """A stage is launched; `total` optimizer steps, `attempt` from 1, more after an interruption."""

    def stage_progress(
        self, name: str, step: int, total: int, metrics: Mapping[str, float], generated_tokens: int, phase: str
    ) -> None:
        """News of a running stage; `phase` e.g. `training`, steps count from the stage's beginning."""

    def stage_finished(self, name: str, status: str, seconds: float, note: str) -> None:
        """A stage came to an end: `status` e.g. done, unchanged, failed; `note` for people, may be empty."""

    def message(self, text: str) -> None:
        """A sentence for people."""

    def environment(self, name: str, text: str) -> None:
        """What is being done for an engine's environment."""

    def close(self) -> None:
        """Nothing more will come. Safe to call twice."""


def choose_view(json: bool) -> View:
    """The view that fits where the output goes: quiet for `--json`, live on a terminal, else plain lines."""
    if json:
        return QuietView()
    if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        return LiveView()
    return PlainView()


@dataclass
class _Running:
    """What is known of a running stage, and how fast it goes."""

    total: int
    attempt: int
    started: float
    step: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    generated_tokens: int = 0
    phase: str = "starting"
    marks: collections.deque[tuple[float, int]] = field(default_factory=lambda: collections.deque(maxlen=50))
    """Times and steps of the last reports in this phase; a resumed stage's first step is no work of this launch."""

    def update(
        self, now: float, step: int, total: int, metrics: Mapping[str, float], generated_tokens: int, phase: str
    ) -> None:
        if phase != self.phase or step < self.step:
            self.marks.clear()
        self.step, self.total, self.phase = step, total, phase
        self.metrics = {**self.metrics, **metrics}
        self.generated_tokens = max(self.generated_tokens, generated_tokens)
        if not self.marks or step > self.marks[-1][1]:
            self.marks.append((now, step))

    def rate(self) -> float | None:
        """Steps per second over the last reports, None until there are two."""
        if len(self.marks) < 2:
            return None
        (start, first), (end, last) = self.marks[0], self.marks[-1]
        return (last - first) / (end - start) if end > start else None

    def left(self) -> float | None:
        """Seconds to the last step, None while unknown."""
        rate = self.rate()
        return max(0, self.total - self.step) / rate if rate else None

    def figure(self) -> str:
        """The one metric that fits on a line, e.g. `loss 0.5312`."""
        return next(iter(self.figures()), "")

    def figures(self) -> list[str]:
        """The metrics, those of most interest first, e.g. `loss 0.5312`."""
        order = [*(m for m in SHOWN_FIRST if m in self.metrics), *(m for m in self.metrics if m not in SHOWN_FIRST)]
        return [f"{name} {self.metrics[name]:.4g}" for name in order]


def speed(rate: float | None) -> str:
    """`2.5 steps/s`, or `3.1 s/step` when slower than one a second."""
    if not rate:
        return ""
    return f"{rate:.1f} steps/s" if rate >= 1 else f"{1 / rate:.1f} s/step"


def duration(seconds: float | None) -> str:
    """`0:07`, `12:34` or `1:02:03`; empty for None."""
    if seconds is None:
        return ""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def _ended(name: str, status: str, seconds: float, note: str) -> str:
    took = f" in {duration(seconds)}" if seconds else ""
    return f"{name} {status}{took}{f': {note}' if note else ''}"


class LiveView:
    """One row per running stage, redrawn in place; what is finished stands above as ordinary lines.

    Args:
        console: where to draw; standard output by default.
    """

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console

        self._console = console or Console(highlight=False)
        self._lock = threading.RLock()
        self._running: dict[str, _Running] = {}
        self._environments: dict[str, str] = {}
        self._live: Live | None = None
        self._closed = False

    def stage_started(self, name: str, total: int, attempt: int) -> None:
        with self._lock:
            self._running[name] = _Running(total, attempt, time.monotonic())
        if attempt > 1:
            self._print(f"{name} goes on, attempt {attempt}", "dim")
        self._draw()

    def stage_progress(
        self, name: str, step: int, total: int, metrics: Mapping[str, float], generated_tokens: int, phase: str
    ) -> None:
        with self._lock:
            self._environments.clear()  # a stage that reports has its environment
            now = time.monotonic()
            stage = self._running.setdefault(name, _Running(total, 1, now))
            stage.update(now, step, total, metrics, generated_tokens, phase)

    def stage_finished(self, name: str, status: str, seconds: float, note: str) -> None:
        with self._lock:
            self._running.pop(name, None)
        self._print(_ended(name, status, seconds, note), {"done": "green", "failed": "red"}.get(status, "dim"))

    def message(self, text: str) -> None:
        self._print(text, "")

    def environment(self, name: str, text: str) -> None:
        with self._lock:
            self._environments[name] = text
        self._draw()

    def close(self) -> None:
        with self._lock:
            live, self._live, self._closed = self._live, None, True
            self._running.clear()
            self._environments.clear()
        if live is not None:  # outside the lock: stopping waits for the thread that draws, which takes it
            live.stop()

    def _print(self, text: str, style: str) -> None:
        from rich.text import Text

        with self._lock:
            live = self._live
        if live is not None:
            live.refresh()  # printing repeats the rows below the line as they were last drawn
        self._console.print(Text(text, style=style), soft_wrap=True)

    def _draw(self) -> None:
        from rich.live import Live

        with self._lock:
            if self._live is not None or self._closed:
                return
            self._live = Live(
                console=self._console,
                get_renderable=self.render,
                refresh_per_second=4,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()

    def render(self) -> Group:
        """The rows as they stand now."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 1), expand=True)
        for ratio, justify in (
            (4, "left"),
            (2, "left"),
            (None, "right"),
            (3, "left"),
            (None, "right"),
            (None, "right"),
        ):
            table.add_column(ratio=ratio, justify=justify, no_wrap=True, overflow="ellipsis")  # type: ignore[arg-type]
        with self._lock:
            for name, stage in self._running.items():
                begun = stage.step > 0
                table.add_row(
                    Text(name, style="bold"),
                    ProgressBar(total=max(1, stage.total), completed=stage.step, pulse=not begun),
                    f"{stage.step}/{stage.total}" if begun else "",
                    stage.figure() if begun and stage.phase == "training" else stage.phase,
                    speed(stage.rate()),
                    duration(stage.left()),
                )
            lines = [
                Text(f"{name}: {text}", no_wrap=True, overflow="ellipsis") for name, text in self._environments.items()
            ]
        return Group(*lines, table)


class PlainView:
    """Lines with the time in front: start and end of each stage, and now and then how far it is.

    Args:
        stream: where to write; standard output by default.
        every: least seconds between two lines of progress of one stage, or of one environment.
        clock: seconds; passes in tests as they say.
    """

    def __init__(
        self, stream: IO[str] | None = None, every: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = stream or sys.stdout
        self._every = every
        self._clock = clock
        self._lock = threading.RLock()
        self._running: dict[str, _Running] = {}
        self._said: dict[str, float] = {}

    def stage_started(self, name: str, total: int, attempt: int) -> None:
        with self._lock:
            self._running[name] = _Running(total, attempt, self._clock())
            self._said[name] = self._clock()
            again = f", attempt {attempt}" if attempt > 1 else ""
            steps = f": {total} steps" if total > 1 else ""
            self._line(f"{name} started{steps}{again}")

    def stage_progress(
        self, name: str, step: int, total: int, metrics: Mapping[str, float], generated_tokens: int, phase: str
    ) -> None:
        with self._lock:
            now = self._clock()
            stage = self._running.setdefault(name, _Running(total, 1, now))
            stage.update(now, step, total, metrics, generated_tokens, phase)
            if not self._due(name):
                return
            left = duration(stage.left())
            parts = [
                f"{step}/{total}",
                "" if phase == "training" else phase,
                *stage.figures()[:3],
                speed(stage.rate()),
                f"{left} left" if left else "",
            ]
            self._line(f"{name} " + ", ".join(part for part in parts if part))

    def stage_finished(self, name: str, status: str, seconds: float, note: str) -> None:
        with self._lock:
            self._running.pop(name, None)
            self._line(_ended(name, status, seconds, note))

    def message(self, text: str) -> None:
        with self._lock:
            for line in text.splitlines():
                self._line(line)

    def environment(self, name: str, text: str) -> None:
        with self._lock:
            if self._due(f"environment {name}"):
                self._line(f"environment {name}: {text}")

    def close(self) -> None:
        """Nothing is held back, so there is nothing to do."""

    def _due(self, what: str) -> bool:
        """Whether it is time for another line about this; notes that there is one if so."""
        now = self._clock()
        if what in self._said and now - self._said[what] < self._every:
            return False
        self._said[what] = now
        return True

    def _line(self, text: str) -> None:
        # A pipe's reader may go away; the run goes on all the same, its events are kept.
        with contextlib.suppress(OSError, ValueError):
            print(f"{time.strftime('%H:%M:%S')} {text}", file=self._stream, flush=True)


class QuietView:
    """Nothing on standard output; a failed stage is named on standard error."""

    def stage_started(self, name: str, total: int, attempt: int) -> None:
        """Not shown."""

    def stage_progress(
        self, name: str, step: int, total: int, metrics: Mapping[str, float], generated_tokens: int, phase: str
    ) -> None:
        """Not shown."""

    def stage_finished(self, name: str, status: str, seconds: float, note: str) -> None:
        if status == "failed":
            print(_ended(name, status, seconds, note), file=sys.stderr, flush=True)

    def message(self, text: str) -> None:
        """Not shown."""

    def environment(self, name: str, text: str) -> None:
        """Not shown."""

    def close(self) -> None:
        """Nothing is held."""
