"""`prism compare` on 10 models, 7 benchmarks of 4,000 items and 10,000 resamples, on two cores.

From cells in memory to every interval and p value. One side has independent items with one response each, the other
groups of four items and three training seeds, for three times the cells.
"""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.perf._timing import Options, main, result, take_turns

ENGINE = None
ROUNDS = 3
MODELS, BENCHMARKS, ITEMS, RESAMPLES, CORES = 10, 7, 4_000, 10_000, 2


def measure(options: Options) -> dict[str, Any]:
    cores = sorted(os.sched_getaffinity(0))[:CORES]
    os.sched_setaffinity(0, cores)  # before numpy is loaded, so that its threads are as many
    from benchmarks.compare import compare

    sides = {
        "independent items": partial(compare, cells(seeds=1, group=1), resamples=RESAMPLES),
        "groups of 4, 3 training seeds": partial(compare, cells(seeds=3, group=4), resamples=RESAMPLES),
    }
    rounds = options.rounds or ROUNDS
    started = time.process_time()
    times = take_turns(sides, rounds)
    spent = (time.process_time() - started) / (rounds + 1)
    facts: dict[str, Any] = {
        "models": MODELS,
        "benchmarks": BENCHMARKS,
        "items": ITEMS,
        "resamples": RESAMPLES,
        "cores": len(cores),
    }
    facts["processor_seconds_of_both"] = round(spent, 2)  # what other load on the machine does not change
    return result(times, {}, **facts)


def cells(seeds: int, group: int) -> list[Any]:
    """Cells in memory: models of rising skill on items of the same difficulties."""
    import numpy as np

    from benchmarks.samples import Cell

    random = np.random.default_rng(0)
    difficulty = random.random((BENCHMARKS, ITEMS))
    found = []
    for model in range(MODELS):
        label = "baseline/rlvr" if model == 0 else f"model-{model}/rlvr"
        for seed in range(seeds):
            for benchmark in range(BENCHMARKS):
                right = random.random(ITEMS) < difficulty[benchmark] ** (1 - model / 40)
                facts = _facts(label, benchmark, seed)
                found.append(Cell(Path(label), facts, _table(right, benchmark, group, random.integers(9, 999, ITEMS))))
    return found


def _facts(label: str, benchmark: int, seed: int) -> dict[str, Any]:
    from benchmarks.samples import cell_facts

    task = f"task-{benchmark}"
    facts = cell_facts(
        model={"label": label, "weights_hash": f"{label}-{seed}"},
        suite="measured",
        benchmark=task,
        task=task,
        protocol={"name": "greedy", "temperature": 0.0, "top_p": 1.0, "top_k": 0, "max_new_tokens": 1000},
        decoding_seed=0,
        training_seed=seed,
        samples_per_item=1,
        limit=None,
        task_hash=task,
        harness={"name": "none", "version": "0", "lock": ""},
        server={},
    )
    return {**facts, "dataset_hash": task, "items": ITEMS}


def _table(right: Any, benchmark: int, group: int, tokens: Any) -> Any:
    import pyarrow as pa

    from benchmarks.samples import SCHEMA

    columns: dict[str, Any] = {
        "item_id": [f"{benchmark}-{item:06d}" for item in range(ITEMS)],
        "group_id": [f"{benchmark}-{item // group}" if group > 1 else None for item in range(ITEMS)],
        "sample": [0] * ITEMS,
        "prompt_hash": [f"{item:064x}" for item in range(ITEMS)],
        "answer": ["A"] * ITEMS,
        "correct": right,
        "rule": ["exact"] * ITEMS,
        "format": [True] * ITEMS,
        "tokens": tokens,
        "truncated": [False] * ITEMS,
    }
    arrays = [pa.array(columns.get(field.name, [None] * ITEMS), type=field.type) for field in SCHEMA]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


if __name__ == "__main__":
    main(measure)
