"""Run folders: locks, attempts, and results that are only trusted when they are whole and current."""

import json
import subprocess
import sys

import pytest

from integrations.errors import BadInput, RunLocked
from prism_cli.runs.store import RunStore

INPUTS = {"kind": "sft", "seed": 0}


@pytest.fixture
def store(tmp_path):
    return RunStore.create(tmp_path / "all runs", "digits-s0")


def finished(store, inputs=INPUTS):
    folder = store.stage("prism/sft")
    folder.prepare(inputs)
    folder.model_dir.mkdir()
    (folder.model_dir / "model.safetensors").write_bytes(b"weights")
    folder.finish(inputs, ["model"], {"stage": "prism/sft"})
    return folder


def test_a_finished_stage_with_the_same_inputs_is_current(store):
    assert finished(store).is_current(INPUTS)


def test_other_inputs_make_a_result_stale(store):
    assert not finished(store).is_current(INPUTS | {"seed": 1})


def test_a_result_that_lost_a_file_or_bytes_is_not_current(store):
    folder = finished(store)
    (folder.model_dir / "model.safetensors").write_bytes(b"weig")
    assert not folder.is_current(INPUTS)
    (folder.model_dir / "model.safetensors").unlink()
    assert not folder.is_current(INPUTS)


def test_checkpoints_of_other_inputs_are_moved_aside_not_resumed(store):
    folder = store.stage("prism/sft")
    folder.prepare(INPUTS)
    (folder.checkpoint_dir / "checkpoint-10").mkdir()
    assert folder.prepare(INPUTS) is None
    assert (folder.checkpoint_dir / "checkpoint-10").is_dir()
    assert folder.prepare(INPUTS | {"seed": 1}) == "sft.old-1"
    assert not (folder.checkpoint_dir / "checkpoint-10").exists()
    assert (folder.path.with_name("sft.old-1") / "checkpoints" / "checkpoint-10").is_dir()


def test_attempts_are_numbered_past_nine(store):
    folder = store.stage("prism/sft")
    folder.prepare(INPUTS)
    names = [folder.new_attempt().name for _ in range(11)]
    assert names[-1] == "attempt-11"
    assert [p.name for p in folder.attempts()] == names


def test_a_run_is_held_by_one_process_and_says_by_which(store):
    code = (
        "import sys; from pathlib import Path; from prism_cli.runs.store import RunStore\n"
        "store = RunStore(Path(sys.argv[1]))\n"
        "with store.locked(): print('held', flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(store.root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RunLocked, match=f"process {other.pid}"), store.locked():
            pass
        other.kill()
        other.wait()
    with store.locked():  # the system dropped the dead process's lock
        pass


def test_a_name_that_leaves_the_folder_is_refused(tmp_path):
    for name in ("../elsewhere", "", ".hidden", "a/b"):
        with pytest.raises(BadInput, match="run's name"):
            RunStore.create(tmp_path, name)


def test_a_place_that_cannot_be_written_to_is_refused(tmp_path):
    (tmp_path / "runs").write_text("a file where a folder should be")
    with pytest.raises(BadInput, match="cannot be written"):
        RunStore.create(tmp_path / "runs", "digits")


def test_events_are_lines_of_json(store):
    store.event("stage_done", stage="prism/sft", note="ünïcode\nand a line break")
    (line,) = (store.root / "events.jsonl").read_text().splitlines()
    assert json.loads(line)["note"] == "ünïcode\nand a line break"


def test_a_damaged_manifest_is_named(store):
    (store.root / "manifest.json").write_text('{"run": ')
    with pytest.raises(BadInput, match="is damaged"):
        store.manifest()
