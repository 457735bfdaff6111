"""What a comparison found, as data.

`Comparison.to_json()` has these keys; rates and differences are in [0, 1] and [-1, 1], undefined numbers are null:

    suite, protocol       names; `decoding` has the protocol's settings as the cells recorded them, but for the
                          token limit, which is each benchmark's own
    baseline, treated     labels of the headline pair (null: several baselines, or no treated model)
    metrics               which of correct, perception, logic, format are measured here; `correct` is the score
    benchmarks            [{name, title, tasks, items, clusters, judge}], in the order of tables
    models                [{label, stage, algorithm, baseline, training_seeds, decoding_seeds, weights, missing, scores,
                          macro, differences, macro_difference}], in the order of tables:
      weights             {training seed: weights hash}
      missing             names of the suite's benchmarks without a complete evaluation; there is no macro then
      scores              {benchmark: {metrics..., tasks, unparseable, truncated, tokens, judge_errors, also}}
      scores.*.<metric>   {value, ci, n, clusters, method, seeds}; null: not measured
      scores.*.tasks      {task: score}; `also` has the benchmark's further numbers of `benchmarks.metrics`
      macro               {metric: {value, ci, seeds}} or null
      differences         {benchmark: {metric: {value, ci, p, p_holm, test, win, loss, tie, n, clusters, few, seeds}}}
      macro_difference    {metric: {value, ci, p, test, seeds}} or null; not part of the Holm family
      seeds               {training seed: its own value}; "null" where the seed is unknown
      ci                  95% interval; `over` says of what: "items" or "items and training seeds"
      test                "mcnemar", "sign flips" or "seeds" (five or more training seeds)
      few                 fewer than 10 clusters differ: the interval is narrower than it should be
    conclusion            one sentence on the headline pair, or null
    refused               [{model, task, training_seed, decoding_seed, reason}]
    notes                 what a reader has to know beside the numbers
    resamples, seed, confidence
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.compare.pairing import METRICS, Column, Refusal
from benchmarks.compare.resampling import CONFIDENCE

if TYPE_CHECKING:
    from rich.console import Console

SCORE = METRICS[0]
FEW = 10
"""Below this many clusters on which two models differ, a bootstrap interval is too narrow."""


@dataclass(frozen=True)
class Score:
    """A rate with its interval."""

    value: float
    low: float
    high: float
    n: int
    """Items it is defined on."""
    clusters: int
    method: str
    """`wilson` or `bootstrap`."""
    over: str
    """`items`, or `items and training seeds`."""
    seeds: Mapping[int | None, float]
    """Each training seed's own value."""


@dataclass(frozen=True)
class Difference:
    """A model minus its baseline, paired over items."""

    value: float
    low: float
    high: float
    p: float
    p_holm: float
    """Corrected over the model's benchmarks; nan for a macro-average."""
    test: str
    win: int
    """Items on which the model is better, on average over seeds and samples."""
    loss: int
    tie: int
    clusters: int
    differing: int
    """Clusters on which the two differ."""
    over: str
    seeds: Mapping[int | None, float]

    @property
    def n(self) -> int:
        return self.win + self.loss + self.tie

    @property
    def few(self) -> bool:
        return self.differing < FEW

    @property
    def better(self) -> bool:
        """The whole interval lies above 0."""
        return self.low > 0

    @property
    def worse(self) -> bool:
        """The whole interval lies below 0."""
        return self.high < 0


@dataclass(frozen=True)
class Answers:
    """How a model's responses on a benchmark came out, whatever they were worth."""

    unparseable: float
    """Share of responses without an answer."""
    truncated: float
    tokens: float
    """Mean length."""
    judge_errors: float
    """Share of responses on which the judge failed."""


@dataclass(frozen=True)
class Row:
    """One model."""

    label: str
    stage: str
    algorithm: str | None
    baseline: str | None
    training_seeds: Sequence[int | None]
    decoding_seeds: Sequence[int]
    weights: Mapping[int | None, str]
    missing: Sequence[str]
    scores: Mapping[str, Mapping[str, Score]]
    """By benchmark and metric."""
    tasks: Mapping[str, Mapping[str, float]]
    """By benchmark and task: the score."""
    answers: Mapping[str, Answers]
    """By benchmark."""
    also: Mapping[str, Mapping[str, float]]
    """By benchmark: what the suite reports beside its score."""
    macro: Mapping[str, Score]
    """By metric; empty where a benchmark is missing."""
    differences: Mapping[str, Mapping[str, Difference]]
    macro_difference: Mapping[str, Difference]


@dataclass(frozen=True)
class Benchmark:
    """One column."""

    column: Column
    items: int
    clusters: int
    judge: Any
    """The judge's identity; None without one."""


@dataclass(frozen=True)
class Comparison:
    """Models of one suite under one protocol."""

    suite: str
    protocol: str
    decoding: Mapping[str, Any]
    baseline: str | None
    treated: str | None
    metrics: Sequence[str]
    benchmarks: Sequence[Benchmark]
    rows: Sequence[Row]
    refused: Sequence[Refusal]
    notes: Sequence[str]
    resamples: int
    seed: int

    def row(self, label: str) -> Row:
        return next(row for row in self.rows if row.label == label)

    def headline(self) -> Difference | None:
        """The treated model minus its baseline: on the macro-average, or on the only benchmark."""
        if self.treated is None:
            return None
        row = self.row(self.treated)
        if len(self.benchmarks) == 1:
            return row.differences.get(self.benchmarks[0].column.name, {}).get(SCORE)
        return row.macro_difference.get(SCORE)

    @property
    def conclusion(self) -> str | None:
        """What the headline pair shows, in one sentence."""
        difference = self.headline()
        if self.treated is None or difference is None:
            return None
        return conclude(self.row(self.treated), difference, len(self.benchmarks))

    def to_json(self) -> dict[str, Any]:
        """The comparison as one JSON object; see the module's docstring."""
        return {
            "suite": self.suite,
            "protocol": self.protocol,
            "decoding": dict(self.decoding),
            "baseline": self.baseline,
            "treated": self.treated,
            "metrics": list(self.metrics),
            "benchmarks": [
                {
                    "name": b.column.name,
                    "title": b.column.title,
                    "tasks": list(b.column.tasks),
                    "items": b.items,
                    "clusters": b.clusters,
                    "judge": b.judge,
                }
                for b in self.benchmarks
            ],
            "models": [_row_json(row, self.metrics) for row in self.rows],
            "conclusion": self.conclusion,
            "refused": [vars(refusal) for refusal in self.refused],
            "notes": list(self.notes),
            "resamples": self.resamples,
            "seed": self.seed,
            "confidence": CONFIDENCE,
        }

    def render(self, console: Console, metric: str | None = None) -> None:
        """Print the tables and what follows from them; 80 columns are enough.

        Args:
            metric: what to show; None: the score, and with a single benchmark all that it measures.
        """
        from benchmarks.compare.tables import print_comparison

        print_comparison(self, console, metric)


def conclude(treated: Row, difference: Difference, benchmarks: int) -> str:
    """What the headline pair shows, in one sentence that does not claim more."""
    what = f"the macro-average over {benchmarks} benchmarks" if benchmarks > 1 else f"{difference.n} items"
    told = f"{points(difference.value)} points on {what}, 95% interval {interval(difference)}, {told_p(difference.p)}"
    better, worse = difference.better and difference.p < 0.05, difference.worse and difference.p < 0.05
    verdict = "scores higher than" if better else "scores lower than" if worse else "is not shown to differ from"
    seeds = list(difference.seeds)
    if difference.over != "items":
        basis = f"over {len(seeds)} training seeds"
    elif len(seeds) > 1:
        same = sum(value > 0 for value in difference.seeds.values())
        basis = f"for these checkpoints of {len(seeds)} training seeds, ahead in {same} of them"
    else:
        basis = "for these two checkpoints; one training seed says nothing about another"
    few = " So few items differ that the interval is narrower than it should be." if difference.few else ""
    return f"{treated.label} {verdict} {treated.baseline}: {told} ({basis}).{few}"


def points(value: float) -> str:
    """A difference in points, for people."""
    return "-" if math.isnan(value) else f"{100 * value:+.1f}"


def interval(difference: Difference) -> str:
    return f"[{points(difference.low)}, {points(difference.high)}]"


def told_p(p: float) -> str:
    return "p undefined" if math.isnan(p) else "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _row_json(row: Row, metrics: Sequence[str]) -> dict[str, Any]:
    return {
        "label": row.label,
        "stage": row.stage,
        "algorithm": row.algorithm,
        "baseline": row.baseline,
        "training_seeds": list(row.training_seeds),
        "decoding_seeds": list(row.decoding_seeds),
        "weights": _by_seed(row.weights),
        "missing": list(row.missing),
        "scores": {
            name: {
                **{m: _score_json(found[m]) if m in found else None for m in metrics},
                "tasks": {task: number(value) for task, value in row.tasks[name].items()},
                **{key: number(value) for key, value in vars(row.answers[name]).items()},
                "also": {part: number(value) for part, value in row.also[name].items()},
            }
            for name, found in row.scores.items()
        },
        "macro": {m: _score_json(score) for m, score in row.macro.items()} or None,
        "differences": {
            name: {m: _difference_json(found[m]) if m in found else None for m in metrics}
            for name, found in row.differences.items()
        },
        "macro_difference": {m: _difference_json(d) for m, d in row.macro_difference.items()} or None,
    }


def _score_json(score: Score) -> dict[str, Any]:
    return {
        "value": number(score.value),
        "ci": [number(score.low), number(score.high)],
        "n": score.n,
        "clusters": score.clusters,
        "method": score.method,
        "over": score.over,
        "seeds": _by_seed({seed: number(value) for seed, value in score.seeds.items()}),
    }


def _difference_json(difference: Difference) -> dict[str, Any]:
    return {
        "value": number(difference.value),
        "ci": [number(difference.low), number(difference.high)],
        "p": number(difference.p),
        "p_holm": number(difference.p_holm),
        "test": difference.test,
        "win": difference.win,
        "loss": difference.loss,
        "tie": difference.tie,
        "n": difference.n,
        "clusters": difference.clusters,
        "few": difference.few,
        "over": difference.over,
        "seeds": _by_seed({seed: number(value) for seed, value in difference.seeds.items()}),
    }


def _by_seed(values: Mapping[int | None, Any]) -> dict[str, Any]:
    return {"null" if seed is None else str(seed): value for seed, value in values.items()}


def number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
