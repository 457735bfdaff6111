"""Local copies of the benchmarks' data sets, for machines without the Hub: the layout of `--data DIR`.

For each task the first of these that exists is read:

    DIR/<task>                  a folder that `datasets.load_dataset` reads, e.g. with data/validation-*.parquet in it
    DIR/<task>.parquet          one file
    DIR/<owner>/<name>          a copy of the Hub's repository, as its task names it, made by
                                hf download <owner>/<name> --repo-type dataset --local-dir DIR/<owner>/<name>

`python tests/fixtures/benchmarks.py DIR`, in the lmms_eval environment, makes miniature data sets in that layout.
"""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.suites import TASKS
from integrations.errors import BadInput

_DATASET = re.compile(r"^dataset_path:\s*(\S+)", re.MULTILINE)


def repository(task: str, folder: Path = TASKS) -> str | None:
    """The Hub's data set that a task names, `owner/name`; None for a task of ours without one.

    Raises:
        BadInput: there is no such task.
    """
    path = folder / f"{task}.yaml"
    if not path.is_file():
        raise BadInput(f"there is no task `{task}`", f"tasks are the files {folder}/prism_*.yaml")
    named = _DATASET.search(path.read_text(encoding="utf-8"))
    return named.group(1) if named and "/" in named.group(1) else None


def local_dataset(data: Path, task: str) -> Path:
    """The local copy of a task's data set below a folder.

    Raises:
        BadInput: there is no such task, no such folder, or no copy in it.
    """
    named = repository(task)
    if not data.is_dir():
        raise BadInput(f"--data {data} is not a folder", "name the folder that holds the copies of the data sets")
    candidates = [data / task, data / f"{task}.parquet", *([data / named] if named else [])]
    for candidate in candidates:
        if candidate.exists():
            return candidate.resolve()
    copy = f"`hf download {named} --repo-type dataset --local-dir {data / named}`" if named else "put it there"
    looked = ", ".join(candidate.relative_to(data).as_posix() for candidate in candidates)
    raise BadInput(f"--data {data} has no copy of the data set of {task}; looked for {looked}", copy)
