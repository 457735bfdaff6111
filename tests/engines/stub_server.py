"""A tiny OpenAI-compatible server for tests: answers by a function, and remembers every request."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Said = dict[str, Any]
"""`text`, and if they are not the usual ones `finish`, `status`, `tokens`, `prism`."""


class StubServer:
    """Listens on a free port of this machine until closed.

    Args:
        answer: from a request's payload to what is said.
        delay: seconds before each answer.
    """

    def __init__(self, answer: Callable[[dict[str, Any]], Said], delay: float = 0.0) -> None:
        self.answer = answer
        self.delay = delay
        self.payloads: list[dict[str, Any]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> StubServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                time.sleep(stub.delay)
                said = stub.answer(payload)
                stub.payloads.append(payload)
                message = {"role": "assistant", "content": said.get("text")}
                choice = {"index": 0, "message": message, "finish_reason": said.get("finish", "stop")}
                usage = {"completion_tokens": said.get("tokens", 7)}
                body = json.dumps({"choices": [choice], "usage": usage, "prism": said.get("prism")}).encode()
                self.send_response(said.get("status", 200))
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def prompt_text(payload: dict[str, Any]) -> str:
    """The text of the last turn."""
    return "".join(part["text"] for part in payload["messages"][-1]["content"] if part["type"] == "text")


def image_addresses(payload: dict[str, Any]) -> list[str]:
    """The images of all turns, as data addresses."""
    return [
        part["image_url"]["url"]
        for turn in payload["messages"]
        for part in turn["content"]
        if part["type"] == "image_url"
    ]
