"""The real client library in this process, on the loopback Hub of tests/hub."""

import contextlib
import json
import os

from huggingface_hub import CommitOperationAdd, HfApi, close_session, constants
from loopback import WRITE_TOKEN, hub

NAME = "prism-vlm/quick"
CARD = b"---\nlicense: apache-2.0\nbase_model: Qwen/Qwen3-VL-4B-Instruct\n---\n# Quick\n"
FILES = {
    "README.md": CARD,
    "config.json": b"{}\n",
    "empty.txt": b"",
    "model.safetensors": os.urandom(300_000),
    "small.safetensors": b"small",
    "provenance/manifest.json": json.dumps({"files": []}).encode(),
}


@contextlib.contextmanager
def serving(folder, monkeypatch):
    """A Hub with parts of 128 kB. The client's choice of storage is made at import, so it is set here."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1,localhost")
    close_session()
    with hub(folder, part_size=128 * 1024) as server:
        yield server
    close_session()


def api(server, token=WRITE_TOKEN):
    return HfApi(endpoint=server.url, token=token)


def additions(files):
    return [CommitOperationAdd(path_in_repo=path, path_or_fileobj=content) for path, content in files.items()]


def released(server, files=FILES, **more):
    """A repository with one commit. Returns the commit's id."""
    api(server).create_repo(NAME, private=more.pop("private", False), exist_ok=True, **more)
    return api(server).create_commit(NAME, additions(files), commit_message="release", **more).oid


def kinds(server):
    return [call.kind for call in server.calls]
