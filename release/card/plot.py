"""The card's drawing: scores of every checkpoint with intervals, and differences from the baseline beside them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from release.card.results import WORDS, Line, lines, ordered, pair_of, protocol_name, row_of, score_of
from release.card.text import interval, plain, points
from release.facts import Facts

INK, MUTED, GRID = "#1f2430", "#6b7280", "#e5e7eb"
_OWN, _BASELINE = "#0072b2", "#d55e00"
_KNOWN = {"control": ("#009e73", "D"), "shared": ("#9aa1ad", "^")}
_OTHERS = (("#56b4e9", "v"), ("#cc79a7", "P"), ("#b58900", "X"), ("#7a5195", "<"))
_WIDTH = 10.0
"""Inches."""
_ROW = 0.46
_MOST = 4
"""Models drawn; more could not be told apart."""
_LONGEST_NAME = 22
"""Letters of a benchmark's name that fit the margin."""
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": INK,
    "savefig.dpi": 150,
    "text.parse_math": False,  # a name may hold dollars
}


@dataclass(frozen=True)
class _Look:
    label: str
    title: str
    colour: str
    marker: str


def scores(facts: Facts) -> bytes | None:
    """A PNG; equal facts give equal bytes. None without an evaluation."""
    if facts.evaluation is None:
        return None
    rows = [
        (comparison, line)
        for comparison in ordered(facts.evaluation)
        for line in lines(comparison, pair_of(comparison, facts.stage))
        if line.metric != "format"
    ]
    looks = _looks(facts)
    with mpl.rc_context():
        mpl.rcdefaults()  # whatever a user's matplotlibrc says
        mpl.rcParams.update(STYLE)
        figure = Figure(figsize=(_WIDTH, 1.45 + _ROW * len(rows)))
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.5, 1))
        _scores(left, rows, looks)
        _differences(right, rows, facts, looks)
        _frame(figure, (left, right), rows, looks)
        stream = io.BytesIO()
        figure.savefig(stream, format="png", facecolor="white", metadata={"Software": None})
    return stream.getvalue()


def _looks(facts: Facts) -> list[_Look]:
    """The compared pair first, then as many others of the chain and of other arms as can be told apart."""
    assert facts.evaluation is not None
    comparison = ordered(facts.evaluation)[0]
    pair = pair_of(comparison, facts.stage)
    main = [pair.first["label"]] + ([pair.second["label"]] if pair.second else [])
    ends = [names[-1] for names in facts.arms.values()]
    before = [stage.name for stage in facts.chain if stage.kind in ("sft", "align")][-2:]
    others = [label for label in dict.fromkeys([*ends, *before]) if label not in main and row_of(comparison, label)]
    titles = facts.evaluation.titles
    found = [_Look(main[0], titles[main[0]], _OWN, "o")]
    found += [_Look(label, titles[label], _BASELINE, "s") for label in main[1:]]
    for place, label in enumerate(others[: _MOST - len(found)]):
        found.append(_Look(label, titles[label], *_KNOWN.get(label.split("/", 1)[0], _OTHERS[place])))
    return found


def _scores(axes: Axes, rows: Sequence[tuple[Any, Line]], looks: Sequence[_Look]) -> None:
    """Points of all models in a row, each a little lower than the one before, so that intervals do not overlap."""
    step = 0.62 / max(len(looks), 1)
    for y, (comparison, line) in enumerate(rows):
        for place, look in enumerate(looks):
            row = row_of(comparison, look.label)
            score = score_of(row, line.benchmark, line.metric) if row else None
            if score is not None:
                at = y - 0.31 + step * (place + 0.5)
                low, high = (100 * bound for bound in score["ci"])
                axes.plot([low, high], [at, at], color=look.colour, linewidth=1.6, solid_capstyle="butt")
                axes.plot([100 * score["value"]], [at], look.marker, color=look.colour, markersize=5)
    axes.set_xlabel("percent right, 95% interval")


def _differences(axes: Axes, rows: Sequence[tuple[Any, Line]], facts: Facts, looks: Sequence[_Look]) -> None:
    """First minus second of the pair; dark where the interval excludes zero."""
    axes.axvline(0, color=MUTED, linewidth=1)
    bounds = [0.0]
    for y, (_, line) in enumerate(rows):
        if line.difference is None:
            continue
        low, high = (100 * bound for bound in line.difference["ci"])
        bounds += [low, high]
        colour = looks[0].colour if low > 0 else _BASELINE if high < 0 else MUTED
        axes.plot([low, high], [y, y], color=colour, linewidth=2.2, solid_capstyle="butt")
        axes.plot([100 * line.difference["value"]], [y], "D", color=colour, markersize=5.5)
        told = f"{points(line.difference['value'])}  {interval(line.difference['ci'])}"
        axes.annotate(told, (1.02, y), xycoords=("axes fraction", "data"), va="center", fontsize=8.5, color=INK)
    margin = 0.08 * (max(bounds) - min(bounds) or 1)
    axes.set_xlim(min(bounds) - margin, max(bounds) + margin)
    axes.set_xlabel("difference in points, paired")


def _frame(figure: Figure, both: Sequence[Axes], rows: Sequence[tuple[Any, Line]], looks: Sequence[_Look]) -> None:
    """Names of rows, grid, legend and fixed margins."""
    height = figure.get_figheight()
    figure.subplots_adjust(left=0.175, right=0.83, top=1 - 0.78 / height, bottom=0.55 / height, wspace=0.06)
    both[0].set_yticks(range(len(rows)), _names(rows))
    both[0].set_ylim(len(rows) - 0.45, -0.55)
    for axes in both:
        axes.tick_params(length=0)
        axes.set_axisbelow(True)
        axes.grid(axis="x", color=GRID, linewidth=0.8)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        for y in range(1, len(rows)):
            axes.axhline(y - 0.5, color=GRID, linewidth=0.6)
    handles = [
        Line2D([], [], color=look.colour, marker=look.marker, markersize=5, linewidth=1.6, label=plain(look.title))
        for look in looks
    ]
    figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0.005, 0.995), ncols=4, frameon=False, handlelength=1.6
    )
    if len(looks) > 1 and looks[1].colour == _BASELINE:
        told = f"{plain(looks[0].title)}\nminus {plain(looks[1].title)}"
        both[1].set_title(told, fontsize=8.5, color=MUTED, loc="left", pad=6)


def _names(rows: Sequence[tuple[Any, Line]]) -> list[str]:
    """What tells rows apart: the benchmark or the measure, and the protocol where there are several."""
    benchmarks = len({line.benchmark for _, line in rows}) > 1
    protocols = len({protocol_name(comparison) for comparison, _ in rows}) > 1
    return [
        (plain(line.title)[:_LONGEST_NAME] if benchmarks else WORDS[line.metric])
        + (f", {protocol_name(comparison)[:8]}" if protocols else "")
        for comparison, line in rows
    ]
