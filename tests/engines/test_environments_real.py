"""The engines' real environments, and the engines' own trees of processes under supervision."""

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
from prism_cli.engines import environments, process
from prism_cli.engines.environments import Environment

pytestmark = pytest.mark.engine

ENGINES = ("alignment", "llamafactory", "lmms_eval", "verl")

# Four tasks that never end, in workers that Ray's daemons have started.
RAY = """
import pathlib, sys, time
import ray
ray.init(num_cpus=2, include_dashboard=False, _temp_dir=sys.argv[1])
@ray.remote
def forever(number):
    pathlib.Path(f"up-{number}").touch()
    time.sleep(600)
ray.get([forever.remote(number) for number in range(2)])
"""

# A worker of torchrun, which runs in a session of its own.
WORKER = """
import os, pathlib, time
pathlib.Path("up-" + os.environ["RANK"]).touch()
time.sleep(600)
"""


@pytest.fixture(scope="module", params=ENGINES)
def environment(request: pytest.FixtureRequest) -> Environment:
    found: Environment = request.getfixturevalue(f"{request.param}_env")
    return found


@pytest.fixture
def attempt(tmp_path: Path) -> Path:
    folder = tmp_path / "a stage" / "attempt-1"
    folder.mkdir(parents=True)
    return folder


def start(environment: Environment, attempt: Path, argv: list[str], stop_when: Callable[[], bool]) -> int:
    stop = threading.Event()

    def tick() -> None:
        if stop_when():
            stop.set()

    return process.run(
        Launch(environment.name, argv, env={"TREE": str(attempt)}),
        environment,
        cwd=attempt,
        log=attempt / "engine.log",
        import_root=attempt / "imports",
        tick=tick,
        stop=stop,
    )


def marked(attempt: Path) -> list[psutil.Process]:
    """Processes of this attempt. Ray's workers overwrite their environment, so their folders are looked at too."""
    found = []
    for candidate in psutil.process_iter():
        try:
            mine = candidate.environ().get("TREE") == str(attempt) or Path(candidate.cwd()).is_relative_to(attempt)
            if mine and candidate.status() != psutil.STATUS_ZOMBIE:
                found.append(candidate)
        except (psutil.Error, OSError):
            continue
    return found


def test_environment_is_what_its_lock_says_and_imports(environment: Environment) -> None:
    assert environments.check(environment.name) == []


def test_engine_imports_only_what_is_its_own(environment: Environment, attempt: Path) -> None:
    program = (
        "import importlib.util as util, json; names = ('integrations', 'benchmarks', 'prism_cli', 'tests', 'scripts');"
        "json.dump({name: getattr(util.find_spec(name), 'origin', None) for name in names}, open('seen.json', 'w'))"
    )
    assert start(environment, attempt, ["python", "-c", program], lambda: False) == 0
    seen = json.loads((attempt / "seen.json").read_text())
    assert seen.pop("integrations") == str(attempt / "imports" / "integrations" / "__init__.py")
    site = str(environment.folder / "lib")
    assert all(origin is None or origin.startswith(site) for origin in seen.values())
    assert seen["benchmarks"] is None
    assert seen["prism_cli"] is None


def test_stop_ends_torchrun_and_its_workers(llamafactory_env: Environment, attempt: Path) -> None:
    (attempt / "worker.py").write_text(WORKER)
    argv = ["torchrun", "--nproc-per-node", "2", "worker.py"]
    code = start(llamafactory_env, attempt, argv, lambda: (attempt / "up-0").exists() and (attempt / "up-1").exists())
    assert code != 0
    assert (attempt / "up-1").exists()
    assert marked(attempt) == []


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """Short, because Ray puts sockets into it."""
    import shutil
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def ray_is_up(attempt: Path) -> bool:
    return (attempt / "up-0").exists() and (attempt / "up-1").exists()


def test_stop_ends_ray_with_its_daemons_and_workers(verl_env: Environment, attempt: Path, ray_folder: Path) -> None:
    names: set[str] = set()

    def up() -> bool:
        if ray_is_up(attempt):
            names.update(found.name() for found in marked(attempt))
        return bool(names)

    code = start(verl_env, attempt, ["python", "-c", RAY, str(ray_folder)], up)
    assert code != 0
    assert {"gcs_server", "raylet", "ray::forever"} <= names
    assert marked(attempt) == []


PRISM = """
import sys, threading
from pathlib import Path
from integrations.contract import Launch
from prism_cli.engines import environments, process
attempt = Path(sys.argv[1])
launch = Launch("verl", ["python", "-c", *sys.argv[2:]], env={"TREE": str(attempt)})
process.run(launch, environments.locate("verl"), cwd=attempt, log=attempt / "engine.log",
            import_root=attempt / "imports", tick=lambda: None, stop=threading.Event())
"""


def test_ray_does_not_outlive_a_killed_prism(verl_env: Environment, attempt: Path, ray_folder: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", PRISM, str(attempt), RAY, str(ray_folder)]) as prism:
        try:
            until = time.monotonic() + 300
            while not ray_is_up(attempt):
                assert prism.poll() is None, (attempt / "engine.log").read_text()
                assert time.monotonic() < until, (attempt / "engine.log").read_text()
                time.sleep(0.1)
            assert {"gcs_server", "raylet"} <= {found.name() for found in marked(attempt)}
        finally:
            os.kill(prism.pid, signal.SIGKILL)
    process.clear_leftovers(attempt.parent)
    assert marked(attempt) == []
