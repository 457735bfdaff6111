"""`prism align`: what it refuses before an engine starts, which models it takes, and what it prints."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from integrations.errors import BadInput
from prism_cli import __main__ as program
from prism_cli.commands import align
from prism_cli.runs.overview import find_or_latest

GOOD = {"images": [], "prompt": "What?", "response": "<caption>a</caption><think>b</think><answer>c</answer>"}


def write(folder: Path, *lines: Any) -> Path:
    path = folder / "items.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: no field `images`"),
        ({**GOOD, "images": "a.png"}, "line 2: `images` is not a list of paths"),
        ({**GOOD, "images": ["a.png"]}, "line 2: `images`: there is no file a.png"),
        ({**GOOD, "images": [3]}, "line 2: `images`: there is no file 3"),
        ({**GOOD, "prompt": None}, "line 2: `prompt` is not text"),
        ({"images": [], "prompt": "x"}, "line 2: no field `response`"),
        ({**GOOD, "system": 1}, "line 2: `system` is not text"),
    ],
)
def test_a_wrong_line_is_named_with_its_field(tmp_path: Path, line: Any, problem: str) -> None:
    path = write(tmp_path, GOOD, line)
    with pytest.raises(BadInput) as caught:
        align.read_items(path, tuple(align.FIELDS))
    assert caught.value.problem.startswith(f"{path}, {problem}")
    assert caught.value.fix


def test_files_that_hold_nothing_or_no_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is empty"):
        align.read_items(write(tmp_path, "", " "), ("response",))
    with pytest.raises(BadInput, match="cannot read"):
        align.read_items(tmp_path / "none.jsonl", ("response",))
    (tmp_path / "items.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="not UTF-8"):
        align.read_items(tmp_path / "items.jsonl", ("response",))


def test_lines_keep_their_numbers_and_what_is_asked(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    row = {**GOOD, "id": "row-1", "images": ["a.png"], "system": "Be exact.", "answer": "c", "task": {}}
    items = align.read_items(write(tmp_path, "", GOOD, row), tuple(align.FIELDS))
    assert items == [
        {"line": 2, "system": None, **GOOD},
        {"line": 3, "system": "Be exact.", "id": "row-1", **GOOD, "images": ["a.png"]},
    ]
    (only,) = align.read_items(write(tmp_path, {"response": "x"}), ("response",))
    assert only == {"line": 1, "system": None, "response": "x"}


def make_run(folder: Path, **stages: dict[str, Any]) -> Path:
    """A run whose stages are finished as told."""
    for name, record in stages.items():
        stage = folder / "run" / name.replace("__", "/")
        stage.mkdir(parents=True)
        (stage / "DONE").write_text(json.dumps(record))
    names = {name.replace("__", "/"): {} for name in stages}
    (folder / "run" / "manifest.json").write_text(json.dumps({"stages": names}))
    return folder


DISCRIMINATOR = {"kind": "discriminator", "parents": {"policy": {"stage": "shared/sft"}}}


def test_the_discriminator_and_its_policy_are_found(tmp_path: Path) -> None:
    run = find_or_latest(make_run(tmp_path, shared__sft={"kind": "sft"}, a__discriminator=DISCRIMINATOR), None)
    assert align._discriminator(run, None) == (
        tmp_path / "run" / "a" / "discriminator" / "model",
        tmp_path / "run" / "shared" / "sft" / "model",
    )
    with pytest.raises(BadInput, match="no finished discriminator `b/discriminator`"):
        align._discriminator(run, "b/discriminator")


def test_several_discriminators_need_a_choice_and_none_is_said(tmp_path: Path) -> None:
    two = find_or_latest(make_run(tmp_path / "2", a__d=DISCRIMINATOR, b__d=DISCRIMINATOR), "run")
    with pytest.raises(BadInput, match="several discriminators: a/d, b/d"):
        align._discriminator(two, None)
    assert align._discriminator(two, "b/d")[0] == tmp_path / "2" / "run" / "b" / "d" / "model"
    none = find_or_latest(make_run(tmp_path / "0", shared__sft={"kind": "sft"}), "run")
    with pytest.raises(BadInput, match="no finished discriminator"):
        align._discriminator(none, None)
    with pytest.raises(BadInput, match="there is no run in"):
        find_or_latest(tmp_path / "nowhere", None)


def test_a_folder_without_a_tokenizer_and_two_sources_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(write(tmp_path, GOOD))
    assert program.main(["align", "segment", path, "--model", str(tmp_path), "--json"]) == 2
    assert "has no tokenizer.json" in json.loads(capsys.readouterr().out)["error"]
    assert program.main(["align", "segment", path, "--model", str(tmp_path), "--run", "a", "--json"]) == 2
    assert "both name a tokenizer" in json.loads(capsys.readouterr().out)["error"]


ANSWER = {
    "reading": {"reasoning": "after_caption", "terminator": "end-of-turn"},
    "items": [
        {
            "line": 1,
            "valid": True,
            "segments": {
                "perception": {"text": "<caption>[red]\x1b[2J</caption>\n", "ids": [1, 2, 3]},
                "reasoning": {"text": "<think>" + "word " * 30 + "</think>", "ids": [4] * 31},
            },
            "scores": {"perception": 0.25, "reasoning": -1.5},
        },
        {"line": 7, "valid": False, "problem": "has not the three blocks"},
    ],
}


def test_people_get_a_table_in_which_a_response_can_do_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    make_run(tmp_path, a__discriminator=DISCRIMINATOR)
    asked = []
    monkeypatch.setattr(align, "_ask", lambda *given: asked.append(given) or ANSWER)
    words = ["align", "score", str(write(tmp_path, GOOD)), "--runs-dir", str(tmp_path)]
    assert program.main(words) == 0
    shown = capsys.readouterr().out
    assert re.search(r"1   perception +3   \+0\.250   <caption>\[red\]\\x1b\[2J</caption>", shown)
    assert re.search(r"1   reasoning +31   -1\.500   <think>word", shown)
    assert re.search(r"7   none +the response has not the three blocks", shown)
    assert max(map(len, shown.splitlines())) <= 80
    assert program.main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == ANSWER
    task, _, items, folder, policy, _ = asked[0]
    assert (task, len(items)) == ("score", 1)
    assert folder == tmp_path / "run" / "a" / "discriminator" / "model"
    assert policy == tmp_path / "run" / "shared" / "sft" / "model"
