"""Interpreter, cores, memory, disk, limits, clock: what every stage needs, whatever runs on it."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prism_cli.doctor.diagnosis import Diagnosis

GIB = 2**30
PYTHONS = ((3, 11), (3, 12))
"""Versions that prism and every engine's lock support."""
ENOUGH_MEMORY, LITTLE_MEMORY = 12 * GIB, 6 * GIB
"""The digits world takes about 5 GiB at its peak (verl with its processes); two stages at once twice that."""
ENOUGH_DISK, LITTLE_DISK = 40 * GIB, 10 * GIB
"""Engine environments take 7 GB on CPU and up to 25 GB with CUDA libraries."""
ENOUGH_SHARED_MEMORY = 2 * GIB
"""Ray keeps its objects there, and data loaders their batches."""
ENOUGH_FILES = 4096
"""Ray's and vLLM's processes together hold more than the usual 1,024."""


@dataclass(frozen=True)
class Limits:
    """What the system lets one process have."""

    memory: int
    """Bytes: the machine's, or the container's where that is less."""
    shared_memory: int | None
    """Bytes free in /dev/shm; None where there is none."""
    open_files: int
    processes: int
    """-1: no limit."""
    cores: int
    """That this process may run on."""


def examine(folders: dict[str, Path]) -> Iterator[Diagnosis]:
    """Look at this machine.

    Args:
        folders: where runs and environments go, by what they are, e.g. `{"runs": Path("runs")}`.
    """
    yield interpreter(sys.version_info[:2], platform.system(), platform.machine())
    yield uv()
    yield from judge(read_limits())
    for name, folder in folders.items():
        yield disk(name, folder)
    yield loopback()


def interpreter(version: tuple[int, int], system: str, machine: str) -> Diagnosis:
    """Is this Python, on this system, one that the engines have packages for?"""
    found = f"Python {version[0]}.{version[1]} on {system} {machine}"
    if system != "Linux" or machine != "x86_64":
        return Diagnosis(
            "interpreter", "error", f"{found}; the engines' locks are for Linux x86_64", "use such a machine"
        )
    if version not in PYTHONS:
        return Diagnosis("interpreter", "error", f"{found} is not supported", "use Python 3.11 or 3.12")
    return Diagnosis("interpreter", "ok", found)


def uv() -> Diagnosis:
    """Does the program run that builds environments?"""
    from prism_cli.engines import environments

    lines: list[str] = []
    if environments.run_uv(["--version"], lines.append) != 0 or not lines:
        fix = "install prism's requirements again: uv is one of them"
        return Diagnosis("uv", "error", f"uv does not run: {' '.join(lines)}", fix)
    return Diagnosis("uv", "ok", lines[0].removeprefix("uv "))


def read_limits() -> Limits:
    """This process's own limits."""
    import psutil

    memory = psutil.virtual_memory().total
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            memory = min(memory, int(Path(path).read_text()))
        except (OSError, ValueError):  # absent, or `max`
            continue
    shared = Path("/dev/shm")
    return Limits(
        memory=memory,
        shared_memory=shutil.disk_usage(shared).free if shared.is_dir() else None,
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        processes=resource.getrlimit(resource.RLIMIT_NPROC)[0],
        cores=len(os.sched_getaffinity(0)),
    )


def judge(limits: Limits) -> Iterator[Diagnosis]:
    """What a machine with these limits can carry."""
    yield _at_least(
        "memory", limits.memory, LITTLE_MEMORY, ENOUGH_MEMORY, "of memory", "train fewer arms at once (machine.jobs=1)"
    )
    if limits.shared_memory is None:
        yield Diagnosis("shared memory", "error", "there is no /dev/shm", "mount one: Ray keeps its objects there")
    elif limits.shared_memory < ENOUGH_SHARED_MEMORY:
        found = f"{limits.shared_memory / GIB:.2f} GiB free in /dev/shm"
        yield Diagnosis("shared memory", "warning", found, "start the container with --shm-size=8g or more")
    else:
        yield Diagnosis("shared memory", "ok", f"{limits.shared_memory / GIB:.1f} GiB free in /dev/shm")
    if 0 <= limits.open_files < ENOUGH_FILES:
        found = f"a process may hold {limits.open_files} files open"
        yield Diagnosis("open files", "warning", found, f"raise the hard limit: ulimit -Hn {16 * ENOUGH_FILES}")
    else:
        yield Diagnosis("open files", "ok", f"up to {limits.open_files}")
    if 0 <= limits.processes < 2048:
        found = f"this user may run {limits.processes} processes and threads"
        yield Diagnosis("processes", "warning", found, "raise it (ulimit -u): Ray starts some hundred threads")
    if limits.cores < 2:
        yield Diagnosis("cores", "warning", "one core", "expect stages to take several times longer")
    else:
        yield Diagnosis("cores", "ok", f"{limits.cores} for this process")


def disk(name: str, folder: Path) -> Diagnosis:
    """Is there room where this goes?

    Args:
        name: what goes there, e.g. `runs`.
        folder: need not exist.
    """
    place = next(path for path in [folder.absolute(), *folder.absolute().parents] if path.exists())
    if not os.access(place, os.W_OK):
        return Diagnosis(f"disk ({name})", "error", f"{folder} cannot be written to", "choose another folder")
    free = shutil.disk_usage(place).free
    return _at_least(f"disk ({name})", free, LITTLE_DISK, ENOUGH_DISK, f"free for {folder}", "free some space there")


def loopback() -> Diagnosis:
    """Can a server on this machine be reached from it? Every evaluation and rollout server is asked this way."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=5).close()
        if "127.0.0.1" not in {str(entry[4][0]) for entry in socket.getaddrinfo("localhost", None, socket.AF_INET)}:
            return Diagnosis("ports", "warning", "`localhost` is not 127.0.0.1", "put it into /etc/hosts")
    except OSError as error:
        fix = "allow connections on 127.0.0.1, and give `localhost` a line in /etc/hosts"
        return Diagnosis("ports", "error", f"a local server cannot be reached ({error})", fix)
    return Diagnosis("ports", "ok", "a local server can be started and reached")


def _at_least(subject: str, have: int, little: int, enough: int, what: str, fix: str) -> Diagnosis:
    found = f"{have / GIB:.1f} GiB {what}"
    if have < little:
        return Diagnosis(subject, "error", f"{found}; {little / GIB:.0f} GiB is the least", fix)
    if have < enough:
        return Diagnosis(subject, "warning", f"{found}; {enough / GIB:.0f} GiB would be comfortable", fix)
    return Diagnosis(subject, "ok", found)
