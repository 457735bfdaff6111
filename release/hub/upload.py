"""Bytes first, then one commit.

Large files go up before anything shows (what arrived once is not sent again), then one commit names them all, with its
parent asserted. An answer that got lost is never answered by sending again: what the Hub has then is compared with the
release, and only a head that has not moved allows another try.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from integrations.errors import BadInput
from release.hub.comparison import Comparison, compare
from release.hub.failures import AGAIN, HubFailed, clean
from release.hub.progress import Tell, beating, readable
from release.hub.repository import Repository
from release.manifest import Manifest

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd

UPLOAD_ATTEMPTS = 2
"""Times a file's upload is begun; huggingface_hub itself sends each part up to six times in each."""
LARGE = 1 << 20
"""Bytes from which a file is told of by itself."""
_CONFLICTS = (409, 412)


@dataclass(frozen=True)
class Commit:
    """A commit that holds the release."""

    oid: str
    pull_request: str | None = None
    """Address of the pull request whose branch it is on."""


def send(
    repository: Repository, folder: Path, release: Manifest, paths: Sequence[str], create_pr: bool, tell: Tell
) -> list[CommitOperationAdd]:
    """Upload the large ones of some files, and give all of them as operations for a commit.

    Raises:
        BadInput: a file is not what the manifest says.
        HubFailed, HubRefused: what has arrived stays, and is not sent again.
    """
    from huggingface_hub import CommitOperationAdd

    operations = {path: CommitOperationAdd(path, folder / path) for path in paths}
    large = [path for path in paths if release.files[path].size >= LARGE]
    small = [path for path in paths if path not in large]
    for number, path in enumerate(large, 1):
        what = f"Uploading {path} ({number} of {len(large)}, {readable(release.files[path].size)})"
        tell(what)
        with beating(tell, lambda what=what: what):  # type: ignore[misc]
            _send(repository, [operations[path]], path, create_pr)
    if small:
        tell(f"Uploading {len(small)} small files" if len(small) > 1 else f"Uploading {small[0]}")
        _send(repository, [operations[path] for path in small], "the small files", create_pr)
    for path, operation in operations.items():
        if operation.upload_info.sha256.hex() != release.files[path].sha256:
            raise BadInput(f"{folder / path} changed after it was checked.", "Let nothing write there, run again.")
    return list(operations.values())


def _send(repository: Repository, operations: Sequence[CommitOperationAdd], what: str, create_pr: bool) -> None:
    """Upload those that the Hub stores as large; it says which those are."""
    repository.hub.ask(
        f"upload {what}",
        lambda: repository.hub.api.preupload_lfs_files(
            repository.name,
            additions=operations,
            repo_type=repository.kind,
            revision="main",
            create_pr=create_pr,
            free_memory=False,
            gitignore_content="",  # a .gitignore in the repository would make the Hub drop files without a word
        ),
        attempts=UPLOAD_ATTEMPTS,
    )


def commit(
    repository: Repository,
    release: Manifest,
    difference: Comparison,
    operations: Sequence[CommitOperationAdd],
    parent: str,
    message: str,
    create_pr: bool,
    tell: Tell,
) -> Commit:
    """One commit on `parent` with all additions and deletions, or a pull request of it.

    Raises:
        HubFailed: main moved to another commit meanwhile, or the Hub did not take it. Nothing is half done.
        HubRefused: the token may not.
    """
    from huggingface_hub import CommitOperationDelete

    changes = [*operations, *(CommitOperationDelete(path) for path in difference.delete)]
    for pause in repository.hub.pauses():
        try:
            return _commit_once(repository, changes, parent, message, create_pr, tell)
        except HubFailed as error:
            landed = _landed(repository, release, parent, create_pr)
            if landed is not None:
                tell("The Hub's answer was lost; the commit is there, whole.")
                return landed
            head = repository.head()
            if head != parent:
                raise _moved(repository, head, error) from None
            if pause is None or not (error.passing or error.status in _CONFLICTS):
                raise
            tell(f"{error.problem} Nothing was committed; trying again.")
            time.sleep(max(pause, error.wait))
    raise AssertionError("unreachable")


def _commit_once(
    repository: Repository, changes: Sequence[Any], parent: str, message: str, create_pr: bool, tell: Tell
) -> Commit:
    """Send the commit; what the Hub remarks about the card is told."""
    with warnings.catch_warnings(record=True) as said:
        made = repository.hub.once(
            f"commit to {repository.name}",
            lambda: repository.hub.api.create_commit(
                repository.name,
                changes,
                commit_message=message,
                repo_type=repository.kind,
                revision="main",
                parent_commit=parent,
                create_pr=create_pr,
            ),
        )
    for warning in said:
        if issubclass(warning.category, UserWarning):
            tell(clean(warning.message))
    return Commit(made.oid, made.pr_url)


def _landed(repository: Repository, release: Manifest, parent: str, create_pr: bool) -> Commit | None:
    """The commit whose answer was lost: main's head, one below it that came after `parent`, or a pull request."""
    found = find(repository, release, create_pr)
    if found is not None or create_pr:
        return found
    for oid in repository.since(parent):
        if compare(release, repository.files(oid)).equal:
            return Commit(oid)
    return None


def _moved(repository: Repository, head: str, error: HubFailed) -> HubFailed:
    return HubFailed(
        f"{repository.name} moved to commit {head[:12]} while this release was on its way; that commit is not this"
        " release, and nothing of it was overwritten.",
        f"See what it changed ({repository.url}/commit/{head}), then: {AGAIN[0].lower()}{AGAIN[1:]}",
        status=error.status,
    )


def find(repository: Repository, release: Manifest, pull_request: bool) -> Commit | None:
    """The commit that holds exactly the release: main's head, or an open pull request's."""
    if not pull_request:
        head = repository.head()
        return Commit(head) if compare(release, repository.files(head)).equal else None
    for number in repository.pull_requests():
        oid = repository.commit_of(f"refs/pr/{number}")
        if compare(release, repository.files(oid)).equal:
            return Commit(oid, f"{repository.url}/discussions/{number}")
    return None
