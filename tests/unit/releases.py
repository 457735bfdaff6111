"""A small release in a folder, and this process as a client of the loopback Hub."""

import os
import time

from huggingface_hub import constants
from loopback import WRITE_TOKEN

from release import manifest
from release.hub.publish import Target, publish

REPO = "prism-vlm/quick"
CARD = "---\nlicense: apache-2.0\n---\n# Quick\n"
WEIGHTS = "model.safetensors"
LARGE = 1_200_000
CANARY = {"prompt": "two", "response": "2", "dtype": "float32", "log_probability": -1.5, "tolerance": 0.01}


def as_client(monkeypatch, server, token=WRITE_TOKEN, **patience):
    """Calls of the release package in this process go to `server`. Pauses are not slept; gives the list of them."""
    for name, value in server.env(token).items():
        monkeypatch.setenv(name, value)
    if token is None:
        monkeypatch.delenv("HF_TOKEN")
        monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN")
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", os.environ["HF_TOKEN_PATH"])
    # Read by the library when it is imported, which another test may have done before the variables were set.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    for name, value in ({"timeout": 5, "attempts": 3, "wait": 60} | patience).items():
        monkeypatch.setenv(f"PRISM_HUB_{name.upper()}", str(value))
    pauses, sleep = [], time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: (pauses.append(seconds), sleep(min(seconds, 0.01))))
    return pauses


def make(folder, files=None, canary=None):
    """A release of these files, or of a small model; gives the folder and its manifest."""
    files = {WEIGHTS: b"w" * LARGE, "config.json": b"{}\n", "README.md": CARD.encode()} if files is None else files
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    scanned = manifest.scan(folder)
    written = manifest.Manifest(scanned.files, canary or {})
    manifest.write(folder, written)
    return folder, written


class Publisher:
    """Publishes one release again and again, as a user would; keeps what was told."""

    def __init__(self, folder, written, **target):
        self.folder, self.written = folder, written
        self.target = Target(**{"repo": REPO, "tag": "v1.0", "message": "Release v1.0"} | target)
        self.receipts = folder.parent / "receipts"
        self.told = []

    def __call__(self, **target):
        chosen = Target(**vars(self.target) | target)
        return publish(self.folder, self.written, chosen, self.told.append, self.receipts)


def kinds(calls):
    """What was asked of the server, in order, without what only reads."""
    return [call.kind for call in calls if call.kind in WRITES]


WRITES = {"create", "put", "part", "commit", "tag", "settings", "item", "new_collection", "change_collection"}
