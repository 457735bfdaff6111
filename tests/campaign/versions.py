"""Run the torch tests with the oldest and the newest torch and transformers that the alignment engine works with.

    python tests/campaign/versions.py [--only 2.13/5.9] [--keep] [-- PYTEST ARGUMENTS]

Each corner gets an environment of its own in prism's cache: the engine's `requirements.in`, with other versions of
torch, torchvision and transformers, everything else as the index has it. Prints a row per corner, keeps each one's log
beside its environment, and removes the environments unless told to keep them. Exits with 1 when a test fails.
One thread; about ten minutes a corner, and several gigabytes for a torch that uv does not have yet.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from prism_cli.engines.environments import cache_folder, run_uv

TOP = Path(__file__).resolve().parents[2]
WANTED = TOP / "integrations" / "alignment" / "env" / "requirements.in"
TORCHVISION = {"2.11": "0.26", "2.13": "0.28"}
"""The release that belongs to each torch."""
CORNERS = tuple((torch, transformers) for torch in TORCHVISION for transformers in ("5.9", "5.19"))


@dataclass(frozen=True)
class Corner:
    """Versions, and what came of the tests."""

    torch: str
    transformers: str

    @property
    def name(self) -> str:
        return f"{self.torch}/{self.transformers}"

    @property
    def folder(self) -> Path:
        return cache_folder() / "versions" / f"torch-{self.torch}-transformers-{self.transformers}"

    def beside(self, ending: str) -> Path:
        """A file of this corner that stays when its environment goes."""
        return self.folder.with_name(self.folder.name + ending)

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def requirements(self) -> str:
        """The engine's own, in these versions."""
        versions = {
            "torch": self.torch,
            "torchvision": TORCHVISION[self.torch],
            "transformers": self.transformers,
        }
        text = WANTED.read_text(encoding="utf-8")
        for package, version in versions.items():
            text, found = re.subn(rf"^{package}==.*$", f"{package}=={version}.*", text, flags=re.MULTILINE)
            if found != 1:
                raise SystemExit(f"{WANTED} does not pin {package}")
        return text


def build(corner: Corner) -> None:
    """Make the corner's environment, or complete one that was kept."""
    corner.folder.parent.mkdir(parents=True, exist_ok=True)
    wanted = corner.beside(".txt")
    wanted.write_text(corner.requirements, encoding="utf-8")
    lines: list[str] = []
    if not corner.python.exists():
        run_uv(["venv", "--no-project", "--python", sys.executable, str(corner.folder)], lines.append)
    if run_uv(["pip", "install", "--python", str(corner.python), "-r", str(wanted)], lines.append) != 0:
        raise SystemExit(f"cannot build {corner.name}:\n" + "\n".join(lines[-20:]))


def run(corner: Corner, arguments: list[str]) -> tuple[int, list[str]]:
    """Run the tests; exit code and a row of the table."""
    log = corner.beside(".log")
    command = [str(corner.python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *(arguments or ["tests/torch"])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    started = time.monotonic()
    with log.open("wb") as output:
        done = subprocess.run(command, cwd=TOP, env=environment, stdout=output, stderr=output, check=False)
    seconds = time.monotonic() - started
    text = log.read_text(encoding="utf-8", errors="replace")
    for line in re.findall(r"^(?:FAILED|ERROR) .*$", text, re.MULTILINE):
        print(f"{corner.name}: {line}")
    counts = [(re.findall(rf"(\d+) {word}", text) or ["0"])[-1] for word in ("passed", "failed", "errors?")]
    versions = [_installed(corner, package) for package in ("torch", "transformers")]
    return done.returncode, [*versions, *counts, f"{seconds:.0f}"]


def _installed(corner: Corner, package: str) -> str:
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    return subprocess.run([corner.python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", help="a corner, e.g. 2.13/5.9; may be given again")
    parser.add_argument("--keep", action="store_true", help="keep the environments for the next time")
    parser.add_argument("pytest", nargs="*", help="arguments of pytest in place of tests/torch")
    options = parser.parse_args()
    corners = [Corner(*names) for names in CORNERS]
    chosen = [corner for corner in corners if not options.only or corner.name in options.only]
    if not chosen:
        raise SystemExit(f"choose one of: {', '.join(corner.name for corner in corners)}")
    rows, failed = [["torch", "transformers", "passed", "failed", "errors", "s"]], False
    for corner in chosen:
        build(corner)
        code, row = run(corner, options.pytest)
        failed |= code != 0
        rows.append(row)
        if not options.keep:
            shutil.rmtree(corner.folder)
    for row in rows:
        print("  ".join(cell.rjust(12) for cell in row))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
