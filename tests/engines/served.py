"""What the tests of inference servers need: a server's process, and requests made of a pool's rows."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from integrations.common.serving import wait_ready
from integrations.contract import Launch
from prism_cli.engines import process
from prism_cli.engines.environments import Environment


@dataclass
class Running:
    """A server's process."""

    folder: Path
    ended: threading.Event = field(default_factory=threading.Event)
    end: threading.Event = field(default_factory=threading.Event)
    code: int | None = None

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    def wait_ready(self) -> str:
        return wait_ready(self.folder / "ready.json", self.log, self.ended, self.end, 300)


@contextlib.contextmanager
def running(launch: Launch, environment: Environment, folder: Path) -> Iterator[Running]:
    """The process while the block runs; its `code` after."""
    server = Running(folder)

    def supervise() -> None:
        try:
            server.code = process.run(
                launch, environment, cwd=folder, log=server.log, import_root=folder / "import", tick=lambda: None,
                stop=server.end,
            )  # fmt: skip
        finally:
            server.ended.set()

    thread = threading.Thread(target=supervise)
    thread.start()
    try:
        yield server
    finally:
        server.end.set()
        thread.join()


def post(url: str, request: dict[str, Any]) -> dict[str, Any]:
    body, json_type = json.dumps(request).encode(), {"Content-Type": "application/json"}
    sent = urllib.request.Request(f"{url}/chat/completions", body, json_type, method="POST")
    with urllib.request.urlopen(sent, timeout=300) as answer:
        found: dict[str, Any] = json.loads(answer.read())
    return found


def ask(row: dict[str, Any], data: Path) -> dict[str, Any]:
    images = [base64.b64encode((data / path).read_bytes()).decode() for path in row["images"]]
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}} for image in images
    ]
    return {"messages": [{"role": "user", "content": [*parts, {"type": "text", "text": row["prompt"]}]}]}
