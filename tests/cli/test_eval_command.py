"""`prism eval` refuses what cannot work before anything is started: one error that names the fix, nothing written."""

import pytest
from test_evaluation_models import make_checkpoint, make_run

from prism_cli.__main__ import main


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRISM_RUNS", str(tmp_path / "runs"))
    return tmp_path


def refused(capsys, *words):
    assert main(["eval", *words]) == 2
    told = capsys.readouterr()
    assert "Traceback" not in told.out + told.err
    return " ".join((told.out + told.err).split())


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--suite", "multimodal-resoning"), "did you mean multimodal-reasoning"),
        (("--suite", "absent.yaml"), "there is no suite"),
        (("--protocol", "beam"), "there is no protocol `beam`"),
        (("--seeds", "0,one"), "not a list of seeds"),
        (("--prompt", "plain"), "is no prompt"),
        (("--server", "ollama"), "is no server"),
        (("--server", "vllm", "--jobs", "2"), "takes the whole machine"),
        (("--server", "http://127.0.0.1:9", "x/y"), "--served-name"),
        ((), "there is no run"),
        (("--run", "nothing"), "there is no run `nothing`"),
        (("--suite", "multimodal-reasoning",), "want a judge"),
        (("--suite", "multimodal-reasoning", "--judge", "http://127.0.0.1:9", "--rules-only"), "exclude each other"),
        (("--suite", "multimodal-reasoning", "--judge", "http://127.0.0.1:9", "--judge-model", "m"), "127.0.0.1:9"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(place, capsys, words, problem):
    if "x/y" in words:
        make_checkpoint(place / "model", "one")
        words = (*words[:2], str(place / "model"))
    assert problem in refused(capsys, *words)
    assert not (place / "evals").exists()


def test_a_folder_without_weights_and_a_stage_that_is_not_there(place, capsys):
    make_run(place / "runs")
    (place / "empty").mkdir()
    assert "holds no checkpoint" in refused(capsys, str(place / "empty"))
    assert "no finished stage" in refused(capsys, "prism:rlvr")


def test_a_baseline_that_is_not_evaluated_is_refused_before_anything_runs(place, capsys):
    make_run(place / "runs")
    told = refused(capsys, "--baseline", "control/rlvr")
    assert "no model `control/rlvr`" in told
    assert "baseline/rlvr" in told


def test_data_that_are_not_there_are_refused(place, capsys):
    make_run(place / "runs")
    assert "no data pool" in refused(capsys)
