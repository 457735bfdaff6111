"""The teacher pool: what is held out never trains, every row is used, bad demonstrations are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from integrations.alignment.data.pool import read_pool
from integrations.alignment.data.segments import Splitter
from integrations.common.rows import Row
from integrations.errors import BadInput
from tests.torch.conftest import write_pool

World = tuple[Path, list[Row]]


@pytest.fixture
def splitter(processor: Any) -> Splitter:
    return Splitter(processor.tokenizer)


def test_held_out_prompts_do_not_depend_on_order_and_are_nested(
    world: World, splitter: Splitter, tmp_path: Path
) -> None:
    rows = world[1]
    write_pool(tmp_path, "one", rows)
    write_pool(tmp_path, "other", rows[::-1])
    one, other = (read_pool(tmp_path / f"{name}.jsonl", 8, splitter) for name in ("one", "other"))
    names = [row["id"] for row in one.held_out]
    assert names == [row["id"] for row in other.held_out]
    assert [row["id"] for row in read_pool(tmp_path / "one.jsonl", 4, splitter).held_out] == names[:4]
    assert not set(names) & {row["id"] for row in one.train}
    assert len(one.train) == 16


def test_every_row_once_an_epoch_each_in_its_own_order(world: World, splitter: Splitter) -> None:
    pool = read_pool(world[0] / "teacher.jsonl", 8, splitter)
    steps = [[row["id"] for row in pool.pick(step, 5, 0, "align")] for step in range(16)]
    taken = [name for step in steps for name in step]
    for epoch in range(5):
        assert sorted(taken[16 * epoch : 16 * epoch + 16]) == sorted(row["id"] for row in pool.train)
    assert taken[:16] != taken[16:32]
    assert steps[7] == [row["id"] for row in pool.pick(7, 5, 0, "align")]
    assert steps[0] != [row["id"] for row in pool.pick(0, 5, 1, "align")]


def test_bad_demonstrations_are_left_out_by_name(world: World, splitter: Splitter, tmp_path: Path) -> None:
    rows = [dict(row) for row in world[1]]
    rows[3]["response"], rows[5]["response"] = None, "<caption>3</caption> only"
    write_pool(tmp_path, "teacher", rows)
    pool = read_pool(tmp_path / "teacher.jsonl", 8, splitter)
    assert list(pool.dropped) == ["row-3", "row-5"]
    assert len(pool.train) + len(pool.held_out) == 22
    with pytest.raises(BadInput, match="too few to hold 12 out"):
        read_pool(tmp_path / "teacher.jsonl", 12, splitter)


def test_repeated_ids_are_refused(world: World, splitter: Splitter, tmp_path: Path) -> None:
    write_pool(tmp_path, "teacher", [*world[1], world[1][0]])
    with pytest.raises(BadInput, match="occurs twice"):
        read_pool(tmp_path / "teacher.jsonl", 4, splitter)
