"""Path, size and hashes of every file of a release.

The manifest travels inside the release (`provenance/manifest.json`), so that anyone can compare what they downloaded
with what was released. It names every file but itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

NAME = "provenance/manifest.json"
FORMAT = 1


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
