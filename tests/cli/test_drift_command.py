"""`prism runs drift`: tables within 80 columns, one JSON object, and plain words where there is nothing to show."""

import json
import re

import pytest
from cells import make_cell

from prism_cli.__main__ import main
from prism_cli.runs.store import RunStore

CHAIN = ["shared/sft", "prism/align", "prism/rlvr"]


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("PRISM_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("COLUMNS", "80")
    store = RunStore.create(tmp_path / "runs", "r")
    parents = dict(zip(CHAIN, ["shared/init", *CHAIN], strict=False))
    stages = {name: {"parents": {"policy": {"stage": parent}}} for name, parent in parents.items()}
    store.write_manifest({"format": 1, "run": "r", "seed": 0, "arms": {"prism": CHAIN}, "stages": stages})
    store.stage("prism/align").prepare({"settings": {"kind": "align", "teacher": "teacher"}})
    pools = store.root / "data" / "pools"
    pools.mkdir(parents=True)
    text = "<caption>4 7</caption><think>4+7=11</think><answer>11</answer>"
    (pools / "teacher.jsonl").write_text(json.dumps({"response": text}) + "\n")
    return store


def test_nothing_is_evaluated_yet(store, capsys):
    assert main(["runs", "drift", "r"]) == 2
    assert "prism eval --run r" in capsys.readouterr().err


def test_tables_and_json(store, capsys):
    for label in CHAIN:
        make_cell(store.root / "eval", label, benchmark="digits", perception=0.8, logic=0.9)
    make_cell(store.root / "eval", "some/\x1b[31mother\u202e", benchmark="digits")
    assert main(["runs", "drift", "r"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert re.search(r"prism/rlvr +align ", text)
    assert "demonstrations" in text
    assert "proxies" in text
    assert main(["runs", "drift", "r", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["run"] == "r"
    assert [step["to"] for step in found["groups"][0]["transitions"]] == ["prism/align", "prism/rlvr"]
