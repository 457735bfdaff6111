"""What a stranger gets: a release downloaded anew, every byte compared, the model loaded and asked.

    findings = verify("prism-vlm/digits", "v1.0", "model", tmp / "download", probe)

What is compared is what arrived, not what the Hub says that it holds. A file that arrived damaged is fetched once more,
so that a finding speaks of the release and not of the way here.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from integrations.errors import BadInput
from release import manifest as manifests
from release import names
from release.finding import Finding
from release.hub.client import connect
from release.hub.comparison import compare
from release.hub.failures import HubFailed
from release.hub.progress import Tell, beating, readable
from release.hub.repository import Files, Repository, RepoType
from release.manifest import Manifest, differences, unsafe

Probe = Callable[[Path, Mapping[str, Any]], list[Finding]]
"""Loads the model in a folder and asks it the canary; its findings."""
SPARE = 64 << 20
"""Bytes of the disk that a download leaves free."""
AGAIN = "Do not use it; tell its publisher, and take a revision that verifies."


def verify(
    repo: str,
    revision: str,
    repo_type: RepoType,
    folder: Path,
    probe: Probe | None,
    tell: Tell = lambda line: None,
) -> list[Finding]:
    """Download a revision and compare it with the manifest inside it; nothing is found in one that is what it says.

    Args:
        repo: NS/NAME.
        revision: commit, tag, pull request (`refs/pr/3`) or `main`.
        folder: for the download, which goes to a folder below it named by the commit; one that was cut off goes on.
        probe: given that folder and the manifest's canary, when the bytes are right and there is a canary.
        tell: given one line at each step.

    Raises:
        BadInput: a name is not one, the repository or revision is not there or not visible, or the disk is too small.
        HubFailed: the network or the Hub failed for longer than was waited.
    """
    names.repo(repo)
    names.revision(revision)
    repository = Repository(connect(), repo, repo_type)
    commit = repository.commit_of(revision)
    remote = repository.files(commit)
    findings = [
        Finding("path", "error", repr(path), f"The path {problem}.", AGAIN)
        for path in sorted(remote)
        if (problem := unsafe(path))
    ]
    if findings:
        return findings
    place = folder / commit
    _fetch(repository, commit, remote, place, tell)
    tell("Comparing every file")
    with beating(tell, lambda: "Comparing every file"):
        arrived, findings = _arrived(repository, commit, remote, place)
    try:
        release = manifests.read(place)
    except BadInput as error:
        return [*findings, Finding("manifest", "error", manifests.NAME, f"{error.problem}.", AGAIN)]
    if release is None:
        return [*findings, Finding("manifest", "error", manifests.NAME, "The release has no manifest.", AGAIN)]
    findings += _differing(release, arrived)
    if probe is not None and release.canary and all(finding.severity != "error" for finding in findings):
        tell("Loading the model")
        findings += probe(place, release.canary)
    return findings


def _fetch(repository: Repository, commit: str, remote: Files, place: Path, tell: Tell) -> None:
    """Download a commit; what is there already is kept. Raises as `verify`."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(place).free
    except OSError as error:
        raise BadInput(f"Cannot download to {place}: {error.strerror}.", "Give another folder.") from error
    wanted = {path: size for path, (size, _, _) in remote.items()}
    missing = sum(size for path, size in wanted.items() if not _is_there(place / path, size))
    if missing + SPARE > free:
        raise BadInput(
            f"The download takes {readable(missing)}, and {place} has {readable(free)} left.",
            "Free some space, or give another folder.",
        )
    tell(f"Downloading {repository.name} at {commit[:12]} ({len(wanted)} files, {readable(missing)} to go)")
    with beating(tell, lambda: f"Downloading, {readable(_on_disk(place))} here"):
        repository.hub.ask(
            f"download {repository.name}",
            lambda: repository.hub.api.snapshot_download(
                repository.name, repo_type=repository.kind, revision=commit, local_dir=place
            ),
        )
    absent = [path for path in wanted if not (place / path).is_file()]
    if absent:
        raise HubFailed(f"{len(absent)} files of {repository.name} did not arrive.", "Run the same command again.")


def _on_disk(place: Path) -> int:
    """Bytes below a folder, with those of files that are still on their way."""
    found = 0
    for path in place.rglob("*"):
        with contextlib.suppress(OSError):
            found += path.stat().st_size if path.is_file() else 0
    return found


def _is_there(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _arrived(repository: Repository, commit: str, remote: Files, place: Path) -> tuple[Manifest, list[Finding]]:
    """What was downloaded, by hash. What is not as the Hub names it is fetched once more, then it is a finding."""

    def scan() -> Manifest:
        inside = manifests.scan(place, only=remote.keys())
        own = {manifests.NAME: manifests.entry(place / manifests.NAME)} if manifests.NAME in remote else {}
        return Manifest({**inside.files, **own})

    def damaged(arrived: Manifest) -> list[str]:
        return [path for path in remote if differences(Manifest({path: arrived.files[path]}), {path: remote[path]})]

    arrived = scan()
    again = damaged(arrived)
    for path in again:
        repository.download(path, commit, place, anew=True)
    if again:
        arrived = scan()
    problem, fix = "What arrives is not what the Hub lists for it, twice.", "Download it over another network."
    return arrived, [Finding("download", "error", path, problem, fix) for path in damaged(arrived)]


def _differing(release: Manifest, arrived: Manifest) -> list[Finding]:
    """Files that are missing, changed or extra against the manifest inside the release."""
    files: dict[str, tuple[int, str | None, str | None]] = {
        path: (entry.size, entry.sha256, entry.git_sha1)
        for path, entry in arrived.files.items()
        if path != manifests.NAME
    }
    found = compare(release, files)
    missing = "The manifest names it, and it is not there."
    changed = "Its content is not the one that the manifest names."
    extra = "It is not in the manifest, and loading may use it."
    return [
        *(
            Finding("changed", "error", path, changed, AGAIN)
            if path in files
            else Finding("missing", "error", path, missing, AGAIN)
            for path in found.upload
        ),
        *(Finding("extra", "error", path, extra, AGAIN) for path in found.delete),
        *(Finding("extra", "warning", path, "It is not in the manifest.", "Do not rely on it.") for path in found.keep),
    ]
