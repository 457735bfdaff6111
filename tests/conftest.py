"""Fixtures that several parts of the tests share: the engines' environments, built on first use in the real cache."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from prism_cli.engines.environments import Environment

# tests/torch runs in the alignment environment (see tests/engines/test_torch.py), the rest in prism's own.
collect_ignore = [] if importlib.util.find_spec("transformers") else ["torch"]

NOT_RUN = pytest.StashKey[list[str]]()
"""One line for each test that would have run, had there been GPUs."""


def gpus() -> int:
    """How many GPUs the tests may use, asked of the driver's own tool: nothing here initialises one."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        told = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError:
        return 0
    found = sum(line.startswith("GPU ") for line in told.stdout.splitlines())
    chosen = [one for one in (visible or "").split(",") if one.strip() and not one.strip().startswith("-")]
    return found if visible is None else min(found, len(chosen))


def pytest_configure(config: pytest.Config) -> None:
    config.stash[NOT_RUN] = []


@pytest.hookimpl(trylast=True)  # after -m and -k, so that only what was asked for is named
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests that need more GPUs than there are; deselected, not skipped, since a skip looks like a pass."""
    needed = {item: (marker.args or (1,))[0] for item in items if (marker := item.get_closest_marker("gpu"))}
    have = gpus() if needed else 0
    left_out = [item for item, count in needed.items() if count > have]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]
    why = f"{have} GPU" if have else "no GPU"
    config.stash[NOT_RUN] += [f"{why}: not run: {item.nodeid}" for item in left_out]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if lines := config.stash[NOT_RUN]:
        terminalreporter.section("tests that need GPUs")
        for line in lines:
            terminalreporter.line(line)


@pytest.fixture
def not_run(request: pytest.FixtureRequest) -> list[str]:
    """What is said at the end of tests that were left out, for a test that runs others in another environment."""
    return request.config.stash[NOT_RUN]


def _built(name: str) -> Environment:
    # Imported here because the tests in tests/torch run in an environment that has none of prism's dependencies.
    from prism_cli.engines.environments import ensure

    return ensure(name, print)


@pytest.fixture(scope="session")
def alignment_env() -> Environment:
    return _built("alignment")


@pytest.fixture(scope="session")
def llamafactory_env() -> Environment:
    return _built("llamafactory")


@pytest.fixture(scope="session")
def verl_env() -> Environment:
    return _built("verl")


@pytest.fixture(scope="session")
def lmms_eval_env() -> Environment:
    return _built("lmms_eval")


class TinyEngine:
    """An engine `tiny` with one tiny package, which comes from a folder instead of a package index."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "integrations"
        self.index = folder / "index"
        self.index.mkdir()
        self.lock("tiny", "tiny==1.0", self.package("1.0"))

    def package(self, version: str) -> str:
        """Write the package, which has a console script `tiny`. Returns its sha256."""
        path = self.index / f"tiny-{version}-py3-none-any.whl"
        info = f"tiny-{version}.dist-info"
        with zipfile.ZipFile(path, "w") as wheel:
            wheel.writestr("tiny.py", f"def main():\n    print('tiny {version}')\n")
            wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny\nVersion: {version}\n")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/entry_points.txt", "[console_scripts]\ntiny = tiny:main\n")
            wheel.writestr(f"{info}/RECORD", "")
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def lock(self, engine: str, requirement: str, digest: str) -> None:
        """Define an engine with one pinned package and a need of 1 MB."""
        folder = self.folder / engine / "env"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "requirements.lock").write_text(f"{requirement} \\\n    --hash=sha256:{digest}\n")
        imports = json.dumps([requirement.split("==")[0]])
        (folder / "environment.toml").write_text(f"imports = {imports}\ndisk_mb = 1\nbeside_mb = 1\n")


@pytest.fixture
def tiny_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TinyEngine:
    """The only engine that prism knows, with empty caches in folders with a space in their names."""
    from prism_cli.engines import environments

    tiny = TinyEngine(tmp_path)
    for name in [name for name in os.environ if name.startswith(("UV_", "PIP_", "PRISM_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(environments, "definitions", lambda: tiny.folder)
    monkeypatch.setenv("PRISM_CACHE", str(tmp_path / "my cache"))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv cache"))
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.setenv("UV_FIND_LINKS", str(tiny.index))
    return tiny
