"""`prism doctor` as its user calls it."""

import json
import os
import subprocess
import sys


def doctor(*words, **variables):
    command = [sys.executable, "-m", "prism_cli", "doctor", "--no-engines", "--no-hub", *words]
    env = {**os.environ, **variables}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


def test_findings_fit_80_columns_and_end_with_a_count(tmp_path):
    done = doctor("--runs-dir", str(tmp_path / "runs"), COLUMNS="80", CUDA_LAUNCH_BLOCKING="1")
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    assert "CUDA_LAUNCH_BLOCKING is set" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("findings.")
    assert not (tmp_path / "runs").exists()


def test_json_is_one_object_and_an_error_sets_the_exit_code():
    done = doctor("--json", HF_TOKEN=" padded ")
    told = json.loads(done.stdout)
    assert not told["sound"]
    assert done.returncode == 1
    assert {"subject", "level", "found", "fix"} == set(told["findings"][0])


def test_folders_that_cannot_be_written_to_are_an_error():
    done = doctor("--json", "--runs-dir", "/proc/runs")
    wrong = [f for f in json.loads(done.stdout)["findings"] if f["subject"] == "disk (runs)"]
    assert [f["level"] for f in wrong] == ["error"]
