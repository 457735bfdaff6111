"""The reader of growing JSON lines gives every whole line once and is not upset by half ones."""

import itertools
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from integrations.common.jsonl import JsonlTail


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as stream:
        stream.write(data)


def test_a_missing_file_is_no_news(tmp_path: Path) -> None:
    reader = JsonlTail(tmp_path / "log.jsonl")
    assert reader.poll() == []
    append(tmp_path / "log.jsonl", b'{"step": 1}\n')
    assert reader.poll() == [{"step": 1}]


def test_a_half_line_waits_for_its_end(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    reader = JsonlTail(path)
    append(path, b'{"step": 1}\n{"st')
    assert reader.poll() == [{"step": 1}]
    assert reader.poll() == []
    append(path, b'ep": 2}\n')
    assert reader.poll() == [{"step": 2}]


def test_a_character_cut_in_two_is_put_together(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    line = '{"text": "é"}\n'.encode()
    reader = JsonlTail(path)
    append(path, line[:11])
    assert reader.poll() == []
    append(path, line[11:])
    assert reader.poll() == [{"text": "é"}]


def test_lines_that_are_no_json_objects_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    append(path, b'\nnot json\n[1]\n\xff\xfe\n{"step": 3}\n')
    assert JsonlTail(path).poll() == [{"step": 3}]


def test_a_truncated_file_is_read_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    reader = JsonlTail(path)
    append(path, b'{"step": 1}\n{"step": 2}\n')
    assert len(reader.poll()) == 2
    path.write_bytes(b'{"step": 2}\n')
    assert reader.poll() == [{"step": 2}]


def test_a_file_put_in_its_place_is_read_from_its_start(tmp_path: Path) -> None:
    path, other = tmp_path / "log.jsonl", tmp_path / "other"
    reader = JsonlTail(path)
    append(path, b'{"step": 1}\n')
    assert len(reader.poll()) == 1
    other.write_bytes(b'{"step": 7, "more": true}\n')
    other.rename(path)
    assert reader.poll() == [{"step": 7, "more": True}]


@given(st.lists(st.integers(0, 60), max_size=12))
def test_any_way_of_writing_gives_the_same_rows(cuts: list[int]) -> None:
    rows = [{"step": number} for number in range(5)]
    data = b"".join(b'{"step": %d}\n' % row["step"] for row in rows)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.jsonl"
        reader, seen = JsonlTail(path), []
        for begin, end in itertools.pairwise(edges):
            append(path, data[begin:end])
            seen += reader.poll()
    assert seen == rows
