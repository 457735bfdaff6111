"""`prism runs` on folders as `prism train` leaves them: listed, shown and removed, and nothing else touched."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cells import make_cell

from prism_cli.__main__ import main
from prism_cli.runs.overview import list_runs, size_of
from prism_cli.runs.store import RunStore

ARMS = {"prism": ["shared/sft", "prism/rlvr"], "baseline": ["shared/sft", "baseline/rlvr"]}
STAGES = ["shared/sft", "prism/rlvr", "baseline/rlvr"]


@pytest.fixture
def runs_dir(tmp_path, monkeypatch):
    folder = tmp_path / "my runs"
    folder.mkdir()
    monkeypatch.setenv("PRISM_RUNS", str(folder))
    monkeypatch.setenv("COLUMNS", "80")
    return folder


def make_run(runs_dir: Path, name: str, done=STAGES, last: tuple[str, dict] | None = ("finished", {})) -> RunStore:
    store = RunStore.create(runs_dir, name)
    store.write_recipe("name: digits\n")
    store.write_manifest(
        {
            "format": 1, "run": name, "seed": 3, "arms": ARMS,
            "recipe": {"name": "digits", "hash": "a" * 64, "profile": "quick", "set": ["stages.sft.steps=5"]},
            "code": {"prism": "0.1.0", "commit": "b" * 40, "dirty": True},
            "engines": {"verl": {"key": "0123456789ab"}}, "machine": {"cores": 2, "processor": "x86", "gpus": []},
        }
    )  # fmt: skip
    store.event("started", recipe="digits")
    for stage in done:
        finish_stage(store, stage)
    if last is not None:
        store.event(last[0], **last[1])
    return store


def finish_stage(store: RunStore, name: str) -> None:
    stage = store.stage(name)
    stage.prepare({"seed": 3})
    stage.new_attempt()
    stage.model_dir.mkdir()
    (stage.model_dir / "config.json").write_text("{}")
    parents = {} if name == "shared/sft" else {"policy": {"stage": "shared/sft", "hash": "c" * 64}}
    record = {"seconds": 120.0, "hash": "d" * 64, "parents": parents, "result": {"step": 5, "generated_tokens": 10}}
    stage.finish({"seed": 3}, ["model"], record)
    correct = [i % 4 == 0 for i in range(40)]
    make_cell(
        store.root / "eval", name, benchmark="digits", correct=correct, model={"stage": name, "weights_hash": "d" * 64}
    )


def listed(capsys, *options: str) -> list[dict]:
    assert main(["runs", "list", "--json", *options]) == 0
    return json.loads(capsys.readouterr().out)["runs"]


def test_no_runs_at_all(runs_dir, capsys):
    assert main(["runs", "list"]) == 0
    assert "No runs in" in capsys.readouterr().out
    assert listed(capsys, "--runs-dir", str(runs_dir / "absent")) == []


@pytest.mark.parametrize(
    ("done", "last", "state"),
    [
        (STAGES, ("finished", {}), "done"),
        (STAGES[:1], ("finished", {}), "partial"),
        (STAGES[:1], ("stopped", {"reason": "StageFailed"}), "failed"),
        (STAGES[:1], ("stopped", {"reason": "Interrupted"}), "interrupted"),
        (STAGES[:1], None, "interrupted"),  # killed without a word
    ],
)
def test_state_follows_from_the_folder(runs_dir, capsys, done, last, state):
    make_run(runs_dir, "digits-s3", done, last)
    (run,) = listed(capsys)
    assert (run["run"], run["recipe"], run["seed"], run["state"]) == ("digits-s3", "digits", 3, state)
    assert (run["stages_done"], run["stages"]) == (len(done), 3)
    assert run["bytes"] > 0


def test_resumed_run_is_not_called_failed_for_its_past(runs_dir, capsys):
    store = make_run(runs_dir, "digits", STAGES[:1], ("stopped", {"reason": "StageFailed"}))
    store.event("started")
    assert listed(capsys)[0]["state"] == "interrupted"


def test_event_cut_by_a_kill_does_no_harm(runs_dir, capsys):
    store = make_run(runs_dir, "digits", STAGES[:1])
    with (store.root / "events.jsonl").open("a") as stream:
        stream.write('{"time": "2026-01-01T00:00:00Z", "event": "stop')
    assert listed(capsys)[0]["state"] == "partial"


def test_run_is_running_while_its_lock_is_held(runs_dir, capsys):
    store = make_run(runs_dir, "digits", STAGES[:1], None)
    with store.locked():
        assert listed(capsys)[0]["state"] == "running"
        assert main(["runs", "show", "digits"]) == 0
        assert f"held by  process {os.getpid()}" in capsys.readouterr().out
    assert listed(capsys)[0]["state"] == "interrupted"


def test_killed_holder_leaves_no_running_run(runs_dir, capsys):
    store = make_run(runs_dir, "digits", STAGES[:1], None)
    hold = "import os, sys; from pathlib import Path; from prism_cli.runs.store import RunStore\n"
    hold += "with RunStore(Path(sys.argv[1])).locked(): os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", hold, str(store.root)], check=False).returncode == -9
    assert (store.root / "lock.json").exists()
    assert listed(capsys)[0]["state"] == "interrupted"


def test_list_is_a_table_with_the_newest_first(runs_dir, capsys):
    make_run(runs_dir, "older")
    make_run(runs_dir, "newer", STAGES[:2])
    events = runs_dir / "older" / "events.jsonl"
    events.write_text(
        events.read_text()
        .replace("20", "19", 1)
        .replace(json.loads(events.read_text().splitlines()[-1])["time"], "2001-01-01T00:00:00Z")
    )
    assert main(["runs", "list"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert out.index("newer") < out.index("older")
    assert "2/3" in out


def test_what_is_no_run_is_not_listed(runs_dir, capsys):
    make_run(runs_dir, "real")
    (runs_dir / "notes").mkdir()
    (runs_dir / ".removed-1-old").mkdir()
    (runs_dir / ".removed-1-old" / "manifest.json").write_text("{}")
    (runs_dir / "link").symlink_to(runs_dir / "real", target_is_directory=True)
    assert [run["run"] for run in listed(capsys)] == ["real"]


def test_dry_run_is_planned(runs_dir, capsys):
    store = RunStore.create(runs_dir, "dry")
    store.write_recipe("name: digits\n")
    store.event("started")
    assert listed(capsys)[0]["state"] == "planned"
    assert main(["runs", "show", "dry"]) == 0
    assert "planned" in capsys.readouterr().out


def test_show_tells_lineage_attempts_time_and_scores(runs_dir, capsys):
    store = make_run(runs_dir, "digits", STAGES[:2])
    store.stage("prism/rlvr").new_attempt()
    assert main(["runs", "show", "digits"]) == 0
    out = capsys.readouterr().out
    for fact in (
        "profile quick",
        "hash " + "a" * 12,
        "stages.sft.steps=5",
        "commit " + "b" * 12 + " with changes",
        "verl 0123456789ab",
    ):
        assert fact in out
    words = [line.split() for line in out.splitlines()]
    assert ["prism/rlvr", "sft", "done", "2", "2.0", "25.0"] in words
    assert ["baseline/rlvr", "0"] in words
    assert max(len(line) for line in out.splitlines() if "folder" not in line) <= 80


def test_show_as_json(runs_dir, capsys):
    make_run(runs_dir, "digits")
    assert main(["runs", "show", "digits", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    rlvr = told["stages"]["prism/rlvr"]
    assert (rlvr["status"], rlvr["attempts"], rlvr["seconds"], rlvr["hash"]) == ("done", 1, 120.0, "d" * 64)
    assert rlvr["parents"]["policy"]["stage"] == "shared/sft"
    assert told["results"]["arms"]["prism"]["rlvr"]["scores"]["greedy"]["answer"] == 0.25
    assert told["manifest"]["code"]["prism"] == "0.1.0"


def test_damaged_manifest_is_listed_and_said_when_shown(runs_dir, capsys):
    store = make_run(runs_dir, "digits")
    (store.root / "manifest.json").write_text("{")
    assert listed(capsys)[0]["recipe"] == "?"
    assert main(["runs", "show", "digits"]) == 2
    assert "manifest.json is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["absent", "..", ".", "../runs", "notes", "digits/prism"])
@pytest.mark.parametrize("command", ["show", "rm"])
def test_what_is_no_run_is_refused(runs_dir, capsys, command, name):
    make_run(runs_dir, "digits")
    (runs_dir / "notes").mkdir()
    assert main(["runs", command, name, *(["--yes"] if command == "rm" else [])]) == 2
    told = capsys.readouterr().err
    assert f"there is no run `{name}`" in told
    assert "digits" in told
    assert (runs_dir / "notes").is_dir()
    assert (runs_dir / "digits" / "manifest.json").is_file()


def test_rm_removes_the_run_and_nothing_else(runs_dir, tmp_path, capsys):
    store = make_run(runs_dir, "digits")
    make_run(runs_dir, "other")
    precious = tmp_path / "data" / "pool.jsonl"
    precious.parent.mkdir()
    precious.write_text("precious")
    (store.root / "data").symlink_to(precious.parent, target_is_directory=True)
    assert main(["runs", "rm", "digits", "--yes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["removed"] == "digits"
    assert sorted(path.name for path in runs_dir.iterdir()) == ["other"]
    assert precious.read_text() == "precious"


def test_rm_refuses_a_link_to_a_run(runs_dir, tmp_path, capsys):
    elsewhere = make_run(tmp_path / "elsewhere", "digits")
    (runs_dir / "digits").symlink_to(elsewhere.root, target_is_directory=True)
    assert main(["runs", "rm", "digits", "--yes"]) == 2
    assert (elsewhere.root / "manifest.json").is_file()


def test_rm_refuses_a_run_at_work(runs_dir, capsys):
    store = make_run(runs_dir, "digits")
    with store.locked():
        assert main(["runs", "rm", "digits", "--yes"]) == 3
        assert f"process {os.getpid()}" in capsys.readouterr().err
    assert (store.root / "manifest.json").is_file()


def test_rm_asks_first(runs_dir, capsys):
    store = make_run(runs_dir, "digits")
    assert main(["runs", "rm", "digits"]) == 2  # nobody to ask under pytest
    assert "--yes" in capsys.readouterr().err
    assert main(["runs", "rm", "digits", "--json"]) == 2
    assert store.root.is_dir()


@pytest.mark.parametrize(
    ("reply", "code", "left"), [(b"n\n", 0, True), (b"\n", 0, True), (b"y\n", 0, False), (b"\x04", 130, True)]
)
def test_rm_does_as_it_is_told(runs_dir, reply, code, left):
    import pty

    store = make_run(runs_dir, "digits")
    ours, theirs = pty.openpty()
    os.write(ours, reply)
    command = [sys.executable, "-m", "prism_cli", "runs", "rm", "digits"]
    done = subprocess.run(command, stdin=theirs, capture_output=True, text=True, timeout=60, check=False)
    os.close(ours)
    os.close(theirs)
    assert (done.returncode, store.root.exists()) == (code, left)
    assert "3 of 3 stages done" in done.stdout


def test_rm_clears_what_a_killed_removal_left(runs_dir):
    make_run(runs_dir, "digits")
    left = runs_dir / ".removed-99999-older"
    left.mkdir()
    (left / "weights").write_text("x")
    assert main(["runs", "rm", "digits", "--yes"]) == 0
    assert list(runs_dir.iterdir()) == []


def test_size_counts_a_hard_link_once_and_follows_no_link(tmp_path):
    folder, outside = tmp_path / "run", tmp_path / "outside"
    folder.mkdir()
    outside.write_bytes(b"x" * 1_000_000)
    (folder / "a").write_bytes(b"x" * 100_000)
    alone = size_of(folder)
    os.link(folder / "a", folder / "b")
    (folder / "c").symlink_to(outside)
    assert alone <= size_of(folder) < alone + 50_000


def test_reading_changes_nothing(runs_dir, capsys):
    make_run(runs_dir, "digits")
    before = sorted((str(p), p.stat().st_mtime_ns) for p in runs_dir.rglob("*"))
    for words in (["list"], ["show", "digits"], ["show", "digits", "--json"]):
        assert main(["runs", *words]) == 0
    assert sorted((str(p), p.stat().st_mtime_ns) for p in runs_dir.rglob("*")) == before
    assert len(list_runs(runs_dir)) == 1
