"""Building engines' environments, with a package index of two tiny packages in a folder: no network is needed."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from integrations.contract import Launch
from integrations.errors import BadInput, Interrupted, RunLocked, StageFailed
from prism_cli.engines import environments, locks
from prism_cli.engines.process import command_line
from prism_cli.pipeline import lineage

if TYPE_CHECKING:
    from tests.conftest import TinyEngine

# A build backend that can be made to wait: it tells that it began, and goes on when the file it was given is gone.
BACKEND = """
import os, time, zipfile
def build_wheel(folder, config_settings=None, metadata_directory=None):
    hold = os.environ.get("HOLD_BUILD")
    if hold and os.path.exists(hold):
        open(hold + ".began", "w").close()
        while os.path.exists(hold):
            time.sleep(0.02)
    name = "slowly-1.0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as wheel:
        wheel.writestr("slowly.py", "")
        info = "slowly-1.0.dist-info"
        wheel.writestr(info + "/METADATA", "Metadata-Version: 2.1\\nName: slowly\\nVersion: 1.0\\n")
        wheel.writestr(info + "/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(info + "/RECORD", "")
    return name
"""


def make_source(index: Path) -> str:
    """Write the package `slowly`, which has to be built. Returns its sha256."""
    files = {
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "slowly"\nversion = "1.0"\n',
        "backend.py": BACKEND,
        "PKG-INFO": "Metadata-Version: 2.2\nName: slowly\nVersion: 1.0\n",
    }
    path = index / "slowly-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"slowly-1.0/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def engines(tiny_engine: TinyEngine) -> TinyEngine:
    """The engine `tiny`, and `slowly` whose one package has to be built."""
    tiny_engine.lock("slowly", "slowly==1.0", make_source(tiny_engine.index))
    return tiny_engine


@pytest.fixture
def held(tmp_path: Path, engines: TinyEngine, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that holds the build of `slowly` while it exists."""
    hold = tmp_path / "hold"
    hold.touch()
    monkeypatch.setenv("HOLD_BUILD", str(hold))
    return hold


@pytest.fixture
def builder(engines: TinyEngine, held: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that is in the middle of building `slowly`."""
    program = (
        "import signal, sys; from pathlib import Path; from prism_cli.__main__ import main;"
        "from prism_cli.engines import environments;"
        "signal.signal(signal.SIGINT, signal.default_int_handler);"
        "environments.definitions = lambda: Path(sys.argv[1]); sys.exit(main(['env', 'build', 'slowly']))"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(engines.folder)]) as other:
        try:
            wait_until(lambda: held.with_name("hold.began").exists())
            yield other
        finally:
            other.kill()


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until, "waited a minute in vain"
        time.sleep(0.02)


def processes_below(folder: Path) -> list[psutil.Process]:
    """Processes that have the folder somewhere in their command."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if any(str(folder) in word for word in process.cmdline()):
                found.append(process)
    return found


def no_report(text: str) -> None:
    raise AssertionError(f"nothing should be built, but: {text}")


def test_built_once_and_its_programs_run(engines: TinyEngine) -> None:
    assert environments.names() == ["slowly", "tiny"]
    environment = environments.locate("tiny")
    assert not environments.is_built(environment)
    lines: list[str] = []
    assert environments.ensure("tiny", lines.append) == environment
    assert environments.is_built(environment)
    assert lines[0].startswith("building with 1 pinned packages")
    assert lines[-1].startswith("built: 1 packages in ")
    done = subprocess.run([environment.bin / "tiny"], capture_output=True, text=True, check=True)
    assert done.stdout == "tiny 1.0\n"
    assert environments.built_as(environment)["packages"] == 1
    assert environments.ensure("tiny", no_report) == environment
    assert [path.name for path in environment.folder.parent.iterdir() if path.is_dir()] == [environment.folder.name]


def test_folder_is_below_the_users_cache(engines: TinyEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PRISM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert environments.locate("tiny").folder.parent == Path("/x/prism/envs")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert environments.cache_folder() == Path("/home/someone/.cache/prism")


def test_another_lock_is_another_environment(engines: TinyEngine) -> None:
    first = environments.ensure("tiny", print)
    engines.lock("tiny", "tiny==2.0", engines.package("2.0"))
    second = environments.ensure("tiny", print)
    assert first.key != second.key
    assert environments.is_built(first)
    assert environments.outdated("tiny") == [first.folder]
    assert environments.remove("tiny") == [second.folder, first.folder]
    assert not first.folder.exists()
    assert not second.folder.exists()
    assert environments.remove("tiny") == []


def test_environments_share_the_files_of_a_package(engines: TinyEngine) -> None:
    engines.lock("other", "tiny==1.0", engines.package("1.0"))
    modules = []
    for name in ("tiny", "other"):
        environment = environments.ensure(name, print)
        modules += environment.folder.glob("lib/python3*/site-packages/tiny.py")
    first, second = modules
    assert first.samefile(second)


def test_files_are_copied_only_from_another_file_system(engines: TinyEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert environments._uv_environment()["UV_LINK_MODE"] == "hardlink"
    monkeypatch.setenv("UV_CACHE_DIR", "/proc/uv")
    assert environments._uv_environment()["UV_LINK_MODE"] == "copy"
    monkeypatch.setenv("UV_LINK_MODE", "clone")
    assert environments._uv_environment()["UV_LINK_MODE"] == "clone"


def test_less_space_is_needed_beside_an_environment_with_the_same_torch(engines: TinyEngine) -> None:
    for name in ("tiny", "slowly"):
        described = engines.folder / name / "env" / "environment.toml"
        described.write_text("imports = []\ndisk_mb = 9\nbeside_mb = 2\n")
    assert environments._needed_mb(environments.locate("slowly")) == 9
    environments.ensure("tiny", print)
    assert environments._needed_mb(environments.locate("slowly")) == 2


def test_vanished_interpreter_is_built_again(engines: TinyEngine) -> None:
    environment = environments.ensure("tiny", print)
    environment.python.unlink()
    environment.python.symlink_to("/nowhere/python")
    assert not environments.is_built(environment)
    environments.ensure("tiny", print)
    assert environments.is_built(environment)


def test_killed_build_leaves_nothing_that_counts(
    engines: TinyEngine, held: Path, builder: subprocess.Popen[bytes]
) -> None:
    environment = environments.locate("slowly")
    builder.send_signal(signal.SIGKILL)
    builder.wait()
    wait_until(lambda: not processes_below(engines.folder.parent))
    assert not environments.is_built(environment)
    assert list(environment.folder.parent.glob(".building-*"))
    held.unlink()
    environments.ensure("slowly", print)
    assert environments.check("slowly") == []
    assert [path.name for path in environment.folder.parent.iterdir() if path.is_dir()] == [environment.folder.name]


def test_interrupted_build_cleans_up(engines: TinyEngine, builder: subprocess.Popen[bytes]) -> None:
    builder.send_signal(signal.SIGINT)
    assert builder.wait() == 130
    assert not processes_below(engines.folder.parent)
    environment = environments.locate("slowly")
    assert not environments.is_built(environment)
    assert [path.name for path in environment.folder.parent.iterdir() if path.is_dir()] == []


def test_second_builder_says_who_it_waits_for_and_builds_nothing(
    engines: TinyEngine, held: Path, builder: subprocess.Popen[bytes]
) -> None:
    lines: list[str] = []

    def hear(line: str) -> None:
        lines.append(line)
        held.unlink(missing_ok=True)

    environments.ensure("slowly", hear)
    assert lines == [lines[0]]
    assert lines[0].startswith(f"waiting for process {builder.pid} ")
    assert environments.is_built(environments.locate("slowly"))
    assert builder.wait() == 0


def test_remove_refuses_what_is_being_built(engines: TinyEngine, held: Path, builder: subprocess.Popen[bytes]) -> None:
    with pytest.raises(RunLocked, match=f"being built by process {builder.pid}"):
        environments.remove("slowly")
    held.unlink()
    assert builder.wait() == 0


def test_stop_gives_up_waiting(engines: TinyEngine, held: Path, builder: subprocess.Popen[bytes]) -> None:
    stop = threading.Event()
    with pytest.raises(Interrupted):
        environments.ensure("slowly", lambda line: stop.set(), stop)
    held.unlink()
    assert builder.wait() == 0


def test_stop_gives_up_building(engines: TinyEngine, held: Path) -> None:
    stop = threading.Event()
    threading.Thread(
        target=lambda: (wait_until(lambda: held.with_name("hold.began").exists()), stop.set()), daemon=True
    ).start()
    with pytest.raises(Interrupted):
        environments.ensure("slowly", print, stop)
    environment = environments.locate("slowly")
    assert not environments.is_built(environment)
    assert not list(environment.folder.parent.glob(".building-*"))


def test_remove_refuses_what_is_in_use(engines: TinyEngine) -> None:
    environment = environments.ensure("tiny", print)
    with subprocess.Popen([environment.python, "-c", "import time; time.sleep(600)"]) as user:
        with pytest.raises(RunLocked, match=f"process {user.pid} "):
            environments.remove("tiny")
        user.kill()
    assert environments.remove("tiny") == [environment.folder]


def test_check_compares_with_the_lock_and_imports(engines: TinyEngine) -> None:
    assert environments.check("tiny") == ["not built: run `prism env build tiny`"]
    environment = environments.ensure("tiny", print)
    assert environments.check("tiny") == []
    (site,) = environment.folder.glob("lib/python3*/site-packages")
    (site / "tiny.py").write_text("import nonsense_that_is_missing")
    (problem,) = environments.check("tiny")
    assert problem.startswith("cannot import tiny: ")
    assert "nonsense_that_is_missing" in problem
    shutil.rmtree(site / "tiny-1.0.dist-info")
    assert environments.check("tiny")[0].startswith("differs from its lock")


def test_own_environment_is_used_and_never_touched(
    engines: TinyEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(own)], check=True)
    monkeypatch.setenv("PRISM_ENV_TINY", str(own))
    environment = environments.ensure("tiny", no_report)
    assert (environment.own, environment.python) == (True, own / "bin" / "python")
    assert environments.check("tiny") == ["cannot import tiny: ModuleNotFoundError: No module named 'tiny'"]
    (site,) = own.glob("lib/python3*/site-packages")
    (site / "more-1.0.dist-info").mkdir()
    (site / "more-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: more\nVersion: 1.0\n")
    assert environments.locate("tiny").key != environment.key
    with pytest.raises(BadInput, match="your own environment"):
        environments.remove("tiny")


def test_a_script_that_goes_into_a_container_is_an_environment_of_its_own(
    engines: TinyEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "own" / "bin" / "python"
    python.parent.mkdir(parents=True)
    monkeypatch.setenv("PRISM_ENV_TINY", str(tmp_path / "own"))
    keys = set()
    for image in ("one", "two"):
        python.write_text(f'#!/bin/sh\n# image {image}\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)
        keys.add(environments.locate("tiny").key)
    assert len(keys) == 2
    launch = Launch("tiny", ["python"])
    assert command_line(launch, environments.locate("tiny")) == [str(python)]


def test_own_environment_without_python_is_refused(
    engines: TinyEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRISM_ENV_TINY", str(tmp_path))
    with pytest.raises(BadInput, match=r"PRISM_ENV_TINY names .* no bin/python"):
        environments.locate("tiny")


def test_unknown_engine_is_refused_with_the_known_ones(engines: TinyEngine) -> None:
    with pytest.raises(BadInput) as refused:
        environments.locate("axolotl")
    assert refused.value.fix == "choose one of: slowly, tiny"


def expect_failure(name: str) -> StageFailed:
    with pytest.raises(StageFailed) as failed:
        environments.ensure(name, print)
    assert not environments.is_built(environments.locate(name))
    assert f"the {name} environment" in failed.value.problem
    assert failed.value.fix
    return failed.value


def test_unreachable_index(engines: TinyEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UV_NO_INDEX")
    monkeypatch.delenv("UV_FIND_LINKS")
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    failure = expect_failure("tiny")
    assert "the package index cannot be reached" in failure.problem
    assert "connect to the network once" in failure.fix


def test_offline_with_an_empty_cache(engines: TinyEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UV_NO_INDEX")
    monkeypatch.delenv("UV_FIND_LINKS")
    monkeypatch.setenv("UV_OFFLINE", "1")
    assert "stay offline" in expect_failure("tiny").problem


def test_package_that_is_not_the_locked_one(engines: TinyEngine) -> None:
    engines.lock("tiny", "tiny==1.0", "0" * 64)
    assert "its hash differs" in expect_failure("tiny").problem


def test_version_that_the_index_lacks(engines: TinyEngine) -> None:
    engines.lock("tiny", "tiny==3.0", "0" * 64)
    assert "does not offer" in expect_failure("tiny").problem


def test_too_little_space_is_seen_before(engines: TinyEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1000))  # type: ignore[attr-defined]
    failure = expect_failure("tiny")
    assert "needs 1 MB" in failure.problem
    assert "PRISM_CACHE" in failure.fix


def test_disk_that_fills_up_while_building(
    engines: TinyEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = tmp_path / "uv"
    full.write_text("#!/bin/sh\necho 'error: failed to write: No space left on device (os error 28)' >&2\nexit 2\n")
    full.chmod(0o755)
    monkeypatch.setattr(environments, "_uv_program", lambda: str(full))
    assert "the disk is full" in expect_failure("tiny").problem


def test_cache_that_cannot_be_written(engines: TinyEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PRISM_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(BadInput, match="cannot write to the cache folder"):
        environments.ensure("tiny", print)


def test_pip_mirror_serves_uv_where_it_has_no_index_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("UV_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_INDEX_URL", "https://mirror/simple")
    assert environments._uv_environment()["UV_DEFAULT_INDEX"] == "https://mirror/simple"
    monkeypatch.setenv("UV_INDEX_URL", "https://other/simple")
    assert "UV_DEFAULT_INDEX" not in environments._uv_environment()


def test_recompiled_lock_is_pinned_by_hash_and_keeps_its_versions(engines: TinyEngine) -> None:
    engines.package("2.0")
    lock = engines.folder / "tiny" / "env" / "requirements.lock"
    before = lock.read_text()
    lock.with_name("requirements.in").write_text("tiny\n")
    assert not locks.compile_lock("tiny", print)
    assert lock.read_text() == before
    assert locks.compile_lock("tiny", print, upgrade=True)
    assert lock.read_text().startswith("tiny==2.0 \\\n    --hash=sha256:")
    assert environments.pins("tiny") == {"tiny": "2.0"}


def test_requirement_that_cannot_be_met_leaves_the_lock_alone(engines: TinyEngine) -> None:
    lock = engines.folder / "tiny" / "env" / "requirements.lock"
    before = lock.read_text()
    lock.with_name("requirements.in").write_text("tiny==9\n")
    with pytest.raises(StageFailed, match="cannot compile the lock of tiny"):
        locks.compile_lock("tiny", print)
    assert lock.read_text() == before


# The engines' own locks


def test_engines_of_every_machine_share_one_torch() -> None:
    assert environments.names() == ["alignment", "llamafactory", "lmms_eval", "trackers", "verl", "vllm"]
    usual = [name for name in environments.names() if not environments.describe(name).optional]
    assert usual == ["alignment", "llamafactory", "lmms_eval", "verl"]
    for package in ("torch", "torchvision"):
        assert len({environments.pins(name)[package] for name in usual}) == 1


def test_both_inference_servers_prepare_prompts_with_one_transformers() -> None:
    assert environments.pins("vllm")["transformers"] == environments.pins("alignment")["transformers"]


LOCKS = [lock for name in environments.names() for lock in environments.lock_files(name)]


def pinned(lock: Path) -> dict[str, str]:
    lines = [line.split()[0].split("==") for line in lock.read_text().splitlines() if "==" in line.split(" ")[0]]
    return dict(reversed(lines))


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: f"{lock.parent.parent.name}/{lock.name}")
def test_locks_name_no_address_and_hash_every_package(lock: Path) -> None:
    text = lock.read_text()
    assert "://" not in text
    for requirement in text.replace("\\\n", " ").splitlines():
        assert "--hash=sha256:" in requirement


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: f"{lock.parent.parent.name}/{lock.name}")
def test_locks_pin_what_is_wanted(lock: Path) -> None:
    pins = pinned(lock)
    for line in lock.with_suffix(".in").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            package, _, version = line.partition("==")
            package = package.split("[")[0].strip()
            assert package in pins, f"{lock}: {package} is wanted but not locked"
            assert version in ("", pins[package])


@pytest.mark.parametrize("gpus", [(), ("a GPU",)], ids=["no GPU", "a GPU"])
def test_verl_has_its_rollout_engine_where_there_is_a_gpu(
    gpus: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = environments.locate("verl").folder
    versions = {name: environments.pins("verl")[name] for name in ("verl", "torch", "transformers", "math-verify")}
    monkeypatch.setattr(lineage, "gpu_names", lambda: gpus)
    assert ("vllm" in environments.pins("verl")) == ("vllm" in environments.describe("verl").imports) == bool(gpus)
    assert (environments.locate("verl").folder != usual) == bool(gpus)
    assert {name: environments.pins("verl")[name] for name in versions} == versions
    assert environments.lock_file("alignment").name == "requirements.lock"


def test_descriptions_are_complete() -> None:
    for name in environments.names():
        described = environments.describe(name)
        assert described.imports
        assert described.disk_mb > described.beside_mb > 0
