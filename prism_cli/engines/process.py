"""Runs an engine's command: a clean environment, a log, and no process left behind, however prism ends.

    code = run(launch, environment, cwd=attempt, log=attempt / "train.log", import_root=attempt / "imports",
               tick=show_progress, stop=stop)

The command is started through `guardian.py`, a small supervisor that ends every process below it when the command
ends, when prism asks for it, and when prism dies by any means. Each command carries a token in its environment and is
recorded in `process.json` beside its log, so that a later attempt can clear what is left even after the guardian
itself was killed (`clear_leftovers`).
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import psutil

from integrations.contract import Launch
from integrations.errors import BadInput, StageFailed
from prism_cli.engines.environments import Environment

GRACE = 3.0
"""Seconds between SIGTERM and SIGKILL."""
TOKEN = "PRISM_LAUNCH"
"""Environment variable that marks every process of a launch."""
RECORD = "process.json"

_GUARDIAN = Path(__file__).with_name("guardian.py")
_GIVEN = {
    "HOME", "USER", "LOGNAME", "SHELL", "TZ", "TMPDIR", "XDG_CACHE_HOME", "LD_LIBRARY_PATH",
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
}  # fmt: skip
_GIVEN_PREFIXES = ("HF_", "HUGGING_FACE_", "CUDA_", "NVIDIA_", "NCCL_", "GLOO_")


class Guarded:
    """A program under a guardian of its own. Close it, or lose the process that holds it, and the program ends."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        stdout: int | IO[Any],
        stderr: int | IO[Any],
    ) -> None:
        if sys.platform != "linux":
            raise BadInput("engines run on Linux only: their processes cannot be supervised here", "use a container")
        self.started = False
        """Whether the guardian got as far as starting the program."""
        self.code: int | None = None
        """The program's exit code, negative for a signal; None before it ended or when the guardian was killed."""
        self.left_behind: Sequence[str] = ()
        """Names of the processes that the program left running and that had to be ended."""
        self._news = b""
        life, self._life = os.pipe()
        self._report, report = os.pipe()
        command = [sys.executable, "-I", "-S", str(_GUARDIAN), str(GRACE), str(report), *argv]
        try:
            self.guardian = subprocess.Popen(
                command, stdin=life, stdout=stdout, stderr=stderr, env=dict(env), cwd=cwd, pass_fds=(report,),
                start_new_session=True,
            )  # fmt: skip
        except BaseException:
            os.close(self._life)
            os.close(self._report)
            raise
        finally:
            os.close(life)
            os.close(report)

    def wait(self, seconds: float) -> bool:
        """Wait for the end of the program and of all it started. True once they have ended."""
        until = time.monotonic() + seconds
        while self._report >= 0:
            ready, _, _ = select.select([self._report], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                return False
            news = os.read(self._report, 65536)
            if news:
                self._news += news
                continue
            os.close(self._report)
            self._report = -1
            self.guardian.wait()
            for line in self._news.splitlines():
                told = json.loads(line)
                self.started |= "pid" in told
                self.code = told.get("code", self.code)
                self.left_behind = told.get("left_behind", self.left_behind)
        return True

    def end(self) -> None:
        """Ask the guardian to end everything, without waiting for it. Harmless when all has ended."""
        if self._life >= 0:
            os.close(self._life)
            self._life = -1

    def close(self) -> None:
        """End everything and wait until it has ended."""
        self.end()
        if not self.wait(GRACE + 60):
            self.guardian.kill()
            self.wait(5)


def link_packages(folder: Path, packages: Sequence[str]) -> Path:
    """Make `folder` an import path that holds just these top-level packages of ours, as links. Returns `folder`.

    Raises:
        BadInput: the folder's path holds a `:`, which no import path can.
    """
    if os.pathsep in str(folder):
        raise BadInput(f"the folder {folder} has a `{os.pathsep}` in its path", "move the run to a path without it")
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for package in packages:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(f"no package {package} to link")
        (folder / package).symlink_to(Path(spec.origin).resolve().parent, target_is_directory=True)
    return folder


def engine_environment(
    launch: Launch,
    environment: Environment,
    import_root: Path,
    log: Path,
    extra_env: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The variables an engine's command sees: a few of the user's, ours, `extra_env`, and last the launch's own.

    The import path is `import_root` and nothing of the user's; a PYTHONPATH in the launch's own variables follows it.
    """
    given = {*_GIVEN, *launch.passed_on}
    env = {key: value for key, value in os.environ.items() if key in given or key.startswith(_GIVEN_PREFIXES)}
    own_bin = str(Path(sys.executable).parent)
    path = [entry for entry in os.environ.get("PATH", os.defpath).split(os.pathsep) if entry and entry != own_bin]
    env |= {
        "PATH": os.pathsep.join([str(environment.bin), *path]),
        "LANG": "C.UTF-8",
        "HF_HUB_OFFLINE": "1",
        "MPLCONFIGDIR": str(log.parent / "cache" / "matplotlib"),
        # Threads that wait sleep: spinning ones are several times slower where cores are shared.
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONUNBUFFERED": "1",
        "PYTHONNOUSERSITE": "1",
        # Without it `python -m` would put the working directory first on the import path.
        "PYTHONSAFEPATH": "1",
    }
    # A proxy must not stand between an engine and a server on this machine.
    direct = ",".join(filter(None, [env.get("NO_PROXY") or env.get("no_proxy", ""), "127.0.0.1,localhost"]))
    env |= {"NO_PROXY": direct, "no_proxy": direct}
    env |= dict(extra_env or {}) | dict(launch.env)
    added = [entry for entry in [launch.env.get("PYTHONPATH", "")] if entry]
    env["PYTHONPATH"] = os.pathsep.join([str(import_root), *added])
    return env


def command_line(launch: Launch, environment: Environment) -> list[str]:
    """The command with its program as an absolute path in the engine's environment.

    Raises:
        StageFailed: the environment has no such program.
    """
    program = environment.bin / launch.argv[0]
    if not os.access(program, os.X_OK):
        raise StageFailed(
            f"the {environment.name} environment has no program `{launch.argv[0]}` ({environment.bin})",
            f"run `prism env check {environment.name}`",
        )
    return [str(program), *launch.argv[1:]]


def run(
    launch: Launch,
    environment: Environment,
    *,
    cwd: Path,
    log: Path,
    import_root: Path,
    tick: Callable[[], None],
    interval: float = 0.5,
    stop: threading.Event,
    extra_env: Mapping[str, str] | None = None,
) -> int:
    """Run one command in an engine's environment until it and everything it started has ended.

    Args:
        cwd: working directory of the command; exists.
        log: receives the command's output after what it holds already, between a header and a footer line.
        import_root: folder to fill with links to `launch.packages`; the command's only import path of ours.
        tick: called every `interval` seconds and once after the end. If it raises, the command is ended.
        stop: when set, the command is ended within seconds, by SIGTERM and then SIGKILL.

    Returns:
        The command's exit code; negative for the signal that ended it.

    Raises:
        StageFailed: the environment has no such program, or this system does not let its processes be supervised.
        BadInput: the folder's path cannot be an import path.
    """
    argv = command_line(launch, environment)
    link_packages(import_root, launch.packages)
    token = uuid.uuid4().hex
    env = engine_environment(launch, environment, import_root, log, extra_env) | {TOKEN: token}
    record = log.with_name(RECORD)
    with log.open("ab") as output:
        _note(output, f"{launch.what or launch.argv[0]}: {subprocess.list2cmdline(argv)}")
        began = time.monotonic()
        guarded = Guarded(argv, env=env, cwd=cwd, stdout=output, stderr=subprocess.STDOUT)
        try:
            _record(record, token, guarded.guardian.pid)
            while not guarded.wait(0 if stop.is_set() else interval) and not stop.is_set():
                tick()
        finally:
            guarded.close()
            if guarded.code is None:
                _end_marked(token)
            record.unlink(missing_ok=True)
        if not guarded.started:
            raise StageFailed(f"the supervisor of {launch.engine} could not start here", f"read the end of {log}")
        code = -signal.SIGKILL if guarded.code is None else guarded.code
        if guarded.left_behind:
            _note(output, f"ended what it left running: {', '.join(guarded.left_behind)}")
        _note(output, f"{describe_exit(code)} after {time.monotonic() - began:.1f} s")
    tick()
    return code


def describe_exit(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    hint = " (often the system's answer to a lack of memory)" if code == -signal.SIGKILL else ""
    return f"was ended by {name}{hint}"


def clear_leftovers(stage_dir: Path, patience: float = 15.0) -> list[str]:
    """Wait until nothing of earlier attempts of a stage runs any more, ending it where necessary.

    To be called by the holder of the run's lock, before a new attempt.

    Returns:
        Names of the processes that were ended here.
    """
    ended: list[str] = []
    for record in sorted(stage_dir.glob(f"attempt-*/{RECORD}")):
        try:
            told = json.loads(record.read_text(encoding="utf-8"))
        except ValueError:
            told = {}
        if told.get("host") == socket.gethostname():
            with contextlib.suppress(psutil.Error):
                guardian = psutil.Process(told["guardian"])
                if abs(guardian.create_time() - told["started"]) < 1:
                    guardian.terminate()
                    guardian.wait(patience)
            ended += _end_marked(told["token"])
        record.unlink(missing_ok=True)
    return ended


def _record(path: Path, token: str, guardian: int) -> None:
    told = {
        "token": token,
        "guardian": guardian,
        "started": psutil.Process(guardian).create_time(),
        "prism": os.getpid(),
        "host": socket.gethostname(),
    }
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(told), encoding="utf-8")
    draft.replace(path)


def _end_marked(token: str) -> list[str]:
    """End every process that carries the token. Returns their names."""
    ended: list[str] = []
    until = time.monotonic() + 2 * GRACE
    while marked := _marked(token):
        for process in marked:
            with contextlib.suppress(psutil.Error):
                ended.append(process.name())
                process.kill()
        psutil.wait_procs(marked, timeout=GRACE)
        if time.monotonic() > until:
            break
    return ended


def _marked(token: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(TOKEN) == token:
                found.append(process)
    return found


def _note(output: IO[bytes], text: str) -> None:
    output.write(f"[prism {time.strftime('%Y-%m-%d %H:%M:%S')}] {text}\n".encode())
    output.flush()
