"""What benchmarks report, from cells of the samples store; upstream's own functions are compared in tests/engines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from benchmarks.metrics import metrics
from benchmarks.samples import SCHEMA, Cell
from benchmarks.suites import TASKS, load_suite


def cell(task: str, rows: list[dict[str, Any]], **facts: Any) -> Cell:
    whole = [{"sample": 0, "rule": "letter", "truncated": False, "format": True, **row} for row in rows]
    return Cell(Path(task), {"task": task, **facts}, pa.Table.from_pylist(whole, schema=SCHEMA))


def wemath(problem: int, *marks: bool, sample: int = 0) -> list[dict[str, Any]]:
    """Rows of one problem: its steps, then the whole."""
    steps = len(marks) - 1
    names = [*(f"{steps}steps_{i + 1}" for i in range(steps)), f"{steps}steps_multi"]
    group = f"{steps}steps-{problem}"
    return [
        {"item_id": f"{group}-{name}", "group_id": group, "subset": name, "sample": sample, "correct": mark}
        for name, mark in zip(names, marks, strict=True)
    ]


def hallusion(name: str, correct: bool) -> dict[str, Any]:
    return {"item_id": name, "group_id": name.rpartition("/")[0], "correct": correct}


@pytest.mark.parametrize(
    ("marks", "strict", "loose"),
    [
        ((True, True, True), 1, 1),  # mastered
        ((True, True, False), 0.5, 0.5),  # does not generalise
        ((True, False, False), 0, 0),  # does not know
        ((True, False, True), 0, 1),  # knows it by heart, strictly
        ((False, False, True), 0, 0),  # knows it by heart
        ((True, True, True, True), 1, 1),
        ((False, True, False, True), 0, 1),
    ],
)
def test_wemath_dimensions(marks: tuple[bool, ...], strict: float, loose: float) -> None:
    found = metrics("wemath", [cell("prism_wemath_testmini", wemath(1, *marks))])
    assert (found["strict"], found["loose"]) == (strict, loose)
    assert found["score"] == pytest.approx(sum(marks) / len(marks))


def test_wemath_leaves_out_problems_that_a_limit_cut() -> None:
    rows = [*wemath(1, True, True, True), *wemath(2, True, True, True)[:2]]
    assert metrics("wemath", [cell("prism_wemath_testmini", rows)])["strict"] == 1
    assert "strict" not in metrics("wemath", [cell("prism_wemath_testmini", rows[3:])])


def test_wemath_pairs_steps_within_a_sample() -> None:
    rows = [*wemath(1, True, True, True), *wemath(1, False, False, False, sample=1)]
    found = metrics("wemath", [cell("prism_wemath_testmini", rows)])
    assert found["strict"] == found["loose"] == 0.5


def test_hallusion_bench_pairs_and_figures() -> None:
    rows = [
        hallusion("VD/ocr/0/0/0", True),
        hallusion("VD/ocr/0/0/1", True),
        hallusion("VD/ocr/0/1/0", True),
        hallusion("VD/ocr/0/1/1", False),
        hallusion("VS/map/0/0/0", True),  # a question without a figure
    ]
    found = metrics("hallusion_bench", [cell("prism_hallusion_bench_image", rows)])
    assert found["aAcc"] == found["score"] == 4 / 5
    assert found["qAcc"] == pytest.approx(2 / 3)
    assert found["fAcc"] == 1 / 2


def test_mmmu_pro_is_the_mean_of_its_two_settings_whatever_their_sizes() -> None:
    standard = cell("prism_mmmu_pro_standard", [{"item_id": "1", "correct": True}])
    vision = cell("prism_mmmu_pro_vision", [{"item_id": str(i), "correct": i == 0} for i in range(4)])
    found = metrics("mmmu_pro", [standard, vision])
    assert (found["standard"], found["vision"], found["score"]) == (1, 0.25, 0.625)


def test_mathverse_versions() -> None:
    rows = [
        {"item_id": "1", "subset": "Text Dominant", "correct": True},
        {"item_id": "2", "subset": "Vision Only", "correct": False},
        {"item_id": "3", "subset": "Vision Only", "correct": True},
    ]
    found = metrics("mathverse", [cell("prism_mathverse_testmini", rows)])
    assert (found["text_dominant"], found["vision_only"]) == (1, 0.5)


def test_rates_that_are_not_measured_are_left_out() -> None:
    rows = [
        {"item_id": "1", "correct": True, "perception": True},
        {"item_id": "2", "correct": False, "rule": "unparseable", "perception": None, "truncated": True},
    ]
    found = metrics("digits", [cell("prism_digits", rows)])
    assert found == {"score": 0.5, "unparseable": 0.5, "truncated": 0.5, "format": 1, "perception": 1}


def test_seeds_weigh_the_same() -> None:
    first = cell("prism_digits", [{"item_id": "1", "correct": True}], training_seed=0, decoding_seed=0)
    second = cell("prism_digits", [{"item_id": "1", "correct": False}], training_seed=1, decoding_seed=0)
    assert metrics("digits", [first, second])["score"] == 0.5
    assert metrics("digits", []) == {}


def test_the_suite_has_the_seven_benchmarks_with_their_tasks_and_published_sizes() -> None:
    suite = load_suite("multimodal-reasoning")
    sizes = {task: size for benchmark in suite.benchmarks for task, size in benchmark.items.items()}
    assert [benchmark.title for benchmark in suite.benchmarks] == [
        *("MathVista", "MathVerse", "MathVision", "WeMath", "MMMU", "MMMU-Pro", "HallusionBench")
    ]
    assert sorted(sizes.values()) == [304, 900, 951, 1000, 1730, 1730, 1740, 3940]
    for benchmark in suite.benchmarks:
        assert set(benchmark.items) == set(benchmark.tasks)
        assert all((TASKS / f"{task}.yaml").is_file() for task in benchmark.tasks)
