"""Releases through trouble: a part of the table that tests/campaign/release_faults.py prints whole."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fault_table import RELEASE, REPO, TAG, Row, environment, library, run, table, whole
from loopback import hook, hub

from release import manifest

CHOSEN = {
    "nothing, a new repository": "1.x",
    "create: reply lost": "2.x",
    "preupload: hangs": "2.x",
    "put: cut within": "1.x",
    "complete: reply lost": "1.x",
    "killed at part": "2.x",
    "commit: reply lost": "1.x",
    "commit: 429, wait 1 s": "2.x",
    "killed before commit": "1.x",
    "killed at commit": "2.x",
    "another's weights before commit": "2.x",
    "another's note after commit": "1.x",
    "tag: 500 for ever": "2.x",
    "killed after tag": "1.x",
    "settings: 403": "2.x",
    "no room on the disk": "2.x",
}
"""Case -> line of the client."""


@pytest.fixture(scope="module")
def rows(request):
    """Collects the rows; the table is printed at the end."""
    found: list[Row] = []
    yield found
    with request.config.pluginmanager.get_plugin("capturemanager").global_and_fixture_disabled():
        print("", *table(found), sep="\n")


@pytest.mark.parametrize(("case", "line"), CHOSEN.items(), ids=CHOSEN)
def test_main_is_whole_or_untouched_and_the_same_command_completes(rows, tmp_path, case, line):
    row = run(case, line, tmp_path, library(tmp_path / "release"))
    rows.append(row)
    assert not row.wrong


@pytest.mark.parametrize("same", [True, False], ids=["the same release", "different ones"])
def test_of_two_publishers_that_commit_at_once_one_is_told_of_the_other(tmp_path, same):
    other = RELEASE if same else RELEASE | {"model-00002-of-00002.safetensors": b"9" * 300_000}
    programs = [library(tmp_path / "a"), library(tmp_path / "b", other, TAG if same else "v3.0")]
    together = threading.Barrier(2, timeout=60)
    with hub(tmp_path / "hub") as server:
        server.store.create("model", REPO, private=True, author="prism-bot")
        server.fault("commit", hook(before=lambda call: together.wait()), times=2)

        def publish(program):
            env = environment(server, "2.x")
            return subprocess.run(program.command, env=env, capture_output=True, text=True, timeout=120)

        with ThreadPoolExecutor(2) as pool:
            ended = list(pool.map(publish, programs))
        codes = [process.returncode for process in ended]
        repo = server.repo(REPO)
        assert len(repo.history()) == 2
        if same:
            assert codes == [0, 0]
        else:
            assert sorted(codes) == [0, 1]
            assert "moved to commit" in ended[codes.index(1)].stderr
            assert whole(repo, repo.heads["main"], programs[codes.index(0)].release)
            assert publish(programs[codes.index(1)]).returncode == 0
        repo = server.repo(REPO)
        for program in programs:
            assert whole(repo, repo.tags[program.command[program.command.index("--tag") + 1]], program.release)


DOWNLOAD = "import sys, huggingface_hub as hub; print(hub.snapshot_download(sys.argv[1], revision='v1.0'))"


@pytest.mark.parametrize("line", ["1.x"])
def test_a_file_over_100_mb_goes_up_in_parts_and_comes_back_the_same(tmp_path, line):
    folder, name = tmp_path / "release", "model.safetensors"
    folder.mkdir()
    with (folder / name).open("wb") as stream:  # mostly holes: quick to write, and every part differs
        for part in range(5):
            stream.seek(part * 25_000_000)
            stream.write(os.urandom(1000))
        stream.truncate(110_000_001)
    manifest.write(folder, manifest.scan(folder))
    with hub(tmp_path / "hub", part_size=25_000_000) as server:
        env = environment(server, line) | {"PRISM_HUB_TIMEOUT": "60"}
        program = Path(__file__).parents[1] / "hub" / "publisher.py"
        command = [sys.executable, program, folder, REPO, tmp_path / "receipts", "--tag", "v1.0"]
        subprocess.run(command, env=env, check=True, timeout=120)
        download = [sys.executable, "-c", DOWNLOAD, REPO]
        got = subprocess.run(download, env=env, check=True, timeout=120, capture_output=True, text=True).stdout
        parts = [call.received for call in server.calls if call.kind == "part"]
        assert parts == [25_000_000] * 4 + [10_000_001]
    with (folder / name).open("rb") as ours, (Path(got.strip()) / name).open("rb") as theirs:
        while piece := ours.read(1 << 22):
            assert piece == theirs.read(1 << 22)
        assert not theirs.read(1)
