"""Prism's side of the harness: what it is, what a job says, what came of it.

    path = write_job(folder / "job.json", server=..., cells=[...], images=..., progress=folder / "progress.jsonl")
    run(launch(path), environment, ...)              follow with JsonlTail
    problem = check_cell(cell_folder, facts)

The harness's exit code is not trusted: a cell counts when its files are there, whole, new and what was asked for.
Imports neither the engine nor anything heavy.
"""

from __future__ import annotations

import ast
import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from integrations.common.files import hash_file, hash_json, read_json
from integrations.contract import Launch
from integrations.errors import BadInput
from integrations.lmms_eval import job as jobs
from integrations.lmms_eval.job import CellJob, Job, Mode, Server

ENGINE = "lmms_eval"
ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds our packages."""
TASKS = ROOT / "benchmarks" / "suites" / "tasks"

_LOCK = Path(__file__).parent / "env" / "requirements.lock"
_VERSION = re.compile(r"^lmms-eval==(\S+)", re.MULTILINE)
_FUNCTION = re.compile(r"!function\s+([\w.]+)\.\w+")
_INCLUDE = re.compile(r"^include:\s*(\S+)", re.MULTILINE)
_DATASET = re.compile(r"^dataset_path:\s*(\S+)", re.MULTILINE)


def harness_facts() -> dict[str, str]:
    """`name`, `version` and `lock` (sha256 of the environment's lock), for `cell_facts`."""
    found = _VERSION.search(_LOCK.read_text(encoding="utf-8"))
    assert found is not None, f"{_LOCK} has no lmms-eval"
    return {"name": "lmms-eval", "version": found[1], "lock": hash_file(_LOCK)}


def task_hash(task: str, folder: Path = TASKS) -> str:
    """sha256 over what makes a task's prompts and verdicts: its YAML file, those it includes, and every module of ours
    that their functions come from or import. Upstream's part of it is in the harness's lock.

    Args:
        folder: of task definitions.

    Raises:
        BadInput: no file defines the task.
    """
    texts = _sources(task, folder)
    names = {path: str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name for path in texts}
    return hash_json({names[path]: text for path, text in texts.items()})


def reads_pool(task: str, folder: Path = TASKS) -> bool:
    """Whether the task has no published data set, and asks the items of a pool that each evaluation names."""
    return _dataset_path(task, folder) == "pool"


def local_dataset(data: Path, task: str, folder: Path = TASKS) -> dict[str, str]:
    """A task's data among local copies.

    Args:
        data: folder that holds them as `<task>.parquet`, `<task>/`, or by the data set's name on the Hub,
            `<owner>/<name>/` or `<name>/`.

    Raises:
        BadInput: none of these is there.
    """
    published = _dataset_path(task, folder)
    names = [f"{task}.parquet", task, published, published.split("/")[-1]]
    for name in names:
        if (data / name).exists():
            return {"path": str((data / name).absolute())}
    raise BadInput(
        f"{data} has no data for {task}: looked for {', '.join(names)}",
        f"`hf download {published} --repo-type dataset --local-dir {data / published}` where there is a network",
    )


def _dataset_path(task: str, folder: Path) -> str:
    """Of the definition itself, or the nearest one that it includes."""
    for path, text in _sources(task, folder).items():
        if path.suffix == ".yaml" and (found := _DATASET.search(text)):
            return found[1]
    raise BadInput(f"task {task} names no data set", f"write its `dataset_path` into its file in {folder}")


def _sources(task: str, folder: Path) -> dict[Path, str]:
    """The files that make a task, the definition first."""
    name = re.compile(rf"^task: {re.escape(task)}\s*$", re.MULTILINE)
    waiting = [path for path in sorted(folder.rglob("*.yaml")) if name.search(path.read_text(encoding="utf-8"))]
    if not waiting:
        raise BadInput(f"there is no task `{task}`", f"see {folder}")
    seen: dict[Path, str] = {}
    for path in waiting:  # grows on the way
        if path in seen or not path.is_file():
            continue
        seen[path] = path.read_text(encoding="utf-8")
        if path.suffix == ".yaml":
            waiting += [path.parent / included for included in _INCLUDE.findall(seen[path])]
            names = _FUNCTION.findall(seen[path])
            waiting += [path.parent / f"{module}.py" for module in names]
        else:
            names = _imported(seen[path])
        waiting += [ROOT.joinpath(*module.split(".")).with_suffix(".py") for module in names]
    return seen


def _imported(source: str) -> list[str]:
    """Dotted names that a module imports: modules, or things in them."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


def write_job(
    path: Path,
    *,
    server: Mapping[str, Any] | None,
    cells: Sequence[Mapping[str, Any]],
    images: Path,
    progress: Path,
    online: bool = False,
    mode: Mode = "evaluate",
) -> Path:
    """Write the job file of one start of the harness (see `integrations.lmms_eval.job`).

    Args:
        path: in a folder of this start alone.
        server: fields of `job.Server`; None when rescoring.
        cells: each with `folder`, `facts` and `dataset`.
        images: folder of the previews, shared by all cells of a store.
        progress: file that grows while responses arrive.
        online: published data sets may be fetched.

    Returns:
        The job file.
    """
    path = path.absolute()
    job = Job(
        mode,
        None if server is None else Server(**server),
        [CellJob(**cell) for cell in cells],
        str(images.absolute()),
        str(path.parent / "scratch"),
        str(progress.absolute()),
        online,
    )
    jobs.write(path, job)
    return path


def launch(path: Path, tasks: Sequence[Path] = ()) -> Launch:
    """The command that does a job.

    Args:
        path: of the job file.
        tasks: further folders of task definitions.
    """
    job = jobs.read(path)
    env = {
        "OMP_NUM_THREADS": "1",
        "TQDM_DISABLE": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "LOGURU_LEVEL": "WARNING",
    }
    if job.online:
        env["HF_HUB_OFFLINE"] = os.environ.get("HF_HUB_OFFLINE") or ("0" if hub_answers() else "1")
    if job.server is not None and job.server.api_key_env:
        env[job.server.api_key_env] = os.environ.get(job.server.api_key_env, "")
    argv = ["python", "-m", "benchmarks.evaluate", "--job", str(path)]
    for folder in tasks:
        argv += ["--tasks", str(folder)]
    return Launch(ENGINE, argv, env, ("integrations", "benchmarks"), "evaluation")


def hub_answers(seconds: float = 5.0) -> bool:
    """Whether the Hub (HF_ENDPOINT) can be reached: where it cannot, every data set would be waited for in vain for two
    minutes, those that are on this machine as well."""
    request = urllib.request.Request(os.environ.get("HF_ENDPOINT", "https://huggingface.co"), method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=seconds).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


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
