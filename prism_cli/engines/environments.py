"""One Python environment per engine, built on first use from the engine's hash-pinned lock.

The engines pin each other out, so each has its own environment, described by three files in
`integrations/<engine>/env/`: `requirements.in` (what is wanted), `requirements.lock` (every package and hash, no
addresses) and `environment.toml` (what `check` imports, disk space, whether it is built only when asked for). An
engine that needs other packages on machines with a GPU has `requirements-gpu.in` and `.lock` for them, too.
Environments live in a cache that all runs share:

    $PRISM_CACHE, else $XDG_CACHE_HOME/prism, else ~/.cache/prism
        envs/<engine>-<key>/            key: lock, interpreter and platform
        envs/<engine>-<key>/COMPLETE    how it was built
        envs/<engine>-<key>.lock        held while building

uv builds them, from the package index that the user has configured for it, with the interpreter that runs prism;
nothing downloads an interpreter. Packages are linked from uv's cache, so environments share one copy of torch.
A build happens in a folder of its own that is renamed into place at the end: a killed build leaves nothing that could
be taken for an environment, and the next one clears it away.

PRISM_ENV_<ENGINE>=/path/to/environment makes an engine use an environment of the user's own, which prism never
changes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import select
import shutil
import sys
import sysconfig
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from integrations.errors import BadInput, Interrupted, RunLocked, StageFailed

if TYPE_CHECKING:
    from filelock import BaseFileLock

Report = Callable[[str], None]

SCHEMA = 1
"""Changes when environments are built in another way, so that those built before are not used any more."""
COMPLETE = "COMPLETE"
GPU_LOCK = "requirements-gpu.lock"
"""Beside `requirements.lock`, of an engine that needs other packages on machines with a GPU; taken there instead."""

_PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;\\]+)", re.MULTILINE)


@dataclass(frozen=True)
class Environment:
    """Where an engine's environment is; whether it exists is another matter (`is_built`)."""

    name: str
    key: str
    """Identity of what is in it, for the lineage of results: 12 hex digits from the lock, interpreter and platform; for
    one that the user brought, `own-` and 12 from the packages and versions found in it."""
    folder: Path
    python: Path
    bin: Path
    own: bool = False
    """The user brought it (PRISM_ENV_<ENGINE>)."""


@dataclass(frozen=True)
class Description:
    """`environment.toml` of one engine."""

    imports: Sequence[str]
    """Packages that must import in a sound environment, the engine's own first."""
    disk_mb: int
    """Disk space of a build into an empty cache."""
    beside_mb: int
    """The same where an environment with the same torch exists, whose files uv links."""
    optional: bool = False
    """Not every machine can use it: built when it is needed or named, not among all."""


def definitions() -> Path:
    """The folder with one sub-folder per engine."""
    import integrations

    assert integrations.__file__ is not None
    return Path(integrations.__file__).parent


def names() -> list[str]:
    """Engines that have an environment, sorted."""
    return sorted(lock.parent.parent.name for lock in definitions().glob("*/env/requirements.lock"))


def usual_names() -> list[str]:
    """Engines whose environments belong on every machine, and the optional ones that this machine has."""
    return [name for name in names() if not describe(name).optional or is_built(locate(name))]


def lock_files(name: str) -> list[Path]:
    """The engine's hash-pinned requirements: for every machine, and for those with a GPU where these differ.

    Raises:
        BadInput: no engine of this name has an environment.
    """
    if name not in names():
        raise BadInput(f"no engine environment is called `{name}`", f"choose one of: {', '.join(names())}")
    folder = definitions() / name / "env"
    return [path for path in (folder / "requirements.lock", folder / GPU_LOCK) if path.exists()]


def lock_file(name: str) -> Path:
    """The engine's hash-pinned requirements on this machine.

    Raises:
        BadInput: no engine of this name has an environment.
    """
    locks = lock_files(name)
    if len(locks) == 1:
        return locks[0]
    from prism_cli.pipeline.lineage import gpu_names

    return locks[bool(gpu_names())]


def describe(name: str) -> Description:
    lock = lock_file(name)
    told = tomllib.loads(lock.with_name("environment.toml").read_text(encoding="utf-8"))
    on_gpus = told.pop("gpu", {})
    return Description(**(told | on_gpus if lock.name == GPU_LOCK else told))


def pins(name: str) -> dict[str, str]:
    """Package versions of the lock. Where the lock has several for different interpreters, the first."""
    found: dict[str, str] = {}
    for package, version in _PIN.findall(lock_file(name).read_text(encoding="utf-8")):
        found.setdefault(package, version)
    return found


def cache_folder() -> Path:
    """Root of prism's cache; need not exist."""
    if folder := os.environ.get("PRISM_CACHE"):
        return Path(folder).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "prism"


def locate(name: str) -> Environment:
    """Where the engine's environment is or would be. Builds nothing.

    Raises:
        BadInput: unknown engine, or PRISM_ENV_<ENGINE> names no environment.
    """
    lock = lock_file(name)
    variable = f"PRISM_ENV_{name.upper()}"
    if own := os.environ.get(variable):
        folder = Path(own).expanduser().absolute()
        python = folder / "bin" / "python"
        if not python.exists():
            raise BadInput(
                f"{variable} names {folder}, which has no bin/python",
                "set it to the folder of a Python environment, or unset it to let prism build one",
            )
        key = f"own-{_digest(_content(folder, python))}"
        return Environment(name, key, folder, python, folder / "bin", own=True)
    interpreter = f"{sys.implementation.cache_tag} {sysconfig.get_platform()} {platform.libc_ver()[0]}"
    identity = f"{SCHEMA}\n{interpreter}\n{lock.read_text(encoding='utf-8')}"
    key = _digest(identity)
    folder = cache_folder() / "envs" / f"{name}-{key}"
    return Environment(name, key, folder, folder / "bin" / "python", folder / "bin")


def _content(folder: Path, python: Path) -> str:
    """What tells one environment of the user's from another: the packages in it, and, where its interpreter is a script
    that goes elsewhere (into a container), that script."""
    packages = sorted({path.name for path in folder.glob("lib/python3*/site-packages/*.dist-info")})
    with python.open("rb") as stream:
        script = stream.read(1 << 16) if stream.read(2) == b"#!" else b""
    return " ".join([*packages, *([script.decode(errors="replace")] if script else [])])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def is_built(environment: Environment) -> bool:
    """Whether it can be used: complete, and its interpreter still exists."""
    return environment.python.exists() and (environment.own or (environment.folder / COMPLETE).is_file())


def built_as(environment: Environment) -> dict[str, object]:
    """What COMPLETE tells: `packages`, `seconds`, `built`, `uv`, `python`. Empty for the user's own."""
    try:
        told: dict[str, object] = json.loads((environment.folder / COMPLETE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told


def ensure(name: str, report: Report, stop: threading.Event | None = None) -> Environment:
    """The engine's environment, built now if it is not there.

    Args:
        report: receives lines for people while it is built.
        stop: when set, the build is given up within a second or so.

    Raises:
        BadInput: unknown engine, wrong PRISM_ENV_<ENGINE>, or a cache folder that is not writable.
        StageFailed: no network, no disk space, or packages that cannot be installed.
        Interrupted: `stop` was set.
    """
    environment = locate(name)
    if is_built(environment):
        return environment
    with _alone(environment, report, stop):
        if not is_built(environment):
            _clear(environment)
            _check_space(environment)
            _build(environment, report, stop)
    return environment


def remove(name: str) -> list[Path]:
    """Remove the engine's environment, those of earlier locks, and what killed builds left. Returns their folders.

    Raises:
        BadInput: unknown engine, or the user's own environment.
        RunLocked: it is being built or used.
    """
    environment = locate(name)
    if environment.own:
        raise BadInput(f"{environment.folder} is your own environment", f"unset PRISM_ENV_{name.upper()}")
    folders = [environment.folder] if environment.folder.exists() else []
    folders += outdated(name)
    if not folders and not list(environment.folder.parent.glob(f".*-{name}-*")):
        return []
    with _alone(environment, None):
        for folder in folders:
            _refuse_while_used(folder)
        for folder in folders:
            _discard(folder)
        _clear(environment)
    return folders


def outdated(name: str) -> list[Path]:
    """Environments of the engine for other locks or interpreters than the present ones."""
    present = locate(name).folder
    pattern = re.compile(rf"{re.escape(name)}-[0-9a-f]{{12}}")
    found = (cache_folder() / "envs").glob(f"{name}-*")
    return sorted(path for path in found if path.is_dir() and pattern.fullmatch(path.name) and path != present)


def check(name: str) -> list[str]:
    """Look hard at the engine's environment. Returns what is wrong with it; empty when it is sound.

    Compares every installed package with the lock (not for the user's own environment), looks for unmet
    requirements, and imports the engine.
    """
    environment = locate(name)
    if not is_built(environment):
        return [f"not built: run `prism env build {name}`"]
    wrong = []
    if not environment.own:
        lines: list[str] = []
        arguments = ["pip", "sync", "--dry-run", "--offline", "--python", str(environment.python)]
        code = run_uv([*arguments, "--require-hashes", str(lock_file(name))], lines.append)
        if code != 0 or not any("no changes" in line for line in lines):
            differences = [line.strip() for line in lines if re.match(r"\s*[-+~]", line)]
            wrong.append("differs from its lock: " + "; ".join(differences or lines[-1:]))
    lines = []
    if run_uv(["pip", "check", "--python", str(environment.python)], lines.append) != 0:
        wrong += [line for line in lines if line.startswith("The package")] or lines[-1:]
    for package in describe(name).imports:
        problem = _import_problem(environment, package)
        if problem:
            wrong.append(f"cannot import {package}: {problem}")
    return wrong


def _import_problem(environment: Environment, package: str) -> str | None:
    import subprocess
    import tempfile

    from integrations.contract import Launch
    from prism_cli.engines.process import engine_environment

    with tempfile.TemporaryDirectory() as empty:
        launch = Launch(engine=environment.name, argv=["python"])
        env = engine_environment(launch, environment, Path(empty), Path(empty) / "check.log")
        command = [str(environment.python), "-c", f"import {package}"]
        done = subprocess.run(command, env=env, cwd=empty, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return None
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"exit code {done.returncode}"


# Building


def _build(environment: Environment, report: Report, stop: threading.Event | None) -> None:
    """Build beside, then rename. The environment is made relocatable for that: its programs find it by themselves."""
    began = time.monotonic()
    lock = lock_file(environment.name)
    place = environment.folder.with_name(f".building-{environment.folder.name}-{os.getpid()}")
    report(f"building with {len(pins(environment.name))} pinned packages in {environment.folder}")
    heard = _Heard(report)
    venv = ["venv", "--relocatable", "--no-project", "--python", sys.executable, str(place)]
    sync = ["pip", "sync", "--strict", "--python", str(place / "bin" / "python"), "--require-hashes", str(lock)]
    sync += ["--build-constraints", str(lock)]  # what builds a package from its source is pinned by the same hashes
    try:
        for arguments in (venv, sync):
            if run_uv(arguments, heard, stop) != 0:
                raise _explained(environment, heard.lines)
        packages = sum(line.startswith(" + ") for line in heard.lines)
        told = {
            "engine": environment.name,
            "packages": packages,
            "seconds": round(time.monotonic() - began, 1),
            "built": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "python": platform.python_version(),
            "uv": _uv_version(),
        }
        with (place / COMPLETE).open("w", encoding="utf-8") as stream:
            stream.write(json.dumps(told, indent=1) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        place.rename(environment.folder)
    except OSError as error:
        raise _explained(environment, [str(error)]) from error
    finally:
        shutil.rmtree(place, ignore_errors=True)
    report(f"built: {packages} packages in {told['seconds']} s")


class _Heard:
    """Keeps uv's lines and reports those that a waiting person wants to see."""

    def __init__(self, report: Report) -> None:
        self.lines: list[str] = []
        self._report = report
        self._fetching = 0
        self._fetched = 0

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        line = line.strip()
        if match := re.fullmatch(r"Downloading (\S+) \((.*)\)", line):
            self._fetching += 1
            if match[2].endswith("GiB") or re.match(r"\d{3}.*MiB", match[2]):
                self._report(f"downloading {match[1]}, {match[2]}")
        elif match := re.fullmatch(r"Downloaded (\S+)", line):
            self._fetched += 1
            self._report(f"downloaded {match[1]} ({self._fetched} of {self._fetching} big packages)")
        elif match := re.fullmatch(r"Building ([^\s=]+)\S*", line):
            self._report(f"building {match[1]} from source")
        elif match := re.fullmatch(r"(Resolved|Prepared|Installed) (\d+ packages?) in .+", line):
            self._report(f"{match[1].lower()} {match[2]}")
        elif match := re.fullmatch(r"\+ (torch|transformers|llamafactory|verl|ray|vllm)==(\S+)", line):
            self._report(f"{match[1]} {match[2]}")


def run_uv(arguments: Sequence[str], hear: Report, stop: threading.Event | None = None) -> int:
    """Run uv, ending it if prism ends; each line it writes goes to `hear`. Returns its exit code."""
    from prism_cli.engines.process import Guarded

    cwd = _existing(cache_folder())  # uv looks for settings here and above: not in whatever folder prism runs in
    output, end = os.pipe()
    with open(output, "rb", buffering=0) as stream:
        try:
            guarded = Guarded([_uv_program(), *arguments], env=_uv_environment(), cwd=cwd, stdout=end, stderr=end)
        finally:
            os.close(end)
        try:
            text = b""
            while True:
                if stop is not None and stop.is_set():
                    raise Interrupted("stopped while building an environment", "run the same command again")
                if not select.select([stream], [], [], 0.5)[0]:
                    continue
                news = stream.read(65536)
                *lines, text = (text + news).split(b"\n")
                for line in lines if news else [*lines, text]:
                    hear(line.decode(errors="replace").rstrip())
                if not news:
                    break
        finally:
            guarded.close()
    return -1 if guarded.code is None else guarded.code


def _uv_program() -> str:
    from uv import find_uv_bin

    return find_uv_bin()


@cache
def _uv_version() -> str:
    from importlib.metadata import version

    return version("uv")


def _uv_environment() -> dict[str, str]:
    """The user's environment, and with it the index, proxies and credentials that uv is configured for.

    uv does not read pip's settings. Where uv has no index of its own, the one that pip is told of through
    PIP_INDEX_URL is used, because that is how most people point at a mirror.
    """
    hidden = {"VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH", "PYTHONHOME"}
    env = {key: value for key, value in os.environ.items() if key not in hidden}
    pip_index = env.get("PIP_INDEX_URL")
    if pip_index and not env.keys() & {"UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_NO_INDEX", "UV_CONFIG_FILE"}:
        env["UV_DEFAULT_INDEX"] = pip_index
    env.setdefault("UV_HTTP_TIMEOUT", "120")
    env.setdefault("UV_LINK_MODE", _link_mode())
    return env | {"UV_PYTHON_DOWNLOADS": "never", "UV_NO_PROGRESS": "1", "NO_COLOR": "1"}


def _link_mode() -> str:
    """Hard links where uv's cache and ours are on one file system, so that big packages exist once; else copies."""
    uv_cache = Path(os.environ.get("UV_CACHE_DIR") or _default_uv_cache())
    same = _existing(uv_cache).stat().st_dev == _existing(cache_folder()).stat().st_dev
    return ("clone" if sys.platform == "darwin" else "hardlink") if same else "copy"


def _default_uv_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "uv"


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


# Space, and errors that a user can act on


def _check_space(environment: Environment) -> None:
    need = _needed_mb(environment)
    free = shutil.disk_usage(_existing(environment.folder)).free // 2**20
    if free < need:
        raise StageFailed(
            f"the {environment.name} environment needs {need} MB, and {environment.folder.parent} has {free} MB free",
            "free some space, or set PRISM_CACHE to a folder on a larger disk",
        )


def _needed_mb(environment: Environment) -> int:
    described = describe(environment.name)
    torch = pins(environment.name).get("torch")
    others = [name for name in names() if name != environment.name and pins(name).get("torch") == torch]
    beside = _link_mode() != "copy" and any(is_built(other) for other in map(_located_or_none, others) if other)
    return described.beside_mb if beside else described.disk_mb


def _located_or_none(name: str) -> Environment | None:
    try:
        environment = locate(name)
    except BadInput:
        return None
    return None if environment.own else environment


_CAUSES = (
    (
        r"No space left on device|os error 28|Disk quota exceeded|os error 122|Errno 28|Errno 122",
        "the disk is full",
        "free some space, or set PRISM_CACHE (and UV_CACHE_DIR, uv's cache) to a folder on a larger disk",
    ),
    (
        r"network was disabled|network connectivity is disabled",
        "uv is told to stay offline and its cache does not hold every package",
        "unset UV_OFFLINE once with a network connection; after that no network is needed",
    ),
    (
        r"Failed to fetch|error sending request|dns error|Connection refused|Network is unreachable|timed out|"
        r"Request failed after",
        "the package index cannot be reached",
        "connect to the network once (a mirror is set by UV_DEFAULT_INDEX, a proxy by HTTPS_PROXY); after that no "
        "network is needed",
    ),
    (
        r"Hash mismatch",
        "a package is not the one in the lock (its hash differs)",
        "check the package index or mirror that uv is configured for, and empty uv's cache with `uv cache clean`",
    ),
    (
        r"Failed to build|Build failed|build backend",
        "a package cannot be built from its source",
        "read the lines above; a compiler (gcc) may be missing",
    ),
    (
        r"No solution found|no wheels with a matching|not found in the package registry",
        "the package index does not offer every package of the lock for this machine",
        "check the index or mirror that uv is configured for (UV_DEFAULT_INDEX)",
    ),
    (
        r"Permission denied|Read-only file system|os error 13|os error 30|Errno 13|Errno 30",
        "the cache folder cannot be written",
        "set PRISM_CACHE (and UV_CACHE_DIR, uv's cache) to a folder that you may write to",
    ),
)  # fmt: skip


def _explained(environment: Environment, lines: Sequence[str]) -> StageFailed:
    """uv's failure in words: its cause, and what to do."""
    text = "\n".join(lines)
    details = [line.strip() for line in lines if re.match(r"\s*(error|cause|×|├─▶|╰─▶)", line)] or list(lines[-3:])
    detail = f" ({'; '.join(details)[:600]})" if details else ""
    for pattern, cause, fix in _CAUSES:
        if re.search(pattern, text):
            return StageFailed(f"cannot build the {environment.name} environment: {cause}{detail}", fix)
    return StageFailed(
        f"cannot build the {environment.name} environment{detail}",
        f"read uv's message above, then run `prism env build {environment.name}` again",
    )


# Locks and removal


@contextlib.contextmanager
def _alone(environment: Environment, report: Report | None, stop: threading.Event | None = None) -> Iterator[None]:
    """Hold the environment's lock. Says who holds it and waits when `report` is given; refuses otherwise."""
    from filelock import FileLock

    folder = environment.folder.parent
    lock = FileLock(folder / f"{environment.folder.name}.lock")
    holder = folder / f"{environment.folder.name}.holder"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _acquire(lock, environment, holder, report, stop)
        holder.write_text(f"process {os.getpid()} (since {time.strftime('%H:%M:%S')})", encoding="utf-8")
    except OSError as error:
        lock.release()
        raise BadInput(
            f"cannot write to the cache folder {folder}: {error.strerror}",
            "set PRISM_CACHE to a folder that you may write to",
        ) from error
    try:
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _acquire(
    lock: BaseFileLock, environment: Environment, holder: Path, report: Report | None, stop: threading.Event | None
) -> None:
    from filelock import Timeout

    told = ""
    while True:
        try:
            lock.acquire(timeout=0.5 if told else 0)
            return
        except Timeout:
            by = _read_holder(holder)
        if report is None:
            raise RunLocked(f"the {environment.name} environment is being built by {by}", "wait for it")
        if stop is not None and stop.is_set():
            raise Interrupted("stopped while waiting for an environment", "run the same command again")
        if by != told:
            report(f"waiting for {by}, which builds it")
            told = by


def _read_holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") or "another process"
    except OSError:
        return "another process"


def _clear(environment: Environment) -> None:
    """Clear what killed builds and removals of this environment left. The environment's lock is held."""
    for old in environment.folder.parent.glob(f".*-{environment.folder.name}-*"):
        shutil.rmtree(old, ignore_errors=True)
    if environment.folder.exists():
        _discard(environment.folder)


def _discard(folder: Path) -> None:
    """Remove an environment so that a half-removed one can never be taken for a whole one."""
    away = folder.with_name(f".removing-{folder.name}-{os.getpid()}")
    folder.rename(away)
    shutil.rmtree(away, ignore_errors=True)


def _refuse_while_used(folder: Path) -> None:
    import psutil

    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            command = process.cmdline()
            if command and Path(command[0]).is_relative_to(folder):
                raise RunLocked(
                    f"process {process.pid} ({process.name()}) runs in the environment {folder}",
                    "wait for it, or stop it",
                )
