"""Who hears of a run while it works: an experiment tracker, and a webhook.

Neither can hurt the run: whatever goes wrong with them is told once and the training goes on. A tracker hears steps and
figures; a webhook hears the run's and the stage's names and what happened. Nothing else leaves the machine.
"""

from __future__ import annotations

import os
import queue
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from integrations.contract import Launch
from integrations.errors import PrismError
from prism_cli.engines import environments, process
from prism_cli.recipes.schema import Tracking
from prism_cli.runs.store import RunStore
from prism_cli.ui.view import View

ENGINE = "trackers"
WEBHOOK = "PRISM_WEBHOOK"
"""Variable with the address that is told. Such addresses carry a secret, so no recipe and no file holds one."""
PASSED_ON = ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_ENTITY", "WANDB_MODE", "TRACKIO_DIR", "TRACKIO_SPACE_ID",
             "TRACKIO_SERVER_URL")  # fmt: skip
PATIENCE = 60.0
"""Seconds that a tracker has for its last figures after the run has ended."""
TRIES, TIMEOUT = 3, 10.0
"""Of one webhook message; seconds each."""


@contextmanager
def heard(store: RunStore, settings: Tracking, view: View) -> Iterator[None]:
    """Let the tracker and the webhook hear what happens inside."""
    address = os.environ.get(WEBHOOK)
    with _tracked(store, settings, view), _notified(store, settings, address, view):
        yield


@contextmanager
def _tracked(store: RunStore, settings: Tracking, view: View) -> Iterator[None]:
    if settings.to == "none":
        yield
        return
    folder = store.root / "tracking"
    folder.mkdir(exist_ok=True)
    end, stop = folder / "END", threading.Event()
    end.unlink(missing_ok=True)
    thread = threading.Thread(target=_follow, args=(store, settings, folder, end, stop, view), name="tracking")
    thread.start()
    try:
        yield
    finally:
        end.touch()
        thread.join(PATIENCE)
        stop.set()
        thread.join()


def _follow(store: RunStore, settings: Tracking, folder: Path, end: Path, stop: threading.Event, view: View) -> None:
    argv = ["python", "-m", "integrations.trackers.follow", "--run", store.name, "--to", settings.to]
    argv += ["--events", str(store.root / "events.jsonl"), "--folder", str(folder), "--project", settings.project]
    env = {"HF_HUB_OFFLINE": "0", "TRACKIO_DIR": os.environ.get("TRACKIO_DIR", str(folder / "trackio"))}
    launch = Launch(ENGINE, [*argv, "--end", str(end)], env=env, what="tracking", passed_on=PASSED_ON)
    log = folder / "tracker.log"
    try:
        environment = environments.ensure(ENGINE, lambda text: view.environment(ENGINE, text), stop)
        code = process.run(
            launch, environment, cwd=folder, log=log, import_root=folder / "import", tick=lambda: None, stop=stop
        )
    except PrismError as error:
        _trouble(store, view, f"{settings.to} hears nothing: {error.problem}")
        return
    if code != 0:
        why = "it did not end in time" if stop.is_set() else process.describe_exit(code)
        _trouble(store, view, f"{settings.to} did not hear everything: {why}; see {log.relative_to(store.root)}")


def _trouble(store: RunStore, view: View, what: str) -> None:
    store.event("tracking_failed", problem=what)
    view.message(f"tracking: {what}")


@contextmanager
def _notified(store: RunStore, settings: Tracking, address: str | None, view: View) -> Iterator[None]:
    if not address:
        yield
        return
    messages: queue.Queue[dict[str, Any] | None] = queue.Queue()

    def listen(event: Mapping[str, Any]) -> None:
        message = message_of(store.name, event)
        if message is not None and message["kind"] in settings.notify:
            messages.put(message)

    thread = threading.Thread(target=_post_all, args=(messages, address, store, view), name="webhook")
    thread.start()
    try:
        with store.listening(listen):
            yield
    finally:
        messages.put(None)
        thread.join()


def message_of(run: str, event: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a webhook is told of an event; None for one that is nobody's business.

    `text` and `content` hold the sentence where Slack, Mattermost and Discord look for it.
    """
    kind = {"finished": "done", "stopped": "failed", "alarm": "alarm"}.get(event["event"])
    if kind is None:
        return None
    where = f"{run} {event['stage']}" if "stage" in event else run
    what = {"done": "done", "failed": f"stopped: {event.get('problem')}", "alarm": event.get("problem")}[kind]
    sentence = f"{where}: {without_paths(str(what))}"
    return {"kind": kind, "run": run, "stage": event.get("stage"), "text": sentence, "content": sentence}


def without_paths(text: str) -> str:
    """The text with every absolute path cut to its last part."""
    return re.sub(r"(?<![\w.:/])(?:/[\w.@+~-]*(?=/))+/", ".../", text)


def _post_all(messages: queue.Queue[dict[str, Any] | None], address: str, store: RunStore, view: View) -> None:
    while (message := messages.get()) is not None:
        problem = post(address, message)
        if problem:
            _trouble(store, view, f"the webhook was not told `{message['kind']}`: {problem}")


def post(address: str, message: Mapping[str, Any]) -> str | None:
    """Send one message. Returns what went wrong, without the address, or None."""
    import httpx2

    problem = ""
    for attempt in range(TRIES):
        time.sleep(attempt)
        try:
            answer = httpx2.post(address, json=dict(message), timeout=TIMEOUT)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            problem = type(error).__name__
            continue
        if answer.status_code < 300:
            return None
        problem = f"it answered {answer.status_code}"
        if answer.status_code < 500 and answer.status_code != 429:
            break
    return problem
