"""What is seen in a data file of every form: fields, segments, duplicates, and what is held out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from published import (
    chart,
    encoded,
    jsonl,
    pair_record,
    parquet,
    public_record,
    response,
    rl_record,
    sft_record,
)

from benchmarks.perf.data import write_pool
from integrations.common.response import parse
from integrations.errors import BadInput
from prism_cli.datasets.check import check
from prism_cli.datasets.leakage import HeldOut, questions
from prism_cli.datasets.reading import items
from prism_cli.datasets.schema import incomplete

LONG = (
    "In the chart of yearly rainfall which of the named valleys received more than the mean of all the other ones did"
)


def row(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"row-{number}",
        "images": [f"images/{number}.png"],
        "system": None,
        "prompt": f"What follows bar {number}?",
        "response": response(number),
        "answer": str(number + 1),
        "source": "made",
    } | changes


def pool(folder: Path, rows: list[Any], name: str = "pool.jsonl", pictures: bool = True) -> Path:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for number in range(len(rows) if pictures else 0):
        (folder / "images" / f"{number}.png").write_bytes(encoded(chart(number)))
    lines = [line if isinstance(line, str) else json.dumps(line) for line in rows]
    (folder / name).write_text("".join(f"{line}\n" for line in lines))
    return folder / name


def found(file: Path, use: str | None = None, **options: Any) -> dict[tuple[str, str, str], list[int]]:
    """What a check says: level, field and problem, with the rows that it names."""
    told = check(file, use, **options).told()
    return {(p["level"], p["field"], p["problem"]): [e["row"] for e in p["examples"]] for p in told["problems"]}


def test_good_rows_are_sound(tmp_path: Path) -> None:
    report = check(pool(tmp_path, [row(number) for number in range(20)]), "teacher", pictures=True)
    told = report.told()
    assert (told["rows"], told["usable"], told["pictures"], told["sound"]) == (20, 20, 20, True)
    assert told["segments"] == {"demonstrations": 20, "complete": 20}
    assert (told["problems"], told["leakage"]) == ([], None)
    assert {kind: one["rows"] for kind, one in told["duplicates"].items()} == {"ids": 0, "exact": 0, "normalised": 0}


def test_each_fault_is_named_with_its_field_and_row(tmp_path: Path) -> None:
    rows = [
        row(0),
        "{not json",
        "[1]",
        {key: value for key, value in row(3).items() if key != "answer"},
        row(4, prompt="  "),
        row(5, prompt=["What?"]),
        row(6, images="images/0.png"),
        row(7, images=["images/none.png"]),
        row(8, images=["../secret.png"]),
        row(9, response=None),
        row(10, response="It is 3 <image>"),
        row(11, system=3),
    ]
    assert found(pool(tmp_path, rows), "sft") == {
        ("error", "line", "is not JSON (expecting property name enclosed in double quotes)"): [2],
        ("error", "line", "is no JSON object"): [3],
        ("error", "answer", "is missing"): [4],
        ("error", "prompt", "is empty"): [5],
        ("error", "prompt", "is a list, not text"): [6],
        ("error", "images", "is no list of paths"): [7],
        ("error", "images", "names a file that is missing"): [8],
        ("error", "images", "names a file outside the pool's folder"): [9],
        ("error", "response", "is missing or empty"): [10],
        ("error", "response", "contains <image>"): [11],
        ("note", "response", "has no <caption> block"): [11],
        ("error", "system", "is a number, not text"): [12],
    }


@pytest.mark.parametrize("name", ["id", "images", "prompt", "answer"])
def test_a_first_row_that_lacks_a_field_is_a_row_all_the_same(tmp_path: Path, name: str) -> None:
    lacking = {key: value for key, value in row(0).items() if key != name}
    assert found(pool(tmp_path, [lacking, row(1)])) == {("error", name, "is missing"): [1]}


def test_faulty_rows_are_counted_once_and_examples_are_few(tmp_path: Path) -> None:
    rows = [row(n, prompt="", images=["images/none.png"]) if n % 2 else row(n) for n in range(40)]
    told = check(pool(tmp_path, rows)).told()
    assert (told["rows"], told["usable"]) == (40, 20)
    assert [(p["rows"], len(p["examples"])) for p in told["problems"]] == [(20, 5), (20, 5)]
    assert told["problems"][0]["examples"][0] == {"row": 2, "id": "row-1"}
    assert not told["sound"]


def test_what_a_row_needs_depends_on_its_use(tmp_path: Path) -> None:
    plain = pool(tmp_path, [row(0, response="It is 1.", answer="")])
    lacking = ("response", "has no <caption> block")
    assert found(plain) == {("note", *lacking): [1]}
    assert found(plain, "sft") == {("note", *lacking): [1]}
    assert found(plain, "teacher") == {("error", *lacking): [1]}
    assert found(plain, "rlvr") == {("note", *lacking): [1], ("error", "answer", "is empty"): [1]}


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        (response(1), None),
        ("<think>a</think><answer>b</answer>", "has no <caption> block"),
        ("<caption>c</caption><think>a</think><answer>b", "has an unfinished <answer> block"),
        ("<caption>c</caption><think>a</think><think>a</think><answer>b</answer>", "has more than one <think> block"),
        ("<caption>c</caption><think> </think><answer>b</answer>", "has an empty <think> block"),
        (
            "<caption>c</caption><answer>b</answer><think>a</think>",
            "has the blocks in another order, or text outside them",
        ),
        (f"So: {response(1)}", "has the blocks in another order, or text outside them"),
    ],
)
def test_incomplete_demonstrations_say_what_they_lack(text: str, wrong: str | None) -> None:
    assert incomplete(text) == wrong
    assert (parse(text) is None) == (wrong is not None)


def test_duplicates_are_named_with_what_they_repeat(tmp_path: Path) -> None:
    rows = [row(n) for n in range(6)]
    rows[3] = row(3, id="row-1")
    rows[4] = {**row(0), "id": "again"}
    rows[5] = row(2, id="louder", prompt="WHAT follows, bar 2 ?", response=response(9))
    told = check(pool(tmp_path, rows)).told()
    assert told["duplicates"] == {
        "ids": {"rows": 1, "examples": [{"row": 4, "like": 2}]},
        "exact": {"rows": 1, "examples": [{"row": 5, "like": 1}]},
        "normalised": {"rows": 2, "examples": [{"row": 5, "like": 1}, {"row": 6, "like": 3}]},
    }
    assert [(p["level"], p["field"], p["problem"]) for p in told["problems"]] == [("error", "id", "occurs twice")]


def test_pictures_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    file = pool(tmp_path, [row(n) for n in range(4)])
    (tmp_path / "images/2.png").write_bytes(b"no picture")
    (tmp_path / "images/3.png").write_bytes(encoded(chart(3))[:400])
    assert found(file) == {}
    assert found(file, pictures=True) == {
        ("error", "images", "cannot be read (UnidentifiedImageError)"): [3],
        ("error", "images", "cannot be read (OSError)"): [4],
    }


FORMS = {
    "chat.parquet": parquet([rl_record(n) for n in range(5)]),
    "inside.parquet": parquet([sft_record(n) for n in range(5)]),
    "turns.jsonl": jsonl([{**public_record(n), "images": [f"images/{n}.png"]} for n in range(5)]),
    "turns.json": json.dumps([{**public_record(n), "images": [f"images/{n}.png"]} for n in range(5)]).encode(),
    "pairs.jsonl": jsonl([pair_record(n) for n in range(5)]),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_published_form_is_read_as_rows(tmp_path: Path, name: str) -> None:
    pool(tmp_path, [row(n) for n in range(5)])
    (tmp_path / name).write_bytes(FORMS[name])
    told = check(tmp_path / name, "teacher", pictures=True).told()
    assert (told["rows"], told["usable"], told["pictures"], told["problems"]) == (5, 5, 5, [])
    assert told["segments"] == {"demonstrations": 5, "complete": 5}
    assert [item.row["prompt"] for item in items(tmp_path / name)] == [f"What follows bar {n}?" for n in range(5)]


def test_faults_of_the_published_forms(tmp_path: Path) -> None:
    chat = [rl_record(0, teacher_cot=""), rl_record(1, prompt=[{"role": "user", "content": "<image><image> two?"}])]
    (tmp_path / "chat.parquet").write_bytes(parquet(chat))
    assert found(tmp_path / "chat.parquet") == {
        ("error", "teacher_cot", "is missing or empty"): [1],
        ("error", "prompt", "has 2 times `<image>` for 1 images"): [2],
    }
    pool(tmp_path, [row(0), row(1)])
    lines = [pair_record(0, student_cot=""), pair_record(1, student_cot="I do not know")]
    (tmp_path / "pairs.jsonl").write_bytes(jsonl(lines))
    assert found(tmp_path / "pairs.jsonl") == {
        ("error", "student_cot", "is missing or empty"): [1],
        ("error", "student_cot", "has not the blocks think and answer"): [2],
    }


def test_files_of_no_known_form_are_refused(tmp_path: Path) -> None:
    (tmp_path / "other.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "other.json").write_text('{"text": "a"}')
    (tmp_path / "other.parquet").write_bytes(b"PAR1")
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "columns.parquet")
    for name, said in [
        ("other.jsonl", "is of no form that prism reads (its fields: text)"),
        ("other.json", "holds no list of JSON objects"),
        ("other.parquet", "cannot read"),
        ("columns.parquet", "is of no form that prism reads (its fields: text)"),
        ("none.jsonl", "cannot read"),
    ]:
        with pytest.raises(BadInput) as refused:
            [*items(tmp_path / name)]
        assert said in refused.value.problem


def test_an_empty_file_is_not_sound(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    assert check(tmp_path / "empty.jsonl").told()["sound"] is False


# What is held out


def benchmark(folder: Path, numbers: list[int], questions_: dict[int, str] | None = None) -> Path:
    """A benchmark's copy as `prism eval --data` takes it: pictures in a column of their own, others' paths beside."""
    records = [
        {
            "pid": str(number),
            "question": (questions_ or {}).get(number, "What is shown?"),
            "image": f"images/{number}.png",
            "decoded_image": {"bytes": encoded(chart(number)), "path": None},
        }
        for number in numbers
    ]
    place = folder / "AI4Math" / "MathVista" / "data"
    place.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(records), place / "testmini.parquet")
    return folder


@pytest.mark.parametrize("jobs", [1, 2])
def test_held_out_pictures_are_found_in_other_clothes(tmp_path: Path, jobs: int) -> None:
    file = pool(tmp_path, [row(n) for n in range(12)])
    for number, size in ((3, None), (5, (128, 96))):
        image = chart(number)
        image = image if size is None else image.resize(size)
        (tmp_path / f"images/{number}.png").write_bytes(encoded(image, "JPEG", quality=70))
    held_out = HeldOut.read([benchmark(tmp_path / "benchmarks", [3, 5, 50, 51])], jobs=jobs)
    told = check(file, held_out=held_out, pictures=True, jobs=jobs).told()
    name = "AI4Math/MathVista/data/testmini.parquet"
    assert told["leakage"]["pictures"] == {
        "rows": 2,
        "examples": [
            {"row": 4, "id": "row-3", "held_out": f"{name}:1"},
            {"row": 6, "id": "row-5", "held_out": f"{name}:2"},
        ],
    }
    assert told["leakage"]["of"] == {"questions": 4, "pictures": 4, "short": 4, "unread": 0}
    assert not told["sound"]


def test_held_out_words_are_certain_only_without_pictures(tmp_path: Path) -> None:
    rows = [row(0, prompt=f"Look. {LONG}?"), row(1), row(2, prompt=f"{LONG}", images=[])]
    file = pool(tmp_path, rows)
    held_out = HeldOut.read([benchmark(tmp_path / "benchmarks", [50], {50: f"{LONG}!"})])
    leakage = check(file, held_out=held_out, pictures=True).told()["leakage"]
    assert [leakage[kind]["rows"] for kind in ("pictures", "texts", "wording")] == [0, 1, 1]
    assert leakage["texts"]["examples"][0]["row"] == 3
    only_words = check(pool(tmp_path, rows[:2]), held_out=held_out).told()
    assert (only_words["leakage"]["wording"]["rows"], only_words["sound"]) == (1, True)


def test_a_pool_is_held_out_like_a_benchmark(tmp_path: Path) -> None:
    test = pool(tmp_path, [row(n) for n in range(4)], "test.jsonl")
    train = pool(tmp_path, [row(n) for n in range(2, 8)], "train.jsonl", pictures=False)
    for number in range(4, 8):
        (tmp_path / f"images/{number}.png").write_bytes(encoded(chart(number)))
    told = check(train, held_out=HeldOut.read([test]), pictures=True).told()
    assert [e["row"] for e in told["leakage"]["pictures"]["examples"]] == [1, 2]


def test_held_out_pictures_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    test = pool(tmp_path, [row(n) for n in range(3)], "test.jsonl")
    (tmp_path / "images/1.png").write_bytes(b"no picture")
    held_out = HeldOut.read([test])
    assert (len(held_out.pictures), held_out.unread) == (2, 1)


def test_a_folder_without_questions_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(BadInput, match="no held-out items"):
            [*questions(path)]


def test_what_the_benchmark_measures_is_sound(tmp_path: Path) -> None:
    write_pool(tmp_path / "sft.jsonl", 50)
    told = check(tmp_path / "sft.jsonl", "teacher").told()
    assert (told["rows"], told["usable"], told["segments"]["complete"]) == (50, 50, 50)
    assert {one["rows"] for one in told["duplicates"].values()} == {0}
