"""Demonstrations against responses: one step of the discriminator, and the scores it gave on the way.

The scores are the policy's reward and the discriminator's own training signal at once. Where a step's graph fits in
memory they come from one forward pass; else a pass without gradient gives the scores, the loss gives its derivative
with respect to each score, and the gradient is gathered in parts: some prompts at a time, and some of what follows
them at a time. Both ways give the same scores and gradients, and see each image once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from integrations.alignment.data.prompts import Prompt
from integrations.alignment.data.segments import ROLES, Segments, Splitter
from integrations.alignment.discriminators.discriminator import Discriminator
from integrations.alignment.forward.batching import Features, Limits
from integrations.alignment.game import losses
from integrations.alignment.rollouts.rollout import Generation
from integrations.alignment.training import sharding
from integrations.alignment.training.players import Player
from integrations.alignment.training.world import World


@dataclass(frozen=True)
class Batch:
    """Legend: B prompts with one demonstration each, R valid responses."""

    prompts: list[Prompt]
    teachers: list[Segments]
    students: list[Segments]
    which: list[int]
    """The prompt of each response; ascending."""

    @property
    def branches(self) -> tuple[list[int], list[Segments]]:
        """Demonstrations, then responses, in the order of scores: the prompt of each, and its segments."""
        return [*range(len(self.prompts)), *self.which], [*self.teachers, *self.students]

    def columns(self, part: range) -> list[int]:
        """Which of `branches` belong to some neighbouring prompts."""
        return [column for column, prompt in enumerate(self.branches[0]) if prompt in part]

    def take(self, part: range, columns: Sequence[int]) -> tuple[list[int], list[Segments]]:
        """Some of `branches`, their prompts numbered from the first of `part`."""
        which, segments = self.branches
        return [which[column] - part.start for column in columns], [segments[column] for column in columns]


@dataclass(frozen=True)
class Scores:
    """What the discriminator gave, as float64 arrays."""

    teacher_2B: np.ndarray
    student_2R: np.ndarray
    which_R: np.ndarray

    @property
    def margins_2R(self) -> np.ndarray:
        return self.teacher_2B[:, self.which_R] - self.student_2R

    def metrics(self) -> dict[str, float]:
        """Pair accuracy and mean margin per role; nothing where there is no pair."""
        if not len(self.which_R):
            return {}
        found = {}
        for role, margins in zip(ROLES, self.margins_2R, strict=True):
            found[f"pair_accuracy_{role}"] = losses.pair_accuracy(margins).value
            found[f"margin_{role}"] = float(margins.mean())
        return found


def join(shares: Sequence[Scores]) -> Scores:
    """The scores of a whole step from every process's own."""
    first = np.cumsum([0, *(share.teacher_2B.shape[1] for share in shares)])
    return Scores(
        np.concatenate([share.teacher_2B for share in shares], 1),
        np.concatenate([share.student_2R for share in shares], 1),
        np.concatenate([share.which_R + start for share, start in zip(shares, first, strict=False)]),
    )


def valid_segments(groups: Sequence[Sequence[Generation]], splitter: Splitter) -> list[list[Segments | None]]:
    """Segments of each response; None where it has not the three blocks or did not end."""
    return [[splitter.split(item.text) if item.finished else None for item in group] for group in groups]


def pair_up(
    prompts: Sequence[Prompt], teachers: Sequence[Segments], segments: Sequence[Sequence[Segments | None]]
) -> Batch:
    """The batch of all valid responses."""
    pairs = [(index, item) for index, group in enumerate(segments) for item in group if item is not None]
    return Batch(list(prompts), list(teachers), [item for _, item in pairs], [index for index, _ in pairs])


def _scores(values_2N: torch.Tensor, batch: Batch) -> Scores:
    values = values_2N.detach().double().cpu().numpy()
    count = len(batch.prompts)
    return Scores(values[:, :count], values[:, count:], np.asarray(batch.which, np.int64))


@torch.no_grad()
def judge(discriminator: Discriminator, batch: Batch, micro_prompts: int) -> Scores:
    """Scores without learning."""
    return _scores(sharding.run(discriminator.backbone, _score, discriminator, batch, Limits(micro_prompts)), batch)


@torch.no_grad()
def _score(
    discriminator: Discriminator, batch: Batch, limits: Limits, features: Features | None = None
) -> torch.Tensor:
    """(2, B + R) scores of demonstrations and responses; all tokens are counted in `routing`."""
    discriminator.routing.reset()
    features = discriminator.see(batch.prompts) if features is None else features
    pieces, order = [], []
    for part in limits.parts(len(batch.prompts)):
        columns, prompts = batch.columns(part), batch.prompts[part.start : part.stop]
        pieces.append(discriminator.score(prompts, *batch.take(part, columns), features.part(part)))
        order += columns
    values = torch.cat(pieces, 1)
    return torch.empty_like(values).index_copy_(1, torch.tensor(order, device=values.device), values)


@dataclass(frozen=True)
class Objective:
    """The discriminator's loss."""

    regulariser: float
    balance: float
    micro_prompts: int
    """Prompts whose graph is held at once, see `batching.Limits`."""
    micro_branches: int = 0
    """Demonstrations and responses whose graph is held at once; 0: all of those prompts'."""
    clip: float = 0.0
    """Scores are cut at plus or minus this in the loss; 0: never."""
    pairs: float = 1.0
    """Weight of the Bradley-Terry loss; 0: of no pair."""
    likelihood: float = 0.0
    """Weight of the demonstrations' negative log-likelihood, a mean over their tokens; needs scores that are
    likelihood ratios, whose gradient is the likelihood's."""
    counts: tuple[int, int] = (0, 0)
    """Demonstrations and valid responses of the whole step, over all processes; `learn` fills them in."""
    teacher_tokens: int = 0
    """Tokens of the demonstrations of the whole step; `learn` fills it in."""


def learn(
    discriminator: Discriminator, player: Player, batch: Batch, objective: Objective, step: int, world: World
) -> tuple[Scores, dict[str, float]]:
    """One optimizer step; the scores are those before it.

    Args:
        player: the discriminator's parameters and optimizer.
        batch: this process's share of the step.
        step: number of the step, from 0.

    Returns:
        Scores of the share, and `discriminator_loss`, `balance_loss`, `discriminator_gradient` (norm before
        clipping) of the whole step.

    Raises:
        StageFailed: the loss or the gradient is not finite.
    """
    counts = int(world.sum(len(batch.prompts))), int(world.sum(len(batch.students)))
    if not counts[1] and not objective.likelihood:
        return judge(discriminator, batch, objective.micro_prompts), {}
    player.begin(step)
    tokens = int(world.sum(sum(len(item.ids) for item in batch.teachers)))
    objective = replace(objective, counts=(counts[0], max(counts[1], 1)), teacher_tokens=tokens)
    branches = len(batch.prompts) + len(batch.students)
    fits = objective.micro_prompts >= len(batch.prompts) and not 0 < objective.micro_branches < branches
    gradients = _fused if fits else _in_parts
    values, loss, balance = sharding.run(discriminator.backbone, gradients, discriminator, batch, objective, world)
    loss, balance = world.sum(loss), world.sum(balance)
    norm = player.finish(loss)
    metrics = {"discriminator_loss": loss, "balance_loss": balance, "discriminator_gradient": norm}
    return _scores(values, batch), metrics


def _pair_loss(values_2N: torch.Tensor, batch: Batch, objective: Objective) -> torch.Tensor:
    count = len(batch.prompts)
    which = torch.as_tensor(batch.which, dtype=torch.int64, device=values_2N.device)
    teacher_2B, student_2R = values_2N[:, :count], values_2N[:, count:]
    likelihood = -teacher_2B.sum() / max(objective.teacher_tokens, 1)
    pairs = losses.discriminator_loss(
        teacher_2B, student_2R, which, objective.regulariser, objective.counts, objective.clip
    )
    return objective.pairs * pairs + objective.likelihood * likelihood


def _fused(
    discriminator: Discriminator, batch: Batch, objective: Objective, world: World
) -> tuple[torch.Tensor, float, float]:
    """Scores and gradient from one forward pass."""
    discriminator.routing.reset()
    values = discriminator.score(batch.prompts, *batch.branches)
    loss = _pair_loss(values, batch, objective)
    assigned = world.total(discriminator.routing.assigned_LKE)
    balance = discriminator.balance(_tokens(assigned, discriminator), assigned)
    (loss + objective.balance * balance).backward()
    return values.detach(), float(loss.detach()), float(balance.detach())


def _in_parts(
    discriminator: Discriminator, batch: Batch, objective: Objective, world: World
) -> tuple[torch.Tensor, float, float]:
    """Scores first, then the gradient part by part from the loss's derivative with respect to the scores."""
    limits = Limits(objective.micro_prompts, objective.micro_branches)
    features = discriminator.see(batch.prompts)
    seen = features.detached()
    values = _score(discriminator, batch, limits, seen).requires_grad_()
    assigned = world.total(discriminator.routing.assigned_LKE)
    tokens = _tokens(assigned, discriminator)
    loss = _pair_loss(values, batch, objective)
    (slope_2N,) = torch.autograd.grad(loss, values)
    balance = 0.0

    def share() -> torch.Tensor:
        """What the tokens read since the last time add to the loss for balance."""
        nonlocal balance
        found = discriminator.balance(tokens, assigned)
        balance += float(found.detach())
        discriminator.routing.reset()
        return objective.balance * found

    discriminator.routing.reset()
    for part in limits.parts(len(batch.prompts)):
        columns, prompts = batch.columns(part), batch.prompts[part.start : part.stop]
        state = discriminator.read(prompts, seen.part(part))
        of_prompts, held = share(), state.detached()
        for group in limits.groups(len(columns)):
            some = [columns[index] for index in group]
            evidence = discriminator.weigh(held, *batch.take(part, some))
            ((evidence * slope_2N[:, some]).sum() + share()).backward()
        state.backward(held, of_prompts)
    features.backward(seen)
    return values.detach(), float(loss.detach()), balance


def _tokens(assigned_LKE: torch.Tensor, discriminator: Discriminator) -> torch.Tensor:
    """(K,) tokens of each kind: every layer sends each one to top_k experts."""
    return assigned_LKE[0].sum(-1) / discriminator.description.top_k
