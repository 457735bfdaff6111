"""The fork server that starts verl's processes on a CPU: a worker is what the command asked for, and ends with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from integrations.verl.cpu import worker

SERVER = """
import os, sys
from pathlib import Path
from integrations.verl.cpu.launch import ForkServer, _finish
path, driver = sys.argv[1:]
outcome = ForkServer(Path(path)).serve(lambda: exec(Path(driver).read_text(), {"__name__": "driver"}))
if isinstance(outcome, int):
    os._exit(outcome)
_finish(outcome)
"""
DRIVER = """
import subprocess, sys
command = [sys.executable, "-I", "-S", {worker!r}, {socket!r}, "-s", {task!r}, "one", "two words"]
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fork ") as name:
        yield Path(name)


def serve(folder: Path, driver: str, task: str) -> subprocess.Popen[str]:
    """A server whose driver may start `command`, which is `task` with two arguments."""
    (folder / "task.py").write_text(task)
    given = {"worker": worker.__file__, "socket": str(folder / "fork.sock"), "task": str(folder / "task.py")}
    (folder / "driver.py").write_text(DRIVER.format(**given) + driver)
    arguments = [sys.executable, "-c", SERVER, str(folder / "fork.sock"), str(folder / "driver.py")]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_worker_has_the_commands_arguments_environment_folder_and_exit_code(folder: Path) -> None:
    task = """
import json, os, sys
print(json.dumps([sys.argv[1:], os.environ.get("SEEN"), "PATH" in os.environ, os.getcwd(), __name__, sys.path[0]]))
print("to the errors", file=sys.stderr)
sys.exit(7)
"""
    driver = "sys.exit(subprocess.run(command, env={'SEEN': 'yes'}, cwd='/').returncode + 1)"
    server = serve(folder, driver, task)
    out, errors = server.communicate(timeout=60)
    assert server.returncode == 8
    assert json.loads(out) == [["one", "two words"], "yes", False, "/", "__main__", str(folder)]
    assert errors == "to the errors\n"


def test_exit_functions_of_the_driver_run(folder: Path) -> None:
    server = serve(folder, "import atexit\natexit.register(print, 'left in order')", "")
    assert server.communicate(timeout=60) == ("left in order\n", "")
    assert server.returncode == 0


def test_a_failing_driver_shows_its_traceback(folder: Path) -> None:
    server = serve(folder, "raise KeyError('what went wrong')", "")
    _, errors = server.communicate(timeout=60)
    assert server.returncode == 1
    assert "KeyError: 'what went wrong'" in errors


@pytest.mark.parametrize("end", ["started.kill()\nsys.stdin.read(0)\nimport time\ntime.sleep(60)", "sys.exit(0)"])
def test_a_worker_ends_with_its_stand_in_and_with_the_driver(folder: Path, end: str) -> None:
    task = f"""
import os, pathlib, time
pathlib.Path({str(folder / "draft")!r}).write_text(str(os.getpid()))
os.rename({str(folder / "draft")!r}, {str(folder / "pid")!r})
time.sleep(60)
"""
    wait = f"import os, time\nwhile not os.path.exists({str(folder / 'pid')!r}): time.sleep(0.01)\n"
    server = serve(folder, "started = subprocess.Popen(command)\n" + wait + end, task)
    try:
        until = time.monotonic() + 60
        while not (folder / "pid").exists() and time.monotonic() < until:
            time.sleep(0.01)
        pid = int((folder / "pid").read_text())
        while psutil.pid_exists(pid) and time.monotonic() < until:
            time.sleep(0.01)
        assert not psutil.pid_exists(pid)
    finally:
        for process in psutil.Process(server.pid).children(recursive=True) if server.poll() is None else ():
            process.kill()
        server.kill()
        server.communicate()


def test_workers_that_all_fail_at_once_end_the_server(folder: Path) -> None:
    """Ray starts them again and again."""
    server = serve(folder, "while True: subprocess.run(command)", "raise SystemExit(3)")
    _, errors = server.communicate(timeout=60)
    assert server.returncode == 1
    assert errors == "Ray's workers end as soon as they start; the reason is above\n"


def test_the_stand_in_says_when_there_is_no_server(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", worker.__file__, str(folder / "none.sock"), "task.py"],
        capture_output=True,
        env={"PATH": os.environ["PATH"]},
    )
    assert done.returncode == 1
    assert b"FileNotFoundError" in done.stderr
