"""Following a file of JSON lines while another process writes it.

A writer may be in the middle of a line, may not have created the file yet, or may have started it anew on resume
(verl truncates its metrics file). None of that is an error: the reader gives what is whole, once.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class JsonlTail:
    """The whole lines of a growing file.

    Args:
        path: the file; may not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._inode: int | None = None

    def poll(self) -> list[dict[str, Any]]:
        """JSON objects of the lines completed since the last call. Lines that hold no JSON object are left out."""
        try:
            with self.path.open("rb") as stream:
                status = os.fstat(stream.fileno())
                if status.st_size < self._offset or self._inode not in (None, status.st_ino):
                    self._offset = 0
                self._inode = status.st_ino
                stream.seek(self._offset)
                data = stream.read()
        except OSError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [row for line in whole.splitlines() if (row := _object(line)) is not None]


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
