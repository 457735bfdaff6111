"""Start verl on a CPU sooner: import its large dependencies once, then fork its driver and every worker of Ray.

    python -m integrations.verl.cpu.launch SOCKET MODEL_TYPE --config-dir FOLDER --config-name NAME

verl is nine processes, and each spends several seconds of a core on importing torch and transformers: most of a short
stage on a laptop. Ray starts its workers with an interpreter of the user's choice (`runtime_env.py_executable`); ours,
`worker.py`, asks this process for a fork that has them imported. The driver is `verl.trainer.main_ppo` as
`python -m` would run it. Nothing is called before the forks, only imported, so no threads are lost in them.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

IMPORTED = (
    "accelerate",
    "datasets",
    "hydra",
    "pandas",
    "peft",
    "qwen_vl_utils",
    "tensordict",
    "torch.distributed.checkpoint",
    "torch.distributed.fsdp",
    "torchdata.stateful_dataloader",
    "torchvision",
    "integrations.verl.cpu.server",
    "integrations.verl.reward",
)
"""What verl's processes spend their time importing. Not Ray, which reads what a process is to be from the environment
when it is imported, nor what imports it: verl and its queue."""

FIRST_WORKERS = 2
"""Ray replaces a worker that fails at its start by another, without end. When so many have failed, more will."""

Job = Callable[[], None]


class ForkServer:
    """Forks workers on request and the driver at once, until the driver has ended.

    Args:
        path: Unix socket to listen on; made anew.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(64)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.wake, self.woken = socket.socketpair()
        self.wake.setblocking(False)
        self.woken.setblocking(False)
        self.selector.register(self.woken, selectors.EVENT_READ)
        self.clients: dict[int, socket.socket] = {}
        """Connection of each worker's stand-in, by the worker's process id."""
        self.first: list[int] = []
        """Process ids of the first workers."""
        self.stillborn = 0
        """How many of them failed at once."""

    def serve(self, driver: Job) -> Job | int:
        """In a forked process: the job it is to do. In this process: the driver's exit code, once it has ended."""
        signal.set_wakeup_fd(self.wake.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        driver_pid = os.fork()
        if driver_pid == 0:
            return self._forked(driver)
        signal.signal(signal.SIGTERM, lambda number, frame: os.kill(driver_pid, signal.SIGTERM))
        while True:
            for key, _ in self.selector.select():
                if key.fileobj is self.listener:
                    job = self._accept()
                    if job is not None:
                        return job
                elif key.fileobj is self.woken:
                    self.woken.recv(4096)
                else:
                    self._stand_in_left(key.data)
            code = self._reap(driver_pid)
            if self.stillborn == FIRST_WORKERS:
                print("Ray's workers end as soon as they start; the reason is above", file=sys.stderr, flush=True)
                os.kill(driver_pid, signal.SIGKILL)
                code = 1
            if code is not None:
                for pid in self.clients:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                return code

    def _accept(self) -> Job | None:
        connection, _ = self.listener.accept()
        header, streams, _, _ = socket.recv_fds(connection, 8, 3)
        body = b""
        while len(body) < int.from_bytes(header, "big"):
            body += connection.recv(1 << 16)
        pid = os.fork()
        if pid == 0:
            connection.close()
            request = json.loads(body)
            return self._forked(lambda: _work(request, streams))
        for stream in streams:
            os.close(stream)
        if len(self.first) < FIRST_WORKERS:
            self.first.append(pid)
        self.clients[pid] = connection
        self.selector.register(connection, selectors.EVENT_READ, pid)
        return None

    def _forked(self, job: Job) -> Job:
        """Give up in the child what belongs to this server."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for connection in (self.listener, self.wake, self.woken, *self.clients.values()):
            connection.close()
        self.selector.close()
        return job

    def _stand_in_left(self, pid: int) -> None:
        """Ray killed the stand-in, so it wants the worker dead."""
        self._forget(pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def _forget(self, pid: int) -> socket.socket | None:
        connection = self.clients.pop(pid, None)
        if connection is not None:
            self.selector.unregister(connection)
            connection.close()
        return connection

    def _reap(self, driver: int) -> int | None:
        """Collect ended children. Returns the driver's exit code when it is among them."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                code = os.waitstatus_to_exitcode(status)
                if pid == driver:
                    return code if code >= 0 else 128 - code
                self.stillborn += code != 0 and pid in self.first
                if pid in self.clients:
                    with contextlib.suppress(OSError):
                        self.clients[pid].sendall((code if code >= 0 else 128 - code).to_bytes(4, "big"))
                self._forget(pid)
        return None


def _work(request: dict[str, Any], streams: list[int]) -> None:
    """Be the process that `request` describes."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    argv: list[str] = request["argv"]
    while argv[0].startswith("-"):  # options of the interpreter, such as -s
        argv.pop(0)
    sys.argv = argv
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")


def _drive(arguments: list[str]) -> None:
    sys.argv = ["verl.trainer.main_ppo", *arguments]
    runpy.run_module("verl.trainer.main_ppo", run_name="__main__", alter_sys=True)


def _import_all(model_type: str) -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    for name in ("modeling", "processing"):
        with contextlib.suppress(ImportError):
            importlib.import_module(f"transformers.models.{model_type}.{name}_{model_type}")


def _finish(job: Job) -> NoReturn:
    """Do a forked process's job and leave as an interpreter would, but without taking its modules apart first.

    That takes seconds for what was inherited, and nothing is gained by it.
    """
    code: object = 0
    try:
        job()
    except SystemExit as leaving:
        code = leaving.code
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def main() -> NoReturn:
    """Ends with the driver's exit code; in forked processes does their work."""
    path, model_type, *arguments = sys.argv[1:]
    _import_all(model_type)
    gc.freeze()  # what is imported stays shared between the processes
    outcome = ForkServer(Path(path)).serve(lambda: _drive(arguments))
    if isinstance(outcome, int):
        os._exit(outcome)
    _finish(outcome)


if __name__ == "__main__":
    main()
