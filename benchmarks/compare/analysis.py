"""From matched cells to scores, paired differences and what they mean."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from benchmarks.compare.estimates import Estimate, difference_of, macro_difference, macro_score, score_of
from benchmarks.compare.pairing import (
    METRICS,
    TREATED_ARM,
    Column,
    Items,
    Model,
    Refusal,
    Seeds,
    baselines_of,
    columns_of,
    judge_of,
    kinds,
    match,
    models_of,
    select,
    verdicts,
)
from benchmarks.compare.resampling import RESAMPLES, Layout, Series, Statistic, average, holm, layout, resample
from benchmarks.compare.result import SCORE, Answers, Benchmark, Comparison, Difference, Row, Score
from benchmarks.metrics import metrics
from benchmarks.samples import Cell
from integrations.errors import BadInput

_THREADS = 2

Pairs = Sequence[tuple[int | None, int | None, int | None]]
"""Training seeds of a difference: under which name, of the model, of the baseline."""


def compare(
    cells: Sequence[Cell],
    baseline: str | None = None,
    *,
    treated: str | None = None,
    suite: str | None = None,
    protocol: str | None = None,
    benchmarks: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    strict: bool = True,
) -> Comparison:
    """Compare every model in the cells with a baseline.

    Args:
        cells: finished cells of any models; only those of one suite and protocol are compared.
        baseline: a model's label; None: `baseline/rlvr`, with the same algorithm where there are several.
        treated: the model that the conclusion is about; None: the prism arm's model of the baseline's stage, or the
            only other model.
        suite, protocol: needed where the cells are of several.
        benchmarks: names of those to compare; None: the whole suite.
        resamples: of the bootstrap and of the sign flips.
        seed: of both; the same cells and seed give the same numbers, in whatever order cells and items come.
        strict: refuse everything when a cell does not match the baseline's or there is no baseline; otherwise leave
            such cells out, listed in `refused`, and show scores alone.

    Raises:
        BadInput: nothing to compare, an unknown label or name, a model with two sets of weights, or a cell that does
            not match.
    """
    models = models_of(select(cells, suite, protocol, benchmarks))
    baselines = _baselines(models, baseline, strict)
    items, refused = match(models, list(dict.fromkeys(b for b in baselines.values() if b)))
    if refused and strict:
        raise BadInput("these cells cannot be compared:\n" + "\n".join(f"- {one}" for one in refused), _REFUSED)
    models = [model for model in models if model.every]
    if not models:
        raise BadInput(f"no cell can be compared: {refused[0]}", "evaluate anew")
    columns, absent = columns_of(models, benchmarks)
    study = _Study(models, baselines, columns, items, resamples, seed)
    rows = [study.row(model, absent) for model in models]
    headline = _headline(rows, treated)
    return Comparison(
        suite=str(models[0].every[0].facts["suite"]),
        protocol=models[0].every[0].protocol,
        decoding={k: v for k, v in models[0].every[0].facts["protocol"].items() if k != "max_new_tokens"},
        baseline=headline.baseline if headline else next((b for b in baselines.values() if b), None),
        treated=headline.label if headline else None,
        metrics=study.metrics,
        benchmarks=[study.benchmark(column) for column in columns],
        rows=rows,
        refused=refused,
        notes=_notes(models, rows, absent, refused),
        resamples=resamples,
        seed=seed,
    )


_REFUSED = "evaluate them anew in the same way, or leave them out with --leave-out"


def compare_all(cells: Sequence[Cell], baseline: str | None = None, **options: Any) -> list[Comparison]:
    """One comparison for each suite and protocol in the cells, a suite's main protocol first.

    Args:
        cells, baseline, options: as for `compare`, without suite and protocol.

    Raises:
        BadInput: as `compare`.
    """
    if not cells:
        select(cells, None, None, None)
    found = kinds(cells)
    try:
        return [compare(cells, baseline, suite=(now := kind)[0], protocol=kind[1], **options) for kind in found]
    except BadInput as error:
        if len(found) == 1:
            raise
        raise BadInput(f"{now[0]}, {now[1]}: {error.problem}", error.fix) from error


def _baselines(models: Sequence[Model], wanted: str | None, strict: bool) -> dict[str, str | None]:
    try:
        return baselines_of(models, wanted)
    except BadInput:
        if wanted is not None or (strict and len(models) > 1):
            raise
        return {model.label: None for model in models}  # scores alone


def _headline(rows: Sequence[Row], treated: str | None) -> Row | None:
    """The model that the conclusion is about."""
    compared = [row for row in rows if row.baseline is not None]
    if treated is not None:
        if treated not in [row.label for row in compared]:
            known = ", ".join(row.label for row in compared) or "no model has a baseline here"
            raise BadInput(f"there is no model `{treated}` to compare with a baseline", f"choose one of: {known}")
        return next(row for row in compared if row.label == treated)
    stages = {row.label: row.stage for row in rows}
    for row in compared:
        if row.baseline in stages and row.stage == f"{TREATED_ARM}/{stages[row.baseline].rpartition('/')[2]}":
            return row
    return compared[0] if len(compared) == 1 else None


class _Study:
    """The numbers of one suite under one protocol.

    Args:
        models: with matched cells only.
        baselines: each model's baseline.
        columns: the benchmarks.
        items: of every task.
        resamples, seed: of the resampling.
    """

    def __init__(
        self,
        models: Sequence[Model],
        baselines: Mapping[str, str | None],
        columns: Sequence[Column],
        items: Mapping[str, Items],
        resamples: int,
        seed: int,
    ) -> None:
        self.models = {model.label: model for model in models}
        self.baselines = {label: baselines[label] if baselines[label] in self.models else None for label in self.models}
        self.columns, self.items, self.resamples, self.seed = columns, items, resamples, seed
        cells = [cell for model in models for cell in model.every]
        self.metrics = [m for m in METRICS if m == SCORE or any(_measured(cell, m) for cell in cells)]
        self._verdicts: dict[tuple[int, str], NDArray[np.float64]] = {}
        self.layouts = {column.name: self._layout(column) for column in columns}

    @cached_property
    def found(self) -> dict[str, dict[Hashable, Estimate]]:
        """By benchmark: (label, metric) for scores, (label, metric, baseline) for differences."""
        with ThreadPoolExecutor(_THREADS) as pool:
            return dict(zip((c.name for c in self.columns), pool.map(self._analyse, self.columns), strict=True))

    def benchmark(self, column: Column) -> Benchmark:
        where = self.layouts[column.name]
        cells = [cell for model in self.models.values() for task in column.tasks for cell in _cells(model, task)]
        judge = judge_of(cells[0].facts) if cells else None
        return Benchmark(column, sum(len(ids) for ids in where.clusters), where.count, judge)

    def row(self, model: Model, absent: Sequence[str]) -> Row:
        """Everything about one model."""
        names = [column.name for column in self.columns]
        seeds = _training_seeds(model)
        complete = {c.name: self._complete(model, c) for c in self.columns}
        missing = [name for name in names if complete[name] != seeds] + list(absent)
        baseline = self.baselines[model.label]
        scores = {n: self._scores(n, model.label) for n in names if complete[n]}
        differences = {n: self._differences(n, model.label, baseline) for n in names if baseline}
        differences = {name: found for name, found in differences.items() if found}
        _correct(differences, self.metrics)
        return Row(
            label=model.label,
            stage=model.stage,
            algorithm=model.algorithm,
            baseline=baseline,
            training_seeds=seeds,
            decoding_seeds=sorted({decoding for by in model.cells.values() for _, decoding in by}),
            weights={c.facts["training_seed"]: str(c.facts["model"]["weights_hash"]) for c in reversed(model.every)},
            missing=missing,
            scores=scores,
            tasks={c.name: self._tasks(model, c) for c in self.columns if complete[c.name]},
            answers={c.name: _answers(model, c) for c in self.columns if complete[c.name]},
            also={c.name: _also(model, c) for c in self.columns if complete[c.name]},
            macro={} if missing else self._macro_scores(model.label),
            differences=differences,
            macro_difference={} if missing or not baseline else self._macro_differences(model.label, baseline),
        )

    def _layout(self, column: Column) -> Layout:
        known = [self.items[task].groups.to_pylist() if task in self.items else [] for task in column.tasks]
        return layout(known)

    def _complete(self, model: Model, column: Column) -> list[int | None]:
        """Training seeds for which every task of the benchmark is there."""
        by_task = [{training for training, _ in model.cells.get(task, {})} for task in column.tasks]
        return [seed for seed in _training_seeds(model) if all(seed in there for there in by_task)]

    def _analyse(self, column: Column) -> dict[Hashable, Estimate]:
        series: dict[Hashable, Series] = {}
        for label, model in self.models.items():
            seeds, baseline = self._complete(model, column), self.baselines[label]
            for metric in self.metrics if seeds else ():
                series[label, metric] = self._score_series(model, column, metric, seeds)
            pairs = self._pairs(model, column)
            for metric in self.metrics if pairs else ():
                series[label, metric, baseline] = self._difference_series(model, column, metric, pairs)
        name = int.from_bytes(hashlib.sha256(column.name.encode()).digest()[:8], "big")
        random = np.random.default_rng([self.seed, name])
        statistics = resample(self.layouts[column.name], series, self.resamples, random)
        return {
            key: Estimate(self.layouts[column.name], series[key], statistic) for key, statistic in statistics.items()
        }

    def _pairs(self, model: Model, column: Column) -> Pairs:
        """Training seeds in which model and baseline meet; a model without one meets every seed of the other."""
        name = self.baselines[model.label]
        if name is None:
            return []
        ours, theirs = self._complete(model, column), self._complete(self.models[name], column)
        met = [(seed, seed, seed) for seed in ours if seed in theirs]
        if not met and None in (*ours, *theirs):
            met = [(o if t is None else t, o, t) for o in ours for t in theirs if None in (o, t)]
        other = self.models[name]
        return [p for p in met if all(_decoding(model, t, p[1]) & _decoding(other, t, p[2]) for t in column.tasks)]

    def _score_series(self, model: Model, column: Column, metric: str, seeds: Sequence[int | None]) -> Series:
        values = [
            np.stack([self._mean(model, task, metric, seed, _decoding(model, task, seed)) for seed in seeds])
            for task in column.tasks
        ]
        return Series(seeds, values, False, self._units(column, len(seeds)))

    def _difference_series(self, model: Model, column: Column, metric: str, pairs: Pairs) -> Series:
        name = self.baselines[model.label]
        assert name is not None
        other = self.models[name]
        values = []
        for task in column.tasks:
            of_seeds = []
            for _, ours, theirs in pairs:
                shared = _decoding(model, task, ours) & _decoding(other, task, theirs)
                first = self._mean(model, task, metric, ours, shared)
                of_seeds.append(first - self._mean(other, task, metric, theirs, shared))
            values.append(np.stack(of_seeds))
        return Series([seed for seed, _, _ in pairs], values, True, self._units(column, len(pairs)))

    def _mean(
        self, model: Model, task: str, metric: str, training: int | None, decoding: set[int]
    ) -> NDArray[np.float64]:
        """[items] mean over decoding seeds and samples of one checkpoint, nan where not defined."""
        found = [self._of_cell(model.cells[task][training, one], metric) for one in sorted(decoding)]
        if len(found) == 1:
            return found[0]
        known = [~np.isnan(values) for values in found]
        count = np.sum(known, axis=0)
        return np.where(count > 0, np.nansum(found, axis=0) / np.maximum(count, 1), np.nan)

    def _of_cell(self, cell: Cell, metric: str) -> NDArray[np.float64]:
        key = (id(cell), metric)
        if key not in self._verdicts:
            self._verdicts[key] = verdicts(cell, metric)
        return self._verdicts[key]

    def _units(self, column: Column, seeds: int) -> int:
        """A number of verdicts that every mean over the benchmark's responses is a whole multiple of one part of."""
        cells = [by for model in self.models.values() for task in column.tasks for by in [model.cells.get(task, {})]]
        decoding = math.lcm(*(n for by in cells for n in _counts(by)))
        samples = {int(c.facts["samples_per_item"]) for by in cells for c in by.values()}
        return math.lcm(*samples) * decoding * seeds

    def _scores(self, name: str, label: str) -> dict[str, Score]:
        found = {metric: self.found[name].get((label, metric)) for metric in self.metrics}
        return {m: score_of(f) for m, f in found.items() if f and not math.isnan(f.statistic.value)}

    def _differences(self, name: str, label: str, baseline: str | None) -> dict[str, Difference]:
        found = {metric: self.found[name].get((label, metric, baseline)) for metric in self.metrics}
        return {m: difference_of(f) for m, f in found.items() if f and not math.isnan(f.statistic.value)}

    def _macro(self, key: Hashable) -> Statistic | None:
        """The unweighted mean over benchmarks, or None where one lacks it or has other training seeds."""
        found = [self.found[column.name].get(key) for column in self.columns]
        statistics = [f.statistic for f in found if f is not None]
        if len(statistics) < len(found) or any({*s.seeds} != {*statistics[0].seeds} for s in statistics):
            return None
        whole = average(statistics)
        return None if math.isnan(whole.value) else whole

    def _macro_scores(self, label: str) -> dict[str, Score]:
        if len(self.columns) == 1:
            return self._scores(self.columns[0].name, label)
        wholes = {metric: self._macro((label, metric)) for metric in self.metrics}
        return {
            metric: macro_score(whole, [self.found[c.name][label, metric] for c in self.columns])
            for metric, whole in wholes.items()
            if whole is not None
        }

    def _macro_differences(self, label: str, baseline: str) -> dict[str, Difference]:
        if len(self.columns) == 1:
            return self._differences(self.columns[0].name, label, baseline)
        wholes = {metric: self._macro((label, metric, baseline)) for metric in self.metrics}
        return {
            metric: macro_difference(whole, [self.found[c.name][label, metric, baseline] for c in self.columns])
            for metric, whole in wholes.items()
            if whole is not None
        }

    def _tasks(self, model: Model, column: Column) -> dict[str, float]:
        """Each task's score, over every checkpoint and response."""
        result = {}
        for task in column.tasks:
            seeds = [seed for seed in _training_seeds(model) if _decoding(model, task, seed)]
            of_seeds = [self._mean(model, task, SCORE, seed, _decoding(model, task, seed)).mean() for seed in seeds]
            result[task] = float(np.mean(of_seeds)) if of_seeds else math.nan
        return result


def _correct(differences: dict[str, dict[str, Difference]], metrics: Sequence[str]) -> None:
    """Fill in Holm's correction over the benchmarks, for each metric by itself."""
    for metric in metrics:
        names = [name for name in differences if metric in differences[name]]
        adjusted = holm([differences[name][metric].p for name in names])
        for name, p in zip(names, adjusted, strict=True):
            differences[name][metric] = replace(differences[name][metric], p_holm=p)


def _measured(cell: Cell, metric: str) -> bool:
    column = cell.table.column(metric)
    return bool(column.null_count < len(column))


def _cells(model: Model, task: str) -> list[Cell]:
    return list(model.cells.get(task, {}).values())


def _training_seeds(model: Model) -> list[int | None]:
    seeds = {training for by_seeds in model.cells.values() for training, _ in by_seeds}
    return sorted(seeds, key=lambda seed: (seed is not None, seed or 0))


def _decoding(model: Model, task: str, training: int | None) -> set[int]:
    return {decoding for known, decoding in model.cells.get(task, {}) if known == training}


def _counts(by_seeds: Mapping[Seeds, Cell]) -> set[int]:
    """Numbers of decoding seeds that means are taken over, as far as whole numbers matter."""
    trained = [training for training, _ in by_seeds]
    return {trained.count(training) for training in trained}


def _answers(model: Model, column: Column) -> Answers:
    """Rates over every response of the benchmark's cells, tasks weighted equally."""
    by_task = []
    for task in column.tasks:
        cells = _cells(model, task)
        if cells:
            by_task.append(np.mean([_rates(cell) for cell in cells], axis=0))
    return Answers(*(float(value) for value in np.mean(by_task, axis=0)))


def _also(model: Model, column: Column) -> dict[str, float]:
    """What the benchmark reports beside its score, and no column of the samples is."""
    if not column.also:
        return {}
    found = metrics(column.name, [cell for task in column.tasks for cell in _cells(model, task)])
    return {name: found[name] for name in column.also if name in found}


def _rates(cell: Cell) -> list[float]:
    n, answers = cell.table.num_rows, cell.table.column("answer")
    errors = pc.sum(pc.equal(cell.table.column("judged"), "error")).as_py() or 0
    truncated, tokens = (pc.mean(cell.table.column(name)).as_py() for name in ("truncated", "tokens"))
    return [answers.null_count / n, math.nan if truncated is None else truncated, tokens or math.nan, errors / n]


def _notes(
    models: Sequence[Model], rows: Sequence[Row], absent: Sequence[str], refused: Sequence[Refusal]
) -> list[str]:
    """What a reader has to know beside the numbers."""
    cells = [cell for model in models for cell in model.every]
    notes = [_about_seeds(rows)]
    if absent:
        notes.append(f"No model was asked {', '.join(absent)}: there is no macro-average of the whole suite.")
    for row in rows:
        lacking = [name for name in row.missing if name not in absent]
        if lacking:
            notes.append(f"{row.label} has no complete evaluation of {', '.join(lacking)}, so no macro-average.")
        told = {seed for found in row.differences.values() for d in found.values() for seed in d.seeds}
        if row.baseline and told and len(told) < len(row.training_seeds):
            kept = ", ".join(map(str, sorted(told, key=str)))
            notes.append(f"{row.label} and {row.baseline} share the training seeds {kept} only: differences use these.")
        if row.baseline and row.scores and not row.differences:
            notes.append(f"{row.label} shares no benchmark and seed with {row.baseline}: there is no difference.")
    limits = {cell.facts["limit"] for cell in cells if cell.facts["limit"] is not None}
    if limits:
        notes.append(f"Only the first {max(limits)} items of a task were asked: these are not the benchmarks' scores.")
    if any(cell.facts.get("judge") for cell in cells):
        from benchmarks.judging import identity_text

        judges = sorted({identity_text(cell.facts["judge"]) for cell in cells if cell.facts.get("judge")})
        notes.append(f"Judged by {'; '.join(judges)} where rules could not decide.")
    servers = sorted({_server(cell) for cell in cells})
    if len(servers) > 1:
        notes.append(f"Responses came from different servers ({'; '.join(servers)}), which can move a score a little.")
    if refused:
        notes.append(f"{len(refused)} cells do not match and were left out.")
    return notes


def _about_seeds(rows: Sequence[Row]) -> str:
    """What the intervals are over, in words."""
    differences = [d for row in rows for found in row.differences.values() for d in found.values()]
    scores = [s for row in rows for found in row.scores.values() for s in found.values()]
    kinds = {(one.over, len(one.seeds)) for one in (differences or scores)}
    if all(over == "items" and seeds == 1 for over, seeds in kinds):
        return (
            "One training seed: intervals and tests say how far other items could move a result for these checkpoints, "
            "nothing about other training seeds."
        )
    if all(over != "items" for over, _ in kinds):
        return "Intervals and tests are over items and training seeds."
    most = max(seeds for over, seeds in kinds if over == "items")
    return (
        f"With fewer than five training seeds (here {most}) intervals and tests are over items, conditional on these "
        "checkpoints; each seed's own value stands beside."
    )


def _server(cell: Cell) -> str:
    return ", ".join(f"{key} {value}" for key, value in sorted(cell.facts["server"].items()) if value is not None)
