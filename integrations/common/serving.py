"""The host's side of inference servers: where one listens, and waiting until it answers.

A server is found through its ready file, JSON with `host`, `port` and `name` (the served model's). A server that takes
any free port writes the file itself; for one that is given a port its adapter writes it before the start.
"""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from integrations.common import error_line
from integrations.common.files import read_json
from integrations.errors import Interrupted, StageFailed

LOCALHOST = "127.0.0.1"
SERVED_NAME = "policy"
"""Name of the model in requests. Always the same, so that nothing can depend on a folder's name."""
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_TAIL_BYTES = 8192


def free_port(host: str = LOCALHOST) -> int:
    """A port that is free now. Another process may take it before the server does; `wait_ready` notices."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
    return port


def wait_ready(
    ready: Path, log: Path, ended: threading.Event, stop: threading.Event, seconds: float, interval: float = 0.2
) -> str:
    """Wait until a server answers. Returns its address, up to and with `/v1`.

    Args:
        ready: the server's ready file; need not exist yet.
        log: the server's output, quoted when it fails.
        ended: set when the server's process has ended.
        stop: set when a person asks to stop.
        seconds: longest wait.

    Raises:
        StageFailed: it ended, did not answer in time, or another server answers at its port.
        Interrupted: `stop` was set.
    """
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if stop.is_set():
            raise Interrupted("stopped while an inference server was starting", "run the same command again")
        if ended.is_set():
            raise _died(log)
        place = read_json(ready)
        if isinstance(place, dict) and _get(f"{_root(place)}/health") is not None:
            models = _get(f"{_root(place)}/v1/models")
            found = [model.get("id") for model in (models or {}).get("data", [])]
            if place["name"] not in found:
                raise StageFailed(
                    f"another server than ours answers at {_root(place)} (its models: {found})",
                    "run the same command again; it takes another port",
                )
            return f"{_root(place)}/v1"
        ended.wait(interval)
    raise StageFailed(
        f"the inference server did not answer within {seconds:.0f} s{_quoted(log)}", f"read the server's log, {log}"
    )


def _root(place: dict[str, Any]) -> str:
    return f"http://{place['host']}:{place['port']}"


def _get(url: str) -> dict[str, Any] | None:
    """The JSON object at a local address ({} where the body is none), or None when it is not answered with success."""
    try:
        with _DIRECT.open(url, timeout=5) as answer:
            body = answer.read()
    except (OSError, urllib.error.URLError):
        return None
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _died(log: Path) -> StageFailed:
    told = error_line.told(_tail(log))
    if told:
        return StageFailed(f"the inference server did not start: {told[0]}", told[1])
    return StageFailed(f"the inference server ended before it answered{_quoted(log)}", f"read the server's log, {log}")


def _quoted(log: Path) -> str:
    """The log's last words, for an error message: its last line that names an error, else its last."""
    lines = ["".join(c for c in line if c.isprintable()).strip() for line in _tail(log).splitlines()]
    own = [line.partition("] ")[2] for line in lines if line.startswith("[prism ")]
    theirs = [line for line in lines if line and not line.startswith("[prism ")]
    errors = [line for line in theirs if "Error" in line]
    said = (errors or theirs or own)[-1:]
    return f": {said[0][-300:]}" if said else ""


def _tail(log: Path) -> str:
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, 2) - _TAIL_BYTES))
            return stream.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
