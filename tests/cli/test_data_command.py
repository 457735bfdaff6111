"""`prism data check`, `stats` and `card`: what people and scripts see, and what is refused."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from published import chart, encoded, response, rl_record

from integrations.common.dataset_card import card, size_category
from integrations.errors import BadInput
from prism_cli.__main__ import main
from prism_cli.datasets.choice import choose
from prism_cli.datasets.stats import draw, histogram, quantiles, statistics, token_statistics


def pool(file: Path, numbers: range, **changes: Any) -> Path:
    (file.parent / "images").mkdir(parents=True, exist_ok=True)
    lines = []
    for number in numbers:
        (file.parent / f"images/{number}.png").write_bytes(encoded(chart(number)))
        row = {
            "id": f"{file.stem}-{number}",
            "images": [f"images/{number}.png"],
            "prompt": f"What follows bar {number}?",
        }
        row |= {"system": None, "response": response(number), "answer": str(number + 1), "source": "made"}
        lines.append(json.dumps(row | changes) + "\n")
    file.write_text("".join(lines))
    return file


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The 4B recipe's pools, small; the last two of the teacher's pictures are the test pool's too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    folder = tmp_path / "data" / "prism"
    pool(folder / "public.jsonl", range(0, 4), response="It is 3.")
    pool(folder / "curated.jsonl", range(4, 8))
    pool(folder / "rlvr.jsonl", range(8, 12), response=None)
    pool(folder / "teacher.jsonl", range(12, 18))
    pool(folder / "test.jsonl", range(16, 20), response=None)
    return folder


def test_a_recipes_pools_are_checked_for_what_its_stages_need(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", "--recipe", "qwen3-vl-4b", "--json", "--jobs", "1"]) == 1
    told = json.loads(capsys.readouterr().out)
    files = {Path(one["file"]).stem: one for one in told["files"]}
    assert {name: one["use"] for name, one in files.items()} == {
        "public": "sft",
        "curated": "sft",
        "teacher": "teacher",
        "rlvr": "rlvr",
    }
    assert {name: one["leakage"]["pictures"]["rows"] for name, one in files.items()} == {
        "public": 0,
        "curated": 0,
        "teacher": 2,
        "rlvr": 0,
    }
    assert files["public"]["problems"][0]["level"] == "note"
    assert (files["public"]["sound"], files["teacher"]["sound"], told["sound"]) == (True, False, False)


def test_a_person_sees_counts_examples_and_a_verdict(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = (data / "teacher.jsonl").read_text().splitlines()
    (data / "teacher.jsonl").write_text("\n".join([*rows, rows[0], "{"]) + "\n")
    words = ["data", "check", "data/prism/teacher.jsonl", "--use", "teacher", "--held-out", "data/prism/test.jsonl"]
    assert main([*words, "--jobs", "1"]) == 1
    out = capsys.readouterr().out
    assert "data/prism/teacher.jsonl: 8 rows, 7 usable" in out
    assert "same picture: 2 rows" in out
    assert "test.jsonl:1" in out
    assert "occurs twice" in out
    assert "is repeated as it stands" in out
    assert out.strip().endswith("is above")
    assert max(map(len, out.splitlines())) <= 80
    assert main(["data", "check", "data/prism/curated.jsonl", "--pictures", "--jobs", "1"]) == 0
    assert capsys.readouterr().out.strip().endswith("sound")


def test_published_files_are_checked_as_they_are(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from published import parquet

    Path("rl.parquet").write_bytes(parquet([rl_record(n) for n in range(3)] + [rl_record(3, teacher_caption=None)]))
    assert main(["data", "check", "rl.parquet", "--use", "teacher", "--json"]) == 1
    (told,) = json.loads(capsys.readouterr().out)["files"]
    assert told["segments"] == {"demonstrations": 4, "complete": 4}
    assert told["problems"][0]["field"] == "teacher_caption"


@pytest.mark.parametrize(
    ("words", "problem", "fix"),
    [
        ([], "say which data to look at", "name files, or give --recipe"),
        (["none.jsonl"], "there is no file none.jsonl", "name JSON lines, JSON or parquet files"),
        (["--recipe", "digits"], "the pools of recipe digits are generated for each run", "runs/<run>/data/pools"),
        (["data/prism/test.jsonl", "--use", "dpo"], "--use dpo: rows are not used for that", "one of: sft, teacher"),
        (["data/prism/test.jsonl", "--held-out", "none"], "there are no held-out items in none", "prism eval --data"),
    ],
)
def test_bad_input_has_a_fix(
    data: Path, capsys: pytest.CaptureFixture[str], words: list[str], problem: str, fix: str
) -> None:
    assert main(["data", "check", *words, "--json"]) == 2
    told = json.loads(capsys.readouterr().out)
    assert told["error"] == problem
    assert fix in told["fix"]


def test_a_pool_that_is_not_there_names_the_command_that_fetches_it(data: Path) -> None:
    (data / "rlvr.jsonl").unlink()
    with pytest.raises(BadInput, match="rlvr of recipe qwen3-vl-4b is not in") as refused:
        choose(None, "qwen3-vl-4b")
    assert refused.value.fix == "fetch what is published: prism data get --recipe qwen3-vl-4b"


def test_statistics_count_rows_texts_and_images(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "stats", "data/prism/curated.jsonl", "data/prism/rlvr.jsonl", "--json"]) == 0
    curated, rlvr = json.loads(capsys.readouterr().out)["files"]
    assert (curated["rows"], curated["complete"], rlvr["complete"]) == (4, 4, 0)
    assert curated["characters"]["caption"]["50"] == len("bars 4")
    assert curated["images_per_row"] == {"1": 4}
    assert curated["sources"] == {"made": 4}
    assert "response" not in rlvr["characters"]
    assert "response" not in rlvr["fields"]
    assert main(["data", "stats", "data/prism/curated.jsonl"]) == 0
    out = capsys.readouterr().out
    assert "4 rows" in out
    assert max(map(len, out.splitlines())) <= 80


def test_a_drawing_needs_a_model_that_counts(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "stats", "data/prism/curated.jsonl", "--png", "h.png", "--json"]) == 2
    assert "no model counts them" in json.loads(capsys.readouterr().out)["error"]
    assert main(["data", "stats", "data/prism/curated.jsonl", "--model", "data", "--json"]) == 2
    assert "has no tokenizer.json" in json.loads(capsys.readouterr().out)["error"]


LENGTHS = [[10, 30, 60, 900], [20, 0, 180, 0], [0, 0, 0, 0], [500, 300, 201, 64]]
"""Prompt, images, response, pixels: rows of 100, 200, none and 1001 tokens."""


def test_tokens_are_summed_up_and_rows_beyond_the_limit_counted() -> None:
    found = token_statistics(LENGTHS, limit=200)
    assert (found["rows"], found["uncounted"], found["sum"]) == (3, 1, 1301)
    assert found["over"] == {"limit": 200, "rows": 1}
    assert found["image_share"] == round(330 / 1301, 4)
    assert (found["total"]["0"], found["total"]["50"], found["total"]["100"]) == (100, 200, 1001)
    assert token_statistics([[0, 0, 0, 0]]) == {"rows": 0, "uncounted": 1}


@pytest.mark.parametrize("totals", [[1], [1, 2, 3], [7] * 5, [100, 200, 1001], [2**14], [5, 2**14 + 1]])
def test_every_row_is_in_one_bin(totals: list[int]) -> None:
    import numpy as np

    bins = histogram(np.array(totals))
    for one in bins:
        assert one["rows"] == sum(one["least"] <= total < one["below"] for total in totals)
    assert sum(one["rows"] for one in bins) == len(totals)
    assert all(left["below"] == right["least"] for left, right in pairwise(bins))


def test_the_histogram_is_drawn(tmp_path: Path) -> None:
    draw(LENGTHS, tmp_path / "new" / "h.png", "sft", limit=200)
    assert (tmp_path / "new" / "h.png").read_bytes().startswith(b"\x89PNG")
    draw([[0, 0, 0, 0]], tmp_path / "empty.png", "sft")


def test_quantiles_of_one_value_are_that_value() -> None:
    found = quantiles([7])
    assert (found.pop("count"), {*found.values()}) == (1, {7})


def front_matter(text: str) -> dict[str, Any]:
    _, head, _ = text.split("---\n", 2)
    return dict(yaml.safe_load(head))


def test_a_card_has_the_hubs_front_matter_and_what_was_counted(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    receipt = {"repo": "prism-vlm/rl_dataset", "revision": "a" * 40}
    (data / "teacher.receipt.json").write_text(json.dumps(receipt))
    files = [f"data/prism/{name}.jsonl" for name in ("teacher", "rlvr")]
    words = ["--name", 'Say "bars": a set', "--license", "cc-by-4.0", "--summary", "Bars."]
    assert main(["data", "card", *files, *words]) == 0
    text = capsys.readouterr().out
    assert front_matter(text) == {
        "pretty_name": 'Say "bars": a set',
        "license": "cc-by-4.0",
        "task_categories": ["image-text-to-text"],
        "size_categories": ["n<1K"],
        "configs": [
            {"config_name": "teacher", "data_files": "teacher.jsonl"},
            {"config_name": "rlvr", "data_files": "rlvr.jsonl"},
        ],
    }
    assert "| teacher | 6 | 6 | 6 | made |" in text
    assert "| rlvr | 4 | 0 | 4 | made |" in text
    assert f"- `prism-vlm/rl_dataset` at `{'a' * 40}`" in text
    assert main(["data", "card", *files, *words, "--out", "card/README.md"]) == 0
    assert (Path("card/README.md").read_text(), capsys.readouterr().out) == (text, "")


def test_a_card_shows_tokens_where_they_were_counted(data: Path) -> None:
    found = statistics(data / "curated.jsonl")
    found["tokens"] = token_statistics(LENGTHS)
    assert "| curated | 200 | 985 | 1,001 | 25% |" in card("x", {"curated": found}, "unknown")


@pytest.mark.parametrize(
    ("rows", "name"), [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (1_400_000, "1M<n<10M"), (10**8, "100M<n<1B")]
)
def test_size_categories_are_the_hubs(rows: int, name: str) -> None:
    assert size_category(rows) == name
