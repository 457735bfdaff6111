"""A repository on the Hub: what is in it, and the few things that a release does to it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from integrations.errors import BadInput
from release import manifest as manifests
from release.hub.client import Hub
from release.hub.failures import NO_REPOSITORY, HubFailed, HubRefused
from release.manifest import Manifest

if TYPE_CHECKING:
    from huggingface_hub.hf_api import DatasetInfo, ModelInfo

RepoType = Literal["model", "dataset"]
Files = Mapping[str, tuple[int, str | None, str | None]]
"""Size, sha256 (of a large file) and git's sha1 (of a small one) by path."""
PULL_REQUESTS_SEARCHED = 30
COMMITS_SEARCHED = 20


@dataclass(frozen=True)
class Repository:
    """One repository and the client to reach it. All methods but `hub`'s own raise HubFailed and HubRefused."""

    hub: Hub
    name: str
    kind: RepoType = "model"

    @property
    def url(self) -> str:
        """Its page."""
        return f"{self.hub.endpoint}/{'datasets/' if self.kind == 'dataset' else ''}{self.name}"

    def info(self) -> ModelInfo | DatasetInfo | None:
        """Its record at the head of main; None where there is none, or none that the token may see."""
        try:
            info = self._ask("look at", "repo_info", revision="main")
        except HubRefused as refused:
            if refused.code == NO_REPOSITORY:
                return None
            raise
        if info.id != self.name:
            raise BadInput(f"{self.name} exists under the name {info.id}.", "Use that name.")
        return info

    def head(self) -> str:
        """The commit that main is at."""
        return str(self._ask("look at", "repo_info", revision="main").sha)

    def commit_of(self, revision: str) -> str:
        """The commit that a tag, a branch or a pull request is at."""
        return str(self._ask(f"find {revision} of", "repo_info", revision=revision).sha)

    def since(self, commit: str) -> list[str]:
        """Commits on main after this one, newest first; of a long list the newest `COMMITS_SEARCHED`."""

        def listed() -> list[str]:
            told = self.hub.api.list_repo_commits(self.name, repo_type=self.kind, revision="main")
            return [each.commit_id for each in told[:COMMITS_SEARCHED]]

        found = self.hub.ask(f"read the history of {self.name}", listed)
        return found[: found.index(commit)] if commit in found else found

    def files(self, revision: str) -> Files:
        """Every file at a revision."""

        def listed() -> Files:
            from huggingface_hub.hf_api import RepoFile

            tree = self.hub.api.list_repo_tree(self.name, recursive=True, revision=revision, repo_type=self.kind)
            found = [each for each in tree if isinstance(each, RepoFile)]
            return {
                each.path: (each.size, each.lfs.sha256, None) if each.lfs else (each.size, None, each.blob_id)
                for each in found
            }

        return self.hub.ask(f"list the files of {self.name}", listed)

    def tags(self) -> dict[str, str]:
        """The commit of every tag."""
        return {tag.name: tag.target_commit for tag in self._ask("read the tags of", "list_repo_refs").tags}

    def pull_requests(self) -> Iterator[int]:
        """Numbers of the open pull requests, in the Hub's order, up to `PULL_REQUESTS_SEARCHED`."""

        def listed() -> list[int]:
            told = self.hub.api.get_repo_discussions(
                self.name, repo_type=self.kind, discussion_type="pull_request", discussion_status="open"
            )
            return [each.num for each, _ in zip(told, range(PULL_REQUESTS_SEARCHED), strict=False)]

        yield from self.hub.ask(f"look for open pull requests of {self.name}", listed)

    def manifest(self, revision: str) -> Manifest | None:
        """The manifest of the release that is there; None without one, or with one that says nothing usable."""
        with tempfile.TemporaryDirectory() as folder:
            try:
                self.download(manifests.NAME, revision, Path(folder))
                return manifests.read(Path(folder))
            except BadInput:
                return None

    def download(self, path: str, revision: str, folder: Path, anew: bool = False) -> None:
        """Put one file below a folder, at its path; `anew`, even where it is there already."""
        arguments = {"filename": path, "revision": revision, "local_dir": folder, "force_download": anew}
        self._ask(f"download {path} of", "hf_hub_download", **arguments)

    def create(self) -> None:
        """Make it, private; nothing happens where it exists."""
        try:
            self._ask("create", "create_repo", private=True)
        except HubFailed as error:
            # Not `exist_ok`: the client then reads an address from the answer, which not every conflict has.
            if error.status != 409 or error.passing:
                raise

    def tag(self, name: str, commit: str) -> None:
        """Tag a commit; a tag that exists on it already is good.

        Raises:
            BadInput: the tag exists on another commit.
        """
        try:
            self._ask(f"set the tag {name} in", "create_tag", tag=name, revision=commit)
        except HubFailed as error:
            if error.status != 409:
                raise
        found = self.tags().get(name)
        if found is None:
            raise HubFailed(f"The tag {name} of {self.name} was set but does not show.", "Run the same command again.")
        if found != commit:
            raise tag_is_taken(self.name, name, found)

    def make_public(self) -> None:
        """Let everyone see it."""
        self._ask("make public", "update_repo_settings", private=False)

    def _ask(self, doing: str, method: str, **arguments: Any) -> Any:
        """One call of the client that may be repeated."""
        call = getattr(self.hub.api, method)
        return self.hub.ask(f"{doing} {self.name}", lambda: call(self.name, repo_type=self.kind, **arguments))


def tag_is_taken(repo: str, tag: str, commit: str) -> BadInput:
    """The error for a tag that names something else."""
    return BadInput(
        f"The tag {tag} of {repo} names commit {commit[:12]}, which holds something else.",
        "Tags are never moved, for others rely on them: give this release a tag of its own.",
    )
