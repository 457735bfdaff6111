"""The sections that the comparison fills: the headline in plain words, scores, differences."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from markupsafe import Markup

from benchmarks.compare.result import SCORE, Comparison, Difference, Row, Score, told_p
from benchmarks.judging import identity_text
from benchmarks.report import figures
from benchmarks.report.page import Card, Drawing, Fold, Heading, Notes, Part, Section, Table
from benchmarks.report.text import number, visible

METRIC_TITLES = {
    "correct": "Right",
    "perception": "Captions right",
    "logic": "Follows from its caption",
    "format": "In the form",
}
TESTS = {"mcnemar": "exact McNemar", "sign flips": "sign flips", "seeds": "over training seeds"}


def headline(found: Sequence[Comparison]) -> list[str]:
    """What was found, in sentences; the least flattering comparison stands beside the others."""
    sentences = []
    for comparison in found:
        if comparison.conclusion is None:
            continue
        sentences.append(_typeset(f"{_kind(comparison)}: {visible(comparison.conclusion)}"))
        sentences += _others(comparison)
    if not sentences:
        sentences.append("No pair of models here can be compared with a baseline, so there is no headline difference.")
    return sentences


def _others(comparison: Comparison) -> list[str]:
    """How the other arms' last stages stand against the same baseline, where one of them is ahead of the treated."""
    assert comparison.treated is not None
    treated = comparison.row(comparison.treated)
    ours = _total(comparison, treated)
    sentences = []
    for row in comparison.rows:
        theirs = _total(comparison, row)
        rival = row.label not in (treated.label, comparison.baseline) and _last_part(row) == _last_part(treated)
        if ours is not None and theirs is not None and rival:
            ahead = theirs.value - ours.value
            place = "ahead of" if ahead > 0 else "behind" if ahead < 0 else "level with"
            sentences.append(
                f"Against the same baseline, {visible(row.label)} stands at {_points(theirs.value)} points "
                f"{_interval(theirs)}: {place} {visible(treated.label)}."
            )
    return sentences


def cards(comparison: Comparison) -> list[Card]:
    """The headline's numbers."""
    difference = comparison.headline()
    if difference is None or comparison.treated is None or comparison.baseline is None:
        return []
    what = comparison.benchmarks[0].column.title if len(comparison.benchmarks) == 1 else "macro-average"
    result = []
    for label in (comparison.treated, comparison.baseline):
        score = _score(comparison, comparison.row(label))
        if score is not None:
            result.append(Card(visible(label), f"{_percent(score.value)} %", f"{what}, {_interval_of(score)}"))
    detail = _typeset(f"95% interval {_interval(difference)}, {told_p(difference.p)}")
    result.append(Card("Difference", f"{_points(difference.value)} points", detail))
    if difference.n:
        flips = f"of {difference.n:,} items; on the other {difference.tie:,} the two are alike"
        result.append(Card("Items won and lost", f"{difference.win} : {difference.loss}", flips))
    return result


def scores(found: Sequence[Comparison]) -> Section:
    """Scores with n and intervals, and how responses came out."""
    parts: list[Part] = []
    for comparison in found:
        parts.append(Heading(_kind(comparison)))
        if len(comparison.benchmarks) > 1:
            parts.append(_overview(comparison))
        tables = [_benchmark(comparison, index) for index in range(len(comparison.benchmarks))]
        parts += tables if len(tables) == 1 else [Fold("Each benchmark with n, intervals and failures", tables)]
        parts.append(Notes([visible(note) for note in comparison.notes]))
    lead = (
        "Percent. Intervals are 95%. An unparseable answer counts as wrong. "
        "Numbers are comparable within one table only: same items, prompts, decoding and harness."
    )
    return Section("scores", "Scores", [lead], parts)


def differences(found: Sequence[Comparison]) -> Section:
    """Differences from the baseline, drawn and in a table."""
    parts: list[Part] = []
    for comparison in found:
        if comparison.baseline is None or not any(row.differences for row in comparison.rows):
            continue
        parts += [Heading(f"{_kind(comparison)}: minus {visible(comparison.baseline)}"), *_forests(comparison)]
        parts += _difference_tables(comparison)
    lead = (
        "Each line is a model minus its baseline on the same items, in points; right of zero the model is better. "
        "p is that of no difference; Holm's method corrects it over a model's benchmarks."
    )
    return Section("differences", "Differences", [lead if parts else "There is no baseline to compare with."], parts)


def _kind(comparison: Comparison) -> str:
    return visible(f"{comparison.suite}, {comparison.protocol} decoding")


def _overview(comparison: Comparison) -> Table:
    titles = [visible(b.column.title) for b in comparison.benchmarks]
    rows = []
    for row in comparison.rows:
        found = [row.scores.get(b.column.name, {}).get(SCORE) for b in comparison.benchmarks]
        macro = row.macro.get(SCORE)
        cells = [_percent(score.value) if score else "–" for score in (*found, macro)]
        rows.append([visible(row.label), *cells])
    headers = ["Model", *titles, "Macro"]
    strong = [i for i, row in enumerate(comparison.rows) if row.label == comparison.treated]
    return Table("Scores by benchmark", headers, rows, range(1, len(headers)), strong)


def _benchmark(comparison: Comparison, index: int) -> Table:
    benchmark = comparison.benchmarks[index]
    name = benchmark.column.name
    metrics = [m for m in comparison.metrics if any(m in row.scores.get(name, {}) for row in comparison.rows)]
    extra = [m for m in metrics if m != SCORE]
    seeds = _seeds(row.training_seeds for row in comparison.rows)
    further = list(dict.fromkeys(key for row in comparison.rows for key in row.also.get(name, ())))
    headers = ["Model", "Right", "95% interval", "n", *(METRIC_TITLES.get(m, m) for m in extra)]
    headers += [visible(key).replace("_", " ") for key in further]
    headers += ["Unparseable", "Truncated", "Mean tokens", *([_by_seed_title("Right", seeds)] if seeds else [])]
    rows = []
    for row in comparison.rows:
        if name in row.scores:
            rows.append(_score_row(row, name, extra, further, seeds))
    strong = [i for i, row in enumerate(rows) if row[0] == comparison.treated]
    judge = f", judged by {visible(identity_text(benchmark.judge))}" if benchmark.judge else ""
    clusters = f" in {benchmark.clusters:,} clusters" if benchmark.clusters != benchmark.items else ""
    caption = f"{visible(benchmark.column.title)}: {benchmark.items:,} items{clusters}{judge}"
    return Table(caption, headers, rows, list(range(1, len(headers))), strong)


def _score_row(row: Row, name: str, extra: Sequence[str], further: Sequence[str], seeds: Sequence[Any]) -> list[str]:
    found, answers = row.scores[name], row.answers[name]
    score = found[SCORE]
    cells = [visible(row.label), _percent(score.value), _interval_of(score), f"{score.n:,}"]
    cells += [_percent(found[m].value) if m in found else "–" for m in extra]
    cells += [_percent(row.also[name][key]) if key in row.also[name] else "–" for key in further]
    cells += [_percent(answers.unparseable), _percent(answers.truncated), f"{answers.tokens:.1f}"]
    if seeds:
        cells.append(" / ".join(_percent(score.seeds.get(seed, math.nan)) for seed in seeds))
    return cells


def _forests(comparison: Comparison) -> list[Part]:
    several = len(comparison.benchmarks) > 1
    what = "macro-average" if several else comparison.benchmarks[0].column.title
    rows = [
        figures.Interval(
            visible(row.label),
            *_in_points(total),
            row.label,
            total=row.label == comparison.treated,
            core=_last_part(row) == _last_part(comparison.row(str(comparison.treated or row.label))),
        )
        for row in comparison.rows
        if (total := _total(comparison, row)) is not None and row.label != comparison.baseline
    ]
    name, axis = f"{comparison.suite}-{comparison.protocol}", f"points, minus {visible(str(comparison.baseline))}"
    parts: list[Part] = []
    if rows:
        svg = figures.forest(f"forest-{name}", f"Differences on {what}", rows, axis)
        parts.append(Drawing(f"Differences on {what}", Markup(svg), _told(rows)))
    if several and comparison.treated is not None:
        parts += _by_benchmark(comparison, comparison.row(comparison.treated), axis)
    return parts


def _by_benchmark(comparison: Comparison, row: Row, axis: str) -> list[Part]:
    rows = [
        figures.Interval(visible(b.column.title), *_in_points(row.differences[b.column.name][SCORE]), row.label)
        for b in comparison.benchmarks
        if SCORE in row.differences.get(b.column.name, {})
    ]
    if SCORE in row.macro_difference:
        rows.append(figures.Interval("Macro-average", *_in_points(row.macro_difference[SCORE]), row.label, total=True))
    if not rows:
        return []
    title = f"{visible(row.label)} on each benchmark"
    svg = figures.forest(f"forest-each-{comparison.suite}-{comparison.protocol}", title, rows, axis)
    return [Drawing(title, Markup(svg), _told(rows))]


def _told(rows: Sequence[figures.Interval]) -> str:
    above = ", ".join(row.label for row in rows if row.low > 0) or "none"
    below = ", ".join(row.label for row in rows if row.high < 0) or "none"
    return (
        "Lines are 95% intervals, not corrected for their number; an arrow points to one beyond the axis. "
        f"Wholly above zero: {above}. Wholly below: {below}."
    )


def _difference_tables(comparison: Comparison) -> list[Part]:
    """One table; with several benchmarks the headline's model has its own, and the others wait behind a fold."""
    rows = [row for row in comparison.rows if row.label != comparison.baseline]
    if len(comparison.benchmarks) == 1 or comparison.treated is None:
        return [_difference_table(comparison, rows, "Differences from the baseline")]
    ours = [row for row in rows if row.label == comparison.treated]
    others = [row for row in rows if row.label != comparison.treated]
    table = _difference_table(comparison, ours, f"{visible(comparison.treated)} minus the baseline")
    if not others:
        return [table]
    return [table, Fold("The same of all other models", [_difference_table(comparison, others, "Other models")])]


def _difference_table(comparison: Comparison, shown: Sequence[Row], caption: str) -> Table:
    titles = {b.column.name: visible(b.column.title) for b in comparison.benchmarks}
    seeds = _seeds(d.seeds for row in shown for by in row.differences.values() for d in by.values())
    rows = []
    for row in shown:
        for name, by_metric in row.differences.items():
            if SCORE in by_metric:
                rows.append(_difference_row(row, titles[name], by_metric[SCORE], seeds))
        if SCORE in row.macro_difference and len(titles) > 1:
            rows.append(_difference_row(row, "macro-average", row.macro_difference[SCORE], seeds))
    headers = ["Model", "Benchmark", "Points", "95% interval", "p", "p (Holm)", "Won", "Lost", "Alike", "Test"]
    headers += [_by_seed_title("Points", seeds)] if seeds else []
    notes = ["* Fewer than 10 clusters of items differ: the interval is narrower than it should be."]
    starred = any("*" in row[3] for row in rows)
    return Table(caption, headers, rows, [*range(2, 9), 10], notes=notes if starred else [])


def _difference_row(row: Row, benchmark: str, found: Difference, seeds: Sequence[Any]) -> list[str]:
    star = "*" if found.few and found.n else ""
    counts = [f"{found.win:,}", f"{found.loss:,}", f"{found.tie:,}"] if found.n else ["–", "–", "–"]
    size = [_points(found.value), _interval(found) + star, _p(found.p), _p(found.p_holm)]
    cells = [visible(row.label), benchmark, *size, *counts, TESTS.get(found.test, found.test)]
    return [*cells, " / ".join(_points(found.seeds.get(seed, math.nan)) for seed in seeds)] if seeds else cells


def _seeds(several: Iterable[Iterable[Any]]) -> list[Any]:
    """All training seeds in order, where any model has more than one; else none, there is nothing to tell apart."""
    every = [list(seeds) for seeds in several]
    known = {seed for seeds in every for seed in seeds}
    return sorted(known, key=lambda s: (s is None, s)) if any(len(seeds) > 1 for seeds in every) else []


def _by_seed_title(what: str, seeds: Sequence[Any]) -> str:
    return f"{what}, seed {' / '.join(str(seed) for seed in seeds)}"


def _last_part(row: Row) -> str:
    """`rlvr` of `prism/rlvr`: rows that end alike are rivals."""
    return row.stage.rsplit("/", 1)[-1]


def _total(comparison: Comparison, row: Row) -> Difference | None:
    if len(comparison.benchmarks) > 1:
        return row.macro_difference.get(SCORE)
    return row.differences.get(comparison.benchmarks[0].column.name, {}).get(SCORE)


def _score(comparison: Comparison, row: Row) -> Score | None:
    if len(comparison.benchmarks) > 1:
        return row.macro.get(SCORE)
    return row.scores.get(comparison.benchmarks[0].column.name, {}).get(SCORE)


def _in_points(found: Difference) -> tuple[float, float, float]:
    return 100 * found.value, 100 * found.low, 100 * found.high


def _interval_of(score: Score) -> str:
    return f"[{_percent(score.low)}, {_percent(score.high)}]"


def _percent(value: float) -> str:
    return number(100 * value, ".1f")


def _typeset(text: str) -> str:
    """True minus signs, and no line break inside an interval or between p and its value."""
    text = re.sub(r"(?<!\w)-(?=\d)", "−", text)
    text = re.sub(r"\bp ([=<]) (?=\d)", "p\u00a0\\1\u00a0", text)
    return re.sub(r"\[(\S+), (\S+)\]", "[\\1,\u00a0\\2]", text)


def _points(value: float) -> str:
    return number(100 * value, "+.1f")


def _interval(found: Difference) -> str:
    return f"[{_points(found.low)}, {_points(found.high)}]"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else number(p, ".3f")
