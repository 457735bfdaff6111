"""The settings that make a stage fit, the cheapest first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from prism_cli.planning.job import Job

KNOBS: Mapping[str, tuple[tuple[str, Any], ...]] = {
    "sft": (
        ("gradient_checkpointing", True),
        ("gradient_accumulation", "most"),
        ("sharding", "fsdp"),
        ("offload", True),
        ("lora", {}),
    ),
    "discriminator": (
        ("precision.compute", "bf16"),
        ("precision.gradient_checkpointing", True),
        ("precision.micro_branches", 4),
        ("micro_prompts", 1),
        ("rollout.sleep", True),
        ("precision.micro_branches", 1),
        ("precision.head_chunk", 256),
        ("precision.moments", "8bit"),
        ("rollout.gpu_memory_share", 0.2),
        ("precision.moments", "offload"),
        ("precision.discriminator_lora", {}),
    ),
    "align": (
        ("precision.compute", "bf16"),
        ("precision.gradient_checkpointing", True),
        ("precision.micro_branches", 4),
        ("rollout.sleep", True),
        ("precision.micro_branches", 1),
        ("micro_prompts", 1),
        ("precision.head_chunk", 256),
        ("precision.moments", "8bit"),
        ("rollout.gpu_memory_share", 0.2),
        ("precision.moments", "offload"),
        ("precision.lora", {}),
        ("precision.discriminator_lora", {}),
    ),
    "rlvr": (
        ("gradient_checkpointing", True),
        ("micro_batch_size", 1),
        ("offload", True),
        ("gpu_memory_share", 0.5),
        ("gpu_memory_share", 0.35),
        ("lora", {}),
    ),
}
"""Fields by kind of stage, what costs nothing or little first, what changes the method (LoRA) last."""


def look(job: Job, kind: str, peak: Callable[[Job], float]) -> tuple[str, ...]:
    """The changes, as `FIELD=VALUE`, that together make the stage fit; none where all of them do not.

    Changes are added one by one until it fits; then each that is not needed after all is taken back.
    """
    limit = job.gpus.card.gib
    chosen: dict[str, Any] = {}
    for field, value in KNOBS[kind]:
        wanted = _value(job, field, value)
        if wanted is None or _changed(job, {**chosen, field: wanted}) is None:
            continue
        chosen[field] = wanted
        changed = _changed(job, chosen)
        assert changed is not None
        if peak(changed) <= limit:
            break
    else:
        return ()
    for field in [*chosen]:
        fewer = {name: value for name, value in chosen.items() if name != field}
        changed = _changed(job, fewer)
        if changed is not None and peak(changed) <= limit:
            chosen = fewer
    return tuple(f"{field}={_shown(value)}" for field, value in chosen.items())


def _value(job: Job, field: str, value: Any) -> Any:
    """What to set the field to here; None: nothing to gain."""
    settings = job.settings
    if value == "most":
        parts = settings.batch_size // max(1, job.gpus.total)
        return parts if parts > settings.gradient_accumulation else None
    if field == "sharding" and (job.gpus.total == 1 or settings.sharding != "none"):
        return None
    if field == "offload" and hasattr(settings, "sharding"):
        return value if settings.sharding != "none" or job.gpus.total > 1 else None
    return value


def _changed(job: Job, changes: Mapping[str, Any]) -> Job | None:
    """The job with other settings; None where those contradict each other."""
    data = job.settings.model_dump()
    for path, value in changes.items():
        *above, last = path.split(".")
        where = data
        for part in above:
            where = where[part]
        where[last] = value
    if changes.get("lora") is not None and "sharding" in data and "offload" in data:
        data |= {"offload": False}
    try:
        return replace(job, settings=type(job.settings).model_validate(data))
    except ValidationError:
        return None


def _shown(value: Any) -> str:
    return {True: "true", False: "false"}.get(value, str(value)) if isinstance(value, bool) else str(value)
