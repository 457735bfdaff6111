"""Engines under supervision: what they see, what is logged, and that nothing they start survives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from integrations.contract import Launch
from integrations.errors import BadInput, StageFailed
from prism_cli.engines import process
from prism_cli.engines.environments import Environment

TREE_SIZE = 7
"""The program, its five children and the guardian above them."""

# Starts children that are hard to get rid of, says so by files, and sleeps (or ends, when told `leave`).
TREE = """
import os, signal, subprocess, sys, time
folder, leave = sys.argv[1], "leave" in sys.argv

def child(name, *, session=False, deaf=False, daemon=False):
    pid = os.fork()
    if pid:
        if daemon:
            os.waitpid(pid, 0)
        return
    if session:
        os.setsid()
    if daemon and os.fork():
        os._exit(0)
    if deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with open(os.path.join(folder, name + ".tmp"), "w") as stream:
        stream.write(str(os.getpid()))
    os.rename(stream.name, os.path.join(folder, name + ".pid"))
    time.sleep(600)
    os._exit(0)

child("plain")
child("session", session=True)
child("deaf", deaf=True)
child("daemon", session=True, deaf=True, daemon=True)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
while len([name for name in os.listdir(folder) if name.endswith(".pid")]) < 4:
    time.sleep(0.01)
open(os.path.join(folder, "up"), "w").close()
if not leave:
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """A bare environment without packages, in a folder with a space in its name."""
    folder = tmp_path_factory.mktemp("bare environment") / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    return Environment("bare", "0" * 12, folder, folder / "bin" / "python", folder / "bin")


@pytest.fixture(autouse=True)
def _little_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "GRACE", 0.5)


@pytest.fixture
def attempt(tmp_path: Path) -> Path:
    folder = tmp_path / "a stage" / "attempt-1"
    folder.mkdir(parents=True)
    return folder


def start(
    environment: Environment,
    attempt: Path,
    argv: list[str],
    tick: Callable[[], None] = lambda: None,
    stop: threading.Event | None = None,
    env: dict[str, str] | None = None,
    **more: dict[str, str],
) -> int:
    return process.run(
        Launch("bare", ["python", *argv], env=env or {}, what="testing"),
        environment,
        cwd=attempt,
        log=attempt / "engine.log",
        import_root=attempt / "imports",
        tick=tick,
        interval=0.05,
        stop=stop or threading.Event(),
        **more,  # type: ignore[arg-type]
    )


def see(environment: Environment, attempt: Path, expression: str, **more: dict[str, str]) -> object:
    """The value of an expression (with os and sys imported) inside a launched command."""
    program = f"import json, os, sys; json.dump({expression}, open('seen.json', 'w'))"
    assert start(environment, attempt, ["-c", program], **more) == 0  # type: ignore[arg-type]
    return json.loads((attempt / "seen.json").read_text())


def tree_processes(attempt: Path) -> list[psutil.Process]:
    """Every process of the tree started in this attempt, found by its marked environment."""
    found = []
    for candidate in psutil.process_iter():
        try:
            if candidate.environ().get("TREE") == str(attempt) and candidate.status() != psutil.STATUS_ZOMBIE:
                found.append(candidate)
        except (psutil.Error, OSError):
            continue
    return found


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until, "waited a minute in vain"
        time.sleep(0.02)


def test_exit_code_output_and_ticks(environment: Environment, attempt: Path) -> None:
    (attempt / "engine.log").write_text("before\n")
    ticks: list[int] = []
    program = "import sys, time; print('to out'); print('to err', file=sys.stderr); time.sleep(0.3); sys.exit(7)"
    assert start(environment, attempt, ["-c", program], tick=lambda: ticks.append(1)) == 7
    first, header, *output, footer = (attempt / "engine.log").read_text().splitlines()
    assert first == "before"
    assert "testing: " in header
    assert program in header
    assert output == ["to out", "to err"]
    assert "ended with exit code 7" in footer
    assert len(ticks) >= 2
    assert not (attempt / process.RECORD).exists()


def test_code_of_a_signal_is_negative(environment: Environment, attempt: Path) -> None:
    code = start(environment, attempt, ["-c", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"])
    assert code == -signal.SIGSEGV
    assert "was ended by SIGSEGV" in (attempt / "engine.log").read_text()


def test_tick_sees_everything_once_more_after_the_end(environment: Environment, attempt: Path) -> None:
    seen: list[bool] = []
    start(environment, attempt, ["-c", "open('last', 'w')"], tick=lambda: seen.append((attempt / "last").exists()))
    assert seen[-1]


def test_import_path_is_the_launch_packages_and_nothing_else(
    environment: Environment, attempt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/of/the/user")
    (attempt / "shadow.py").write_text("raise SystemExit('the working directory is on the import path')")
    program = "import json, sys; json.dump(sys.path, open('seen.json', 'w')); import integrations.errors"
    assert start(environment, attempt, ["-c", program]) == 0
    paths = json.loads((attempt / "seen.json").read_text())
    assert paths[0] == str(attempt / "imports")
    assert "/of/the/user" not in paths
    assert "" not in paths
    assert str(attempt) not in paths
    assert [path.name for path in (attempt / "imports").iterdir()] == ["integrations"]
    for module in ("shadow", "benchmarks", "prism_cli", "tests"):
        assert start(environment, attempt, ["-c", f"import {module}"]) == 1
        assert f"No module named '{module}'" in (attempt / "engine.log").read_text()


def test_modules_of_a_linked_package_run(environment: Environment, attempt: Path) -> None:
    assert start(environment, attempt, ["-m", "integrations.common.response"]) == 0


def test_environment_is_clean_and_the_launch_has_the_last_word(
    environment: Environment, attempt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_USER", "1")
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere")
    monkeypatch.setenv("HF_TOKEN", "passed on")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setenv("https_proxy", "http://proxy")
    monkeypatch.setenv("no_proxy", "intranet")
    seen = see(
        environment, attempt, "dict(os.environ)",
        env={"OMP_NUM_THREADS": "2", "PYTHONPATH": "/added"}, extra_env={"OMP_NUM_THREADS": "9", "MORE": "x"},
    )  # fmt: skip
    assert isinstance(seen, dict)
    assert not seen.keys() & {"SECRET_OF_THE_USER", "RAY_ADDRESS", "VIRTUAL_ENV"}
    assert (seen["HF_TOKEN"], seen["CUDA_VISIBLE_DEVICES"], seen["https_proxy"]) == ("passed on", "3", "http://proxy")
    assert seen["NO_PROXY"] == seen["no_proxy"] == "intranet,127.0.0.1,localhost"
    assert (seen["OMP_NUM_THREADS"], seen["MORE"], seen["HF_HUB_OFFLINE"]) == ("2", "x", "1")
    assert seen["PYTHONPATH"] == f"{attempt / 'imports'}{os.pathsep}/added"
    assert seen["PATH"].split(os.pathsep)[0] == str(environment.bin)
    assert str(Path(sys.executable).parent) not in seen["PATH"].split(os.pathsep)
    assert seen["MPLCONFIGDIR"].startswith(str(attempt))


def test_reads_from_nowhere(environment: Environment, attempt: Path) -> None:
    assert see(environment, attempt, "sys.stdin.read()") == ""


def test_missing_program_is_named(environment: Environment, attempt: Path) -> None:
    launch = Launch("bare", ["torchrun"])
    with pytest.raises(StageFailed, match="bare environment has no program `torchrun`"):
        process.command_line(launch, environment)


def test_supervisor_that_cannot_start_is_an_error_of_its_own(
    environment: Environment, attempt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_GUARDIAN", attempt / "missing.py")
    with pytest.raises(StageFailed, match="supervisor of bare could not start"):
        start(environment, attempt, ["-c", "pass"])
    assert "missing.py" in (attempt / "engine.log").read_text()


def test_program_that_cannot_be_executed(environment: Environment, attempt: Path) -> None:
    broken = environment.bin / "broken"
    broken.write_text("#!/nowhere/python\n")
    broken.chmod(0o755)
    launch = Launch("bare", ["broken"])
    folders = {"cwd": attempt, "log": attempt / "engine.log", "import_root": attempt / "imports"}
    code = process.run(launch, environment, tick=lambda: None, stop=threading.Event(), **folders)
    assert code == 127
    assert "cannot run" in (attempt / "engine.log").read_text()


def test_folder_that_cannot_be_an_import_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="`:` in its path"):
        process.link_packages(tmp_path / "a:b", ["integrations"])


def test_links_are_made_anew(tmp_path: Path) -> None:
    process.link_packages(tmp_path / "imports", ["integrations", "benchmarks"])
    process.link_packages(tmp_path / "imports", ["integrations"])
    assert [path.name for path in (tmp_path / "imports").iterdir()] == ["integrations"]


def test_stop_ends_the_whole_tree(environment: Environment, attempt: Path) -> None:
    stop = threading.Event()
    pids: list[int] = []

    def tick() -> None:
        if (attempt / "up").exists() and not stop.is_set():
            pids.extend(found.pid for found in tree_processes(attempt))
            stop.set()

    code = start(environment, attempt, ["-c", TREE, "."], tick, stop, env={"TREE": str(attempt)})
    assert code == -signal.SIGTERM
    assert len(pids) == TREE_SIZE
    assert tree_processes(attempt) == []
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_what_a_finished_program_leaves_is_ended_and_named(environment: Environment, attempt: Path) -> None:
    code = start(environment, attempt, ["-c", TREE, ".", "leave"], env={"TREE": str(attempt)})
    assert code == 0
    assert tree_processes(attempt) == []
    assert "ended what it left running: python" in (attempt / "engine.log").read_text()


def test_error_in_tick_ends_the_tree(environment: Environment, attempt: Path) -> None:
    def tick() -> None:
        if (attempt / "up").exists():
            raise BadInput("the progress file is unreadable")

    with pytest.raises(BadInput, match="unreadable"):
        start(environment, attempt, ["-c", TREE, "."], tick, env={"TREE": str(attempt)})
    assert tree_processes(attempt) == []


def test_killed_guardian_leaves_nothing(environment: Environment, attempt: Path) -> None:
    def tick() -> None:
        record = attempt / process.RECORD
        if (attempt / "up").exists() and record.exists():
            os.kill(json.loads(record.read_text())["guardian"], signal.SIGKILL)
            (attempt / "up").unlink()

    code = start(environment, attempt, ["-c", TREE, "."], tick, env={"TREE": str(attempt)})
    assert code == -signal.SIGKILL
    assert tree_processes(attempt) == []


PRISM = """
import sys, threading
from pathlib import Path
from integrations.contract import Launch
from prism_cli.engines import process
from prism_cli.engines.environments import Environment
process.GRACE = 0.5
env, attempt, tree = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
environment = Environment("bare", "0" * 12, env, env / "bin" / "python", env / "bin")
launch = Launch("bare", ["python", "-c", tree, "."], env={"TREE": str(attempt)})
process.run(launch, environment, cwd=attempt, log=attempt / "engine.log", import_root=attempt / "imports",
            tick=lambda: None, stop=threading.Event())
"""


@pytest.fixture
def prism(environment: Environment, attempt: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that runs the tree as prism would, up and recorded."""
    command = [sys.executable, "-c", PRISM, str(environment.folder), str(attempt), TREE]
    with subprocess.Popen(command) as started:
        try:
            wait_until(lambda: (attempt / "up").exists() and (attempt / process.RECORD).exists())
            assert len(tree_processes(attempt)) == TREE_SIZE
            yield started
        finally:
            started.kill()


def test_no_engine_outlives_a_killed_prism(prism: subprocess.Popen[bytes], attempt: Path) -> None:
    guardian = json.loads((attempt / process.RECORD).read_text())["guardian"]
    prism.kill()
    prism.wait()
    wait_until(lambda: not psutil.pid_exists(guardian))
    assert tree_processes(attempt) == []
    assert process.clear_leftovers(attempt.parent) == []
    assert not (attempt / process.RECORD).exists()


def test_next_attempt_waits_for_the_guardian_of_a_killed_prism(prism: subprocess.Popen[bytes], attempt: Path) -> None:
    prism.kill()
    process.clear_leftovers(attempt.parent)
    assert tree_processes(attempt) == []


def test_next_attempt_ends_what_outlived_both_prism_and_guardian(prism: subprocess.Popen[bytes], attempt: Path) -> None:
    guardian = psutil.Process(json.loads((attempt / process.RECORD).read_text())["guardian"])
    guardian.suspend()
    prism.kill()
    prism.wait()
    guardian.kill()
    wait_until(lambda: not guardian.is_running())
    assert tree_processes(attempt)
    assert process.clear_leftovers(attempt.parent)
    assert tree_processes(attempt) == []


def test_record_of_another_process_with_the_same_id_is_not_believed(attempt: Path) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        process._record(attempt / process.RECORD, "a token of nobody", bystander.pid)
        told = json.loads((attempt / process.RECORD).read_text())
        (attempt / process.RECORD).write_text(json.dumps(told | {"started": told["started"] - 100}))
        assert process.clear_leftovers(attempt.parent) == []
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


@pytest.mark.parametrize(
    ("code", "words"),
    [(0, "exit code 0"), (-9, "SIGKILL (often the system's answer to a lack of memory)"), (-15, "SIGTERM")],
)
def test_exit_codes_in_words(code: int, words: str) -> None:
    assert words in process.describe_exit(code)
