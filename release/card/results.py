"""From a comparison's JSON to the tables and sentences of a card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from release.card.text import interval, p_value, percent, points
from release.facts import Evaluation, Facts

SCORE = "correct"
WORDS = {"correct": "answers", "perception": "captions", "logic": "reasoning", "format": "form"}
"""Names of measures, for people."""
MEANINGS = {
    "correct": "the final answer is right",
    "perception": "the caption names what the image shows",
    "logic": "the answer follows from the response's own caption, right or wrong",
    "format": "the response has the three blocks and nothing else",
}
_PROTOCOLS = {"sample": "T=1", "greedy": "greedy", "paper": "the paper's sampling"}

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Pair:
    """The two models that a comparison's table shows side by side."""

    first: Json
    """Row of the model that is compared: the released one, or the pipeline where the released one is the baseline."""
    second: Json | None
    """Row of its baseline; None where there is none."""
    own: Json
    """Row of the released model."""

    def difference(self, benchmark: str, metric: str) -> Json | None:
        """First minus second on one benchmark, or on the macro-average (`macro`)."""
        if self.second is None:
            return None
        if benchmark == MACRO:
            return (self.first["macro_difference"] or {}).get(metric)
        found: Json | None = (self.first["differences"].get(benchmark) or {}).get(metric)
        return found


MACRO = "macro"


@dataclass(frozen=True)
class Line:
    """One benchmark and measure of a table."""

    benchmark: str
    title: str
    metric: str
    n: int
    score: Json
    """Of the first model: value, ci, n."""
    other: Json | None
    """Of the second."""
    difference: Json | None
    answers: Json | None
    """unparseable, truncated, tokens of the first model; None for a macro-average."""
    other_answers: Json | None


def protocol_name(comparison: Json) -> str:
    """The protocol's name for people."""
    return _PROTOCOLS.get(comparison["protocol"], str(comparison["protocol"]))


def ordered(evaluation: Evaluation) -> list[Json]:
    """Comparisons with sampled responses first: errors made at random show up in them only."""
    return sorted(evaluation.comparisons, key=lambda one: -float(one["decoding"]["temperature"]))


def row_of(comparison: Json, label: str | None) -> Json | None:
    """A model's row; None where it is not in the comparison."""
    return next((row for row in comparison["models"] if row["label"] == label), None)


def pair_of(comparison: Json, label: str) -> Pair:
    """What stands beside a model: its baseline, or the pipeline where it is the baseline itself."""
    own = row_of(comparison, label)
    assert own is not None, "an evaluation holds the released model's row in every comparison"
    treated = row_of(comparison, comparison["treated"])
    if own["baseline"] is None and treated is not None and treated["baseline"] == label:
        return Pair(treated, own, own)
    return Pair(own, row_of(comparison, own["baseline"]), own)


def lines(comparison: Json, pair: Pair) -> Iterator[Line]:
    """Lines of a comparison's table: every measure of a single benchmark, else the score on each and their mean."""
    benchmarks = comparison["benchmarks"]
    metrics = comparison["metrics"] if len(benchmarks) == 1 else [SCORE]
    for benchmark in benchmarks:
        for metric in metrics:
            score = (pair.first["scores"].get(benchmark["name"]) or {}).get(metric)
            if score is not None:
                yield _line(benchmark, metric, score, pair)
    macro = (pair.first["macro"] or {}).get(SCORE)
    if len(benchmarks) > 1 and macro is not None:
        other = (pair.second["macro"] or {}).get(SCORE) if pair.second else None
        yield Line(MACRO, "mean", SCORE, macro["n"], macro, other, pair.difference(MACRO, SCORE), None, None)


def _line(benchmark: Json, metric: str, score: Json, pair: Pair) -> Line:
    name = benchmark["name"]
    theirs = pair.second["scores"].get(name) if pair.second else None
    return Line(
        benchmark=name,
        title=benchmark["title"],
        metric=metric,
        n=score["n"],
        score=score,
        other=theirs.get(metric) if theirs else None,
        difference=pair.difference(name, metric),
        answers=pair.first["scores"][name],
        other_answers=theirs,
    )


def table(comparison: Json, facts: Facts) -> dict[str, Any]:
    """A comparison's table as strings."""
    assert facts.evaluation is not None
    pair = pair_of(comparison, facts.stage)
    found = list(lines(comparison, pair))
    titles = facts.evaluation.titles
    several = len({line.benchmark for line in found}) > 1
    return {
        "protocol": protocol_name(comparison),
        "suite": comparison["suite"],
        "first": titles[pair.first["label"]],
        "second": titles[pair.second["label"]] if pair.second else None,
        "rows": [_cells(line, several) for line in found],
        "confidence": percent(comparison["confidence"], 0),
        "resamples": comparison["resamples"],
    }


def _cells(line: Line, several: bool) -> dict[str, str]:
    clear = line.difference is not None and (line.difference["ci"][0] > 0 or line.difference["ci"][1] < 0)
    told = points(line.difference["value"]) if line.difference else "–"
    return {
        "what": line.title if several else WORDS[line.metric],
        "n": f"{line.n:,}",
        "second": percent(line.other["value"]) if line.other else "–",
        "first": percent(line.score["value"]),
        "difference": Markup(f"**{told}**") if clear else told,
        "interval": interval(line.difference["ci"]) if line.difference else "–",
        "p": p_value(line.difference["p_holm"]) if line.difference else "–",
        "unparseable": _both(line, "unparseable") if several or line.metric == SCORE else "",
        "truncated": _both(line, "truncated") if several or line.metric == SCORE else "",
    }


def _both(line: Line, what: str) -> str:
    """A rate of both models, the second model's first, as in the columns of scores."""
    if line.answers is None:
        return "–"
    own, blank = percent(line.answers[what]), "\N{NO-BREAK SPACE}"
    if line.other_answers is None:
        return own
    return Markup(f"{percent(line.other_answers[what])}{blank}/{blank}{own}")


def checkpoints(comparison: Json, facts: Facts) -> dict[str, Any]:
    """Scores of every model of a comparison with their intervals: measures of one benchmark, or benchmarks and mean."""
    assert facts.evaluation is not None
    columns = _columns(comparison)
    return {
        "protocol": protocol_name(comparison),
        "suite": comparison["suite"],
        "columns": [title for _, _, title in columns],
        "rows": [
            {
                "title": facts.evaluation.titles[row["label"]],
                "own": row["label"] == facts.stage,
                "cells": [_bounds(score_of(row, benchmark, metric)) for benchmark, metric, _ in columns],
            }
            for row in comparison["models"]
        ],
    }


def _columns(comparison: Json) -> list[tuple[str, str, str]]:
    """Benchmark, measure and title of the columns of a table of checkpoints."""
    benchmarks = comparison["benchmarks"]
    if len(benchmarks) == 1:
        return [(benchmarks[0]["name"], metric, WORDS[metric].capitalize()) for metric in comparison["metrics"]]
    found = [(benchmark["name"], SCORE, benchmark["title"]) for benchmark in benchmarks]
    return found + ([(MACRO, SCORE, "Mean")] if any(row["macro"] for row in comparison["models"]) else [])


def score_of(row: Json, benchmark: str, metric: str) -> Json | None:
    """A model's score on a benchmark, or its macro-average (`macro`); None where there is none."""
    found: Json | None = ((row["macro"] if benchmark == MACRO else row["scores"].get(benchmark)) or {}).get(metric)
    return found


def _bounds(score: Json | None) -> str:
    if score is None:
        return "–"
    blank = "\N{NO-BREAK SPACE}"
    return Markup(f"{percent(score['value'])}{blank}[{percent(score['ci'][0])},{blank}{percent(score['ci'][1])}]")


def headline(comparison: Json, facts: Facts) -> dict[str, Any] | None:
    """The main number of a comparison as parts of a sentence.

    None where the released model has none: no score, or several benchmarks of which one is missing, so that there is
    no mean. No single benchmark stands for the others.
    """
    assert facts.evaluation is not None
    pair = pair_of(comparison, facts.stage)
    found = list(lines(comparison, pair))
    single = len(comparison["benchmarks"]) == 1
    main = next((line for line in found if single or line.benchmark == MACRO), None)
    if main is None:
        return None
    own = main.score if pair.own is pair.first else main.other
    assert own is not None
    told = main.difference
    return {
        "protocol": protocol_name(comparison),
        "what": f"the mean over {len(comparison['benchmarks'])} benchmarks" if main.benchmark == MACRO else main.title,
        "n": f"{own['n']:,}",
        "own": percent(own["value"]),
        "is_baseline": pair.own is not pair.first,
        "first": facts.evaluation.titles[pair.first["label"]],
        "second": facts.evaluation.titles[pair.second["label"]] if pair.second else None,
        "difference": points(told["value"]) if told else None,
        "interval": interval(told["ci"]) if told else None,
        "p": p_value(told["p"]) if told else None,
        "verdict": None if told is None else _verdict(told),
    }


def _verdict(difference: Json) -> str:
    """`higher`, `lower` or `open`: the interval excludes zero and the test agrees, or not."""
    if difference["p"] is not None and difference["p"] < 0.05:
        if difference["ci"][0] > 0:
            return "higher"
        if difference["ci"][1] < 0:
            return "lower"
    return "open"


def stage_scores(facts: Facts) -> tuple[str, dict[str, str]]:
    """The score of each stage under the main protocol, by the stage's name, with the protocol's name."""
    if facts.evaluation is None:
        return "", {}
    comparison = ordered(facts.evaluation)[0]
    scores = {row["label"]: (row["macro"] or {}).get(SCORE) for row in comparison["models"]}
    return protocol_name(comparison), {label: percent(score["value"]) for label, score in scores.items() if score}
