"""The report's drawings. Every one is also said in words or in a table next to it.

Colour follows the arm and is never alone: line style, marker and a direct label tell the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from benchmarks.report.svg import INK, LINE, MUTED, STYLE, new_figure, to_svg
from benchmarks.report.text import number, visible
from benchmarks.report.training import EVALUATION, Attempt, History, noisy, smooth

WIDTH = 9.6
"""Of a drawing over the page's whole width, in inches of 72 units."""

_LOOKS: dict[str, tuple[str, Any, str]] = {
    "prism": ("#0072b2", "-", "o"),
    "baseline": ("#d55e00", (0, (5, 1.5)), "s"),
    "control": ("#009e73", (0, (6, 1.5, 1.5, 1.5)), "D"),
    "shared": ("#6b6b7b", (0, (1.5, 1.5)), "^"),
}
_MORE: Sequence[tuple[str, Any, str]] = (
    ("#cc79a7", "-", "v"),
    ("#b58900", (0, (5, 1.5)), "P"),
    ("#56b4e9", (0, (6, 1.5, 1.5, 1.5)), "X"),
)
_MARKS: dict[str, dict[str, Any]] = {
    "resumed": {"color": INK, "linestyle": ":", "linewidth": 1.4},
    "failed": {"color": INK, "linestyle": "-", "linewidth": 0.9},
    "early warning": {"color": INK, "linestyle": (0, (1, 1)), "linewidth": 2},
    "checkpoint kept": {"color": INK, "linestyle": (0, (4, 2)), "linewidth": 1.2},
}
"""Lines at steps where something happened, in the stage's colour, by the words of `training.MARKS`."""

HEADLINE_METRICS = {
    "loss": ("Loss", "nats per token"),
    "reward": ("Reward", "mean over responses"),
    "accuracy": ("Answers right", "share of responses"),
    "answer": ("Answers right", "share of responses"),
    "format": ("Valid form", "share of responses"),
    "valid": ("Valid form", "share of responses"),
    "entropy": ("Entropy", "nats per token"),
    "response_length": ("Response length", "tokens"),
    "response_tokens": ("Response length", "tokens"),
    "pair_accuracy_perception": ("Teacher told from policy: captions", "share of pairs"),
    "pair_accuracy_reasoning": ("Teacher told from policy: reasoning", "share of pairs"),
    "held_out_pair_accuracy_perception": ("Held out, captions", "share of pairs"),
    "held_out_pair_accuracy_reasoning": ("Held out, reasoning", "share of pairs"),
    "checkpoints_correct": ("Checkpoints, answers right", "share of items"),
    "checkpoints_perception": ("Checkpoints, captions right", "share of items"),
    "checkpoints_format": ("Checkpoints, valid form", "share of items"),
    "held_out_answer": ("Held out, answers right", "share of responses"),
    "discriminator_loss": ("Discriminator loss", "nats"),
    "right_over_wrong_within": ("Right ranked over wrong", "share of pairs of one prompt"),
    "grad_norm": ("Gradient norm", "L2"),
    "policy_gradient": ("Gradient norm", "L2"),
}
"""Metrics drawn at once, with their titles and units; all others wait behind a fold."""


@dataclass(frozen=True)
class Look:
    """How one series is drawn everywhere."""

    colour: str
    line: Any
    """As matplotlib takes it."""
    marker: str


def look_of(model: str, groups: Sequence[str]) -> Look:
    """The look of a stage or model by its arm.

    Args:
        groups: arms in order, so that those without a look of their own get one each.
    """
    group = model.split("/", 1)[0]
    if group in _LOOKS:
        return Look(*_LOOKS[group])
    others = [g for g in dict.fromkeys(groups) if g not in _LOOKS]
    return Look(*_MORE[others.index(group) % len(_MORE) if group in others else 0])


@dataclass(frozen=True)
class Interval:
    """One line of a forest plot, in points."""

    label: str
    value: float
    low: float
    high: float
    group: str
    """Decides the look."""
    total: bool = False
    """Drawn as a larger diamond: the headline."""
    core: bool = True
    """The scale is chosen for these; others that lie far away are shown by an arrow at the edge."""


def forest(name: str, title: str, rows: Sequence[Interval], axis: str) -> str:
    """Differences with their intervals around 0, one below the other."""
    groups = [row.group for row in rows]
    with mpl.rc_context(STYLE):
        figure = new_figure(WIDTH, 0.75 + 0.3 * len(rows))
        axes: Axes = figure.subplots()
        axes.axvline(0, color=INK, linewidth=1)
        low, high = _scale(rows)
        for y, row in enumerate(rows):
            _draw_interval(axes, y, row, look_of(row.group, groups), low, high)
        axes.set_yticks(range(len(rows)), [row.label for row in rows])
        axes.tick_params(axis="y", length=0, labelcolor=INK, labelsize=9.5)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(axis="x", color=LINE)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.set_xlim(low, high)
        axes.set_xlabel(axis)
        return to_svg(figure, name, title)


def _scale(rows: Sequence[Interval]) -> tuple[float, float]:
    """Bounds of the axis: around zero, wide enough for the core rows, and for others up to four times as far."""
    core = max([abs(bound) for row in rows if row.core for bound in (row.low, row.high)] + [1.0])
    near = [b for row in rows for b in (row.low, row.high) if max(abs(row.low), abs(row.high)) <= 4 * core]
    low, high = min([*near, -core]), max([*near, core])
    margin = 0.05 * (high - low)
    return low - margin, high + margin


def _draw_interval(axes: Axes, y: int, row: Interval, look: Look, low: float, high: float) -> None:
    text = "  ".join([number(row.value, "+.1f"), f"[{number(row.low, '+.1f')}, {number(row.high, '+.1f')}]"])
    axes.annotate(text, (1.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=9)
    if row.high < low or row.low > high:
        inset = 0.015 * (high - low)
        edge, arrow = (low + inset, "<") if row.high < low else (high - inset, ">")
        axes.plot([edge], [y], marker=arrow, color=look.colour, markersize=7, fillstyle="none")
        return
    axes.plot([row.low, row.high], [y, y], color=look.colour, linewidth=2, solid_capstyle="butt")
    marker = "D" if row.total else look.marker
    axes.plot([row.value], [y], marker=marker, color=look.colour, markersize=8 if row.total else 5.5)


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    """Small multiples, three in a row. Margins are fixed in inches: working them out takes longer than drawing."""
    columns = min(3, count)
    rows = -(-count // columns)
    height = 0.4 + 2.15 * rows
    figure = Figure(figsize=(WIDTH, height))
    figure.subplots_adjust(
        left=0.62 / WIDTH, right=1 - 0.5 / WIDTH, top=1 - 0.65 / height, bottom=0.5 / height, wspace=0.42, hspace=0.52
    )
    return figure, [figure.add_subplot(rows, columns, place + 1) for place in range(count)]


def _legend(figure: Figure, handles: Sequence[Line2D]) -> None:
    figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0, 1), ncols=min(6, len(handles)), handlelength=2.6
    )


@dataclass(frozen=True)
class Panel:
    """One quantity by stage."""

    title: str
    unit: str
    points: Mapping[str, tuple[float, float, float]]
    """By stage: value, low, high."""
    marks: Mapping[str, float]
    """Values to compare with, by name."""


def by_stage(name: str, title: str, panels: Sequence[Panel], chains: Mapping[str, Sequence[str]]) -> str:
    """A panel for each quantity with a line for each arm through its stages.

    Args:
        chains: stages by arm, in order. Stages of one kind (`sft`) stand above one another.
    """
    drawn = {stage for panel in panels for stage in panel.points}
    chains = {arm: [stage for stage in chain if stage in drawn] for arm, chain in chains.items()}
    places = _places(chains)
    with mpl.rc_context(STYLE):
        figure, grid = _panels(len(panels))
        for axes, panel in zip(grid, panels, strict=True):
            _draw_panel(axes, panel, chains, places)
        _legend(figure, [_handle(chain, list(chains)) for chain in chains])
        return to_svg(figure, name, title)


def _places(chains: Mapping[str, Sequence[str]]) -> list[str]:
    """Kinds of stages from left to right, so that every chain goes to the right."""
    kinds: list[str] = []
    for chain in sorted(chains.values(), key=len, reverse=True):
        at = 0
        for kind in (name.rsplit("/", 1)[-1] for name in chain):
            if kind not in kinds:
                kinds.insert(at, kind)
            at = kinds.index(kind) + 1
    return kinds


def _draw_panel(axes: Axes, panel: Panel, chains: Mapping[str, Sequence[str]], places: Sequence[str]) -> None:
    for index, (arm, chain) in enumerate(chains.items()):
        look = look_of(arm, list(chains))
        there = [name for name in chain if name in panel.points]
        shift = 0.07 * (index - (len(chains) - 1) / 2)
        x = [places.index(name.rsplit("/", 1)[-1]) + shift for name in there]
        y = [panel.points[name][0] for name in there]
        down = [max(0.0, panel.points[name][0] - panel.points[name][1]) for name in there]
        up = [max(0.0, panel.points[name][2] - panel.points[name][0]) for name in there]
        axes.errorbar(
            x, y, [down, up], color=look.colour, linestyle=look.line, marker=look.marker, markersize=5, elinewidth=1.2
        )
    for pool, value in panel.marks.items():
        axes.axhline(value, color=MUTED, linestyle=(0, (1, 2)), linewidth=1.1)
        axes.annotate(
            visible(pool), (1.01, value), xycoords=("axes fraction", "data"), va="center", fontsize=8, color=MUTED
        )
    axes.set_title(panel.title)
    axes.set_ylabel(panel.unit)
    axes.set_xticks(range(len(places)), [visible(place) for place in places])
    axes.set_xlim(-0.4, len(places) - 0.6)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.margins(y=0.12)


def curves(
    name: str, title: str, runs: Sequence[Mapping[str, History]], stages: Sequence[str], metrics: Sequence[str]
) -> str:
    """Small multiples, one per metric, with a line for each stage and run.

    One run shows every value faintly with its running mean on top; several runs show their running means only.
    """
    with mpl.rc_context(STYLE):
        figure, panels = _panels(len(metrics))
        for axes, metric in zip(panels, metrics, strict=True):
            _draw_metric(axes, runs, stages, metric)
        handles = [_handle(stage, stages) for stage in stages]
        marks = {mark for run in runs for stage in stages if stage in run for mark in run[stage].marks}
        handles += [Line2D([], [], label=mark, **look) for mark, look in _MARKS.items() if mark in marks]
        _legend(figure, handles)
        return to_svg(figure, name, title)


def _draw_metric(axes: Axes, runs: Sequence[Mapping[str, History]], stages: Sequence[str], metric: str) -> None:
    for stage in stages:
        look = look_of(stage, stages)
        for history in (run[stage] for run in runs if stage in run):
            steps, values = history.curve(metric)
            few = len(steps) <= 12
            if len(runs) == 1 and noisy(values):
                axes.plot(steps, values, color=look.colour, alpha=0.25, linewidth=0.8)
            axes.plot(
                steps,
                smooth(values) if noisy(values) else values,
                color=look.colour,
                linestyle=look.line,
                alpha=1 if len(runs) == 1 else 0.75,
                linewidth=1.6 if len(runs) == 1 else 1.2,
                marker=look.marker if few else "",
                markersize=4,
            )
            for mark, marked in history.marks.items():
                for step in marked:
                    axes.axvline(step, **_MARKS[mark] | {"color": look.colour})
    label, unit = HEADLINE_METRICS.get(metric, (metric.replace("_", " "), ""))
    axes.set_title(label)
    axes.set_ylabel(unit)
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.margins(x=0.02, y=0.08)
    if unit.startswith("share"):
        _widen(axes, 0.1)


def _widen(axes: Axes, span: float) -> None:
    """Let a share's axis cover at least this much, so that a wobble does not look like a leap."""
    low, high = axes.get_ylim()
    if high - low < span:
        middle = min(max((low + high) / 2, span / 2 - 0.005), 1.005 - span / 2)
        axes.set_ylim(middle - span / 2, middle + span / 2)


def _handle(stage: str, stages: Sequence[str]) -> Line2D:
    look = look_of(stage, stages)
    return Line2D(
        [], [], color=look.colour, linestyle=look.line, marker=look.marker, markersize=4, label=visible(stage)
    )


def timeline(name: str, title: str, found: Mapping[str, History]) -> str:
    """When each attempt of each stage ran, in minutes of the clock with idle hours cut out."""
    stages = [history for history in found.values() if history.attempts]
    clock = _Clock([(a.start, a.end) for history in stages for a in history.attempts])
    groups = [history.stage for history in stages]
    with mpl.rc_context(STYLE):
        figure = new_figure(WIDTH, 0.85 + 0.22 * len(stages))
        axes: Axes = figure.subplots()
        for y, history in enumerate(stages):
            look = look_of(history.stage.removeprefix(EVALUATION), groups)
            for attempt in history.attempts:
                _draw_attempt(axes, clock, y, attempt, look, history.stage.startswith(EVALUATION))
        for cut in clock.cuts:
            axes.axvline(cut, color=MUTED, linestyle=(0, (1, 2)), linewidth=1.2)
        axes.set_yticks(range(len(stages)), [history.stage for history in stages])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.set_ylim(len(stages) - 0.4, -0.6)
        axes.set_xlim(left=0)
        axes.grid(axis="x", color=LINE)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("minutes since the first start" + (", idle time cut out at dotted lines" if clock.cuts else ""))
        figure.legend(handles=_outcomes(stages), loc="outside upper left", ncols=3)
        return to_svg(figure, name, title)


def _draw_attempt(axes: Axes, clock: _Clock, y: int, attempt: Attempt, look: Look, evaluates: bool) -> None:
    start, end = clock.minutes(attempt.start), clock.minutes(attempt.end)
    axes.barh(y, max(end - start, 0.02), left=start, height=0.56, color=look.colour, alpha=0.45 if evaluates else 0.9)
    axes.plot([start], [y], marker="|", color=INK, markersize=9, markeredgewidth=1.4)
    if attempt.outcome == "failed":
        axes.plot([end], [y], marker="x", color=INK, markersize=7, markeredgewidth=2)
    elif attempt.outcome == "unfinished":
        axes.plot([end], [y], marker=">", color=INK, markersize=5, markerfacecolor="none")


def _outcomes(stages: Iterable[History]) -> list[Line2D]:
    outcomes = {attempt.outcome for history in stages for attempt in history.attempts}
    handles = [Line2D([], [], color=INK, marker="|", linestyle="", markersize=9, label="start of an attempt")]
    if "failed" in outcomes:
        handles.append(Line2D([], [], color=INK, marker="x", linestyle="", markersize=7, label="failed"))
    if "unfinished" in outcomes:
        label = "last word of an attempt that did not end"
        handles.append(Line2D([], [], color=INK, marker=">", linestyle="", markerfacecolor="none", label=label))
    return handles


class _Clock:
    """Minutes since the first start, with gaps in which nothing ran shortened.

    Args:
        spans: [n][2] starts and ends, in seconds.
    """

    def __init__(self, spans: Sequence[tuple[float, float]]) -> None:
        self._offsets: list[tuple[float, float]] = []
        self.cuts: list[float] = []
        """Minutes at which idle time was taken out."""
        until, taken = min(start for start, _ in spans), 0.0
        self._zero = until
        for start, end in sorted(spans):
            if start - until > 600:
                taken += start - until - 60
                self._offsets.append((until, taken))
                self.cuts.append((until + 30 - self._zero - (taken - (start - until - 60))) / 60)
            until = max(until, end)

    def minutes(self, time: float) -> float:
        taken = next((taken for since, taken in reversed(self._offsets) if time > since), 0.0)
        return (time - self._zero - taken) / 60
