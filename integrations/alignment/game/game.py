"""The align stage: policy and discriminator against each other, on fresh responses at every step.

One step: sample a group of responses to each prompt; the discriminator scores perception and reasoning of each valid
response and, from the same pass, learns to put the demonstrations above them; the scores, normalised within the
group and role, are the advantages with which the policy takes one policy-gradient step. The scores used are those
before the discriminator's step, so both players move at once. There is no KL term unless asked for.

Beside the paper: a control that keeps the discriminator from winning always or never, a gate that closes a role whose
scores do not tell right from wrong, an early end, and the choice of the best state (see `control` and `AlignSettings`).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from integrations.alignment.data.prompts import Prompt
from integrations.alignment.data.seeds import derive
from integrations.alignment.data.segments import ROLES, Segments
from integrations.alignment.discriminators import storage
from integrations.alignment.discriminators.description import read_description
from integrations.alignment.discriminators.discriminator import Discriminator
from integrations.alignment.forward.model import dtype_to_load
from integrations.alignment.game import advantages as adv
from integrations.alignment.game import contest, heldout, losses, metrics
from integrations.alignment.game.control import Control, gates
from integrations.alignment.game.policy_step import PolicyStep
from integrations.alignment.job import Job
from integrations.alignment.rollouts.rollout import Generation
from integrations.alignment.training import checkpoints, lora, sharding
from integrations.alignment.training.players import Player
from integrations.alignment.training.results import write_result
from integrations.alignment.training.session import Reporter, Session, Stopwatch, freeze, open_session, reference_of
from integrations.alignment.training.world import World
from integrations.common.files import hash_file, hash_folder
from integrations.common.rows import Row
from integrations.errors import BadInput, StageFailed

DISCRIMINATOR_WEIGHT_DECAY = 0.01


def run(job: Job, world: World) -> None:
    """Play the game, resuming from the newest checkpoint where there is one."""
    assert job.discriminator is not None, "the adapter names the discriminator's folder"
    check_discriminator(job, job.discriminator)
    session = open_session(job, world)
    reference = None
    if read_description(job.discriminator).score == "likelihood_ratio" or job.settings.kl > 0:
        reference = reference_of(session.policy, job.settings.precision)
    dtype = dtype_to_load(job.discriminator, job.settings.precision.compute)
    discriminator = storage.load(
        job.discriminator, session.banned_V, reference=reference, device=job.device, dtype=dtype
    )
    freeze(discriminator.backbone, job.settings.precision)
    discriminator.save_memory(job.settings.precision)
    game = Game(session, discriminator, reference)
    saved = checkpoints.newest(job.checkpoint_dir, world)
    if saved is not None:
        game.restore(*saved)
    game.run()


def check_discriminator(job: Job, folder: Path) -> None:
    """Refuse a discriminator that was made for another policy or tokenizer.

    Raises:
        BadInput: naming what differs.
    """
    description = read_description(folder)
    if description.tokenizer != hash_file(job.base_model / "tokenizer.json"):
        raise BadInput(f"{folder} was trained with another tokenizer", "train a discriminator for this model")
    if description.score == "likelihood_ratio" and description.reference != hash_folder(job.policy):
        raise BadInput(f"{folder} scores against another policy than {job.policy}", "train its stage again")
    if description.held_out < job.settings.held_out:
        raise BadInput(
            f"align holds {job.settings.held_out} prompts out, the discriminator only {description.held_out}",
            "set the align stage's `held_out` to at most the discriminator's",
        )


@dataclass(frozen=True)
class Hand:
    """What one process is dealt in a step: prompts, a group of responses to each, and what is valid of them."""

    prompts: list[Prompt]
    groups: list[list[Generation]]
    segments: list[list[Segments | None]]
    batch: contest.Batch
    rows: list[Row]

    def seen(self) -> metrics.Seen:
        """What other processes need to know of it."""
        return metrics.Seen(
            self.groups,
            self.segments,
            self.batch.teachers,
            self.batch.students,
            self.rows,
            [len(prompt.ids) for prompt in self.prompts],
        )


class Game:
    """The loop and its state."""

    def __init__(self, session: Session, discriminator: Discriminator, reference: Any) -> None:
        settings = session.job.settings
        self.session, self.discriminator, self.reference = session, discriminator, reference
        self.policy = session.policy
        schedule = {"warmup_steps": settings.warmup_steps, "gradient_clip": settings.gradient_clip}
        schedule["precision"] = settings.precision
        adapted = lora.add(self.policy, settings.precision.lora, session.job.seed)
        judging = lora.add(discriminator.backbone, settings.precision.discriminator_lora, session.job.seed)
        schedule["world"] = session.world
        for model in (self.policy, discriminator.backbone):
            sharding.shard(model, session.world, settings.precision.compute)
        self.learner = Player(
            "policy",
            self.policy.named_parameters(),
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            adapted=adapted,
            **schedule,
        )
        self.judge = Player(
            "discriminator",
            discriminator.named_parameters(),
            learning_rate=settings.discriminator_learning_rate,
            weight_decay=DISCRIMINATOR_WEIGHT_DECAY,
            adapted=judging,
            **schedule,
        )
        self.policy_step = PolicyStep(session, self.learner, reference)
        self.rule = adv.Rule(
            settings.alpha, settings.format_penalty, settings.invalid, settings.normalise, settings.score_clip
        )
        self.margin, self.control = adv.RunningMargin(), Control()
        self.step, self.generated_tokens, self.policy_steps = 0, 0, 0

    def run(self) -> None:
        job, control = self.session.job, self.control
        settings, reporter = job.settings, Reporter(job, self.session.world)
        if not control.first:
            self._check(reporter)
        while self.step < job.steps and not control.stopped:
            seen = self.one_step()
            reporter.write(self.step, seen, self.generated_tokens)
            better = False
            if self.step % settings.check_every == 0 or self.step == job.steps:
                better = self._check(reporter) and settings.keep == "best"
            ended = self.step == job.steps or control.stopped
            if self.step % settings.checkpoint_every == 0 or better or ended:
                protect = control.best_step if settings.keep == "best" else None
                checkpoints.save(job.checkpoint_dir, self.step, self.state(), protect, self.session.world)
        self._write_result()

    def one_step(self) -> dict[str, float]:
        """One step of both players; what it saw, over all processes."""
        session, settings, watch = self.session, self.session.job.settings, Stopwatch()
        with watch.measure("rollout"):
            hand = self._deal()
        objective = contest.Objective(
            settings.score_regulariser,
            settings.balance,
            settings.micro_prompts,
            settings.precision.micro_branches,
            clip=settings.score_clip,
        )
        self.judge.scale = self.control.scale
        with watch.measure("discriminator"):
            scores, learnt = contest.learn(
                self.discriminator, self.judge, hand.batch, objective, self.step, session.world
            )
        whole = contest.join(session.world.gather(scores))
        closed = gates(self.control.last, settings.min_separation)
        earned = self._advantages(hand.segments, scores, whole, closed)
        with watch.measure("policy"):
            moved = self.policy_step.take(hand.prompts, hand.groups, earned, self.step)
        if not moved["policy_skipped"]:
            self.policy_steps += 1
            with watch.measure("sync"):
                moved |= session.rollouts.sync(self.learner.weights())
        return self._account(hand, whole, earned, closed, watch, whole.metrics() | learnt | moved)

    def _deal(self) -> Hand:
        """This process's prompts of the step, with fresh responses."""
        session, job, step = self.session, self.session.job, self.step
        settings = job.settings
        rows = session.world.mine(session.pool.pick(step, settings.prompts_per_step, job.seed, "align"))

        def stream(row: Row, sample: int) -> int:
            return derive(job.seed, "align", step, row["id"], sample)

        groups = session.rollouts.sample(rows, settings.group_size, job.sampling, stream, settings.rollout.batch_size)
        segments = contest.valid_segments(groups, session.splitter)
        prompts = [session.encoder.encode(row) for row in rows]
        key = (job.seed, "align", step)
        demonstrations, _ = session.pool.teachers(rows, groups, session.splitter, settings.wording, *key)
        return Hand(prompts, groups, segments, contest.pair_up(prompts, demonstrations, segments), rows)

    def _advantages(
        self,
        segments: Sequence[Sequence[Segments | None]],
        scores: contest.Scores,
        whole: contest.Scores,
        closed: tuple[bool, bool],
    ) -> adv.Advantages:
        """Advantages of this process's responses.

        Args:
            scores, whole: of this process's responses, and of all.
            closed: roles that the gate leaves out.
        """
        settings = self.session.job.settings
        valid = [item is not None for group in segments for item in group]
        valid_GN = np.array(valid, bool).reshape(-1, settings.group_size)
        scores_2GN: np.ndarray = np.zeros((2, *valid_GN.shape))
        scores_2GN[:, valid_GN] = scores.student_2R
        perception, reasoning = (losses.decided_margin(margins) for margins in whole.margins_2R)
        self.margin.update((perception, reasoning))
        floors = self.margin.floors(settings.min_spread)
        return adv.advantages(scores_2GN, valid_GN, self.rule, floors=floors, gated=closed)

    def _account(
        self,
        hand: Hand,
        whole: contest.Scores,
        earned: adv.Advantages,
        closed: tuple[bool, bool],
        watch: Stopwatch,
        found: dict[str, float],
    ) -> dict[str, float]:
        """Gather what all processes saw, count it, and go on to the next step."""
        job, world = self.session.job, self.session.world
        seen, shares = metrics.join(world.gather(hand.seen())), world.gather(earned)
        found |= {"discriminator_scale": self.judge.scale}
        found |= {f"gated_{role}": float(gate) for role, gate in zip(ROLES, closed, strict=True)}
        found |= metrics.advantage_metrics(shares) | metrics.response_metrics(seen)
        found |= metrics.content_metrics(seen, whole)
        found |= {"tokens_per_second": seen.tokens / watch.seconds["seconds_rollout"]} | watch.seconds
        work = metrics.step_work(
            seen,
            policy=metrics.active_parameters(self.policy),
            discriminator=metrics.active_parameters(self.discriminator.backbone),
            learnt="discriminator_loss" in found,
            moved=not found["policy_skipped"],
        )
        most = metrics.peak(torch.cuda.get_device_name()) if job.device == "cuda" else None
        found |= metrics.utilisation(work, watch.seconds, most and most * world.size)
        wins, pairs = losses.decided(whole.margins_2R)
        self.control.observe(wins, pairs, job.settings.accuracy_low, job.settings.accuracy_high)
        if self.control.accuracy is not None:
            found["running_accuracy"] = self.control.accuracy
        self.control.count(metrics.counts(found, seen))
        self.step, self.generated_tokens = self.step + 1, self.generated_tokens + seen.tokens
        return found

    def _check(self, reporter: Reporter) -> bool:
        """Measure on the held-out prompts; whether this is the best state so far."""
        session, job, watch = self.session, self.session.job, Stopwatch()
        with watch.measure("check"):
            found = heldout.check_stage(self.discriminator, session, job.settings.micro_prompts)
        better = self.control.check(self.step, found, job.settings, len(session.pool.held_out))
        reporter.write(self.step, found | watch.seconds, self.generated_tokens, "held-out check")
        return better

    def _write_result(self) -> None:
        """The last policy, or the best one.

        Raises:
            StageFailed: the best checkpoint is damaged.
        """
        job, control, world = self.session.job, self.control, self.session.world
        kept = self.step if job.settings.keep == "last" or control.best_step is None else control.best_step
        if kept != self.step:
            weights = checkpoints.policy_weights(job.checkpoint_dir, kept)
            if weights is None:
                raise StageFailed(
                    f"the checkpoint of the best step, {kept}, is damaged or gone",
                    "start the stage anew, or set `keep: last`",
                )
            save = partial(copy_weights, weights)
        else:
            save = partial(write_weights, sharding.collect(self.learner.weights(), world))
        facts = {
            "first": control.first,
            "policy_steps": self.policy_steps,
            "kept_step": kept,
            "stopped_early": bool(control.stopped),
            "stopped": control.stopped,
            "totals": control.totals,
        }
        measured = control.last if kept == self.step else control.best
        write_result(
            job, self.step, self.generated_tokens, self.session.pool, measured, facts, save, self.session.world
        )

    def state(self) -> dict[str, Any]:
        return {
            "policy": sharding.collect(self.learner.weights(), self.session.world),
            "discriminator": sharding.collect(self.judge.weights(), self.session.world),
            "policy_optimizer": self.learner.state(),
            "discriminator_optimizer": self.judge.state(),
            "margin": self.margin.value,
            "control": self.control.state(),
            "generated_tokens": self.generated_tokens,
            "policy_steps": self.policy_steps,
        }

    def restore(self, step: int, state: dict[str, Any]) -> None:
        self.step = step
        self.learner.restore(state["policy_optimizer"], state["policy"])
        self.judge.restore(state["discriminator_optimizer"], state["discriminator"])
        self.margin = adv.RunningMargin(state["margin"])
        self.control = Control(**state["control"])
        for name in ("generated_tokens", "policy_steps"):
            setattr(self, name, state[name])
        self.session.rollouts.sync(self.learner.weights())


def write_weights(weights: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Write the policy's weights into a folder."""
    tensors = {name: value.cpu().contiguous() for name, value in weights.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def copy_weights(weights: Path, folder: Path) -> None:
    """Put a checkpoint's policy where `write_weights` would."""
    shutil.copyfile(weights, folder / weights.name)
