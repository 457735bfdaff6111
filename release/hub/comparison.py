"""What a repository has and what a release has: what to upload, what to delete, what is left alone.

A release replaces what came before it. Deleted in its commit are files of an earlier release that the new one lacks
(named in the manifest that lies there), and files that a loader would take for part of it: weights of any format, code,
configuration at the top, and, beside released data, other data. Anything else that someone put there (a picture, a
note) stays.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from release.hub.repository import Files
from release.manifest import OF_THE_HUB, Manifest, differences

_WEIGHTS = re.compile(
    r".*\.(safetensors|bin|pt|pth|ckpt|h5|msgpack|gguf|onnx|pkl|pickle|joblib|npz|py|pyc|so)(\.index\.json)?"
)
_CONFIGURATION = re.compile(r"[^/]*\.(json|jinja|model|spm)|(vocab|merges)\.txt|chat_templates?/.*")
_DATA = re.compile(r".*\.(parquet|arrow|jsonl|csv|tsv|zip|tar|gz|zst)")


@dataclass(frozen=True)
class Comparison:
    """Paths, each in one place, in name order."""

    upload: tuple[str, ...]
    """Missing in the repository, or different."""
    there: tuple[str, ...]
    """Equal by hash."""
    delete: tuple[str, ...]
    """Left from before, and in the release's way."""
    keep: tuple[str, ...]
    """Not of a release, and harmless."""

    @property
    def equal(self) -> bool:
        """Nothing to do."""
        return not self.upload and not self.delete


def compare(release: Manifest, remote: Files, earlier: Manifest | None = None) -> Comparison:
    """Args:
    release: with an entry for the manifest file itself.
    remote: the repository's files.
    earlier: the manifest of the release that is there.
    """
    wanted, extra = release.files, sorted(remote.keys() - release.files.keys() - OF_THE_HUB)
    there = [path for path in sorted(wanted) if path in remote and _same(release, remote, path)]
    known = earlier.files if earlier else {}
    loaded = [_WEIGHTS, _CONFIGURATION] + [_DATA] * any(_DATA.fullmatch(path.lower()) for path in wanted)
    delete = [path for path in extra if path in known or any(form.fullmatch(path.lower()) for form in loaded)]
    return Comparison(
        upload=tuple(path for path in sorted(wanted) if path not in there),
        there=tuple(there),
        delete=tuple(delete),
        keep=tuple(path for path in extra if path not in delete),
    )


def _same(release: Manifest, remote: Files, path: str) -> bool:
    return not differences(Manifest({path: release.files[path]}), {path: remote[path]})
