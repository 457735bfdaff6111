"""`prism report` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from report_run import make_run

from integrations.errors import BadInput
from prism_cli import __main__ as program
from prism_cli.commands.report import report


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("my runs")
    make_run(folder / "digits-s0")
    make_run(folder / "digits-s1", seed=1, trained=["shared/sft"], evaluated=())
    return folder


def test_a_run_gets_its_report_in_its_own_folder(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report(["digits-s0"], runs_dir=runs)
    path = runs / "digits-s0" / "report" / "report.html"
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    said = capsys.readouterr().out
    assert "prism/rlvr is not shown to differ from baseline/rlvr" in said
    assert str(path) in said


def test_json_is_one_object_with_the_comparison(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report(["digits-s0"], out=tmp_path / "new folder" / "a.html", runs_dir=runs, json_=True)
    told = json.loads(capsys.readouterr().out)
    assert Path(told["path"]).stat().st_size == told["bytes"]
    assert told["comparisons"][0]["baseline"] == "baseline/rlvr"
    assert told["items"] == {"shown": 24, "evaluated": 24}


def test_without_a_name_the_latest_run_is_taken(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report(None, runs_dir=runs, json_=True)
    told = json.loads(capsys.readouterr().out)
    assert Path(told["path"]).parts[-3] in ("digits-s0", "digits-s1")


def test_a_missing_run_and_no_run_at_all_are_refused(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no run `nothing`"):
        report(["nothing"], runs_dir=runs)
    with pytest.raises(BadInput, match="there is no run in"):
        report(None, runs_dir=tmp_path)
    with pytest.raises(BadInput, match="is a folder"):
        report(["digits-s1"], out=tmp_path, runs_dir=runs)


def test_the_program_knows_the_command(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["prism", "report", str(runs / "digits-s1"), "--out", str(tmp_path / "a.html")])
    assert program.main() == 0
    assert "nothing is evaluated yet" in (tmp_path / "a.html").read_text(encoding="utf-8")
