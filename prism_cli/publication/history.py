"""What a repository says of its earlier releases, for the changelog of the next one."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from pydantic import ValidationError

from integrations.errors import PrismError
from release.card.render import FACTS
from release.facts import Change, DatasetFacts, Facts
from release.hub.client import connect
from release.hub.repository import Repository, RepoType

FIRST = "First release."


def history(repo: str, tag: str, kind: RepoType = "model") -> tuple[list[Change], str]:
    """Earlier releases, oldest first, and what this one says of itself if nothing else is said.

    A tag that is there already keeps the history and the words that it was released with, so that releasing it again
    gives equal files. A repository that cannot be asked has no history.
    """
    found = _facts(repo, tag, kind)
    if found is None:
        return [], FIRST
    earlier = [change for change in found.changelog if change.tag != tag]
    own = next((change.what for change in found.changelog if change.tag == tag), None)
    return earlier, own or (f"Release {tag}." if earlier else FIRST)


def _facts(repo: str, tag: str, kind: RepoType) -> Facts | DatasetFacts | None:
    """The facts inside the release of that tag, or else inside the newest one."""
    repository = Repository(connect(), repo, kind)
    form = DatasetFacts if kind == "dataset" else Facts
    try:
        info = repository.info()
        if info is None:
            return None
        revision = repository.tags().get(tag) or str(info.sha)
        with tempfile.TemporaryDirectory() as folder:
            repository.download(FACTS, revision, Path(folder))
            return form.model_validate(json.loads((Path(folder) / FACTS).read_bytes()))
    except (PrismError, OSError, ValueError, ValidationError):
        return None
