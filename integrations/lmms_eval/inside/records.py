"""What a request sends, and the log of what came back.

    <cell>/requests.jsonl   one line per response, appended as it arrives

{"item": "test-000001", "sample": 0, "by": "9f...", "prompt": "3c...",           who was asked what
 "sent": {"temperature": 0.0, "top_p": 1.0, "max_tokens": 96, "seed": 1234},     every parameter, as sent
 "text": "<caption>...", "finish": "stop", "usage": {"completion_tokens": 31}, "seconds": 12.3}

A killed cell goes on from it: entries count when they come from the same model and server, for the same prompt, with
the same parameters. A line cut off by the kill is passed over. `seconds` is the time spent on the cell so far.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from integrations.common.files import hash_json

LOG = "requests.jsonl"
FIELDS = {"item", "sample", "by", "prompt", "sent", "text", "finish", "usage", "seconds"}

Key = tuple[str, int]
"""Item id and sample."""


def request_seed(decoding_seed: int, task: str, item_id: str, sample: int) -> int:
    """Seed of one request, 31 bits: the same whatever else is asked, in whatever order."""
    text = "\x1f".join((str(decoding_seed), task, item_id, str(sample)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def sampling(facts: Mapping[str, Any], item_id: str, sample: int) -> dict[str, float | int]:
    """Every sampling parameter of one request. `top_k` is left out where all tokens are kept.

    Args:
        facts: of the cell (`protocol`, `decoding_seed`, `task`).
    """
    protocol = facts["protocol"]
    sent: dict[str, float | int] = {
        "temperature": float(protocol["temperature"]),
        "top_p": float(protocol["top_p"]),
        "max_tokens": int(protocol["max_new_tokens"]),
        "seed": request_seed(facts["decoding_seed"], facts["task"], item_id, sample),
    }
    if protocol["top_k"]:
        sent["top_k"] = int(protocol["top_k"])
    return sent


def asked_of(facts: Mapping[str, Any]) -> str:
    """Identity of who answers: the weights, and what else of the server can change a response."""
    return hash_json([facts["model"]["weights_hash"], facts["server"]])[:16]


@dataclass(frozen=True)
class Answer:
    """One response."""

    text: str
    truncated: bool
    tokens: int | None
    """Generated tokens; None where the server does not say."""

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Answer:
        """From a line of the log."""
        tokens = (entry["usage"] or {}).get("completion_tokens")
        return cls(entry["text"], entry["finish"] == "length", tokens)


class Log:
    """The log of one cell."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOG
        self._stream: Any = None

    def read(self) -> dict[Key, dict[str, Any]]:
        """Whole entries by item and sample, the newest of each."""
        try:
            lines = self.path.read_bytes().splitlines()
        except FileNotFoundError:
            return {}
        found = {}
        for line in lines:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and entry.keys() >= FIELDS:
                found[entry["item"], entry["sample"]] = entry
        return found

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add a line and hand it to the system, so that a kill of this process loses nothing."""
        if self._stream is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = self.path.open("ab")
            if self._stream.tell():
                self._stream.write(b"\n")  # ends a line that a kill cut off; an empty line is no entry
        self._stream.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
        self._stream.flush()

    def close(self) -> None:
        if self._stream is not None:
            os.fsync(self._stream.fileno())
            self._stream.close()
            self._stream = None


def still_good(entry: Mapping[str, Any] | None, by: str, prompt: str, sent: Mapping[str, Any]) -> bool:
    """Whether a recorded response is the one that this request would get."""
    return entry is not None and (entry["by"], entry["prompt"], entry["sent"]) == (by, prompt, sent)
