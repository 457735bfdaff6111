"""Who hears of a run: the webhook's messages, and what is passed on to a tracker."""

import http.server
import json
import threading
from contextlib import contextmanager

import pytest

from integrations.trackers import follow
from prism_cli.pipeline import tracking
from prism_cli.recipes.schema import Tracking
from prism_cli.runs.store import RunStore


class Told:
    """A view that keeps its messages."""

    def __init__(self):
        self.messages = []

    def message(self, text):
        self.messages.append(text)


@contextmanager
def webhook(*answers):
    """A server that answers with these statuses, the last one for ever; yields its address and what it heard."""
    heard, statuses = [], list(answers)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            heard.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(statuses.pop(0) if len(statuses) > 1 else statuses[0])
            self.end_headers()

        def log_message(self, *words):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook?secret=s3cret", heard
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def run_with(store, address, monkeypatch, settings=None):
    monkeypatch.setenv(tracking.WEBHOOK, address)
    monkeypatch.setattr(tracking.time, "sleep", lambda seconds: None)
    view = Told()
    with tracking.heard(store, settings or Tracking(), view):
        store.event("progress", stage="prism/rlvr", step=1, total=2, phase="training", tokens=0, metrics={})
        store.event("alarm", stage="prism/rlvr", step=1, problem="every reward is zero, see /home/ada/runs/x/log")
        store.event("finished")
    return view.messages


def test_the_webhook_hears_of_alarms_and_the_end_and_of_no_path(tmp_path, monkeypatch):
    with webhook(200) as (address, heard):
        assert run_with(RunStore.create(tmp_path, "digits-s0"), address, monkeypatch) == []
    assert [message["kind"] for message in heard] == ["alarm", "done"]
    assert heard[0]["text"] == "digits-s0 prism/rlvr: every reward is zero, see .../log"
    assert heard[0]["text"] == heard[0]["content"]


def test_the_webhook_hears_only_what_the_recipe_names(tmp_path, monkeypatch):
    store = RunStore.create(tmp_path, "digits-s0")
    with webhook(200) as (address, heard):
        run_with(store, address, monkeypatch, Tracking(notify=["done"]))
    assert [message["kind"] for message in heard] == ["done"]


def test_a_webhook_that_fails_for_a_moment_hears_it_the_second_time(tmp_path, monkeypatch):
    with webhook(503, 200) as (address, heard):
        assert run_with(RunStore.create(tmp_path, "digits-s0"), address, monkeypatch) == []
    assert [message["kind"] for message in heard] == ["alarm", "alarm", "done"]


def test_a_webhook_that_refuses_is_told_of_once_per_message_and_its_address_never(tmp_path, monkeypatch):
    store = RunStore.create(tmp_path, "digits-s0")
    with webhook(404) as (address, heard):
        messages = run_with(store, address, monkeypatch)
    assert len(heard) == 2
    assert len(messages) == 2
    assert "it answered 404" in messages[0]
    assert "s3cret" not in str(messages) + (store.root / "events.jsonl").read_text()


def test_a_webhook_that_is_not_there_stops_nothing(tmp_path, monkeypatch):
    messages = run_with(RunStore.create(tmp_path, "digits-s0"), "http://127.0.0.1:9/s3cret", monkeypatch)
    assert len(messages) == 2
    assert "s3cret" not in str(messages)


@pytest.mark.parametrize("text", ["", "nothing to hide", "see runs/x/log", "1/2 done", "https://arxiv.org/abs/2604"])
def test_text_without_absolute_paths_stays_as_it_is(text):
    assert tracking.without_paths(text) == text


def line(step, **metrics):
    event = {"event": "progress", "stage": "prism/rlvr", "step": step, "total": 9, "phase": "x", "tokens": 7}
    return json.dumps(event | {"metrics": metrics}).encode() + b"\n"


class Kept:
    """A sink that keeps what it hears."""

    def __init__(self):
        self.heard, self.closed = [], False

    def log(self, step, values):
        self.heard.append((step, values))

    def close(self):
        self.closed = True


def test_figures_are_passed_on_once_over_two_runs(tmp_path):
    events, end, state = tmp_path / "events.jsonl", tmp_path / "END", tmp_path / "state.json"
    events.write_bytes(b'{"event": "started"}\n' + line(1, reward=0.5, note="x") + line(2, reward=0.75)[:-9])
    end.touch()
    first, second = Kept(), Kept()
    follow.follow(events, state, "wandb", lambda stage: first, end)
    with events.open("ab") as stream:
        stream.write(line(2, reward=0.75)[-9:])
    follow.follow(events, state, "wandb", lambda stage: second, end)
    assert first.heard == [(1, {"reward": 0.5, "generated_tokens": 7})]
    assert second.heard == [(2, {"reward": 0.75, "generated_tokens": 7})]
    assert first.closed
    assert second.closed


def test_another_tracker_hears_everything(tmp_path):
    events, end, state = tmp_path / "events.jsonl", tmp_path / "END", tmp_path / "state.json"
    events.write_bytes(line(1, reward=0.5))
    end.touch()
    for name in ("wandb", "trackio"):
        kept = Kept()
        follow.follow(events, state, name, lambda stage, kept=kept: kept, end)
        assert len(kept.heard) == 1


def test_intermediate_scores_stand_under_validation():
    event = {"event": "intermediate_evaluation", "stage": "prism/rlvr", "step": 30, "scores": {"correct": 0.7}}
    assert follow.figures(event) == ("prism/rlvr", 30, {"validation/correct": 0.7})
