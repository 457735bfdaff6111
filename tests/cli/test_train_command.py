"""`prism train` as a user meets it when something is wrong: one message, a documented exit code, nothing half-made."""

import json
import os
import subprocess
import sys

import pytest

from prism_cli.runs.store import RunStore


def train(folder, *words, **options):
    command = [sys.executable, "-m", "prism_cli", "train", "--runs-dir", str(folder / "runs"), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, **options)


def said(done):
    """What was printed, without the line breaks that a terminal's width makes."""
    return " ".join((done.stdout + done.stderr).split())


WRONG = {
    "unknown stage": (["--stage", "warmup"], "no stage `warmup`"),
    "unknown arm": (["--stage", "rlvr", "--arm", "nobody"], "no arm `nobody`"),
    "arm without the stage": (["--stage", "align", "--arm", "baseline"], "arm `baseline` has no stage `align`"),
    "missing parent": (["--stage", "align"], "no finished stage `shared/sft`"),
    "missing parent by name": (["--stage", "rlvr", "--parent", "sft"], "no finished stage `shared/sft`"),
    "parent is no policy": (["--stage", "rlvr", "--parent", "discriminator"], "is a discriminator, not a policy"),
    "parent of everything": (["--parent", "sft"], "go with a single stage"),
    "unknown recipe": (["--recipe", "digit"], "digits"),
    "recipe that is not there": (["--recipe", "missing.yaml"], "missing.yaml"),
    "unknown field": (["--set", "stages.sft.stepz=3"], "stages.sft.stepz"),
    "impossible value": (["--set", "stages.sft.steps=-3"], "stages.sft.steps"),
    "unknown profile": (["--profile", "quik"], "quick"),
    "name that leaves the folder": (["--run", "../elsewhere"], "cannot be a run's name"),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input_is_one_message_and_exit_code_2(tmp_path, case):
    words, says = WRONG[case]
    done = train(tmp_path, *words)
    assert done.returncode == 2
    assert says in said(done)
    assert "next:" in said(done)
    assert "Traceback" not in said(done)


def test_bad_input_leaves_nothing_behind(tmp_path):
    train(tmp_path, "--stage", "align")
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_from_a_newer_version_is_refused(tmp_path):
    (tmp_path / "new.yaml").write_text("format: 99\nextends: digits\nname: new\n")
    done = train(tmp_path, "--recipe", "new.yaml")
    assert done.returncode == 2
    assert "newer" in said(done)
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path):
    (tmp_path / "runs").write_text("a file in the folder's place")
    done = train(tmp_path)
    assert done.returncode == 2
    assert "cannot be written to" in said(done)
    assert "--runs-dir" in said(done)


def test_a_run_in_use_says_who_holds_it_and_exits_with_3(tmp_path):
    store = RunStore.create(tmp_path / "runs", "digits-s0")
    with store.locked():
        done = train(tmp_path)
    assert done.returncode == 3
    assert "is being worked on by process" in said(done)


def test_json_keeps_to_one_object_also_when_refused(tmp_path):
    done = train(tmp_path, "--stage", "align", "--json")
    assert done.returncode == 2
    told = json.loads(done.stdout)
    assert "no finished stage" in told["error"]
    assert told["fix"]


def test_without_a_recipe_it_says_what_it_runs_and_names_the_papers(tmp_path):
    done = train(tmp_path, "--stage", "align")
    assert "No recipe given: running `digits`" in said(done)
    assert "qwen3-vl-4b" in said(done)
    assert "qwen3-vl-8b" in said(done)


def test_no_network_while_an_environment_is_built_is_one_message(tmp_path):
    offline = dict(os.environ, UV_OFFLINE="1", UV_CACHE_DIR=str(tmp_path / "uv"), PRISM_CACHE=str(tmp_path / "cache"))
    done = train(tmp_path, env=offline)
    assert done.returncode in (1, 2)
    assert "alignment" in said(done)
    assert "Traceback" not in said(done)
    assert not (tmp_path / "runs" / "digits-s0" / "data" / "DONE").exists()
