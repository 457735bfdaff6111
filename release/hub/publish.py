"""Publishing a release: from a checked folder to a tagged commit that is known to hold it.

    preview(folder, manifest, target)                              # what would happen; touches nothing
    receipt = publish(folder, manifest, target, tell, receipts)    # makes it so, or says why not

The order never changes: rights, repository (private), bytes, one commit, comparison by hash, tag, and only then public.
Every step begins with what the Hub has, so that running again from any half-done state completes it, and running again
after the end does nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from integrations.errors import BadInput, PrismError
from release import manifest as manifests
from release.finding import Finding
from release.hub.client import connect
from release.hub.comparison import compare
from release.hub.failures import HubFailed, clean
from release.hub.progress import Tell
from release.hub.receipt import Journal, Receipt
from release.hub.repository import Repository
from release.hub.state import State, look
from release.hub.target import Target, check, check_rights
from release.hub.upload import Commit, commit, find, send
from release.manifest import Manifest


@dataclass(frozen=True)
class Preview:
    """What publishing would do, and what stands in its way."""

    repo: str
    url: str
    exists: bool | None
    """None: the Hub could not be asked. False: not there, or not visible without a token that may see it."""
    public: bool | None
    head: str | None
    """Commit that main is at."""
    released: str | None
    """Commit that holds this release already."""
    upload: tuple[str, ...]
    there: tuple[str, ...]
    delete: tuple[str, ...]
    keep: tuple[str, ...]
    problems: tuple[str, ...]
    """What publishing would stop at, each one sentence."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def publish(
    folder: Path,
    manifest: Manifest,
    target: Target,
    tell: Tell,
    receipt_dir: Path,
    warnings: Sequence[Finding] = (),
) -> Receipt:
    """Publish a folder that was checked.

    Args:
        folder: holds the manifest file too.
        manifest: of the folder.
        tell: given one line at each step.
        receipt_dir: folder for the receipt.
        warnings: findings of the checks, for the receipt.

    Raises:
        BadInput: the target, the token or its rights are wrong, the tag names something else, or the repository is
            public and `target.public` is not set. Found before a byte moves.
        HubFailed: the network or the Hub failed for longer than was waited, or somebody else published meanwhile.
    """
    check(target)
    release = whole(folder, manifest)
    hub = connect()
    check_rights(hub, target)
    repository = Repository(hub, target.repo, target.repo_type)
    journal = _journal(repository, release, target, receipt_dir, warnings)
    state = look(repository, release, target)
    if state is None:
        journal.back_to()
        journal.reached("started")
        tell(f"Creating {target.repo}, private")
        repository.create()
        journal.reached("created")
        state = look(repository, release, target)
        if state is None:
            raise HubFailed(f"{target.repo} was created but does not show.", "Run the same command again in a minute.")
    if state.refusal is not None:
        raise state.refusal
    if target.create_pr:
        return _pull_request(repository, folder, release, target, state, journal, tell)
    done = state.released
    if done is None:
        done = _upload(repository, folder, release, target, state, journal, tell).oid
    else:
        tell(f"{target.repo} holds this release already, in commit {done[:12]}")
    return _finish(repository, target, done, state.tagged, journal, tell)


def preview(folder: Path, manifest: Manifest, target: Target) -> Preview:
    """What `publish` would do. Reads only; works without a token where the repository can be seen without one.

    Raises:
        BadInput: the target's names are wrong, or the folder has no manifest.
    """
    check(target)
    release = whole(folder, manifest)
    hub = connect()
    repository = Repository(hub, target.repo, target.repo_type)
    problems: list[str] = []
    state, exists = None, None
    try:
        check_rights(hub, target)
    except PrismError as error:
        problems.append(error.problem)
    try:
        state = look(repository, release, target)
        exists = state is not None
        problems += [state.refusal.problem] if state and state.refusal else []
    except PrismError as error:
        problems.append(error.problem)
    difference = state.difference if state else compare(release, {})
    return Preview(
        target.repo,
        repository.url,
        exists,
        state.public if state else None,
        state.head if state else None,
        state.released if state else None,
        **asdict(difference),
        problems=tuple(problems),
    )


def whole(folder: Path, manifest: Manifest) -> Manifest:
    """The manifest with an entry for its own file.

    Raises:
        BadInput: the folder's manifest file is missing or another.
    """
    inside = manifests.read(folder)
    if inside is None or inside.to_json() != manifest.to_json():
        raise BadInput(f"{folder / manifests.NAME} is not the manifest of this folder.", "Assemble the release anew.")
    return replace(manifest, files={**manifest.files, manifests.NAME: manifests.entry(folder / manifests.NAME)})


def _journal(
    repository: Repository, release: Manifest, target: Target, folder: Path, warnings: Sequence[Finding]
) -> Journal:
    receipt = Receipt(
        repo=target.repo,
        repo_type=target.repo_type,
        url=repository.url,
        tag=None if target.create_pr else target.tag,
        message=clean(target.message),
        files={path: entry.sha256 for path, entry in sorted(release.files.items())},
        pull_request="" if target.create_pr else None,
        warnings=[finding.to_json() for finding in warnings],
    )
    return Journal.open(receipt, folder)


def _upload(
    repository: Repository,
    folder: Path,
    release: Manifest,
    target: Target,
    state: State,
    journal: Journal,
    tell: Tell,
) -> Commit:
    """Bytes, commit, and the comparison of what came of it."""
    difference = state.difference
    journal.back_to("started", "created")
    journal.reached("started")
    if difference.delete:
        tell(f"In the same commit {len(difference.delete)} stale files go: {_listed(difference.delete)}")
    if difference.keep:
        tell(f"Not of the release, left alone: {_listed(difference.keep)}")
    operations = send(repository, folder, release, difference.upload, target.create_pr, tell)
    journal.reached("uploaded")
    tell("Committing" + (f"; {target.repo} is public, so everyone sees it at once" if state.public else ""))
    made = commit(
        repository, release, difference, operations, state.head, clean(target.message), target.create_pr, tell
    )
    receipt = journal.receipt
    receipt.commit, receipt.uploaded, receipt.deleted = made.oid, [*difference.upload], [*difference.delete]
    receipt.kept = [*difference.keep]
    journal.reached("committed")
    _verify(repository, release, made)
    journal.reached("verified")
    return made


def _verify(repository: Repository, release: Manifest, made: Commit) -> None:
    """Raises: HubFailed: the commit holds something else than the release."""
    found = compare(release, repository.files(made.oid))
    if not found.equal:
        paths = _listed(found.upload + found.delete)
        raise HubFailed(
            f"Commit {made.oid[:12]} of {repository.name} differs from the release: {paths}.",
            "It was neither tagged nor made public. Run the same command again to replace it.",
        )


def _finish(repository: Repository, target: Target, oid: str, tagged: bool, journal: Journal, tell: Tell) -> Receipt:
    """Tag, then public, then the receipt's last word."""
    receipt = journal.receipt
    receipt.commit = oid
    journal.reached("verified")
    if target.tag is not None:
        if not tagged:
            tell(f"Tagging {target.tag}")
            repository.tag(target.tag, oid)
            receipt.repeated = False
        journal.reached("tagged")
    info = repository.info()
    receipt.public = info is not None and not info.private
    if target.public and not receipt.public:
        tell("Making the repository public")
        repository.make_public()
        receipt.public, receipt.repeated = True, False
    if receipt.public:
        journal.reached("public")
    journal.reached("done")
    return receipt


def _pull_request(
    repository: Repository,
    folder: Path,
    release: Manifest,
    target: Target,
    state: State,
    journal: Journal,
    tell: Tell,
) -> Receipt:
    """An open pull request with the release: the one there is, or a new one. None where main holds it already."""
    receipt = journal.receipt
    receipt.public = state.public
    if state.released is not None:
        tell(f"{target.repo} holds this release already, in commit {state.released[:12]}: no pull request is needed")
        made: Commit = Commit(state.released, None)
    else:
        found = find(repository, release, pull_request=True)
        if found is not None:
            tell(f"A pull request with this release is open: {found.pull_request}")
        made = found or _upload(repository, folder, release, target, state, journal, tell)
    receipt.commit, receipt.pull_request = made.oid, made.pull_request
    journal.reached("done")
    return receipt


def _listed(paths: Sequence[str]) -> str:
    """A few paths of many, for one line."""
    shown = ", ".join(clean(path) for path in paths[:5])
    return shown + (f" and {len(paths) - 5} more" if len(paths) > 5 else "")


__all__ = ["Preview", "Receipt", "Target", "preview", "publish"]
