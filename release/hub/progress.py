"""Signs of life while a single call of the client takes minutes: it reports no bytes itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Tell = Callable[[str], None]
BEAT = 20.0
"""Seconds between two lines."""


@contextmanager
def beating(tell: Tell, line: Callable[[], str]) -> Iterator[None]:
    """While the block runs, tell `line()` and the time it has taken, every `BEAT` seconds, from another thread."""
    ended, began = threading.Event(), time.monotonic()

    def beat() -> None:
        while not ended.wait(BEAT):
            seconds = int(time.monotonic() - began)
            tell(f"{line()}, {seconds // 60}:{seconds % 60:02d} min so far")

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def readable(size: int) -> str:
    """Bytes for people."""
    amount = float(size)
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"
