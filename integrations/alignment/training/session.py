"""What both stages share: the models and data of a job, its progress file."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from integrations.alignment.data.pool import TeacherPool, read_pool
from integrations.alignment.data.prompts import Encoder
from integrations.alignment.data.screening import Limits, screen
from integrations.alignment.data.segments import Splitter
from integrations.alignment.discriminators.description import read_description
from integrations.alignment.forward.batching import checkpoint_layers
from integrations.alignment.forward.model import banned_tokens, dtype_to_load, load_policy, load_processor
from integrations.alignment.job import Job
from integrations.alignment.rollouts.engines import Sampler, open_sampler
from integrations.alignment.training.checkpoints import step_folders
from integrations.alignment.training.formats import narrow
from integrations.alignment.training.world import World


@dataclass(frozen=True)
class Session:
    """A job's policy and data, loaded."""

    job: Job
    policy: Any
    splitter: Splitter
    pool: TeacherPool
    encoder: Encoder
    rollouts: Sampler
    banned_V: torch.Tensor
    world: World = field(default_factory=World)


def open_session(job: Job, world: World) -> Session:
    """Load the policy and the teacher pool.

    Raises:
        BadInput: the pool, an image or a checkpoint cannot be used.
    """
    processor = load_processor(job.base_model)
    policy = load_policy(job.policy, job.device, dtype_to_load(job.policy, job.settings.precision.compute))
    freeze(policy, job.settings.precision)
    if job.settings.precision.gradient_checkpointing:
        checkpoint_layers(policy)
    reads = job.settings if job.discriminator is None else read_description(job.discriminator)
    splitter = Splitter(processor.tokenizer, reads.reasoning, reads.terminator)
    path = job.data_dir / f"{job.settings.teacher}.jsonl"
    pool = read_pool(path, job.settings.held_out, splitter, reads.teacher_tokens)
    encoder = Encoder(processor, job.data_dir)
    pool = _screened(job, pool, encoder, world)
    banned = banned_tokens(processor.tokenizer, policy.lm_head.out_features).to(job.device)
    rollouts = open_sampler(job, policy, encoder, pool.held_out, banned)
    return Session(job, policy, splitter, pool, encoder, rollouts, banned, world)


def _screened(job: Job, pool: TeacherPool, encoder: Encoder, world: World) -> TeacherPool:
    """The pool without the rows that cannot be trained on, each of which is named in the log."""
    done = next((step for step, _ in step_folders(job.checkpoint_dir)), 0)
    reporter = Reporter(job, world)

    def tell(looked_at: int, rows: int) -> None:
        reporter.write(done, {"rows_checked": looked_at, "rows": rows}, 0, "checking the data")

    limits = Limits(job.settings.max_prompt_tokens, job.settings.bad_rows)
    pool = screen(pool, encoder, limits, threads=job.threads, world=world, tell=tell)
    for name, reason in pool.dropped.items() if world.first else ():
        print(f"left out {name}: {reason}", flush=True)
    return pool


def freeze(model: Any, precision: Any) -> None:
    """Take the vision tower of a policy or a discriminator's backbone out of the training, where that is asked for."""
    if precision.freeze_vision:
        model.model.visual.requires_grad_(False)


def reference_of(policy: Any, precision: Any) -> Any:
    """The starting policy, which scores and divergences are measured against: no gradient, in the compute format.

    Call it before the policy gets adapters: with them the policy's own weights stay as they are, so the reference
    shares them and takes no memory.
    """
    shared = {id(value): value for value in policy.parameters()} if precision.lora else {}
    reference = copy.deepcopy(policy, shared).requires_grad_(False)
    if precision.compute == "bf16" and not shared:
        narrow(reference.named_parameters())
    return reference


class Reporter:
    """Appends one JSON line per step to the progress file; of several processes the first does."""

    def __init__(self, job: Job, world: World) -> None:
        self.stream = job.progress_file.open("a", encoding="utf-8") if world.first else None
        self.total = job.steps

    def write(self, step: int, metrics: Mapping[str, float], generated_tokens: int, phase: str = "training") -> None:
        """Report the state after `step` steps; values that are not finite are left out."""
        if self.stream is None:
            return
        finite = {name: round(value, 6) for name, value in metrics.items() if math.isfinite(value)}
        line = {
            "step": step,
            "total": self.total,
            "phase": phase,
            "generated_tokens": generated_tokens,
            "metrics": finite,
        }
        self.stream.write(json.dumps(line) + "\n")
        self.stream.flush()


class Stopwatch:
    """Seconds per phase of one step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def measure(self, phase: str) -> AbstractContextManager[None]:
        """Adds the time spent inside to `seconds_<phase>`."""

        @contextmanager
        def running() -> Any:
            started = time.perf_counter()
            yield
            name = f"seconds_{phase}"
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

        return running()
