"""What the evaluator makes of responses whose scores are known."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from benchmarks.digits import evaluate as evaluator
from benchmarks.digits.world import CLEAN, KINDS, Question, conclude, demonstrate
from integrations.alignment.rollout import Generation, Sampling
from integrations.common.rows import Row
from integrations.errors import BadInput

DIGITS = ((7, 2, 4), (3, 8), (5, 5, 1), (9, 0), (6, 4))


def make_row(index: int) -> Row:
    kind, digits = KINDS[index % len(KINDS)], DIGITS[index % len(DIGITS)]
    question = Question(kind, "easy", digits, f"{kind}?", None)
    task = {"kind": kind, "level": "easy", "digits": list(digits), "options": None}
    response = demonstrate(question, CLEAN, random.Random(index)).text
    return {
        "id": f"item-{index}", "images": [], "prompt": question.text, "answer": question.answer, "task": task,
        "response": response,
    }  # fmt: skip


class Speaker:
    """Answers from a script in place of a model."""

    def __init__(self, texts: dict[str, str], finished: bool = True) -> None:
        self.texts, self.finished = texts, finished
        self.asked: list[tuple[Sampling, list[int]]] = []

    def sample(
        self, rows: Sequence[Row], samples: int, sampling: Sampling, seeds: list[int], batch_size: int
    ) -> list[list[Generation]]:
        self.asked.append((sampling, seeds))
        return [[Generation([1, 2, 3], self.texts[row["id"]], self.finished)] for row in rows]


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    made = [make_row(index) for index in range(10)]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    return made


def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speaker: Speaker, **changes: Any) -> dict[str, Any]:
    config = {
        "model": "model", "data_dir": str(tmp_path), "pool": "test", "limit": None, "seed": 5, "batch": 4, "threads": 1,
        "max_new_tokens": 9, "out": str(tmp_path / "out"),
        "protocols": [{"name": "greedy", "temperature": 0.0, "top_p": 1.0}],
    }  # fmt: skip
    monkeypatch.setattr(evaluator, "_load", lambda model, data_dir: speaker)
    return evaluator.evaluate(config | changes, lambda done, total: None)


def test_demonstrations_score_full_marks(rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run(tmp_path, monkeypatch, Speaker({row["id"]: row["response"] for row in rows}))["greedy"]
    assert [found[name] for name in ("answer", "perception", "reasoning", "format")] == [1.0] * 4
    assert (found["n"], found["truncated"], found["generated_tokens"]) == (10, 0.0, 30)


def test_each_score_is_counted_apart(rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Item 0 misreads and reasons on; item 1 slips; item 2 breaks the form; the others are right."""
    texts = {row["id"]: row["response"] for row in rows}
    seen = [1, 2, 4]
    follows = conclude("sum", seen, None)
    texts["item-0"] = f"<caption>1 2 4</caption><think>1+2+4</think><answer>{follows}</answer>"
    texts["item-1"] = "<caption>3 8</caption><think>8-3=4</think><answer>4</answer>"
    texts["item-2"] = "5"
    found = run(tmp_path, monkeypatch, Speaker(texts))["greedy"]
    assert (found["answer"], found["perception"], found["format"]) == (0.7, 0.8, 0.9)
    assert found["reasoning"] == pytest.approx(8 / 9)
    assert found["defined"]["reasoning"] == 9
    items = pq.read_table(tmp_path / "out" / "greedy" / "items.parquet").to_pylist()
    assert [items[0][name] for name in ("answer", "perception", "reasoning", "format")] == [False, False, True, True]
    assert [items[2][name] for name in ("answer", "perception", "reasoning", "format")] == [False, False, None, False]
    assert items[1]["response"] == texts["item-1"]


def test_responses_that_do_not_end_are_counted_as_truncated(
    rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speaker = Speaker({row["id"]: row["response"] for row in rows}, finished=False)
    assert run(tmp_path, monkeypatch, speaker)["greedy"]["truncated"] == 1.0


def test_checkpoints_draw_from_the_same_streams_and_items_from_different_ones(
    rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {row["id"]: row["response"] for row in rows}
    protocols = [{"name": "sample", "temperature": 1.0, "top_p": 0.7}]
    first, second, other = Speaker(texts), Speaker(texts), Speaker(texts)
    run(tmp_path, monkeypatch, first, protocols=protocols, model="one")
    run(tmp_path, monkeypatch, second, protocols=protocols, model="two", batch=10)
    run(tmp_path, monkeypatch, other, protocols=protocols, seed=6)
    seeds = [[seed for _, some in speaker.asked for seed in some] for speaker in (first, second, other)]
    assert seeds[0] == seeds[1]
    assert len({*seeds[0]}) == 10
    assert not {*seeds[0]} & {*seeds[2]}
    assert first.asked[0][0] == Sampling(1.0, 0.7, 9)


def test_limit_takes_the_first_items(rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    speaker = Speaker({row["id"]: row["response"] for row in rows})
    run(tmp_path, monkeypatch, speaker, limit=3)
    items = pq.read_table(tmp_path / "out" / "greedy" / "items.parquet").to_pylist()
    assert [item["id"] for item in items] == ["item-0", "item-1", "item-2"]


def test_empty_pool_is_refused(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text("")
    with pytest.raises(BadInput, match="holds no rows"):
        evaluator.load_items(tmp_path, "test", None)
