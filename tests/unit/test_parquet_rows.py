"""Pools in the published form: the columns of the paper's data sets, and rows that cannot be used, by their faults."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from integrations.common.parquet_rows import convert
from integrations.common.rows import read_rows
from integrations.errors import BadInput
from integrations.verl.reward import decide


def picture(shade: int, width: int = 1) -> bytes:
    """A PNG of one row of grey pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, 1, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes([0, *[shade] * width]))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def record(number: int, **changes: Any) -> dict[str, Any]:
    turns = [{"role": "system", "content": "Be exact."}, {"role": "user", "content": f"<image>\nHow many? {number}"}]
    return {
        "images": [{"bytes": picture(number), "path": None}],
        "data_source": "mm_gad",
        "prompt": turns,
        "teacher_caption": "<caption>three</caption>",
        "teacher_cot": "<think>one by one</think>\n<answer>3</answer>",
        "reward_model": {"ground_truth": "3", "style": "rule"},
    } | changes


def turns(user: str | None, system: str = "Be exact.") -> list[dict[str, Any]]:
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(records), path)
    return path


def test_the_published_columns_become_rows(tmp_path: Path) -> None:
    source = write(tmp_path / "rl.parquet", [record(number) for number in range(100)])
    assert convert(source, tmp_path / "pools", "teacher") == {"rows": 100, "demonstrations": 100}
    rows = list(read_rows(tmp_path / "pools" / "teacher.jsonl"))
    first = rows[0]
    assert (first["id"], first["system"], first["prompt"]) == ("teacher-000000", "Be exact.", "How many? 0")
    assert first["response"] == "<caption>three</caption>\n<think>one by one</think>\n<answer>3</answer>"
    assert (first["answer"], first["source"]) == ("3", "mm_gad")
    assert all((tmp_path / "pools" / row["images"][0]).read_bytes() == picture(n) for n, row in enumerate(rows))
    assert not list((tmp_path / "pools").glob(".*"))


def test_prompts_alone_have_no_demonstration(tmp_path: Path) -> None:
    bare = {k: v for k, v in record(1).items() if not k.startswith("teacher")}
    convert(write(tmp_path / "rl.parquet", [bare]), tmp_path / "pools", "rlvr")
    (row,) = read_rows(tmp_path / "pools" / "rlvr.jsonl")
    assert row["response"] is None


def test_images_may_lie_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture(9))
    convert(write(tmp_path / "rl.parquet", [record(1, images=["a.png"])]), tmp_path / "pools", "rlvr")
    (row,) = read_rows(tmp_path / "pools" / "rlvr.jsonl")
    assert (tmp_path / "pools" / row["images"][0]).read_bytes() == picture(9)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"prompt": turns("<image><image> both?")}, "`prompt` has 2 times `<image>` for 1 images"),
        ({"prompt": turns("<image>What?"), "images": []}, "`prompt` has 1 times `<image>` for 0 images"),
        ({"prompt": turns("What?", "Look at <image>")}, "`prompt` contains <image>"),
        ({"prompt": turns("<image>What is in <video>?")}, "`prompt` contains <video>"),
        ({"prompt": turns("<image>\n")}, "`prompt` has no text"),
        ({"prompt": [{"role": "assistant", "content": "hello"}]}, "`prompt` has the turns ['assistant'], not one user"),
        ({"prompt": turns("What?") * 2}, "not one user turn"),
        ({"prompt": turns(None)}, "`prompt`: the user turn's content is no text"),
        ({"prompt": []}, "`prompt` has the turns [], not one user turn"),
        ({"images": [{"bytes": b"not a picture", "path": None}]}, "`images`: image 0 is neither a picture's bytes nor"),
        ({"images": [{"bytes": None, "path": "gone.png"}]}, "`images`: image 0 is neither a picture's bytes nor a"),
        ({"images": [{"bytes": picture(1)[:20], "path": None}]}, "`images`: image 0 cannot be read"),
        ({"images": [{"bytes": picture(1, 201), "path": None}]}, "image 0 is 201 x 1 pixels, more than 200 times"),
        ({"images": [{"bytes": picture(1), "path": None}] * 2}, "`images`: the same image twice"),
        (
            {"reward_model": {"ground_truth": " ", "style": "rule"}},
            "no reference answer in `reward_model.ground_truth`",
        ),
        ({"reward_model": None}, "no reference answer in `reward_model.ground_truth` or `answer`"),
        ({"teacher_cot": "<think>without an end"}, "`teacher_caption`, `teacher_cot`: the demonstration has not"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_and_nothing_is_written(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    source = write(tmp_path / "rl.parquet", [record(0), record(1, **changes)])
    with pytest.raises(BadInput, match="row 1: ") as error:
        convert(source, tmp_path / "pools", "rlvr")
    assert says in error.value.problem
    assert not list((tmp_path / "pools").glob("*.jsonl"))
    assert not list((tmp_path / "pools").glob(".*.partial"))


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("images", "a.png", "row 0: `images`: is no list"),
        ("images", {"bytes": b"x", "path": None}, "row 0: `images`: is no list"),
        ("reward_model", "3", "row 0: `reward_model` is no struct with `ground_truth`"),
        ("reward_model", {"ground_truth": ["3"]}, "row 0: `reward_model`: an answer is neither text nor a number"),
        ("prompt", 7, "row 0: `prompt` is no list of chat turns"),
        ("prompt", turns("x")[1], "row 0: `prompt` is no list of chat turns"),
    ],
)
def test_columns_of_another_type_are_refused(tmp_path: Path, column: str, value: Any, says: str) -> None:
    source = write(tmp_path / "rl.parquet", [record(0, **{column: value})])
    with pytest.raises(BadInput) as error:
        convert(source, tmp_path / "pools", "rlvr")
    assert error.value.problem == f"{source}: {says}"


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        ({"ground_truth": "1/2", "equivalent_answers": ["0.5", " 50% ", "1/2", ""]}, '["1/2", "0.5", "50%"]'),
        ({"ground_truth": "1/2", "equivalent_answers": ["__EMPTY__"]}, "1/2"),
        ({"ground_truth": "半", "equivalent_answers": "一半"}, '["半", "一半"]'),
        ({"ground_truth": "1/2", "equivalent_answers": None}, "1/2"),
        ({"ground_truth": 0}, "0"),
    ],
)
def test_equivalent_answers_reach_the_reward(tmp_path: Path, given: dict[str, Any], answer: str) -> None:
    convert(write(tmp_path / "rl.parquet", [record(1, reward_model=given)]), tmp_path / "pools", "rlvr")
    (row,) = read_rows(tmp_path / "pools" / "rlvr.jsonl")
    assert row["answer"] == answer
    others = given.get("equivalent_answers") or []
    for said in [given["ground_truth"], *([others] if isinstance(others, str) else others)]:
        assert decide(str(said), row["answer"]).correct == bool(said != "" and said != "__EMPTY__")


def test_what_is_no_such_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "rl.parquet").write_text("hello")
    with pytest.raises(BadInput, match="cannot read"):
        convert(tmp_path / "rl.parquet", tmp_path / "pools", "rlvr")
    write(tmp_path / "other.parquet", [{"text": "hello"}])
    with pytest.raises(BadInput, match="lacks `prompt`"):
        convert(tmp_path / "other.parquet", tmp_path / "pools", "rlvr")
    pq.write_table(pa.Table.from_pylist([record(0)]).slice(0, 0), tmp_path / "empty.parquet")
    with pytest.raises(BadInput, match="it has no rows"):
        convert(tmp_path / "empty.parquet", tmp_path / "pools", "rlvr")
    good = write(tmp_path / "damaged.parquet", [record(number % 250) | {"id": str(number)} for number in range(300)])
    data = bytearray(good.read_bytes())
    data[len(data) // 4 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 4)
    good.write_bytes(data)
    with pytest.raises(BadInput, match=r"cannot read .*damaged\.parquet"):
        convert(good, tmp_path / "pools", "rlvr")


def test_a_recipes_folder_may_mix_both_forms(tmp_path: Path) -> None:
    from prism_cli.pipeline.groundwork import _gather

    given = tmp_path / "given"
    (given / "images").mkdir(parents=True)
    (given / "images" / "x.png").write_bytes(picture(3))
    (given / "sft.jsonl").write_text(json.dumps({"id": "1", "images": ["images/x.png"], "prompt": "?", "answer": "3"}))
    write(given / "rlvr.parquet", [record(1)])
    for _ in range(2):  # a second time takes the place of the first
        _gather(given, tmp_path / "pools", ["sft", "rlvr"])
    assert sorted(path.name for path in (tmp_path / "pools").iterdir()) == ["images", "rlvr.jsonl", "sft.jsonl"]
    assert (tmp_path / "pools" / "images" / "x.png").read_bytes() == picture(3)
    assert sorted(path.name for path in given.iterdir()) == ["images", "rlvr.parquet", "sft.jsonl"]
