"""The manifest: what every result of a run was made from, so that a stranger can trace it.

It holds no personal data: no user or host name, no absolute path, nothing from the environment.
"""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import version
from itertools import takewhile
from pathlib import Path
from typing import Any

from integrations.common.files import hash_file, hash_json
from prism_cli.engines import environments
from prism_cli.pipeline.plan import DATA, Plan
from prism_cli.runs.store import RunStore

FORMAT = 1


def manifest_of(store: RunStore, plan: Plan, recipe: Any, options: dict[str, Any], seed: int) -> dict[str, Any]:
    """The run's manifest as it stands.

    Args:
        options: the choices the recipe was resolved from (name, profile, changed fields).
    """
    records = {name: store.stage(name).done() for name in plan.nodes}
    stages = {name: _lineage(record) for name, record in records.items() if record}
    earlier = store.manifest()
    data = records.get(DATA) or {}
    return {
        "format": FORMAT,
        "run": store.name,
        "seed": seed,
        "recipe": {"name": recipe.name, "hash": hash_json(recipe.model_dump(mode="json")), **options},
        "arms": {arm: list(names) for arm, names in plan.arms.items()},
        "stages": {**earlier.get("stages", {}), **stages},
        "data": {"hash": data.get("hash"), "rows": data.get("result", {}).get("rows")},
        "engines": {name: _engine(name) for name in environments.names()},
        "code": code_version(),
        "machine": machine_facts(),
    }


def _lineage(record: dict[str, Any]) -> dict[str, Any]:
    kept = ("kind", "arms", "hash", "parents", "inputs_hash", "seconds", "finished")
    return {key: record[key] for key in kept} | {"step": record["result"]["step"]}


def _engine(name: str) -> dict[str, str]:
    environment = environments.locate(name)
    return {"key": environment.key, "lock_sha256": hash_file(environments.lock_file(name))}


@cache
def code_version() -> dict[str, Any]:
    """prism's own version, and the commit where it runs from a checkout."""
    facts: dict[str, Any] = {"prism": version("prism-suite")}
    root = Path(__file__).resolve().parents[2]
    if (root / ".git").exists():
        facts["commit"] = _git(root, "rev-parse", "HEAD")
        facts["dirty"] = bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    return facts


def _git(root: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@cache
def machine_facts() -> dict[str, Any]:
    """Kind and size of the machine, not whose it is."""
    import psutil

    return {
        "system": platform.system(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": gpu_names(),
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


@cache
def gpu_names() -> tuple[str, ...]:
    """The GPUs that this process may use, by product name; empty on a CPU machine."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return ()
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    names = tuple(line.strip() for line in done.stdout.splitlines() if line.strip()) if done.returncode == 0 else ()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return names if visible is None else names[: shown(visible)]


def shown(visible: str) -> int:
    """How many devices CUDA_VISIBLE_DEVICES shows: those before the first that is none (CUDA's own rule), as `-1`."""
    return len(list(takewhile(lambda one: one.strip() and not one.strip().startswith("-"), visible.split(","))))
