"""Evaluates the cells of a job (`integrations.lmms_eval.job`) into the samples store.

    python -m benchmarks.evaluate --job job.json [--tasks FOLDER]

Runs in the lmms_eval environment; `prism eval` writes the job and starts this. Exit code 1 when a cell could not be
finished, with two lines for each: `error: <folder>: <problem>` and `fix: <what to do>`.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.samples import Cell, read_cell, write_cell
from benchmarks.suites import TASKS
from integrations.errors import PrismError
from integrations.lmms_eval import job as jobs


class SamplesStore:
    """The store as the worker sees it."""

    def read(self, folder: Path) -> Cell | None:
        return read_cell(folder)

    def write(self, folder: Path, rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> None:
        write_cell(folder, rows, facts)


def main() -> int:
    parser = argparse.ArgumentParser(description="Evaluate the cells of a job.")
    parser.add_argument("--job", type=Path, required=True, help="JSON file, see integrations/lmms_eval/job.py")
    parser.add_argument("--tasks", type=Path, action="append", default=[], help="a further folder of tasks")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the scratch folder is removed
    try:
        job = jobs.read(given.job)
    except PrismError as error:
        print(f"error: {error.problem}\nfix: {error.fix}", flush=True)
        return error.exit_code
    from integrations.lmms_eval.inside.worker import work

    try:
        failed = work(job, [TASKS, *given.tasks], SamplesStore())
    finally:
        shutil.rmtree(job.scratch, ignore_errors=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
