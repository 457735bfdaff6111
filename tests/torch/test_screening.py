"""Rows that cannot be trained on: each is found before the training, by its reason, and refused or left out."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from integrations.alignment.data import screening
from integrations.alignment.data.pool import TeacherPool, read_pool
from integrations.alignment.data.prompts import Encoder
from integrations.alignment.data.screening import Limits, screen
from integrations.alignment.data.segments import Splitter
from integrations.alignment.training.world import World as Alone
from integrations.common.rows import Row
from integrations.errors import BadInput
from tests.torch.conftest import write_pool

World = tuple[Path, list[Row]]


@pytest.fixture
def data(world: World, tmp_path: Path) -> World:
    """A copy of the world's folder, to be spoilt."""
    folder = tmp_path / "data"
    shutil.copytree(world[0], folder)
    return folder, [dict(row) for row in world[1]]


def screened(
    data: World, processor: Any, *, longest: int = 2048, bad_rows: str = "skip", tell: Any = None
) -> TeacherPool:
    folder, rows = data
    write_pool(folder, "spoilt", rows)
    pool = read_pool(folder / "spoilt.jsonl", 4, Splitter(processor.tokenizer))
    encoder = Encoder(processor, folder)
    limits = Limits(longest, bad_rows)
    return screen(pool, encoder, limits, threads=2, world=Alone(), tell=tell or (lambda done, rows: None))


def test_a_good_pool_passes_as_it_is(data: World, processor: Any) -> None:
    pool = screened(data, processor, bad_rows="refuse")
    assert pool.dropped == {}
    assert (len(pool.train), len(pool.held_out)) == (20, 4)


def test_a_prompts_length_is_known_from_its_images_sizes(data: World, encoder: Encoder) -> None:
    for row in data[1]:
        sizes = [encoder.image(path).size for path in row["images"]]
        assert encoder.length(row, sizes) == len(encoder.encode(row).ids)


def spoil(data: World) -> dict[str, str]:
    """One row of each kind of trouble; id and what is said of it."""
    folder, rows = data
    missing, damaged, cut, long, marked = rows[1], rows[4], rows[7], rows[3], rows[6]
    missing["images"] = ["images/none.png"]
    (folder / damaged["images"][0]).write_bytes(b"\x89PNG not really")
    path = folder / cut["images"][0]
    path.write_bytes(path.read_bytes()[:-200])
    long["prompt"] = "Add the digits. " * 200
    marked["prompt"] = "What is <|image_pad|>?"
    rows[9]["response"] = "<caption> </caption><think>so</think><answer>7</answer>"
    return {
        missing["id"]: "No such file",
        damaged["id"]: "cannot identify",
        cut["id"]: "truncated",
        long["id"]: "more than max_prompt_tokens (300)",
        marked["id"]: "1 image placeholders for 0 images",
        rows[9]["id"]: "one of them is empty",
    }


def test_bad_rows_are_left_out_each_with_its_reason(data: World, processor: Any) -> None:
    before = screened((data[0], [dict(row) for row in data[1]]), processor)
    reasons = spoil(data)
    pool = screened(data, processor, longest=300)
    assert pool.dropped.keys() == reasons.keys()
    for name, says in reasons.items():
        assert says in pool.dropped[name]
    kept = {row["id"] for row in (*pool.train, *pool.held_out)}
    assert kept == pool.demonstrations.keys() == {row["id"] for row in data[1]} - reasons.keys()
    assert {row["id"] for row in before.held_out} - reasons.keys() <= {row["id"] for row in pool.held_out}


@pytest.mark.parametrize("which", range(6))
def test_a_bad_row_is_refused_where_that_is_asked_for(which: int, data: World, processor: Any) -> None:
    reasons = spoil(data)
    name, says = list(reasons.items())[which]
    rows = [row for row in data[1] if row["id"] == name or row["id"] not in reasons]
    with pytest.raises(BadInput) as caught:
        screened((data[0], rows), processor, longest=300, bad_rows="refuse")
    assert says in caught.value.problem
    assert name in caught.value.problem


def test_a_pool_with_nothing_left_says_why(data: World, processor: Any) -> None:
    for row in data[1]:
        row["images"] = ["images/none.png"]
    with pytest.raises(BadInput, match=r"only 0 rows .*cannot read the image"):
        screened(data, processor)


def test_news_comes_while_it_takes_long(data: World, processor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screening, "TOLD_EVERY", -1.0)
    told: list[tuple[int, int]] = []
    screened(data, processor, tell=lambda done, rows: told.append((done, rows)))
    assert told == [(number, 24) for number in range(1, 25)]
