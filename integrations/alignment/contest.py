"""Demonstrations against responses: one step of the discriminator, and the scores it gave on the way.

The scores are the policy's reward and the discriminator's own training signal at once. Where a step's graph fits in
memory they come from one forward pass; else a pass without gradient gives the scores, the loss gives its derivative
with respect to each score, and the gradient is gathered in parts. Both ways give the same scores and gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from integrations.alignment import losses
from integrations.alignment.discriminator import Discriminator
from integrations.alignment.players import Player
from integrations.alignment.prompts import Prompt
from integrations.alignment.rollout import Generation
from integrations.alignment.segments import ROLES, Segments, Splitter
from integrations.alignment.world import World


@dataclass(frozen=True)
class Batch:
    """Legend: B prompts with one demonstration each, R valid responses."""

    prompts: list[Prompt]
    teachers: list[Segments]
    students: list[Segments]
    which: list[int]
    """The prompt of each response; ascending."""

    def part(self, start: int, stop: int) -> Batch:
        """Prompts start to stop with all that belongs to them."""
        inside = [r for r, index in enumerate(self.which) if start <= index < stop]
        return Batch(
            self.prompts[start:stop],
            self.teachers[start:stop],
            [self.students[r] for r in inside],
            [self.which[r] - start for r in inside],
        )

    @property
    def branches(self) -> tuple[list[Prompt], list[int], list[Segments]]:
        """Demonstrations, then responses, as `Discriminator.evidence` takes them."""
        return self.prompts, [*range(len(self.prompts)), *self.which], [*self.teachers, *self.students]


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
    teachers, students = [], []
    for start in range(0, len(batch.prompts), micro_prompts):
        part = batch.part(start, start + micro_prompts)
        discriminator.routing.reset()
        values = discriminator.score(*part.branches)
        teachers.append(values[:, : len(part.prompts)])
        students.append(values[:, len(part.prompts) :])
    return _scores(torch.cat([*teachers, *students], 1), batch)


@dataclass(frozen=True)
class Objective:
    """The discriminator's loss."""

    regulariser: float
    balance: float
    micro_prompts: int
    counts: tuple[int, int] = (0, 0)
    """Demonstrations and valid responses of the whole step, over all processes; `learn` fills them in."""


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
    if not counts[1]:
        return judge(discriminator, batch, objective.micro_prompts), {}
    player.begin(step)
    objective = replace(objective, counts=counts)
    gradients = _fused if objective.micro_prompts >= len(batch.prompts) else _in_parts
    values, loss, balance = gradients(discriminator, batch, objective, world)
    loss, balance = world.sum(loss), world.sum(balance)
    norm = player.finish(loss)
    metrics = {"discriminator_loss": loss, "balance_loss": balance, "discriminator_gradient": norm}
    return _scores(values, batch), metrics


def _pair_loss(values_2N: torch.Tensor, batch: Batch, objective: Objective) -> torch.Tensor:
    count = len(batch.prompts)
    which = torch.as_tensor(batch.which, device=values_2N.device)
    return losses.discriminator_loss(
        values_2N[:, :count], values_2N[:, count:], which, objective.regulariser, objective.counts
    )


def _fused(
    discriminator: Discriminator, batch: Batch, objective: Objective, world: World
) -> tuple[torch.Tensor, float, float]:
    """Scores and gradient from one forward pass."""
    discriminator.routing.reset()
    values = discriminator.score(*batch.branches)
    loss = _pair_loss(values, batch, objective)
    assigned = world.total(discriminator.routing.assigned_LKE)
    balance = discriminator.balance(_tokens(assigned, discriminator), assigned)
    (loss + objective.balance * balance).backward()
    return values.detach(), float(loss.detach()), float(balance.detach())


def _in_parts(
    discriminator: Discriminator, batch: Batch, objective: Objective, world: World
) -> tuple[torch.Tensor, float, float]:
    """Scores first, then the gradient part by part from the loss's derivative with respect to the scores."""
    parts = [
        batch.part(start, start + objective.micro_prompts)
        for start in range(0, len(batch.prompts), objective.micro_prompts)
    ]
    discriminator.routing.reset()
    with torch.no_grad():
        pieces = [discriminator.score(*part.branches) for part in parts]
    assigned = world.total(discriminator.routing.assigned_LKE)
    tokens = _tokens(assigned, discriminator)
    teachers = [piece[:, : len(part.prompts)] for piece, part in zip(pieces, parts, strict=True)]
    students = [piece[:, len(part.prompts) :] for piece, part in zip(pieces, parts, strict=True)]
    values = torch.cat([*teachers, *students], 1).requires_grad_()
    loss = _pair_loss(values, batch, objective)
    (slope,) = torch.autograd.grad(loss, values)
    teacher, student, balance = 0, len(batch.prompts), 0.0
    for part in parts:
        discriminator.routing.reset()
        evidence = discriminator.evidence(*part.branches)
        slopes = torch.cat(
            [
                slope[:, teacher : teacher + len(part.prompts)],
                slope[:, student : student + len(part.students)],
            ],
            1,
        )
        share = discriminator.balance(tokens, assigned)
        ((evidence * slopes).sum() + objective.balance * share).backward()
        balance += float(share.detach())
        teacher, student = teacher + len(part.prompts), student + len(part.students)
    return values.detach(), float(loss.detach()), balance


def _tokens(assigned_LKE: torch.Tensor, discriminator: Discriminator) -> torch.Tensor:
    """(K,) tokens of each kind: every layer sends each one to top_k experts."""
    return assigned_LKE[0].sum(-1) / discriminator.description.top_k
