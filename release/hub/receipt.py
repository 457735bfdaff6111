"""What a release left behind: a JSON document in the run, rewritten whole at every step.

A release that was cut off shows how far it came (`states`); running it again goes on from what the Hub has, never from
what the receipt says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from integrations.common.files import read_json, write_json
from integrations.errors import BadInput

FORMAT = 1


@dataclass
class Receipt:
    """One release to one repository, under one tag."""

    repo: str
    repo_type: str
    url: str
    """The repository's page."""
    tag: str | None
    message: str
    """Of the commit."""
    files: Mapping[str, str]
    """sha256 by path."""
    commit: str | None = None
    """The commit that holds the release; of a pull request, that of its branch."""
    pull_request: str | None = None
    """Address of the pull request, where the release is one."""
    public: bool | None = None
    """Whether everyone can see the repository."""
    uploaded: list[str] = field(default_factory=list)
    """Paths in the commit that this command made; empty when the release was there already."""
    deleted: list[str] = field(default_factory=list)
    """Paths that the commit removed."""
    kept: list[str] = field(default_factory=list)
    """Paths in the repository that are not of the release."""
    warnings: list[dict[str, str]] = field(default_factory=list)
    """Findings of the checks that did not stop the release."""
    repeated: bool = False
    """An earlier command of this run had done all of it."""
    states: list[dict[str, str]] = field(default_factory=list)
    """`state` and `when` (UTC), in order: started, created, uploaded, committed, verified, tagged, public, done."""

    @property
    def complete(self) -> bool:
        """Nothing is left to do."""
        return any(step["state"] == "done" for step in self.states)

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}


@dataclass
class Journal:
    """A receipt and the file that it is written to."""

    receipt: Receipt
    path: Path

    @classmethod
    def open(cls, receipt: Receipt, folder: Path) -> Journal:
        """Start a receipt. One of an equal release that was complete keeps its list of states.

        Raises:
            BadInput: the folder cannot be written.
        """
        place = "pull-request" if receipt.pull_request is not None else receipt.tag or "main"
        owner, name = receipt.repo.split("/")
        path = folder / f"{receipt.repo_type}-{owner}--{name}@{place}.json"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(f"Cannot write receipts to {folder}: {error.strerror}.", "Make it writable.") from error
        before = read(path)
        if before is not None and (before.url, dict(before.files)) == (receipt.url, dict(receipt.files)):
            receipt.states, receipt.repeated = before.states, before.complete
            receipt.uploaded, receipt.deleted, receipt.kept = before.uploaded, before.deleted, before.kept
        return cls(receipt, path)

    def back_to(self, *states: str) -> None:
        """Forget all steps but these: the Hub no longer has what they did."""
        self.receipt.states = [step for step in self.receipt.states if step["state"] in states]
        self.receipt.repeated = False

    def reached(self, state: str) -> None:
        """Write down a step; one that was reached before keeps its time.

        Raises:
            BadInput: the file cannot be written.
        """
        if all(step["state"] != state for step in self.receipt.states):
            when = datetime.now(UTC).isoformat(timespec="seconds")
            self.receipt.states.append({"state": state, "when": when})
        try:
            write_json(self.path, self.receipt.to_json())
        except OSError as error:
            raise BadInput(f"Cannot write {self.path}: {error.strerror}.", "Free some space, run again.") from error


def read(path: Path) -> Receipt | None:
    """A receipt, None where there is none that can be read."""
    value = read_json(path)
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        return None
    known = {each.name for each in fields(Receipt)}
    try:
        return Receipt(**{name: item for name, item in value.items() if name in known})
    except TypeError:
        return None
