"""Path, size and hashes of every file of a release.

    numbers = Numbers()                                    # release.checks: looks at the weights as they stream past
    manifest = scan(folder, on_chunk=numbers, tell=show)   # every byte is read once
    write(folder, manifest)
    differences(read(folder), files)                       # what a repository or a download has otherwise

The manifest travels inside the release (`provenance/manifest.json`), so that anyone can compare what they downloaded
with what was released. It names every file but itself. What is read back may come from a stranger, so nothing in it
is believed that was not checked.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from integrations.common.files import write_json
from integrations.errors import BadInput

NAME = "provenance/manifest.json"
FORMAT = 1
OF_THE_HUB = frozenset({".gitattributes"})
"""Files that a repository on the Hub has of itself."""
CHUNK = 4 << 20
"""Bytes read at a time."""

_BESIDE = OF_THE_HUB | {NAME}
_MANIFEST_LIMIT = 16 << 20
_HEX = {"sha256": re.compile(r"[0-9a-f]{64}"), "git_sha1": re.compile(r"[0-9a-f]{40}")}
_CANARY = {"prompt": str, "response": str, "dtype": str, "log_probability": float, "tolerance": float}


@dataclass(frozen=True)
class Entry:
    """One file as it is and as the Hub names it."""

    size: int
    """Bytes."""
    sha256: str
    """Of the content; the Hub's name of a large file."""
    git_sha1: str
    """Of the content as a git blob; the Hub's name of a small file."""


@dataclass(frozen=True)
class Manifest:
    """A release's files, and what a loaded model must answer."""

    files: Mapping[str, Entry]
    """By path relative to the folder, `/` between parts."""
    canary: Mapping[str, Any] = field(default_factory=dict)
    """`prompt`, `response` (text), `log_probability` (sum over the response's tokens, nats), `tolerance` (nats),
    `dtype`; empty for a release without a model."""

    def to_json(self) -> dict[str, Any]:
        files = {path: vars(entry) for path, entry in sorted(self.files.items())}
        return {"format": FORMAT, "files": files, "canary": dict(self.canary)}

    def joined(self, other: Manifest) -> Manifest:
        """With the files of another scan of the same folder, whose entries count where both have one."""
        return replace(self, files={**self.files, **other.files})


def walk(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Everything below a folder that is no folder, in name order, as relative path and `lstat`; no link is followed."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False):
            yield from ((f"{entry.name}/{path}", status) for path, status in walk(Path(entry.path)))
        else:
            yield entry.name, entry.stat(follow_symlinks=False)


def scan(
    folder: Path,
    on_chunk: Callable[[str, memoryview], None] | None = None,
    tell: Callable[[int, int], None] | None = None,
    only: Collection[str] | None = None,
) -> Manifest:
    """Hash every regular file below a folder, each byte read once.

    Links, devices and pipes are left out: the checks name them. So is the manifest itself.

    Args:
        on_chunk: given a file's path and its next bytes, file after file, each from its beginning, in order. An empty
            piece ends each file. The bytes are valid during the call only.
        tell: given bytes done and bytes in all, after every piece.
        only: paths to look at, where the rest has been scanned before (see `Manifest.joined`); None means all.

    Raises:
        BadInput: the folder or a file cannot be read.
    """
    try:
        found = [(path, status) for path, status in walk(folder) if stat.S_ISREG(status.st_mode) and path != NAME]
        wanted = [(path, status.st_size) for path, status in found if only is None or path in only]
        total, done, files = sum(size for _, size in wanted), 0, {}
        for path, size in wanted:
            hashes = _Hashes(size)
            for chunk in _chunks(folder / path, size):
                hashes.update(chunk)
                if on_chunk is not None:
                    on_chunk(path, chunk)
                done += len(chunk)
                if tell is not None:
                    tell(done, total)
            if on_chunk is not None:
                on_chunk(path, memoryview(b""))
            files[path] = hashes.entry()
    except OSError as error:
        raise BadInput(f"cannot read {error.filename or folder}: {error.strerror}", "make it readable") from error
    return Manifest(files)


def entry(path: Path) -> Entry:
    """Size and hashes of one file.

    Raises:
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    hashes = _Hashes(size)
    for chunk in _chunks(path, size):
        hashes.update(chunk)
    return hashes.entry()


class _Hashes:
    def __init__(self, size: int) -> None:
        self.size = size
        self.sha256 = hashlib.sha256()
        self.git = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)

    def update(self, chunk: memoryview) -> None:
        self.sha256.update(chunk)
        self.git.update(chunk)

    def entry(self) -> Entry:
        return Entry(self.size, self.sha256.hexdigest(), self.git.hexdigest())


def _chunks(path: Path, size: int) -> Iterator[memoryview]:
    """A file's bytes. Raises BadInput when it is not of the size that was seen before: git's hash begins with it."""
    buffer = bytearray(min(CHUNK, max(size, 1)))
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb", buffering=0) as stream:
        got = 0
        while read := stream.readinto(buffer):
            got += read
            yield memoryview(buffer)[:read]
    if got != size:
        raise BadInput(f"{path} changed while it was read", "let nothing write to the folder, and run it again")


def write(folder: Path, manifest: Manifest) -> None:
    """Put the manifest into its folder, atomically. Equal manifests give equal bytes.

    Raises:
        BadInput: a path could not be read back, or the file cannot be written.
    """
    checked = _parse(manifest.to_json(), folder / NAME)
    try:
        (folder / NAME).parent.mkdir(exist_ok=True)
        write_json(folder / NAME, checked.to_json())
    except OSError as error:
        raise BadInput(f"cannot write {folder / NAME}: {error.strerror}", "free disk space, or its rights") from error


def read(folder: Path) -> Manifest | None:
    """The manifest inside a folder; None when it has none.

    Raises:
        BadInput: it is damaged, or says what no manifest of this project says.
    """
    path = folder / NAME
    try:
        if path.stat().st_size > _MANIFEST_LIMIT:
            raise BadInput(f"{path} is larger than any manifest", "download the release anew")
        value = json.loads(path.read_bytes(), object_pairs_hook=_no_twins)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}", "make it readable") from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is not JSON: {error}", "download the release anew") from error
    return _parse(value, path)


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return dict(pairs)


def _parse(value: Any, path: Path) -> Manifest:
    """What JSON says, as a manifest. Raises BadInput naming the field."""

    def bad(what: str) -> BadInput:
        return BadInput(f"{path}: {what}", "download the release anew, or release it again")

    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise bad(f"`format` is not {FORMAT}")
    files, canary = value.get("files"), value.get("canary")
    if value.keys() != {"format", "files", "canary"} or not isinstance(files, dict) or not isinstance(canary, dict):
        raise bad("has other parts than `format`, `files` and `canary`")
    for name, told in files.items():
        if problem := unsafe(name):
            raise bad(f"`files`: {name!r} {problem}")
        if not isinstance(told, dict) or told.keys() != {"size", *_HEX}:
            raise bad(f"`files`: {name!r} has other fields than size, sha256 and git_sha1")
        if type(told["size"]) is not int or told["size"] < 0:
            raise bad(f"`files`: the size of {name!r} is no number of bytes")
        if not all(isinstance(told[key], str) and form.fullmatch(told[key]) for key, form in _HEX.items()):
            raise bad(f"`files`: a hash of {name!r} is not one")
    for name, kind in _CANARY.items():
        if canary and not isinstance(canary.get(name), kind):
            raise bad(f"`canary`: `{name}` is missing or not {'text' if kind is str else 'a number'}")
    if not all(math.isfinite(item) for item in canary.values() if isinstance(item, float)):
        raise bad("`canary`: a number is not finite")
    return Manifest({name: Entry(**told) for name, told in files.items()}, canary)


def unsafe(path: str) -> str:
    """Why a path cannot be a file's place in a release, as the end of a sentence; empty when it can."""
    parts = path.split("/")
    if not path or any(part in ("", ".", "..") for part in parts):
        return "leads out of the folder or nowhere"
    if "\\" in path or ":" in path:
        return "has a character that some systems take for a separator"
    if any(unicodedata.category(letter).startswith("C") for letter in path):
        return "has characters that do not print"
    if unicodedata.normalize("NFC", path) != path:
        return "is not in Unicode's composed form (NFC)"
    if any(part != part.strip() or part.endswith(".") for part in parts):
        return "has a space or a full stop at an end"
    if len(path.encode()) > 255:
        return "is longer than 255 bytes"
    return ""


def differences(manifest: Manifest, files: Mapping[str, tuple[int, str | None, str | None]]) -> list[str]:
    """What a repository or a folder has otherwise than the manifest, one line each; empty when they agree.

    Args:
        files: size, sha256 and git's sha1 by path; None for a hash that is not known. Of one file, one known hash is
            enough. The manifest itself is compared only where `manifest` names it, and what a repository has of
            itself (`.gitattributes`) not at all.
    """
    told = []
    for path, wanted in sorted(manifest.files.items()):
        if path not in files:
            told.append(f"{path} is missing")
            continue
        size, sha256, git_sha1 = files[path]
        known = [(found, own) for found, own in ((sha256, wanted.sha256), (git_sha1, wanted.git_sha1)) if found]
        if size != wanted.size:
            told.append(f"{path} has {size} bytes, not {wanted.size}")
        elif not known:
            told.append(f"{path} has no known hash to compare")
        elif any(found != own for found, own in known):
            told.append(f"{path} has another content")
    return told + [f"{path} is not of the release" for path in sorted(files.keys() - manifest.files.keys() - _BESIDE)]
