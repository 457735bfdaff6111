"""What the Hub has of a release: nothing is done here, and everything that is done begins here."""

from __future__ import annotations

from dataclasses import dataclass, replace

from integrations.errors import BadInput
from release import manifest as manifests
from release import names
from release.hub.comparison import Comparison, compare
from release.hub.repository import Files, Repository, tag_is_taken
from release.hub.target import Target
from release.manifest import Manifest


@dataclass(frozen=True)
class State:
    """What the Hub has."""

    public: bool
    head: str
    difference: Comparison
    """Between the head of main and the release."""
    released: str | None
    """Commit that holds the release: the tag's, or else the head."""
    tagged: bool
    """The tag is on that commit."""
    refusal: BadInput | None
    """Why nothing may be published here."""


def look(repository: Repository, release: Manifest, target: Target) -> State | None:
    """What the Hub has; None where the repository is not there."""
    info = repository.info()
    if info is None:
        return None
    head = str(info.sha)
    remote = repository.files(head)
    difference = compare(release, remote, _earlier(repository, remote, head))
    state = State(not info.private, head, difference, head if difference.equal else None, False, None)
    if target.tag is not None and not target.create_pr:
        state = _with_tag(repository, release, target.tag, state)
    if state.refusal is None and state.released is None and state.public and not target.public and not target.create_pr:
        state = replace(state, refusal=_is_public(target.repo))
    return state


def _with_tag(repository: Repository, release: Manifest, tag: str, state: State) -> State:
    """What is known when the tag is looked at too: it may be free, on the release, or on something else."""
    tags = repository.tags()
    try:
        names.not_a_twin(tag, tags, f"tag of {repository.name}")
    except BadInput as error:
        return replace(state, refusal=error)
    commit = tags.get(tag)
    if commit is None:
        return state
    if commit == state.released or compare(release, repository.files(commit)).equal:
        return replace(state, released=commit, tagged=True)
    return replace(state, refusal=tag_is_taken(repository.name, tag, commit))


def _earlier(repository: Repository, remote: Files, head: str) -> Manifest | None:
    return repository.manifest(head) if manifests.NAME in remote else None


def _is_public(repo: str) -> BadInput:
    return BadInput(
        f"{repo} is public: everyone would see the release before it is verified.",
        "Say --public to accept that, or release to a repository of its own.",
    )
