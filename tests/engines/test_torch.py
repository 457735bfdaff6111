"""Runs tests/torch, the tests of the alignment engine's own code, where there is torch."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from prism_cli.engines.environments import Environment

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.engine
def test_the_torch_tests_pass_in_the_alignment_environment(alignment_env: Environment, not_run: list[str]) -> None:
    command = [str(alignment_env.python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/torch"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    not_run += [line for line in done.stdout.splitlines() if "GPU: not run: " in line]
