"""Prism's side of the harness: what it is, what a job says, what came of it.

    job = job_for(...); path = write_job(folder, job)
    run(launch(path), environment, ...)              follow with JsonlTail(folder / PROGRESS)
    problem = check_cell(cell_folder, facts, since)

The harness's exit code is not trusted: a cell counts when its files are there, whole, new and what was asked for.
Imports neither the engine nor anything heavy.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from integrations.common.files import hash_file, hash_json, read_json
from integrations.contract import Launch
from integrations.errors import BadInput
from integrations.lmms_eval import job as jobs
from integrations.lmms_eval.job import CellJob, Job, Mode, Server

ENGINE = "lmms_eval"
JOB = "job.json"
PROGRESS = "progress.jsonl"

_LOCK = Path(__file__).parent / "env" / "requirements.lock"
_VERSION = re.compile(r"^lmms-eval==(\S+)", re.MULTILINE)
_FUNCTION = re.compile(r"!function\s+([\w.]+)\.\w+")
_INCLUDE = re.compile(r"^include:\s*(\S+)", re.MULTILINE)
_IMPORT = re.compile(r"^\s*(?:from\s+([\w.]+)\s+import\s+([\w, ]+)|import\s+([\w.]+))", re.MULTILINE)
_OURS = ("benchmarks", "integrations")


def harness_facts() -> dict[str, str]:
    """`name`, `version` and `lock` (sha256 of the environment's lock), for `cell_facts`."""
    found = _VERSION.search(_LOCK.read_text(encoding="utf-8"))
    assert found is not None, f"{_LOCK} has no lmms-eval"
    return {"name": "lmms-eval", "version": found[1], "lock": hash_file(_LOCK)}


def task_hash(task: str, folders: Sequence[Path], root: Path) -> str:
    """sha256 over what makes a task's prompts and verdicts: its YAML file, those it includes, and every module of ours
    that their functions come from or import. Upstream's part of it is in the harness's lock.

    Args:
        folders: of task definitions.
        root: the folder that holds our packages.

    Raises:
        BadInput: no file defines the task.
    """
    definitions = {
        path: path.read_text(encoding="utf-8") for folder in folders for path in sorted(folder.rglob("*.yaml"))
    }
    start = [path for path, text in definitions.items() if re.search(rf"^task: {re.escape(task)}\s*$", text, re.M)]
    if not start:
        raise BadInput(f"there is no task `{task}`", f"see {', '.join(map(str, folders))}")
    waiting, seen = start, {}
    while waiting:
        path = waiting.pop()
        if path in seen or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8")
        seen[path] = text
        waiting += [path.parent / name for name in _INCLUDE.findall(text)] if path.suffix == ".yaml" else []
        names = _FUNCTION.findall(text) if path.suffix == ".yaml" else _imported(text)
        waiting += [root.joinpath(*name.split(".")).with_suffix(".py") for name in names if name.startswith(_OURS)]
    return hash_json(
        {path.name if path.suffix == ".yaml" else str(path.relative_to(root)): seen[path] for path in seen}
    )


def _imported(source: str) -> list[str]:
    """Dotted names of modules that a module may import."""
    names = []
    for package, things, module in _IMPORT.findall(source):
        names += [module] if module else [package, *(f"{package}.{thing.strip()}" for thing in things.split(","))]
    return names


def write_job(folder: Path, *, mode: Mode, server: Server | None, cells: Sequence[CellJob], images: Path) -> Path:
    """Write the job file of one start of the harness.

    Args:
        folder: of this start alone: job, progress, log. Created.
        images: folder of the previews, shared by all cells of a store.

    Returns:
        The job file; progress appears in `PROGRESS` beside it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    job = Job(
        mode, server, list(cells), str(images.absolute()), str((folder / "scratch").absolute()),
        str((folder / PROGRESS).absolute()),
    )  # fmt: skip
    path = folder.absolute() / JOB
    jobs.write(path, job)
    return path


def launch(path: Path, tasks: Sequence[Path] = ()) -> Launch:
    """The command that does a job.

    Args:
        tasks: further folders of task definitions.
    """
    job = jobs.read(path)
    env = {
        "OMP_NUM_THREADS": "1",
        "TQDM_DISABLE": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "LOGURU_LEVEL": "WARNING",
    }
    if any(cell.dataset is None for cell in job.cells):  # published data sets may have to be fetched
        env["HF_HUB_OFFLINE"] = os.environ.get("HF_HUB_OFFLINE", "0")
    if job.server is not None and job.server.api_key_env:
        env[job.server.api_key_env] = os.environ.get(job.server.api_key_env, "")
    argv = ["python", "-m", "benchmarks.evaluate", "--job", str(path)]
    for folder in tasks:
        argv += ["--tasks", str(folder)]
    return Launch(ENGINE, argv, env, ("integrations", "benchmarks"), "evaluation")


def check_cell(folder: Path, facts: Mapping[str, Any], since: float = 0.0) -> str | None:
    """What is wrong with a cell that should be finished; None when nothing is.

    Args:
        facts: `cell_facts` of what was asked.
        since: the cell must be newer than this (seconds since the epoch).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    cell, samples = folder / "cell.json", folder / "samples.parquet"
    found = read_json(cell)
    if not isinstance(found, dict):
        return "there is no finished cell"
    if cell.stat().st_mtime < since:
        return "the cell is an old one"
    for name, value in facts.items():
        if name != "judge" and found.get(name) != value:
            return f"`{name}` is {json.dumps(found.get(name))}, not {json.dumps(value)}"
    try:
        rows = pq.read_metadata(samples).num_rows
    except (OSError, pa.ArrowException) as error:
        return f"its samples cannot be read: {error}"
    wanted = found.get("items", 0) * facts["samples_per_item"]
    return None if rows == wanted > 0 else f"it has {rows} responses, not {wanted}"


_CAUSES = (
    (
        r"No space left on device|Errno 28|Errno 122|Disk quota exceeded",
        "the disk is full",
        "free some space and run the same command: finished responses are kept",
    ),
    (
        r"OfflineModeIsEnabled|LocalEntryNotFoundError|outgoing traffic has been disabled|Couldn't reach",
        "a data set is not on this machine, and the Hub cannot be reached",
        "run it once with a network connection and without HF_HUB_OFFLINE, or name a local copy of the data set",
    ),
    (
        r"GatedRepoError|401 Client Error|403 Client Error",
        "the Hub does not give out a data set without permission",
        "accept its terms on the Hub and log in (HF_TOKEN)",
    ),
    (
        r"out of memory|MemoryError",
        "there is not enough memory",
        "ask fewer items at once, or use a machine with more memory",
    ),
)  # fmt: skip


def explain(log_tail: str) -> tuple[str, str] | None:
    """Cause and fix of a failure seen in the log's last lines, or None. The worker's own account comes first."""
    told = re.findall(r"^error: (.+)\nfix: (.*)$", log_tail, re.MULTILINE)
    if told:
        problem, fix = told[0]
        more = f" (and {len(told) - 1} more)" if len(told) > 1 else ""
        return problem + more, fix
    return next(((cause, fix) for pattern, cause, fix in _CAUSES if re.search(pattern, log_tail)), None)


def explain_cells(log: str) -> dict[str, tuple[str, str]]:
    """The worker's account of each cell that it could not finish: folder -> (problem, fix)."""
    told = re.findall(r"^error: (/.+?): (.+)\nfix: (.*)$", log, re.MULTILINE)
    return {folder: (problem, fix) for folder, problem, fix in told}
