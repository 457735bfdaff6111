"""`prism compare`: where samples come from, what is refused, and each format."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from cells import make_cell

from benchmarks.perf import compare as measurement
from benchmarks.perf._timing import Options
from prism_cli.__main__ import main

LABELS = ("shared/sft", "baseline/rlvr", "prism/rlvr")


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two evaluated runs that differ in their seed, the second one later, and one without samples."""
    folder = tmp_path / "runs"
    for seed, name in enumerate(("first", "second", "bare")):
        (folder / name).mkdir(parents=True)
        (folder / name / "manifest.json").write_text(json.dumps({"seed": seed, "recipe": {"name": "digits"}}))
        (folder / name / "events.jsonl").write_text(json.dumps({"time": f"2026-01-0{seed + 1}T00:00:00+00:00"}) + "\n")
        for protocol in ("greedy", "sample") if name != "bare" else ():
            for label in LABELS:
                make_cell(
                    folder / name / "eval", label, items=20, protocol=protocol, training_seed=seed, perception=0.7
                )
    monkeypatch.setenv("PRISM_RUNS", str(folder))
    monkeypatch.setenv("COLUMNS", "80")
    return folder


def told(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["compare", *words, "--resamples", "200", "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["compare", *words]) == 2
    return " ".join(capsys.readouterr().err.split())


def test_default_is_the_latest_evaluated_run_in_each_protocol(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys)["comparisons"]
    assert [one["protocol"] for one in found] == ["greedy", "sample"]
    assert [model["label"] for model in found[0]["models"]] == list(LABELS)
    assert found[0]["models"][0]["training_seeds"] == [1]
    assert found[0]["resamples"] == 200


def test_several_runs_are_training_seeds(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    by_name = told(capsys, "first", "second", "--protocol", "greedy")
    assert by_name["comparisons"][0]["models"][0]["training_seeds"] == [0, 1]
    by_folder = told(capsys, str(runs / "first"), "--samples", str(runs / "second" / "eval"), "--protocol", "greedy")
    assert by_folder == by_name
    above = told(capsys, "--samples", str(runs), "--protocol", "greedy")
    assert above["comparisons"] == by_name["comparisons"]


def test_the_table_fits_and_ends_with_the_conclusion(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--protocol", "greedy"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "digits, greedy (T=0): percent of items" in lines[0]
    assert any(line.startswith("prism/rlvr ") and "baseline/rlvr:" in line for line in lines[-8:])
    assert lines[-1].endswith("eval")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["third"], "there is no run `third`"),
        (["bare"], "there are no finished samples in"),
        (["--protocol", "paper"], "there are no finished samples of the protocol `paper`"),
        (["--suite", "smoke"], "there are no finished samples of the suite `smoke`"),
        (["--benchmark", "mmmu"], "there are no finished cells of the benchmark `mmmu`"),
        (["--baseline", "rlvr"], "there is no model `rlvr` here"),
        (["--treated", "rlvr"], "there is no model `rlvr` to compare"),
        (["--resamples", "3"], "--resamples"),
        (["--format", "pdf"], "--format"),
    ],
)
def test_bad_input_says_what_is_wrong(
    runs: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert said in refused(capsys, *words)


def test_no_evaluated_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "has been evaluated" in refused(capsys, "--runs-dir", str(tmp_path))


def test_cells_that_do_not_match_are_refused_or_left_out(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_cell(runs / "second" / "eval", "control/rlvr", items=20, training_seed=1, facts={"dataset_hash": "x"})
    said = refused(capsys)
    assert "control/rlvr on prism_digits (training seed 1, decoding seed 0): its dataset hash is x" in said
    assert "--leave-out" in said
    found = told(capsys, "--leave-out")["comparisons"][0]
    assert [one["model"] for one in found["refused"]] == ["control/rlvr"]
    assert len(found["models"]) == 3


def test_damaged_and_unfinished_cells_are_not_taken(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = sorted((runs / "second" / "eval").rglob("greedy-s0"))
    (cells[0] / "cell.json").write_text('{"format": 1')
    (cells[1] / "samples.parquet").write_bytes(b"PAR1")
    found = told(capsys, "--protocol", "greedy", "--baseline", "shared/sft")["comparisons"][0]
    assert [model["label"] for model in found["models"]] == ["shared/sft"]


def test_formats_and_out(runs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["compare", "--format", "csv"]) == 0
    assert len(list(csv.DictReader(io.StringIO(capsys.readouterr().out)))) == 2 * 3 * 3
    assert main(["compare", "--format", "markdown"]) == 0
    assert "| prism/rlvr |" in capsys.readouterr().out
    out = tmp_path / "new" / "table.tex"
    assert main(["compare", "--format", "latex", "--out", str(out)]) == 0
    assert capsys.readouterr().out == ""
    assert r"\begin{tabular}" in out.read_text()
    assert main(["compare", "--metric", "perception", "--out", str(tmp_path / "table.txt")]) == 0
    assert "perception, percent" in (tmp_path / "table.txt").read_text()
    assert "cannot write" in refused(capsys, "--out", str(tmp_path / "table.txt" / "below"))


def test_the_papers_numbers_stand_apart(runs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    found = told(capsys, "--paper")
    assert found["paper"]["quoted"] is True
    assert main(["compare", "--paper", "--runs-dir", str(tmp_path / "none")]) == 0  # alone, where nothing is evaluated
    shown = capsys.readouterr().out
    assert "Quoted from PRISM" in shown
    assert "69.3" in shown


def test_the_measurement_measures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {"MODELS": 3, "BENCHMARKS": 2, "ITEMS": 40, "RESAMPLES": 100}.items():
        monkeypatch.setattr(measurement, name, value)
    monkeypatch.setattr(measurement.os, "sched_setaffinity", lambda *_: None)
    found = measurement.measure(Options(1, {}, tmp_path))
    assert found["seconds"].keys() == {"independent items", "groups of 4, 3 training seeds"}
    assert (found["facts"]["models"], found["facts"]["items"]) == (3, 40)
