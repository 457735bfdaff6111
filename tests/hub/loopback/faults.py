"""What can go wrong between a client and the loopback Hub, and when.

    server.fault("commit", status(500))                        the first commit gets a 500
    server.fault("put", status(503, retry_after=2), times=3)
    server.fault("put", cut(8 << 20), times=FOREVER)           every upload breaks off after 8 MB
    server.fault("commit", lose())                             the commit happens, its reply is lost
    server.fault("tree", delay(3), after=1)                    from the second tree listing on
    server.fault("commit", hook(racing_publisher))             `racing_publisher(call)` runs before the commit does

Kinds of calls are those of the table in `routes.py`; "*" means every call. `path` narrows to calls whose path matches
a regular expression.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loopback.messages import Call

FOREVER = math.inf


@dataclass(frozen=True)
class Effect:
    """What happens to a call. The functions below make them."""

    name: str
    status: int = 0
    """Answer with this status without doing the work."""
    headers: tuple[tuple[str, str], ...] = ()
    message: str = "injected fault"
    drop: str = ""
    """Reset the connection: `before` the work, or `after` it in place of the reply."""
    cut: int = -1
    """Reset the connection after so many bytes of the request's body, or of the reply's where the request has none."""
    delay: float = 0.0
    """Seconds before the work."""
    hang: bool = False
    """Never answer; the work is not done."""
    rate: int = 0
    """Bytes per second, of the request's and of the reply's body."""
    before: Callable[[Call], object] | None = None
    after: Callable[[Call], object] | None = None
    """Called before the work, and between the work and its reply."""


def status(code: int, retry_after: int | None = None, error_code: str = "", message: str = "injected fault") -> Effect:
    headers = [] if retry_after is None else [("Retry-After", str(retry_after))]
    headers += [("X-Error-Code", error_code)] if error_code else []
    return Effect(f"{code}", status=code, headers=tuple(headers), message=message)


def drop() -> Effect:
    """The connection breaks before the server has done anything."""
    return Effect("dropped", drop="before")


def cut(bytes: int) -> Effect:
    """The connection breaks within the body."""
    return Effect(f"cut after {bytes}", cut=bytes)


def lose() -> Effect:
    """The work is done, the reply is lost."""
    return Effect("reply lost", drop="after")


def delay(seconds: float) -> Effect:
    return Effect(f"{seconds:g} s late", delay=seconds)


def hang() -> Effect:
    return Effect("hangs", hang=True)


def trickle(rate: int) -> Effect:
    """Bodies move at `rate` bytes per second."""
    return Effect(f"{rate} bytes/s", rate=rate)


def hook(before: Callable[[Call], object] | None = None, after: Callable[[Call], object] | None = None) -> Effect:
    """Run something of the test's own at this point: kill the client, let somebody else commit."""
    return Effect("hook", before=before, after=after)


class Pause:
    """Hold a call up until the test says so.

    pause = Pause()
    server.fault("commit", hook(pause))
    ...
    pause.reached.wait(10)      # the client now waits for its commit
    pause.go.set()
    """

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.go = threading.Event()

    def __call__(self, call: Call) -> None:
        self.reached.set()
        self.go.wait()


@dataclass
class Fault:
    """An effect, and the calls that it befalls."""

    kind: str
    effect: Effect
    times: float = 1
    after: int = 0
    path: str = ""
    seen: int = 0
    hit: int = 0
    """How often it has happened."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def befalls(self, call: Call) -> bool:
        """Whether this call is hit; counts it."""
        if self.kind not in ("*", call.kind) or not re.search(self.path, call.path):
            return False
        with self._lock:
            self.seen += 1
            if self.seen <= self.after or self.hit >= self.times:
                return False
            self.hit += 1
            return True
