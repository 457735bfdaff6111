"""What a benchmark reports, computed from the samples store.

Every benchmark has `score`, the mean over its tasks of the share of correct responses, and the shares `unparseable`,
`truncated`, `format`, and where they can be measured `perception` and `reasoning`. Further:

    mathverse         the share of each problem version: `text_dominant`, `text_lite`, `vision_intensive`, ...
    mmmu_pro          `standard` and `vision`, whose mean is the score
    wemath            `strict` and `loose`, from the verdicts on a problem and on its steps
    hallusion_bench   `aAcc` (the score), `qAcc` (question pairs all right) and `fAcc` (figures all right)

Those computed over groups of items agree with the official functions in lmms-eval, to rounding. All are in [0, 1]. With
several responses per item, decoding seeds or training seeds, each is computed for every one of them and averaged.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from benchmarks.samples import Cell

Rows = Sequence[Mapping[str, Any]]
"""Rows of samples.parquet, with at least the columns of `_COLUMNS`."""

_COLUMNS = ["item_id", "group_id", "subset", "sample", "correct", "rule", "truncated", "format", "perception", "logic"]
_SHARES = {"truncated": "truncated", "format": "format", "perception": "perception", "reasoning": "logic"}


def metrics(benchmark: str, cells: Iterable[Cell]) -> dict[str, float]:
    """Everything that a benchmark reports about one model.

    Args:
        benchmark: its name in the suite; any name is good, the seven have metrics of their own.
        cells: finished cells of one model, protocol and benchmark: each task for every training and decoding seed.

    Returns:
        Metrics by name; one that is not defined for these cells is left out.
    """
    runs: dict[tuple[Any, Any], dict[str, Rows]] = defaultdict(dict)
    for cell in cells:
        seeds = (cell.facts.get("training_seed"), cell.facts.get("decoding_seed"))
        runs[seeds][cell.task] = cell.table.select(_COLUMNS).to_pylist()
    return _mean([_one_run(benchmark, tasks) for tasks in runs.values()])


def _one_run(benchmark: str, tasks: Mapping[str, Rows]) -> dict[str, float]:
    found = _mean([_shares(rows) for rows in tasks.values()])
    if benchmark == "mmmu_pro":
        found |= {task.removeprefix("prism_mmmu_pro_"): _share(rows, "correct") for task, rows in tasks.items()}
    if benchmark in _GROUPED:
        own = [_GROUPED[benchmark](rows) for rows in tasks.values()]
        found |= _mean(own)
    return found


def _shares(rows: Rows) -> dict[str, float]:
    found = {"score": _share(rows, "correct"), "unparseable": fmean(row["rule"] == "unparseable" for row in rows)}
    for name, column in _SHARES.items():
        if any(row[column] is not None for row in rows):
            found[name] = _share([row for row in rows if row[column] is not None], column)
    return found


def _share(rows: Rows, column: str) -> float:
    return fmean(bool(row[column]) for row in rows)


def _mean(several: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means by name over those that have it, in order of first appearance."""
    names = dict.fromkeys(name for one in several for name in one)
    return {name: fmean(one[name] for one in several if name in one) for name in names}


def _grouped(rows: Rows, column: str) -> dict[Any, Rows]:
    found: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        found[row[column]].append(row)
    return dict(found)


def _by_version(rows: Rows) -> dict[str, float]:
    """MathVerse: the share of correct responses of each problem version."""
    versions = sorted(_grouped(rows, "subset").items(), key=lambda version: str(version[0]))
    return {str(name).lower().replace(" ", "_"): _share(part, "correct") for name, part in versions}


def _wemath(rows: Rows) -> dict[str, float]:
    """WeMath's four dimensions, as its authors weigh them: 1 - IG/2 - RM - IK as shares of all problems.

    IG, inadequate generalisation: all steps right, the whole wrong. IK, insufficient knowledge: a step wrong, the whole
    wrong. RM, rote memorisation: the whole right although a step (strict) or every step (loose) is wrong.
    """
    points: dict[str, list[float]] = {"strict": [], "loose": []}
    for answers in _grouped(rows, "sample").values():
        for problem in _grouped(answers, "group_id").values():
            right = {str(row["subset"]).rpartition("_")[2]: bool(row["correct"]) for row in problem}
            whole = right.pop("multi", None)
            if whole is None or len(right) != int(str(problem[0]["subset"])[0]):
                continue  # a limited run may hold parts of a problem
            steps = list(right.values())
            failed = 0.5 if all(steps) else 0.0
            points["strict"].append(float(all(steps)) if whole else failed)
            points["loose"].append(float(any(steps)) if whole else failed)
    return {name: fmean(values) for name, values in points.items() if values}


def _hallusion_bench(rows: Rows) -> dict[str, float]:
    """HallusionBench: all questions, all answers to a question over its figures, all questions on a figure."""
    found: dict[str, list[bool]] = {"aAcc": [], "qAcc": [], "fAcc": []}
    for answers in _grouped(rows, "sample").values():
        pairs: dict[tuple[str, ...], list[bool]] = defaultdict(list)
        figures: dict[tuple[str, ...], list[bool]] = defaultdict(list)
        for row in answers:
            category, subcategory, group, figure, question = str(row["item_id"]).split("/")
            right = bool(row["correct"])
            found["aAcc"].append(right)
            pairs[category, subcategory, group, question].append(right)
            if category != "VS" or figure != "0":  # VS questions of figure 0 come without an image
                figures[category, subcategory, group, figure].append(right)
        found["qAcc"].extend(all(marks) for marks in pairs.values())
        found["fAcc"].extend(all(marks) for marks in figures.values())
    return {name: fmean(values) for name, values in found.items() if values}


_GROUPED: dict[str, Callable[[Rows], dict[str, float]]] = {
    "mathverse": _by_version,
    "wemath": _wemath,
    "hallusion_bench": _hallusion_bench,
}
"""Metrics over groups of items, by benchmark."""
