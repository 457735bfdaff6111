"""The discriminator stage: upcycle the policy, then tell its responses from demonstrations until that works.

The policy does not change. Each step draws a few responses to each prompt, pairs them with the prompt's demonstration
and takes one Bradley-Terry step. The stage is worth something only if demonstrations win on held-out prompts; the
adapter refuses the result otherwise.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from integrations.alignment import checkpoints, contest, heldout, sharding, storage
from integrations.alignment.creation import build
from integrations.alignment.discriminator import Discriminator
from integrations.alignment.formats import narrow
from integrations.alignment.job import Job
from integrations.alignment.model import stored_dtype
from integrations.alignment.players import Player
from integrations.alignment.results import write_result
from integrations.alignment.seeds import derive
from integrations.alignment.session import Reporter, Session, Stopwatch, freeze, open_session
from integrations.alignment.world import World
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
        sharding.shard(discriminator.backbone, session.world, settings.precision.compute)
        self.player = Player(
            "discriminator",
            discriminator.named_parameters(),
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            warmup_steps=settings.warmup_steps,
            gradient_clip=settings.gradient_clip,
            precision=settings.precision,
            world=session.world,
        )
        self.step, self.generated_tokens = 0, 0
        self.best_loss, self.stale = float("inf"), 0
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
        weights = sharding.collect(self.player.weights(), world)
        save = partial(storage.save, self.discriminator, weights=weights.items(), dtype=stored_dtype(job.policy))
        write_result(job, self.step, self.generated_tokens, self.session.pool, self.last_check, facts, save, world)

    def _one_step(self) -> dict[str, float]:
        session, job, step = self.session, self.session.job, self.step
        settings, watch = job.settings, Stopwatch()
        rows = session.world.mine(session.pool.pick(step, settings.prompts_per_step, job.seed, "discriminator"))

        def stream(row: Row, sample: int) -> int:
            return derive(job.seed, "discriminator", step, row["id"], sample)

        with watch.measure("rollout"):
            groups = session.rollouts.sample(rows, settings.samples, job.sampling, stream, settings.rollout.batch_size)
        segments = contest.valid_segments(groups, session.splitter)
        prompts = [session.encoder.encode(row) for row in rows]
        batch = contest.pair_up(prompts, [session.pool.demonstrations[row["id"]] for row in rows], segments)
        objective = contest.Objective(
            settings.score_regulariser,
            settings.balance,
            settings.prompts_per_step,
            settings.precision.micro_branches,
        )
        with watch.measure("discriminator"):
            scores, learnt = contest.learn(self.discriminator, self.player, batch, objective, step, session.world)
        world = session.world
        tokens = int(world.sum(sum(len(item.token_ids) for group in groups for item in group)))
        self.step, self.generated_tokens = step + 1, self.generated_tokens + tokens
        responses = settings.prompts_per_step * settings.samples
        valid = {"valid": world.sum(len(batch.students)) / responses, "response_tokens": tokens / responses}
        return contest.join(world.gather(scores)).metrics() | learnt | valid | watch.seconds

    def _check(self) -> None:
        session, job = self.session, self.session.job
        self.last_check = heldout.check(
            self.discriminator,
            session.rollouts,
            session.pool,
            session.splitter,
            job.sampling,
            seed=job.seed,
            batch_size=job.settings.rollout.batch_size,
            micro_prompts=job.settings.prompts_per_step,
            world=session.world,
        )
        loss = self.last_check.get("held_out_loss", float("inf"))
        self.stale = 0 if loss < self.best_loss else self.stale + 1
        self.best_loss = min(loss, self.best_loss)

    def state(self) -> dict[str, Any]:
        return {
            "discriminator": sharding.collect(self.player.weights(), self.session.world),
            "optimizer": self.player.state(),
            "generated_tokens": self.generated_tokens,
            "best_loss": self.best_loss,
            "stale": self.stale,
            "last_check": self.last_check,
        }

    def restore(self, step: int, state: dict[str, Any]) -> None:
        self.step = step
        self.player.restore(state["optimizer"], state["discriminator"])
        for name in ("generated_tokens", "best_loss", "stale", "last_check"):
            setattr(self, name, state[name])
