"""Files of one revision of a repository on the Hub: listed, fetched, and held to their checksums.

    revision, files = listing(source)
    download(source, revision, files, Path("data/hub/prism-vlm/rl_dataset"))

`huggingface_hub` fetches: several files at a time, each whole or not at all, those that are there not again, so that a
killed download goes on with the files that it lacks. It compares sizes only, so `download` compares sha256 (of files in
large storage) or git's own hash with what the Hub tells of the revision. The token is the library's: the variable
HF_TOKEN, or what `hf auth login` stored.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from integrations.common.files import hash_file
from integrations.errors import BadInput, StageFailed
from prism_cli.datasets.catalogue import Source

UPDATE = "name a revision that exists in the recipe, or take the newest with --update"


@dataclass(frozen=True)
class RemoteFile:
    """One file of a revision."""

    path: str
    size: int
    """Bytes."""
    sha256: str | None
    """Of files in large storage; None for others."""
    blob: str
    """git's hash of its content, hex."""

    def told(self) -> dict[str, Any]:
        return {"path": self.path, "size": self.size} | ({"sha256": self.sha256} if self.sha256 else {"git": self.blob})


def listing(source: Source, revision: str | None) -> tuple[str, list[RemoteFile]]:
    """The commit that a revision is, and those of its files that are wanted.

    Raises:
        BadInput: no such repository, revision or files, or no permission.
        StageFailed: the Hub cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    api = HfApi()
    with explained(source, revision):
        commit = api.repo_info(source.repo, revision=revision, repo_type=source.kind).sha
        assert commit is not None
        tree = [*api.list_repo_tree(source.repo, recursive=True, revision=commit, repo_type=source.kind)]
    everything = [
        RemoteFile(entry.path, entry.size, entry.lfs.sha256 if entry.lfs else None, entry.blob_id)
        for entry in tree
        if isinstance(entry, RepoFile)
    ]
    files = [file for file in everything if _wanted(file.path, source)]
    absent = [p for p in source.files if "*" not in p and not any(file.path == p for file in files)]
    if absent or not files:
        have = ", ".join(file.path for file in everything[:8]) + (", ..." if len(everything) > 8 else "")
        raise BadInput(
            f"{source.repo} at {commit[:12]} has no file {', '.join(absent) or ' or '.join(source.files)} "
            f"(it has: {have or 'none'})",
            "the repository has changed; name an older commit with --revision",
        )
    return commit, files


def _wanted(path: str, source: Source) -> bool:
    name = path.rsplit("/", 1)[-1]

    def fits(patterns: Sequence[str]) -> bool:
        return any(fnmatch.fnmatch(path, pattern) or fnmatch.fnmatch(name, pattern) for pattern in patterns)

    return fits(source.files) and not fits(source.leave)


def missing(files: Sequence[RemoteFile], folder: Path) -> list[RemoteFile]:
    """Files that are not there in their full size."""
    return [file for file in files if _size(folder / file.path) != file.size]


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def download(source: Source, commit: str, files: Sequence[RemoteFile], folder: Path) -> None:
    """Fetch the files that a folder lacks, and compare every file with its checksum.

    Raises:
        BadInput, StageFailed: as `listing`; a file that comes with other bytes is removed and named.
    """
    from huggingface_hub import snapshot_download

    _remove([file for file in files if _size(folder / file.path) == file.size and not _same(folder, file)], folder)
    state = folder / ".cache" / "huggingface"
    for leftover in state.rglob("*.incomplete"):  # of a killed process; nothing goes on with it
        leftover.unlink(missing_ok=True)
    lacking = missing(files, folder)
    if lacking:
        with explained(source, commit):
            snapshot_download(
                source.repo,
                repo_type=source.kind,
                revision=commit,
                local_dir=folder,
                allow_patterns=[_literal(file.path) for file in lacking],
            )
    wrong = [file for file in lacking if not _same(folder, file)]
    _remove(wrong, folder)
    if wrong:
        raise StageFailed(
            f"{', '.join(file.path for file in wrong[:3])} of {source.repo} came with other bytes than the Hub has "
            "(checksums differ); removed",
            "run the same command again: it fetches what is missing; if it repeats, suspect a proxy or the disk",
        )
    shutil.rmtree(state, ignore_errors=True)  # times of fetching, which would make equal model folders differ
    if state.parent.is_dir() and not any(state.parent.iterdir()):
        state.parent.rmdir()


def _remove(files: Sequence[RemoteFile], folder: Path) -> None:
    """Files, and what the library notes of them."""
    for file in files:
        (folder / file.path).unlink(missing_ok=True)
        (folder / ".cache" / "huggingface" / "download" / f"{file.path}.metadata").unlink(missing_ok=True)


def _literal(path: str) -> str:
    """A pattern that nothing but this path fits."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in path)


def _same(folder: Path, file: RemoteFile) -> bool:
    path = folder / file.path
    if _size(path) != file.size:
        return False
    if file.sha256 is not None:
        return hash_file(path) == file.sha256
    return hashlib.sha1(b"blob %d\0" % file.size + path.read_bytes()).hexdigest() == file.blob


@contextmanager
def explained(source: Source, revision: str | None) -> Iterator[None]:
    """What the Hub answers, as one error with its fix."""
    import httpx2
    from huggingface_hub import errors

    page = f"https://huggingface.co/{'datasets/' if source.kind == 'dataset' else ''}{source.repo}"
    try:
        yield
    except errors.GatedRepoError as error:
        raise BadInput(
            f"{source.repo} is gated and this account may not read it",
            f"accept its conditions at {page}, then `hf auth login` or set HF_TOKEN",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise BadInput(f"{source.repo} has no revision {revision} (any more)", UPDATE) from error
    except errors.RepositoryNotFoundError as error:
        raise BadInput(
            f"there is no {source.kind} {source.repo} on the Hub, or it is private",
            f"look at {page}; for a private one `hf auth login` or set HF_TOKEN",
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise BadInput("HF_HUB_OFFLINE is set, so nothing can be fetched", "unset it, and try again") from error
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, httpx2.HTTPError) as error:
        raise _unreachable(source, error) from error


def _unreachable(source: Source, error: Exception) -> Exception:
    """Refused, or not reached."""
    code = getattr(getattr(error, "response", None), "status_code", None)
    if code in (401, 403):
        return BadInput(
            f"the Hub does not let this account read {source.repo} ({code})", "`hf auth login`, or HF_TOKEN"
        )
    where = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    what = f"answered {code}" if code else f"could not be reached ({type(error).__name__})"
    return StageFailed(
        f"{where} {what} while {source.repo} was fetched",
        "check the network and run the same command again; files that are whole are not fetched again",
    )
