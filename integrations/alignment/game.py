"""The align stage: policy and discriminator against each other, on fresh responses at every step.

One step: sample a group of responses to each prompt; the discriminator scores perception and reasoning of each valid
response and, from the same pass, learns to put the demonstrations above them; the scores, normalised within the
group and role, are the advantages with which the policy takes one policy-gradient step. The scores used are those
before the discriminator's step, so both players move at once. There is no KL term unless asked for.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from integrations.alignment import advantages as adv
from integrations.alignment import checkpoints, contest, heldout, losses, storage
from integrations.alignment.description import read_description
from integrations.alignment.discriminator import Discriminator
from integrations.alignment.job import Job
from integrations.alignment.players import Player
from integrations.alignment.policy import response_log_probs
from integrations.alignment.prompts import Prompt
from integrations.alignment.results import write_result
from integrations.alignment.rollout import Generation
from integrations.alignment.seeds import derive
from integrations.alignment.segments import Segments
from integrations.alignment.session import Reporter, Session, Stopwatch, open_session
from integrations.common.files import hash_file, hash_folder
from integrations.common.rows import Row
from integrations.errors import BadInput

DISCRIMINATOR_WEIGHT_DECAY = 0.01


def run(job: Job) -> None:
    """Play the game, resuming from the newest checkpoint where there is one."""
    assert job.discriminator is not None, "the adapter names the discriminator's folder"
    check_discriminator(job, job.discriminator)
    session = open_session(job)
    reference = None
    if read_description(job.discriminator).score == "likelihood_ratio" or job.settings.kl > 0:
        reference = copy.deepcopy(session.policy).requires_grad_(False)
    discriminator = storage.load(job.discriminator, session.banned_V, reference=reference, device=job.device)
    game = Game(session, discriminator, reference)
    saved = checkpoints.newest(job.checkpoint_dir)
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


class Game:
    """The loop and its state."""

    def __init__(self, session: Session, discriminator: Discriminator, reference: Any) -> None:
        settings = session.job.settings
        self.session, self.discriminator, self.reference = session, discriminator, reference
        self.policy = session.policy
        schedule = {"warmup_steps": settings.warmup_steps, "gradient_clip": settings.gradient_clip}
        self.learner = Player(
            "policy",
            self.policy.named_parameters(),
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            **schedule,
        )
        self.judge = Player(
            "discriminator",
            discriminator.named_parameters(),
            learning_rate=settings.discriminator_learning_rate,
            weight_decay=DISCRIMINATOR_WEIGHT_DECAY,
            **schedule,
        )
        self.margin = adv.RunningMargin()
        self.step, self.generated_tokens, self.policy_steps = 0, 0, 0
        self.first_check: dict[str, float] = {}
        self.last_check: dict[str, float] = {}

    def run(self) -> None:
        job = self.session.job
        settings, reporter = job.settings, Reporter(job)
        if not self.first_check:
            self.first_check = self._check()
            reporter.write(0, self.first_check, 0, "held-out check")
        while self.step < job.steps:
            metrics = self._one_step()
            reporter.write(self.step, metrics, self.generated_tokens)
            if self.step % settings.check_every == 0 or self.step == job.steps:
                self.last_check = self._check()
                reporter.write(self.step, self.last_check, self.generated_tokens, "held-out check")
            if self.step % settings.checkpoint_every == 0 or self.step == job.steps:
                checkpoints.save(job.checkpoint_dir, self.step, self.state())
        facts = {"valid_before": self.first_check["held_out_valid"], "policy_steps": self.policy_steps}
        write_result(
            job,
            self.step,
            self.generated_tokens,
            self.session.pool,
            self.last_check,
            facts,
            self.policy.save_pretrained,
        )

    def _one_step(self) -> dict[str, float]:
        session, job, step = self.session, self.session.job, self.step
        settings, watch = job.settings, Stopwatch()
        rows = session.world.mine(session.pool.pick(step, settings.prompts_per_step, job.seed, "align"))

        def stream(row: Row, sample: int) -> int:
            return derive(job.seed, "align", step, row["id"], sample)

        with watch.measure("rollout"):
            groups = session.rollouts.sample(
                rows, settings.group_size, job.sampling, stream, settings.rollout.batch_size
            )
        segments = contest.valid_segments(groups, session.splitter)
        prompts = [session.encoder.encode(row) for row in rows]
        batch = contest.pair_up(prompts, [session.pool.demonstrations[row["id"]] for row in rows], segments)
        objective = contest.Objective(settings.score_regulariser, settings.balance, settings.micro_prompts)
        with watch.measure("discriminator"):
            scores, learnt = contest.learn(self.discriminator, self.judge, batch, objective, step, session.world)
        whole = contest.join(session.world.gather(scores))
        earned, spread = self._advantages(scores, whole, segments)
        with watch.measure("policy"):
            moved = self._policy_step(prompts, groups, earned)
        answers = [prompt.answer for prompt in prompts]
        groups, segments, answers = map(flatten, zip(*session.world.gather((groups, segments, answers)), strict=True))
        tokens = sum(len(item.token_ids) for group in groups for item in group)
        self.step, self.generated_tokens = step + 1, self.generated_tokens + tokens
        return (
            whole.metrics()
            | learnt
            | moved
            | spread
            | response_metrics(groups, segments, answers, whole)
            | {"tokens_per_second": tokens / watch.seconds["seconds_rollout"]}
            | watch.seconds
        )

    def _advantages(
        self, scores: contest.Scores, whole: contest.Scores, segments: Sequence[Sequence[Segments | None]]
    ) -> tuple[adv.Advantages, dict[str, float]]:
        """Advantages of this process's responses, and how many groups of the whole step gave none.

        Args:
            scores, whole: of this process's responses, and of all.
        """
        settings = self.session.job.settings
        valid_GN = np.array([[item is not None for item in group] for group in segments])
        scores_2GN: np.ndarray = np.zeros((2, *valid_GN.shape))
        scores_2GN[:, valid_GN] = scores.student_2R
        if len(whole.which_R):
            perception, reasoning = whole.margins_2R.mean(1)
            self.margin.update((float(perception), float(reasoning)))
        earned = adv.advantages(
            scores_2GN[0],
            scores_2GN[1],
            valid_GN,
            floors=self.margin.floors(settings.min_spread),
            penalty=settings.format_penalty,
        )
        world = self.session.world
        counts = {
            "groups_without_signal": world.sum(earned.without_signal) / 2,
            "groups_all_invalid": world.sum(earned.all_invalid),
        }
        return earned, counts

    def _policy_step(
        self, prompts: Sequence[Prompt], groups: Sequence[Sequence[Generation]], earned: adv.Advantages
    ) -> dict[str, float]:
        """One policy-gradient step; none where no response has an advantage.

        Raises:
            StageFailed: the loss or the gradient is not finite.
        """
        settings, world = self.session.job.settings, self.session.world
        if all(world.gather(earned.empty)) and not settings.kl:
            return {"policy_skipped": 1.0}
        self.learner.begin(self.step)
        total_tokens = int(world.sum(sum(len(item.token_ids) for group in groups for item in group)))
        loss, entropy = 0.0, 0.0
        for start in range(0, len(prompts), settings.micro_prompts):
            part = slice(start, start + settings.micro_prompts)
            part_loss, part_entropy = self._part_loss(prompts[part], groups[part], earned, start, total_tokens)
            part_loss.backward()
            loss, entropy = loss + float(part_loss.detach()), entropy + part_entropy
        loss, entropy = world.sum(loss), world.sum(entropy)
        norm = self.learner.finish(loss)
        self.policy_steps += 1
        return {"policy_loss": loss, "policy_gradient": norm, "entropy": entropy / total_tokens, "policy_skipped": 0.0}

    def _part_loss(
        self,
        prompts: Sequence[Prompt],
        groups: Sequence[Sequence[Generation]],
        earned: adv.Advantages,
        first: int,
        total_tokens: int,
    ) -> tuple[torch.Tensor, float]:
        """Loss and summed entropy of some prompts' groups; `first` is the number of the first of them."""
        which = [index for index, group in enumerate(groups) for _ in group]
        responses = [item.token_ids for group in groups for item in group]
        banned_V = self.session.banned_V
        log_probs, entropies, mask = response_log_probs(self.policy, prompts, which, responses, banned_V)
        weights = torch.zeros_like(log_probs)
        for row, (group, ids) in enumerate(zip(which, responses, strict=True)):
            place = (first + group, row - which.index(group))
            weights[row, : len(ids)] = torch.from_numpy(self._token_weights(earned, place, ids)).to(weights)
        loss = losses.policy_loss(log_probs, weights, mask, total_tokens)
        if self.session.job.settings.kl:
            with torch.no_grad():
                reference, _, _ = response_log_probs(self.reference, prompts, which, responses, banned_V)
            loss = loss + self.session.job.settings.kl * losses.kl_loss(log_probs, reference, mask, total_tokens)
        return loss, float(entropies.sum())

    def _token_weights(self, earned: adv.Advantages, place: tuple[int, int], ids: Sequence[int]) -> np.ndarray:
        settings = self.session.job.settings
        return adv.token_weights(
            float(earned.perception_GN[place]),
            float(earned.reasoning_GN[place]),
            float(earned.format_GN[place]),
            tokens=len(ids),
            boundary=self.session.splitter.vocabulary.perception_tokens(ids),
            alpha=settings.alpha,
            credit=settings.credit,
        )

    def _check(self) -> dict[str, float]:
        session, job = self.session, self.session.job
        return heldout.check(
            self.discriminator,
            session.rollouts,
            session.pool,
            session.splitter,
            job.sampling,
            seed=job.seed,
            batch_size=job.settings.rollout.batch_size,
            micro_prompts=job.settings.micro_prompts,
        )

    def state(self) -> dict[str, Any]:
        return {
            "policy": dict(self.learner.weights()),
            "discriminator": dict(self.judge.weights()),
            "policy_optimizer": self.learner.state(),
            "discriminator_optimizer": self.judge.state(),
            "margin": self.margin.value,
            "generated_tokens": self.generated_tokens,
            "policy_steps": self.policy_steps,
            "first_check": self.first_check,
            "last_check": self.last_check,
        }

    def restore(self, step: int, state: dict[str, Any]) -> None:
        self.step = step
        self.learner.restore(state["policy_optimizer"], state["policy"])
        self.judge.restore(state["discriminator_optimizer"], state["discriminator"])
        self.margin = adv.RunningMargin(state["margin"])
        for name in ("generated_tokens", "policy_steps", "first_check", "last_check"):
            setattr(self, name, state[name])


def flatten(shares: Iterable[Sequence[Any]]) -> list[Any]:
    """Every process's items as one list."""
    return [item for share in shares for item in share]


def response_metrics(
    groups: Sequence[Sequence[Generation]],
    segments: Sequence[Sequence[Segments | None]],
    answers: Sequence[str],
    scores: contest.Scores,
) -> dict[str, float]:
    """Form, length and right answers of a step's responses, and whether reasoning scores put right above wrong."""
    flat = [item for group in groups for item in group]
    valid = [(index, item) for index, group in enumerate(segments) for item in group if item is not None]
    right = np.array([item.answer == answers[index] for index, item in valid], bool)
    found = {
        "valid": len(valid) / len(flat),
        "truncated": sum(not item.finished for item in flat) / len(flat),
        "response_tokens": sum(len(item.token_ids) for item in flat) / len(flat),
        "answer": float(right.sum()) / len(flat),
    }
    within = losses.separation(scores.student_2R[1], right, scores.which_R) if valid else None
    return found if within is None else found | {"right_over_wrong_within": within}
