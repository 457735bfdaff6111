"""A comparison as tables of plain text, from which every format is made.

With several benchmarks: scores (a row per model, a column per benchmark), paired differences (a row per model and
benchmark), how responses came out, and each training seed's own values. With one benchmark, the columns are what it
measures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.compare.result import SCORE, Comparison, Difference, Row, Score, interval, points

MACRO = "macro"
"""The column of the unweighted mean over the suite's benchmarks."""


@dataclass(frozen=True)
class Sheet:
    """One table."""

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    """As many cells as headers each; untrusted text. A line break may be read as a space."""
    notes: Sequence[str] = ()
    """Sentences below it."""
    words: Sequence[int] = field(default=(0,))
    """Columns of words; the others hold numbers."""


def sheets(found: Comparison, metric: str | None = None) -> list[Sheet]:
    """Every table of a comparison.

    Args:
        metric: what to show; None: the score, and with a single benchmark all that it measures.
    """
    one = len(found.benchmarks) == 1
    result = [_single(found)] if one and metric is None else [_scores(found, metric or SCORE)]
    if any(row.differences for row in found.rows):
        shown = [m for m in found.metrics if m != "format"] if one and metric is None else [metric or SCORE]
        result.append(_differences(found, shown))
    if not one:
        result.append(_responses(found))
        result += _parts(found)
    if any(len(row.training_seeds) > 1 for row in found.rows):
        result.append(_seeds(found, metric or SCORE))
    return result


def title(found: Comparison) -> str:
    """Suite and protocol in words."""
    decoding = found.decoding
    settings = [f"T={decoding['temperature']:g}"]
    if decoding["temperature"]:
        settings += [f"top-p {decoding['top_p']:g}"] if decoding["top_p"] < 1 else []
        settings += [f"top-k {decoding['top_k']}"] if decoding["top_k"] else []
    settings += [f"{decoding['prompt']} prompt"] if decoding.get("prompt", "format") != "format" else []
    return f"{found.suite}, {found.protocol} ({', '.join(settings)})"


def percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"


def _single(found: Comparison) -> Sheet:
    """One benchmark: what it measures, side by side."""
    benchmark = found.benchmarks[0].column.name
    rows = []
    for row in found.rows:
        scores = row.scores.get(benchmark, {})
        cells = [_with_margin(scores.get(metric)) for metric in found.metrics]
        answers = row.answers.get(benchmark)
        rest = [percent(answers.unparseable), percent(answers.truncated), f"{answers.tokens:.0f}"] if answers else []
        n = str(scores[SCORE].n) if SCORE in scores else "-"
        rows.append([row.label, *cells, n, *(rest or ["-"] * 3)])
    headers = ["model", *found.metrics, "n", "unread", "cut", "tokens"]
    return Sheet(f"{title(found)}: percent of items", headers, rows, [_MARGIN, *_explained(found)])


_MARGIN = "± is the wider side of the 95% interval. unread: no answer found, which counts as wrong; cut: at the limit."


def _explained(found: Comparison) -> list[str]:
    if "logic" not in found.metrics:
        return []
    return ["logic: the answer follows from the response's own caption, where a caption supports an answer."]


def _scores(found: Comparison, metric: str) -> Sheet:
    names = [b.column.name for b in found.benchmarks]
    rows = [
        [row.label, *(_with_margin(row.scores.get(n, {}).get(metric)) for n in names), *_macro_cell(found, row, metric)]
        for row in found.rows
    ]
    counts = ", ".join(f"{b.column.title} {b.items}" + _clusters(b.items, b.clusters) for b in found.benchmarks)
    notes = ["± is the wider side of the 95% interval; - is missing.", f"Items: {counts}."]
    return Sheet(f"{title(found)}: {metric}, percent", ["model", *_titles(found)], rows, notes)


def _clusters(items: int, clusters: int) -> str:
    return f" in {clusters} groups" if clusters < items else ""


def _titles(found: Comparison) -> list[str]:
    titles = [b.column.title for b in found.benchmarks]
    return [*titles, MACRO] if len(titles) > 1 else titles


def _macro_cell(found: Comparison, row: Row, metric: str) -> list[str]:
    return [_with_margin(row.macro.get(metric))] if len(found.benchmarks) > 1 else []


def _with_margin(score: Score | None) -> str:
    if score is None:
        return "-"
    margin = max(score.value - score.low, score.high - score.value)
    return f"{percent(score.value)} ±{percent(margin)}"


def _differences(found: Comparison, metrics: Sequence[str]) -> Sheet:
    """A row per model and benchmark, or per model and metric where there is one benchmark."""
    several, rows = len(found.benchmarks) > 1, []
    for row in found.rows:
        lines: list[tuple[str, Difference]] = []
        for benchmark in found.benchmarks:
            known = row.differences.get(benchmark.column.name, {})
            lines += [(benchmark.column.title if several else m, known[m]) for m in metrics if m in known]
        if several:
            lines += [(MACRO, row.macro_difference[m]) for m in metrics if m in row.macro_difference]
        for index, (name, difference) in enumerate(lines):
            told, p, adjusted, counts = _difference_cells(difference)
            rows.append([row.label if index == 0 else "", name, told, p, *([adjusted] if several else []), counts])
    baselines = sorted({row.baseline for row in found.rows if row.baseline})
    against = baselines[0] if len(baselines) == 1 else "the baseline of the same algorithm"
    what = ["benchmark", "points [95%]", "p", "Holm"] if several else ["measured", "points [95%]", "p"]
    headers = ["model", *what, "win/loss/tie"]
    return Sheet(f"Minus {against}, paired over items", headers, rows, _about_tests(found, metrics), (0, 1))


def _difference_cells(difference: Difference) -> list[str]:
    few = "*" if difference.few else ""
    counts = f"{difference.win}/{difference.loss}/{difference.tie}"
    told = f"{points(difference.value)} {interval(difference)}{few}"
    return [told, _p(difference.p), _p(difference.p_holm), counts]


def _about_tests(found: Comparison, metrics: Sequence[str]) -> list[str]:
    differences = [d for row in found.rows for by in row.differences.values() for m, d in by.items() if m in metrics]
    words = {
        "mcnemar": "exact McNemar",
        "sign flips": "permutation by sign flips over items or groups of items",
        "seeds": "bootstrap over training seeds and items",
    }
    tests = "; ".join(words[test] for test in words if test in {d.test for d in differences})
    notes = [f"p: {tests}. Intervals are not corrected for their number; Holm: p over a model's benchmarks."]
    if len(found.benchmarks) == 1:
        notes = [f"p: {tests}. Not corrected for the number of rows."]
    if any(d.few for d in differences):
        notes.append("* fewer than 10 items or groups differ: the interval is narrower than it should be.")
    return notes


def _responses(found: Comparison) -> Sheet:
    """Rates of unparseable and truncated responses, and tokens."""
    rows = []
    for row in found.rows:
        answers = [row.answers.get(b.column.name) for b in found.benchmarks]
        cells = [
            f"{percent(a.unparseable)} {percent(a.truncated)} {a.tokens:.0f}" if a is not None else "-" for a in answers
        ]
        rows.append([row.label, *cells])
    notes = ["From the top: percent without an answer (counts as wrong), percent cut at the limit, mean tokens."]
    failed = max((a.judge_errors for row in found.rows for a in row.answers.values()), default=0.0)
    if failed:
        notes.append(f"The judge failed on up to {percent(failed)}% of a benchmark's responses.")
    return Sheet("Responses", ["model", *(b.column.title for b in found.benchmarks)], rows, notes)


def _parts(found: Comparison) -> list[Sheet]:
    """What the benchmarks report beside their scores."""
    rows = []
    for benchmark in found.benchmarks:
        name = benchmark.column.name
        kept = list(dict.fromkeys(part for row in found.rows for part in row.also.get(name, {})))
        for part in kept:
            values = [percent(row.also.get(name, {}).get(part, math.nan)) for row in found.rows]
            rows.append([f"{benchmark.column.title} {part}", *values])
    headers = ["percent", *(row.label for row in found.rows)]
    return [Sheet("Reported beside the scores", headers, rows)] if rows else []


def _seeds(found: Comparison, metric: str) -> Sheet:
    """Each training seed's own score, with its difference from the baseline's in brackets."""
    rows = []
    for row in found.rows:
        for seed in row.training_seeds:
            cells = []
            for b in found.benchmarks:
                score = row.scores.get(b.column.name, {}).get(metric)
                cells.append(_of_seed(score, row.differences.get(b.column.name, {}).get(metric), seed))
            if len(found.benchmarks) > 1:
                cells.append(_of_seed(row.macro.get(metric), row.macro_difference.get(metric), seed))
            rows.append([row.label, "-" if seed is None else str(seed), *cells])
    headers = ["model", "seed", *_titles(found)]
    return Sheet(f"Each training seed: {metric}, percent (minus the baseline's)", headers, rows)


def _of_seed(score: Score | None, difference: Difference | None, seed: int | None) -> str:
    if score is None or seed not in score.seeds:
        return "-"
    beside = f" ({points(difference.seeds[seed])})" if difference is not None and seed in difference.seeds else ""
    return f"{percent(score.seeds[seed])}{beside}"


def _p(p: float) -> str:
    return "" if math.isnan(p) else "<.001" if p < 0.001 else f"{p:.3f}"
