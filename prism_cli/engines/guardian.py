"""Starts one program and outlives everything the program starts, so that no engine outlives its prism.

Run by path with the interpreter that runs prism, in a session of its own, standard library only:

    python -I -S guardian.py GRACE REPORT_FD PROGRAM [ARGUMENT...]

Standard input is the life line: a pipe whose other end only prism holds. When it closes, because prism asked for an
end or because prism died by any means, every process below the guardian is ended: SIGTERM at once, SIGKILL after
GRACE seconds. Sessions, process groups and double forks are no way out, because the guardian is a child subreaper:
whatever loses its parent becomes the guardian's child (torchrun's workers, Ray's daemons and their workers).
When the program itself ends, what it left behind is ended in the same way, after a moment to go by itself.

REPORT_FD receives JSON lines: {"pid": N} once the program runs, and at the end {"code": N, "left_behind": [...]};
`code` is negative for a signal, as in `subprocess`.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import sys
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

PATIENCE = 1.0
"""Seconds that children get to go by themselves after the program has ended well."""
GIVE_UP = 30.0
"""Seconds after SIGKILL until a process that does not die (waiting for a dead disk) is left and reported."""
CANNOT_RUN = 127

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option})")


def start(argv: list[str]) -> int:
    """The program as a child that dies with the guardian, reading from nowhere. Returns its process id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.set_wakeup_fd(-1)
        # Python ignores SIGPIPE, and what is ignored stays ignored in the new program.
        for number in (*_STOP_SIGNALS, signal.SIGCHLD, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.execvp(argv[0], argv)
    except OSError as error:
        os.write(2, f"cannot run {argv[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(CANNOT_RUN)


def descendants() -> dict[int, str]:
    """Living processes below this one, by id, with their names."""
    children: dict[int, list[tuple[int, str, str]]] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as stream:
                stat = stream.read()
        except OSError:
            continue
        name = stat[stat.index("(") + 1 : stat.rindex(")")]
        state, parent = stat[stat.rindex(")") + 1 :].split()[:2]
        children.setdefault(int(parent), []).append((int(entry), name, state))
    found: dict[int, str] = {}
    todo = [os.getpid()]
    while todo:
        for pid, name, state in children.get(todo.pop(), []):
            todo.append(pid)
            if state not in "ZX":
                found[pid] = name
    return found


def reap(program: int) -> int | None:
    """Collect ended children; the program's own exit code if it was among them."""
    code = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if pid == 0:
            return code
        if pid == program:
            code = os.waitstatus_to_exitcode(status)


def watch(program: int, wake: int) -> int | None:
    """Wait for the program's end. Its exit code, or None when prism is gone or asks for an end."""
    while True:
        ready, _, _ = select.select([0, wake], [], [])
        code = reap(program)
        if code is not None:
            return code
        if wake in ready and any(number in _STOP_SIGNALS for number in os.read(wake, 4096)):
            return None
        if 0 in ready:
            return None


def end_all(program: int, code: int | None, patience: float, grace: float) -> tuple[int | None, list[str]]:
    """End every descendant: SIGTERM after `patience` seconds, SIGKILL `grace` seconds later, until none is left.

    Args:
        code: the program's exit code, or None while it has not been collected. A program of several threads is a
            zombie for a moment before its code can be had, so none left does not mean that it is known.

    Returns:
        The program's exit code, and the names of the processes that were sent a signal.
    """
    began = time.monotonic()
    asked: dict[int, str] = {}
    while True:
        ended = reap(program)
        code = ended if ended is not None else code
        left = descendants()
        passed = time.monotonic() - began
        if (not left and code is not None) or passed > patience + grace + GIVE_UP:
            return code, sorted(set(asked.values()))
        for pid, name in left.items():
            if passed < patience or (pid in asked and passed < patience + grace):
                continue
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if passed >= patience + grace else signal.SIGTERM)
                asked[pid] = name
        time.sleep(0.05)


def main() -> None:
    grace, report, argv = float(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    os.set_inheritable(report, False)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    wake, wake_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_end)
    for number in (*_STOP_SIGNALS, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)

    def tell(**news: object) -> None:
        with contextlib.suppress(OSError):  # when prism is gone the work here is the same
            os.write(report, json.dumps(news).encode() + b"\n")

    program = start(argv)
    tell(pid=program)
    code = watch(program, wake)
    if code is None:
        code, _ = end_all(program, None, patience=0.0, grace=grace)
        left_behind: list[str] = []
    else:
        _, left_behind = end_all(program, code, patience=PATIENCE, grace=grace)
    tell(code=code, left_behind=left_behind)


if __name__ == "__main__":
    main()
