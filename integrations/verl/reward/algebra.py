"""Are two formulas equal? math-verify decides, in a pool of processes of its own.

math-verify keeps time with signals: in a thread, where verl calls rewards, it raises, or without its clock may never
end. So questions go to child processes over pipes. A child that does not answer in time is killed and replaced, and the
question counts as undecided, never as a wrong answer. A child whose parent is gone ends itself.

Formulas are asked about as `evaluate.latex` writes them, with decimals as exact fractions and variables under names
of one letter, so that nothing is rounded and nothing can be misread. What differs at a point is never asked, and
rational functions are compared exactly without asking.

    python -m integrations.verl.reward.algebra     a child: JSON questions on stdin, JSON answers on stdout
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

from integrations.verl.reward.evaluate import (
    exact,
    is_rational_function,
    latex,
    may_be_equal,
    points,
    same_rational_function,
    symbols,
    value,
)
from integrations.verl.reward.expression import Node
from integrations.verl.reward.verdict import Undecided

SECONDS = 10.0
"""How long one question may take."""
START_SECONDS = 120.0
"""How long a child may take to start: it imports sympy, maybe on a busy machine."""
MEMORY = 4 << 30
"""A child's address space in bytes."""
_LETTERS = "xyzabcdmnpqrstuvwkhjl"


class Pool:
    """Child processes, started when they are first needed and kept.

    Args:
        size: most children at once.
        seconds: how long one question may take before its child is killed.
        command: what to run, for tests.
    """

    def __init__(self, size: int = 2, seconds: float = SECONDS, command: list[str] | None = None) -> None:
        self.seconds = seconds
        self.command = command or [sys.executable, "-m", "integrations.verl.reward.algebra"]
        self._free: list[subprocess.Popen[bytes] | None] = [None] * size
        self._ready = threading.Semaphore(size)
        self._lock = threading.Lock()

    def equal(self, left: str, right: str) -> bool:
        """Whether two formulas in LaTeX are equal. Thread-safe.

        Raises:
            Undecided: no answer in time, or a child that does not start or died.
        """
        with self._ready:
            with self._lock:
                child = self._free.pop()
            try:
                if child is None or child.poll() is not None:
                    child = self._start()
                answer = _ask(child, {"left": left, "right": right}, self.seconds)
            except (OSError, ValueError, EOFError) as error:
                _kill(child)
                child = None
                raise Undecided(f"{type(error).__name__}: {error}") from None
            finally:
                with self._lock:
                    self._free.append(child)
        if "equal" not in answer:
            raise Undecided(str(answer.get("error", "no answer")))
        return bool(answer["equal"])

    def close(self) -> None:
        """End all children that wait; a later question starts new ones."""
        with self._lock:
            for child in self._free:
                _kill(child)
            self._free = [None] * len(self._free)

    def _start(self) -> subprocess.Popen[bytes]:
        root = str(Path(__file__).resolve().parents[3])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        child = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        )
        try:
            _ask(child, {}, START_SECONDS)
        except (OSError, ValueError, EOFError) as error:
            _kill(child)
            raise OSError(f"the process for computer algebra does not start ({error}); is math-verify there?") from None
        return child


def _ask(child: subprocess.Popen[bytes], question: dict[str, str], seconds: float) -> dict[str, Any]:
    """One line to a child and one back. The clock is ours: whatever the child does, this ends."""
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(json.dumps(question).encode() + b"\n")
    child.stdin.flush()
    line, until = b"", time.monotonic() + seconds
    while not line.endswith(b"\n"):
        left = until - time.monotonic()
        if left <= 0 or not select.select([child.stdout], [], [], left)[0]:
            raise TimeoutError(f"no answer within {seconds:g} s")
        piece = os.read(child.stdout.fileno(), 65536)
        if not piece:
            raise EOFError("the process ended")
        line += piece
    answer: dict[str, Any] = json.loads(line)
    return answer


def _kill(child: subprocess.Popen[bytes] | None) -> None:
    if child is None:
        return
    child.kill()
    child.wait()
    for stream in (child.stdin, child.stdout):
        with contextlib.suppress(OSError):
            stream.close()  # type: ignore[union-attr]


POOL = Pool()
"""The one that all rewards of a process share."""
atexit.register(POOL.close)


def equal(left: Node, right: Node) -> bool:
    """Whether two formulas have the same value, whatever their variables are.

    Raises:
        Undecided: computer algebra gave no answer.
    """
    if left == right:
        return True
    a, b = exact(left), exact(right)
    if a is not None and b is not None:
        return a == b
    if _has_infinity(left) or _has_infinity(right):
        return _infinite(left) is not None and _infinite(left) == _infinite(right)
    if not may_be_equal(left, right):
        return False
    if _is_complex(left) or _is_complex(right):
        return _same_point(left, right)
    if is_rational_function(left) and is_rational_function(right):
        return same_rational_function(left, right)
    return _proved(*_as_latex(left, right))


def _is_complex(node: Node) -> bool:
    """Whether the imaginary unit stands in it and no variable."""
    return not symbols(node) and _holds(node, ("const", "i"))


def _holds(node: Node, part: Node) -> bool:
    return node == part or any(_holds(inner, part) for inner in node[1:] if isinstance(inner, tuple))


def _same_point(left: Node, right: Node) -> bool:
    """Computer algebra reads i as a variable, and so `i^3` as no other way of writing `-i`."""
    a, b = value(left, {}), value(right, {})
    return a is not None and b is not None and abs(a - b) <= 1e-12 * (1 + abs(a))


@lru_cache(maxsize=65536)
def _proved(left: str, right: str) -> bool:
    return POOL.equal(left, right)


def proportional(left: Node, right: Node) -> bool:
    """Whether one formula is a constant, not zero, times the other: `2x-2y` and `y-x`, so that both vanish together.

    Raises:
        Undecided: computer algebra gave no answer.
    """
    factor = _factor(left, right)
    return factor is not None and equal(left, ("mul", ("num", factor), right))


def _factor(left: Node, right: Node) -> Fraction | None:
    for at in points(symbols(left) | symbols(right)):
        a, b = value(left, at), value(right, at)
        if a is not None and b is not None and abs(a) > 1e-9 and abs(b) > 1e-9:
            return Fraction((a / b).real).limit_denominator(10000) or None
    return None


def _has_infinity(node: Node) -> bool:
    return node == ("const", "oo") or any(_has_infinity(part) for part in node[1:] if isinstance(part, tuple))


def _infinite(node: Node) -> int | None:
    """1 for infinity, -1 for minus infinity, None for anything else."""
    if node == ("const", "oo"):
        return 1
    return -1 if node == ("mul", ("num", Fraction(-1)), ("const", "oo")) else None


def _as_latex(left: Node, right: Node) -> tuple[str, str]:
    found = sorted(symbols(left) | symbols(right))
    names = dict(zip(found, _LETTERS, strict=False))
    if len(found) > len(_LETTERS):
        raise Undecided(f"{len(found)} variables in one formula")
    return latex(left, names), latex(right, names)


def _child() -> None:
    """Answer questions until stdin ends. An alarm ends this process where the parent cannot."""
    import resource

    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not stand between the answers
    from latex2sympy2_extended import latex2sympy
    from math_verify import verify

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for line in sys.stdin:
        question = json.loads(line)
        signal.alarm(int(2 * SECONDS) + 1)
        said: dict[str, Any] = {}
        try:
            if question:
                sides = [
                    latex2sympy(question[side], is_real=False, convert_degrees=False) for side in ("left", "right")
                ]
                said["equal"] = verify(*sides, float_rounding=15, numeric_precision=30, timeout_seconds=None)
        except Exception as error:
            said["error"] = f"{type(error).__name__}: {error}"[:300]
        signal.alarm(0)
        channel.write(json.dumps(said) + "\n")
        channel.flush()


if __name__ == "__main__":
    _child()
