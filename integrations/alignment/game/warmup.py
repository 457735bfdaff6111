"""The discriminator stage: upcycle the policy, then teach it what demonstrations say and the policy's responses do not.

The policy does not change. Each step draws a few responses to each prompt, pairs them with the prompt's demonstration
and takes one optimizer step on two losses: the demonstration's negative log-likelihood, and the Bradley-Terry loss of
the pairs. Demonstrations are restated in the responses' own words first, so that neither loss can be lowered by
learning style (`negatives.restate`). The pairs may also come from a file.

The paper's warm-up is the Bradley-Terry loss alone, on demonstrations as they stand: such a discriminator tells the
teacher from the policy with ease and right from wrong hardly at all (`heldout` measures both).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from integrations.alignment.data.pool import read_pairs
from integrations.alignment.data.seeds import derive
from integrations.alignment.discriminators import storage
from integrations.alignment.discriminators.creation import build
from integrations.alignment.discriminators.discriminator import Discriminator
from integrations.alignment.forward.model import stored_dtype
from integrations.alignment.game import contest, heldout
from integrations.alignment.job import Job
from integrations.alignment.rollouts.rollout import Generation
from integrations.alignment.training import checkpoints, lora, sharding
from integrations.alignment.training.formats import narrow
from integrations.alignment.training.players import Player
from integrations.alignment.training.results import write_result
from integrations.alignment.training.session import Reporter, Session, Stopwatch, freeze, open_session
from integrations.alignment.training.world import World
from integrations.common.rows import Row


def run(job: Job, world: World) -> None:
    """Train a discriminator, resuming from the newest checkpoint where there is one."""
    session = open_session(job, world)
    discriminator = build(session)
    freeze(discriminator.backbone, job.settings.precision)
    discriminator.save_memory(job.settings.precision)
    if job.settings.precision.compute == "bf16":
        narrow(session.policy.named_parameters())  # after the discriminator, which begins from what was not rounded
    progress = Warmup(session, discriminator)
    saved = checkpoints.newest(job.checkpoint_dir, world)
    if saved is not None:
        progress.restore(*saved)
    progress.run()


class Warmup:
    """The loop and its state."""

    def __init__(self, session: Session, discriminator: Discriminator) -> None:
        settings = session.job.settings
        self.session, self.discriminator = session, discriminator
        adapted = lora.add(discriminator.backbone, settings.precision.discriminator_lora, session.job.seed)
        sharding.shard(discriminator.backbone, session.world, settings.precision.compute)
        self.player = Player(
            "discriminator",
            discriminator.named_parameters(),
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            warmup_steps=settings.warmup_steps,
            gradient_clip=settings.gradient_clip,
            precision=settings.precision,
            adapted=adapted,
            world=session.world,
        )
        self.pairs = read_pairs(Path(settings.pairs), session.splitter) if settings.pairs else None
        for name, reason in (self.pairs.dropped if self.pairs and session.world.first else {}).items():
            print(f"left out {name}: {reason}", flush=True)
        self.step, self.generated_tokens = 0, 0
        self.best_loss, self.stale = float("inf"), 0
        self.best: dict[str, torch.Tensor] = {}
        """Weights at the best check, where `patience` asks for them."""
        self.best_check: dict[str, float] = {}
        self.last_check: dict[str, float] = {}

    @property
    def finished(self) -> bool:
        settings = self.session.job.settings
        return self.step >= self.session.job.steps or 0 < settings.patience <= self.stale

    def run(self) -> None:
        job = self.session.job
        settings, world = job.settings, self.session.world
        reporter = Reporter(job, world)
        while not self.finished:
            metrics = self._one_step()
            reporter.write(self.step, metrics, self.generated_tokens)
            if self.step % settings.check_every == 0 or self.step == job.steps:
                self._check()
                reporter.write(self.step, self.last_check, self.generated_tokens, "held-out check")
            if self.step % settings.checkpoint_every == 0 or self.finished:
                checkpoints.save(job.checkpoint_dir, self.step, self.state(), world=world)
        facts = {"stopped_early": self.step < job.steps}
        weights = self.best if self.best_check else sharding.collect(self.player.weights(), world)
        save = partial(storage.save, self.discriminator, weights=weights.items(), dtype=stored_dtype(job.policy))
        measured = self.best_check or self.last_check
        write_result(job, self.step, self.generated_tokens, self.session.pool, measured, facts, save, world)

    def _one_step(self) -> dict[str, float]:
        session, job, step = self.session, self.session.job, self.step
        settings, watch, world = job.settings, Stopwatch(), session.world
        source = session.pool if self.pairs is None else self.pairs
        rows = world.mine(source.pick(step, settings.prompts_per_step, job.seed, "discriminator"))
        with watch.measure("rollout"):
            groups = self._responses(rows)
        valid = contest.valid_segments(groups, session.splitter)
        objective = self._objective()
        key = (job.seed, "discriminator", step)
        teachers, restated = source.teachers(rows, groups, session.splitter, settings.wording, *key)
        paired = valid if objective.pairs else [[] for _ in rows]
        batch = contest.pair_up([session.encoder.encode(row) for row in rows], teachers, paired)
        self.player.scale = schedule(step, job.steps) if settings.decay else 1.0
        with watch.measure("discriminator"):
            scores, learnt = contest.learn(self.discriminator, self.player, batch, objective, step, world)
        tokens = int(world.sum(sum(len(item.token_ids) for group in groups for item in group)))
        self.step, self.generated_tokens = step + 1, self.generated_tokens + tokens
        responses = int(world.sum(sum(map(len, groups))))
        seen = {
            "valid": world.sum(sum(item is not None for group in valid for item in group)) / responses,
            "response_tokens": tokens / responses,
            "restated": world.sum(restated) / settings.prompts_per_step,
        }
        return contest.join(world.gather(scores)).metrics() | learnt | seen | watch.seconds

    def _responses(self, rows: Sequence[Row]) -> list[list[Generation]]:
        """The policy's responses to the rows, or those that came with them."""
        session, job, step = self.session, self.session.job, self.step
        if self.pairs is not None:
            return [[Generation([], row["student"], True)] for row in rows]

        def stream(row: Row, sample: int) -> int:
            return derive(job.seed, "discriminator", step, row["id"], sample)

        settings = job.settings
        samples = settings.samples if self._objective().pairs else 1
        return session.rollouts.sample(rows, samples, job.sampling, stream, settings.rollout.batch_size)

    def _objective(self) -> contest.Objective:
        settings = self.session.job.settings
        likely = settings.score == "likelihood_ratio" and settings.likelihood > 0
        return contest.Objective(
            settings.score_regulariser,
            settings.balance,
            settings.micro_prompts or settings.prompts_per_step,
            settings.precision.micro_branches,
            pairs=0.0 if likely and self.step < settings.pretrain_steps else 1.0,
            likelihood=settings.likelihood if likely else 0.0,
        )

    def _check(self) -> None:
        session, job = self.session, self.session.job
        self.last_check = heldout.check_stage(self.discriminator, session, job.settings.prompts_per_step)
        loss = self.last_check.get("held_out_loss", float("inf"))
        better = loss < self.best_loss
        self.stale = 0 if better else self.stale + 1
        self.best_loss = min(loss, self.best_loss)
        if better and job.settings.patience:
            weights = sharding.collect(self.player.weights(), session.world)
            self.best = {name: value.detach().cpu().clone() for name, value in weights.items()}
            self.best_check = self.last_check

    def state(self) -> dict[str, Any]:
        return {
            "discriminator": sharding.collect(self.player.weights(), self.session.world),
            "optimizer": self.player.state(),
            "generated_tokens": self.generated_tokens,
            "best_loss": self.best_loss,
            "stale": self.stale,
            "last_check": self.last_check,
            "best": self.best,
            "best_check": self.best_check,
        }

    def restore(self, step: int, state: dict[str, Any]) -> None:
        self.step = step
        self.player.restore(state["optimizer"], state["discriminator"])
        for name in ("generated_tokens", "best_loss", "stale", "last_check", "best", "best_check"):
            setattr(self, name, state[name])


def schedule(step: int, steps: int) -> float:
    """Factor on the learning rate: half a cosine from 1 to a tenth."""
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / steps))
