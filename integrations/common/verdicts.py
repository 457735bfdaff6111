"""Verdicts that were given already, so that no judge is asked the same twice.

One file of JSON lines, only ever appended to, one line per verdict: its key, the verdict and the fingerprint that the
server gave with it. Several processes may append at once, and a kill may leave half a line, which is passed over and
asked again. Where two processes asked the same at the same time, the line that comes first counts, for both.
Errors are never kept.
"""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass
from pathlib import Path

from integrations.common.judge_prompt import Verdict

_VERDICTS: dict[str, Verdict] = {"correct": "correct", "wrong": "wrong"}


@dataclass(frozen=True)
class Given:
    """A verdict and the state of the server that gave it."""

    verdict: Verdict
    fingerprint: str | None = None
    """The server's `system_fingerprint`, where it tells one."""


class VerdictCache:
    """Verdicts by key (see `integrations.common.judge.Identity.key`).

    Args:
        path: the file; created at the first verdict, with its folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._given: dict[str, Given] = {}
        self._offset = 0
        self.refresh()

    def __len__(self) -> int:
        return len(self._given)

    def get(self, key: str) -> Given | None:
        """The verdict under a key, as far as the file was read."""
        return self._given.get(key)

    def add(self, key: str, given: Given) -> None:
        """Append a verdict. It counts for `get` after the next `refresh`, unless another process was first.

        Raises:
            OSError: the disk is full, or the folder is not writable.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        told = {"key": key, "verdict": given.verdict, "fingerprint": given.fingerprint}
        # A line of its own also after another writer's half line: the blank lines this makes are passed over.
        line = f"\n{json.dumps(told)}\n".encode()
        # Unbuffered and in one call, so that lines of several processes do not mix.
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            if os.write(handle, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        finally:
            os.close(handle)

    def refresh(self) -> None:
        """Read what was appended since, by whomever."""
        try:
            with self.path.open("rb") as stream:
                stream.seek(self._offset)
                data = stream.read()
        except FileNotFoundError:
            return
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            if (entry := _entry(line)) is not None:
                self._given.setdefault(*entry)


def _entry(line: bytes) -> tuple[str, Given] | None:
    try:
        told = json.loads(line)
        key, verdict, fingerprint = told["key"], _VERDICTS[told["verdict"]], told["fingerprint"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not isinstance(key, str) or not isinstance(fingerprint, str | None):
        return None
    return key, Given(verdict, fingerprint)
