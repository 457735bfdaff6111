"""What the checks look at: a folder read once, and what the run says about it."""

from __future__ import annotations

import json
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from integrations.common.checkpoint import SHARD_BYTES
from release.checks.headers import Header, read_header
from release.checks.numbers import Numbers
from release.facts import Facts
from release.finding import Finding
from release.manifest import Manifest, scan, walk

TEXT_LIMIT = 64 << 20
"""Largest file of text, bytes: the tokenizers of large models have about 12 MB."""

Found = Iterable[tuple[str, str]]
"""Place (path, with the place inside it where that helps) and problem (one sentence)."""


@dataclass(frozen=True)
class CheckContext:
    """What is known of a release besides its files."""

    licence: str
    """Of the release, a Hub licence id."""
    repo_type: Literal["model", "dataset"] = "model"
    origin: Literal["hub", "folder", "random"] = "random"
    """What training started from; `random`: weights drawn in the run, so there is no earlier model."""
    base_model: str | None = None
    """Its repository on the Hub."""
    base_revision: str | None = None
    """Its commit there."""
    base_licence: str | None = None
    """As its card states it."""
    probe: Mapping[str, Any] | None = None
    """What the engine said of the folder (`prism_cli.publication.probe`); None when it was not asked."""
    numbers: Numbers | None = None
    """What was seen in the weights while the manifest was made; None: they are read again."""
    private: Sequence[str] = ()
    """Names that must not stand in a release: of the user, the host, the run's folder, an account."""
    shard_bytes: int = SHARD_BYTES
    """Most bytes of tensors in one weights file."""

    @staticmethod
    def of(facts: Facts, **more: Any) -> CheckContext:
        """What a release's facts say; `more`: the other fields."""
        base = facts.base
        return CheckContext(
            licence=facts.licence,
            origin=base.origin,
            base_model=base.repo,
            base_revision=base.revision,
            base_licence=base.licence,
            **more,
        )


class View:
    """A release as the checks see it. Nothing here follows a link or believes a file's content."""

    def __init__(self, folder: Path, manifest: Manifest, context: CheckContext) -> None:
        self.folder = folder
        self.manifest = manifest
        self.context = context
        self.status: dict[str, os.stat_result] = dict(walk(folder))
        """`lstat` of everything that is no folder, by path."""
        self.files = [path for path, status in self.status.items() if stat.S_ISREG(status.st_mode)]
        self._texts: dict[str, str] = {}
        self._documents: dict[str, tuple[Any, str]] = {}

    @cached_property
    def links(self) -> Counter[tuple[int, int]]:
        """How many names each file has inside the folder, by device and inode."""
        return Counter((status.st_dev, status.st_ino) for status in self.status.values())

    def has(self, path: str) -> bool:
        return path in self.status and stat.S_ISREG(self.status[path].st_mode)

    def text(self, path: str) -> str:
        """A file's text, undecodable bytes replaced; empty for one that is not there or too large."""
        if path not in self._texts:
            fits = self.has(path) and self.status[path].st_size <= TEXT_LIMIT
            self._texts[path] = (self.folder / path).read_bytes().decode("utf-8", "replace") if fits else ""
        return self._texts[path]

    def document(self, path: str) -> tuple[Any, str]:
        """A JSON file's value, and why it has none; None and a reason for one that is missing or not JSON."""
        if path not in self._documents:
            try:
                self._documents[path] = strict_json(self.text(path)), ""
            except ValueError as error:
                self._documents[path] = None, str(error)
        return self._documents[path]

    def json(self, path: str) -> Any:
        """A JSON file's value; None when it is missing or not JSON (the check `json` tells)."""
        return self.document(path)[0]

    def object(self, path: str) -> dict[str, Any]:
        """A JSON file's object; empty for anything else."""
        value = self.json(path)
        return value if isinstance(value, dict) else {}

    @property
    def is_model(self) -> bool:
        return self.context.repo_type == "model"

    @cached_property
    def headers(self) -> dict[str, Header]:
        """Of every safetensors file."""
        found = [path for path in self.files if path.endswith(".safetensors")]
        return {path: read_header(self.folder / path) for path in found}

    @cached_property
    def weights(self) -> dict[str, Header]:
        """Headers of the model's own files; a discriminator's heads are another set."""
        return {path: header for path, header in self.headers.items() if path.startswith("model")}

    @cached_property
    def numbers(self) -> Numbers:
        if self.context.numbers is not None:
            return self.context.numbers
        numbers = Numbers()
        scan(self.folder, numbers, only=set(self.headers))
        return numbers


@dataclass(frozen=True)
class Check:
    """One thing that is looked at before a byte moves."""

    id: str
    severity: Literal["error", "warning"]
    title: str
    """What is wrong where it finds something, in a few words."""
    looks_at: str
    """Which files, and for what: one sentence."""
    fix: str
    """What to do, one sentence."""
    run: Callable[[View], Found]

    def findings(self, view: View) -> list[Finding]:
        found = self.run(view)
        return [Finding(self.id, self.severity, shown(path, 400), problem, self.fix) for path, problem in found]


def strict_json(text: str) -> Any:
    """A JSON document's value.

    Raises:
        ValueError: it is none, is nested too deeply, has a name twice in an object or a number that is none.
    """

    def object_(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) != len(pairs):
            raise ValueError("a name stands twice in one object")
        return value

    def constant(name: str) -> Any:
        raise ValueError(f"{name} is no number of JSON")

    try:
        return json.loads(text, object_pairs_hook=object_, parse_constant=constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def shown(text: object, width: int = 80) -> str:
    """A name from a file, safe to print: quoted where it has more than plain letters, and cut."""
    plain = str(text)
    if not plain.isprintable():
        plain = ascii(plain)[1:-1]
    return plain if len(plain) <= width else plain[: width - 1] + "…"


def listed(names: Iterable[object], most: int = 3) -> str:
    """The first few names, and how many more there are."""
    every = [f"`{shown(name)}`" for name in names]
    return ", ".join(every[:most]) + (f" and {len(every) - most} more" if len(every) > most else "")
