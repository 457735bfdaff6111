"""What the loopback Hub keeps, in one folder on disk: a server may be stopped and another one started on it.

    FOLDER/models/NS/NAME/repo.json        refs, commits (each with its whole list of files), visibility, discussions
    FOLDER/models/NS/NAME/git/<sha1>       content of regular files
    FOLDER/models/NS/NAME/lfs/<sha256>     content of large files
    FOLDER/models/NS/NAME/incoming/        uploads under way, or broken off
    FOLDER/datasets/...                    the same for datasets
    FOLDER/collections.json

A repository is changed by replacing its repo.json in one step.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

GITATTRIBUTES = Path(__file__).with_name("gitattributes.txt").read_bytes()
"""Of a new repository: which files go to large-file storage."""
REGULAR_LIMIT = 10 * 2**20
"""Larger files must go through large-file storage."""

_temporary = itertools.count()


@dataclass(frozen=True)
class File:
    """One path of a commit."""

    oid: str
    """Git's SHA-1 of the content, or of the pointer for a large file."""
    size: int
    sha256: str | None = None
    """Only for large files."""


@dataclass(frozen=True)
class Commit:
    parent: str | None
    title: str
    message: str
    author: str
    date: str
    files: dict[str, File]


@dataclass
class Repo:
    """One repository. Change it under the store's lock, then `save`."""

    folder: Path
    id: str
    type: str
    private: bool
    gated: str | bool = False
    heads: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pulls: dict[str, str] = field(default_factory=dict)
    """`refs/pr/N` -> commit."""
    discussions: list[dict[str, Any]] = field(default_factory=list)
    commits: dict[str, Commit] = field(default_factory=dict)

    def resolve(self, revision: str) -> str | None:
        """The commit that a branch, tag, PR ref, or whole or shortened commit id names."""
        for refs in (self.heads, self.tags, self.pulls):
            if revision in refs:
                return refs[revision]
        found = [oid for oid in self.commits if len(revision) >= 7 and oid.startswith(revision)]
        return found[0] if len(found) == 1 else None

    def history(self, revision: str = "main") -> list[str]:
        """Commit ids, newest first."""
        oid, found = self.resolve(revision), []
        while oid is not None:
            found.append(oid)
            oid = self.commits[oid].parent
        return found

    def files(self, revision: str = "main") -> dict[str, File]:
        oid = self.resolve(revision)
        if oid is None:
            raise KeyError(revision)
        return dict(self.commits[oid].files)

    def path_of(self, file: File) -> Path:
        """Where a file's content lies."""
        return self.folder / ("lfs" if file.sha256 else "git") / (file.sha256 or file.oid)

    def read(self, path: str, revision: str = "main") -> bytes:
        return self.path_of(self.files(revision)[path]).read_bytes()

    def is_large(self, path: str, size: int, sample: bytes, revision: str) -> bool:
        """Whether a new file goes to large-file storage: by the repository's .gitattributes, by size, or as binary."""
        files = self.files(revision)
        rules = self.path_of(files[".gitattributes"]).read_text() if ".gitattributes" in files else ""
        patterns = [line.split()[0] for line in rules.splitlines() if "filter=lfs" in line]
        named = any(fnmatch(path, pattern) or fnmatch(path.rpartition("/")[2], pattern) for pattern in patterns)
        return named or size > REGULAR_LIMIT or b"\0" in sample

    def add_regular(self, content: bytes) -> File:
        oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        write_whole(self.folder / "git" / oid, content)
        return File(oid, len(content))

    def add_large(self, sha256: str) -> File:
        """A pointer to large content that was uploaded before."""
        size = (self.folder / "lfs" / sha256).stat().st_size
        pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n" % (sha256.encode(), size)
        return File(hashlib.sha1(b"blob %d\0" % len(pointer) + pointer).hexdigest(), size, sha256)

    def commit(self, ref: str, files: Mapping[str, File], title: str, author: str, **more: Any) -> str:
        """Put a commit on a branch or PR ref. `more`: `parent` (default: the ref's head) and `message`."""
        refs = self.pulls if ref.startswith("refs/pr/") else self.heads
        date = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
        parent, message = more.get("parent", refs.get(ref)), more.get("message", "")
        commit = Commit(parent, title, message, author, date, dict(sorted(files.items())))
        oid = hashlib.sha1(json.dumps([asdict(commit), time.time_ns()]).encode()).hexdigest()
        self.commits[oid] = commit
        refs[ref] = oid
        return oid

    def save(self) -> None:
        told = {key: value for key, value in asdict(self).items() if key != "folder"}
        write_whole(self.folder / "repo.json", json.dumps(told, indent=1).encode())


class Store:
    """The repositories and collections in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.lock = threading.RLock()
        """Held over every reading-and-changing of a repository: a commit is one step."""

    def place(self, type: str, id: str) -> Path:
        return self.folder / f"{type}s" / id

    def names(self, type: str = "model") -> list[str]:
        root = self.folder / f"{type}s"
        return sorted(path.parent.relative_to(root).as_posix() for path in root.glob("*/*/repo.json"))

    def load(self, type: str, id: str) -> Repo | None:
        folder = self.place(type, id)
        try:
            told = json.loads((folder / "repo.json").read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        commits = {
            oid: Commit(**{**commit, "files": {path: File(**file) for path, file in commit["files"].items()}})
            for oid, commit in told.pop("commits").items()
        }
        return Repo(folder=folder, commits=commits, **told)

    def create(self, type: str, id: str, private: bool, author: str) -> Repo:
        folder = self.place(type, id)
        for name in ("git", "lfs", "incoming"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        repo = Repo(folder, id, type, private)
        repo.commit("main", {".gitattributes": repo.add_regular(GITATTRIBUTES)}, "initial commit", author)
        repo.save()
        return repo

    def delete(self, repo: Repo) -> None:
        shutil.rmtree(repo.folder)

    def collections(self) -> dict[str, dict[str, Any]]:
        """Slug -> collection, as the API shows it."""
        try:
            return json.loads((self.folder / "collections.json").read_bytes())
        except FileNotFoundError:
            return {}

    def save_collections(self, collections: dict[str, dict[str, Any]]) -> None:
        write_whole(self.folder / "collections.json", json.dumps(collections, indent=1).encode())


def write_whole(path: Path, content: bytes) -> None:
    """All or nothing, also for another thread that reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.{next(_temporary)}")
    beside.write_bytes(content)
    beside.replace(path)


def folders_of(files: Mapping[str, File]) -> Iterator[str]:
    """Every folder above the files, once."""
    yield from sorted({path.rsplit("/", n)[0] for path in files for n in range(1, path.count("/") + 1)})
