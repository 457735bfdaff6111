"""The digits world on disk: repeatable, with scans that never cross from training to held-out items."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.digits.build_world import SIDE, Strips, build, split_scans
from benchmarks.digits.world import score
from integrations.common.rows import read_rows

ROOT = Path(__file__).resolve().parents[2]
WORLD = {
    "world_seed": 0,
    "base_reading": 30,
    "base_questions": 30,
    "base_drills": 20,
    "sft_public": 400,
    "sft_clean": 40,
    "teacher": 40,
    "rlvr": 40,
    "validation": 40,
    "test": 60,
    "validation_scans": 250,
    "test_scans": 447,
    "easy_digits": [2, 2],
    "hard_digits": [3, 4],
    "hard_share": 0.5,
    "choice_share": 0.25,
    "perception_random": 0.1,
    "perception_systematic": 0.9,
    "reasoning_random": 0.1,
    "reasoning_systematic": 0.9,
    "style_drift": 0.5,
}
POOLS = ("base", "sft", "teacher", "rlvr", "validation", "test")


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("digits") / "data"
    build(SimpleNamespace(**WORLD), 1, out)
    return out


def test_the_same_settings_and_seed_give_the_same_bytes(world: Path, tmp_path: Path) -> None:
    build(SimpleNamespace(**WORLD), 1, tmp_path / "again")
    assert files(tmp_path / "again") == files(world)


def test_another_seed_draws_new_training_pools_and_the_same_held_out_items(world: Path, tmp_path: Path) -> None:
    build(SimpleNamespace(**WORLD), 2, tmp_path / "other")
    for pool in POOLS:
        same = (tmp_path / "other" / f"{pool}.jsonl").read_bytes() == (world / f"{pool}.jsonl").read_bytes()
        assert same == (pool in ("validation", "test")), pool
    summaries = [json.loads((folder / "world.json").read_text()) for folder in (world, tmp_path / "other")]
    assert summaries[0]["scan_split_sha256"] == summaries[1]["scan_split_sha256"]
    assert summaries[0]["fingerprint"] != summaries[1]["fingerprint"]


def tiles_of(folder: Path, row: dict[str, Any]) -> Iterator[bytes]:
    pixels = np.asarray(Image.open(folder / row["images"][0]).convert("L"))
    assert pixels.shape == (SIDE, SIDE * len(row["task"]["digits"]))
    for place in range(len(row["task"]["digits"])):
        yield pixels[:, place * SIDE : (place + 1) * SIDE].tobytes()


def test_every_strip_shows_its_digits_from_the_scans_of_its_part(world: Path, tmp_path: Path) -> None:
    strips = Strips(tmp_path / "images")
    numbers: dict[bytes, set[int]] = {}
    for number, tile in enumerate(strips.tiles):
        numbers.setdefault(tile.tobytes(), set()).add(number)
    parts = {name: set(part) for name, part in split_scans(SimpleNamespace(**WORLD), len(strips.labels)).items()}
    assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == len(strips.labels)
    for pool in POOLS:
        part = parts[pool if pool in ("validation", "test") else "train"]
        for row in read_rows(world / f"{pool}.jsonl"):
            for tile, digit in zip(tiles_of(world, row), row["task"]["digits"], strict=True):
                assert numbers[tile] & part, f"{row['id']} shows a scan of another part"
                assert digit in {strips.labels[number] for number in numbers[tile]}


def test_pools_hold_what_their_stages_need(world: Path) -> None:
    rows = {pool: list(read_rows(world / f"{pool}.jsonl")) for pool in POOLS}
    sizes = {"base": 80, "sft": 440, "teacher": 40, "rlvr": 40, "validation": 40, "test": 60}
    assert {pool: len(part) for pool, part in rows.items()} == sizes
    assert len({row["id"] for part in rows.values() for row in part}) == sum(sizes.values())
    for pool in ("rlvr", "validation", "test"):
        assert all(row["response"] is None for row in rows[pool])
    assert {row["source"] for row in rows["sft"]} == {"public", "clean"}
    assert {row["source"] for row in rows["base"]} == {"reading", "questions", "drills"}
    assert all("<caption>" not in row["response"] for row in rows["base"])
    for row in (*rows["teacher"], *(row for row in rows["sft"] if row["source"] == "clean")):
        judged = score(row, row["response"])
        assert (judged.answer, judged.perception, judged.reasoning) == (True, True, True)
    widths = {len(row["task"]["digits"]) for row in rows["rlvr"]}
    assert widths == {2, 3, 4}, "images vary in size"
    assert len({len(row["prompt"]) for row in rows["rlvr"]}) > 10, "prompts vary in length"


def test_the_summary_tells_the_errors_that_are_really_there(world: Path) -> None:
    summary = json.loads((world / "world.json").read_text())
    public = [row for row in read_rows(world / "sft.jsonl") if row["source"] == "public"]
    wrong = sum(not score(row, row["response"]).perception for row in public) / len(public)
    told = summary["demonstrations"]["public"]["all"]
    assert told["perception_right"] == pytest.approx(1 - wrong, abs=1e-4)
    assert 0.05 < told["perception_random"] < 0.17
    assert told["perception_systematic"] > 0.1
    assert summary["demonstrations"]["public"]["by_kind"]["sum"]["reasoning_systematic"] > 0.1
    assert summary["demonstrations"]["clean"]["all"]["answer_right"] == 1
    assert summary["scans"] == {"test": 447, "train": 1100, "validation": 250}


def test_style_drifts_along_the_public_part(tmp_path: Path) -> None:
    quiet = {**WORLD, "style_drift": 0.0, "perception_systematic": 0.0}
    build(SimpleNamespace(**quiet), 1, tmp_path / "quiet")
    build(SimpleNamespace(**{**quiet, "style_drift": 0.5}), 1, tmp_path / "drifting")

    def drifted(folder: Path) -> float:
        captions = [row["response"].split("</caption>")[0] for row in read_rows(folder / "sft.jsonl")]
        return sum(any(letter.isalpha() for letter in text.removeprefix("<caption>")) for text in captions) / 440

    assert drifted(tmp_path / "quiet") == 0
    assert 0.35 < drifted(tmp_path / "drifting") < 0.55


def test_the_contact_sheet_is_a_picture(world: Path) -> None:
    with Image.open(world / "contact_sheet.png") as sheet:
        assert sheet.width > 1000
        assert sheet.height > 1000
        assert len(sheet.convert("RGB").getcolors(1 << 20) or []) > 50


def test_a_folder_that_exists_is_left_alone(world: Path) -> None:
    before = files(world)
    with pytest.raises(FileExistsError, match="exists already"):
        build(SimpleNamespace(**WORLD), 3, world)
    assert files(world) == before


def test_a_failed_build_leaves_nothing_and_says_why(tmp_path: Path) -> None:
    settings = tmp_path / "world.json"
    settings.write_text(json.dumps({key: rate for key, rate in WORLD.items() if key != "style_drift"}))
    command = [sys.executable, "-m", "benchmarks.digits.build_world", "--settings", str(settings), "--seed", "1"]
    done = subprocess.run([*command, "--out", str(tmp_path / "out")], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert "style_drift" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["world.json"]
