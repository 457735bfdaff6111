"""The job file: what one start of the harness is asked to do, agreed between prism and the worker in the environment.

{"mode": "evaluate",                    or "rescore": no server, recorded responses are scored anew
 "server": {"url": "http://127.0.0.1:8000/v1", "model": "policy", "concurrency": 16, "api_key_env": null,
            "patience": 60, "timeout": 1800},         null when rescoring
 "cells": [{"folder": "/.../prism_digits/greedy-s0",
            "facts": {...},             benchmarks.samples.cell_facts: task, protocol, seeds and the rest
            "dataset": {"pool": "/.../test.jsonl"}}],   {"path": file or folder}; null: the data set that the task names
 "images": "/.../eval/images",          previews
 "scratch": "/.../scratch",             a folder of this job alone; removed at the end
 "online": false,                       published data sets may be fetched
 "progress": "/.../progress.jsonl"}     {"step": responses so far, "total": of all cells, "cell": folder}, appended

Cells are evaluated in their order and written one by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from integrations.common.files import read_json, write_json
from integrations.errors import BadInput

Mode = Literal["evaluate", "rescore"]


@dataclass(frozen=True)
class Server:
    """An OpenAI-compatible server."""

    url: str
    """Base address, up to and with `/v1`."""
    model: str
    """The name that requests ask for."""
    concurrency: int = 16
    """Requests under way at once; results do not depend on it."""
    api_key_env: str | None = None
    """Environment variable that holds the key; None, or not set: no key."""
    patience: float = 60.0
    """Seconds for which a request that fails is tried again before the job gives up."""
    timeout: float = 1800.0
    """Seconds after which a response that has not come counts as failed."""


@dataclass(frozen=True)
class CellJob:
    """One cell to evaluate."""

    folder: str
    facts: Mapping[str, Any]
    """`benchmarks.samples.cell_facts`."""
    dataset: Mapping[str, str] | None = None
    """Local data instead of the data set that the task names: `pool`, rows as in `integrations.common.rows`, or `path`,
    a parquet file or a folder that `datasets` reads."""

    @property
    def task(self) -> str:
        return str(self.facts["task"])

    @property
    def source(self) -> str | None:
        """Where the local data are."""
        return None if self.dataset is None else self.dataset.get("pool") or self.dataset["path"]

    @property
    def style(self) -> str:
        """How the prompt is worded: `format` or `native`."""
        return str(self.facts["protocol"]["prompt"])


@dataclass(frozen=True)
class Job:
    """See this module's documentation. All paths are absolute."""

    mode: Mode
    server: Server | None
    cells: list[CellJob]
    images: str
    scratch: str
    progress: str
    online: bool = False


def write(path: Path, job: Job) -> None:
    write_json(path, asdict(job))


def read(path: Path) -> Job:
    """Raises BadInput when the file is not a job."""
    content: Any = read_json(path)
    try:
        server = Server(**content["server"]) if content["server"] else None
        cells = [CellJob(**cell) for cell in content["cells"]]
        job = Job(**{**content, "server": server, "cells": cells})
    except (TypeError, KeyError) as error:
        raise BadInput(f"{path} is not a job: {error!r}", "run `prism eval` again") from error
    if (job.mode == "evaluate") != (job.server is not None):
        raise BadInput(f"{path}: a job that evaluates needs a server, and rescoring none", "run `prism eval` again")
    return job
