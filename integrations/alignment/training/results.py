"""A stage's result on disk: weights and `result.json`, written aside and renamed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from integrations.alignment.data.pool import TeacherPool
from integrations.alignment.job import Job
from integrations.alignment.names import RESULT
from integrations.alignment.training.checkpoints import place
from integrations.alignment.training.world import World
from integrations.common.files import flush, write_json


def write_result(
    job: Job,
    step: int,
    generated_tokens: int,
    pool: TeacherPool,
    metrics: Mapping[str, float],
    facts: Mapping[str, object],
    save_weights: Callable[[Path], object],
    world: World,
) -> None:
    """Write the weights and what the adapter needs to judge them, from the first process.

    Args:
        metrics: the last held-out check.
        facts: what else the stage's own checks need.
    """
    if not world.first:
        world.wait()
        return
    partial = job.result_dir.with_name(f".{job.result_dir.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    save_weights(partial)
    usable = len(pool.train) + len(pool.held_out)
    rows = {
        "given": usable + len(pool.dropped),
        "trained": len(pool.train),
        "held_out": len(pool.held_out),
        "dropped": len(pool.dropped),
    }
    limit = job.settings.rollout.max_new_tokens
    first = next(iter(pool.dropped.items()), None)
    content = {
        "step": step,
        "generated_tokens": generated_tokens,
        "rows": rows,
        "metrics": dict(metrics),
        "left_out": f"{first[0]}: {first[1]}" if first else "",
        "overlong_demonstrations": sum(len(item.ids) > limit for item in pool.demonstrations.values()),
        **facts,
    }
    write_json(partial / RESULT, content)
    for path in partial.iterdir():
        flush(path)
    place(partial, job.result_dir)
    world.wait()
