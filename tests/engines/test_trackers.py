"""The real trackers hear a run's figures, and nothing about the machine."""

import getpass
import json
import os
import socket
import sqlite3
import subprocess
import threading
from pathlib import Path

import pytest

from prism_cli.engines import environments
from prism_cli.pipeline import tracking
from prism_cli.recipes.schema import Tracking
from prism_cli.runs.store import RunStore

pytestmark = pytest.mark.engine
READ_TENSORBOARD = """
import json, sys
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import RecordWriter
import struct, glob
found = []
for path in glob.glob(sys.argv[1] + "/**/events.*", recursive=True):
    data = open(path, "rb").read()
    while data:
        size = struct.unpack("<Q", data[:8])[0]
        event = Event.FromString(data[12:12 + size])
        found += [[event.step, value.tag, round(value.simple_value, 4)] for value in event.summary.value]
        data = data[16 + size:]
print(json.dumps(sorted(found)))
"""


class View:
    def __init__(self):
        self.messages = []

    def message(self, text):
        self.messages.append(text)

    def environment(self, name, text):
        pass


def tracked(tmp_path, to, monkeypatch):
    """A run of two steps, heard by a tracker. Returns its folder."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HF_TOKEN", "hf_" + "a" * 34)
    store, view = RunStore.create(tmp_path, "digits-s0"), View()
    with tracking.heard(store, Tracking(to=to), view):
        for step in (1, 2):
            fields = {"step": step, "total": 2, "phase": "training", "tokens": 10 * step}
            store.event("progress", stage="prism/rlvr", **fields, metrics={"reward": step / 4})
    assert view.messages == [], (store.root / "tracking" / "tracker.log").read_text()
    return store.root / "tracking"


@pytest.mark.parametrize("to", ["tensorboard", "wandb", "trackio"])
def test_a_tracker_hears_every_figure_and_nothing_about_the_machine(tmp_path, monkeypatch, to):
    folder = tracked(tmp_path, to, monkeypatch)
    python = environments.locate("trackers").python
    kept = [path for path in folder.rglob("*") if path.is_file() and path.name not in ("tracker.log", "process.json")]
    if to == "tensorboard":
        command = [str(python), "-c", READ_TENSORBOARD, str(folder)]
        read = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        tokens = [[1, "generated_tokens", 10.0], [2, "generated_tokens", 20.0]]
        assert read == sorted([[1, "reward", 0.25], [2, "reward", 0.5], *tokens])
    elif to == "trackio":
        (database,) = [path for path in kept if path.suffix == ".db"]
        with sqlite3.connect(database) as connection:
            rows = connection.execute("select step, metrics from metrics order by step").fetchall()
        assert [(step, json.loads(metrics)["reward"]) for step, metrics in rows] == [(1, 0.25), (2, 0.5)]
    else:
        (database,) = [path for path in kept if path.suffix == ".wandb"]
        assert database.read_bytes().count(b"reward") >= 2
    published = b"".join(
        path.read_bytes() for path in kept if path.suffix in (".wandb", ".db") or "tfevents" in path.name
    )
    for private in ("hf_aaaa", str(Path.home()), str(tmp_path)):
        assert private.encode() not in published, private
    for name in (socket.gethostname(), getpass.getuser()):  # may be two letters, so as a field of JSON or of a message
        assert f'"{name}"'.encode() not in published, name
        assert bytes([len(name)]) + name.encode() not in published, name


def test_a_tracker_that_cannot_start_stops_nothing(tmp_path, monkeypatch):
    own = tmp_path / "own"
    (own / "bin").mkdir(parents=True)
    (own / "bin" / "python").write_text("#!/bin/sh\nexit 7\n")
    os.chmod(own / "bin" / "python", 0o755)
    monkeypatch.setenv("PRISM_ENV_TRACKERS", str(own))
    store, view = RunStore.create(tmp_path, "digits-s0"), View()
    with tracking.heard(store, Tracking(to="tensorboard"), view):
        store.event("finished")
    assert "exit code 7" in view.messages[0]
    assert threading.active_count() == 1
