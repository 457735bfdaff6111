"""What the discriminator and the policy are worth on prompts that neither was trained on.

The responses are drawn with the same random streams at every check, so that checks differ by the models alone.
A large margin may be style; what shows that content is seen is `right_over_wrong`: the chance that the reasoning
score puts a right answer above a wrong one, among the policy's own responses and so in one style.
"""

from __future__ import annotations

import numpy as np

from integrations.alignment import contest, losses
from integrations.alignment.discriminator import Discriminator
from integrations.alignment.engines import Sampler
from integrations.alignment.pool import TeacherPool
from integrations.alignment.rollout import Sampling
from integrations.alignment.seeds import derive
from integrations.alignment.segments import ROLES, Splitter
from integrations.common.rows import Row

SAMPLES = 2
"""Responses per held-out prompt."""


def check(
    discriminator: Discriminator,
    rollouts: Sampler,
    pool: TeacherPool,
    splitter: Splitter,
    sampling: Sampling,
    *,
    seed: int,
    batch_size: int,
    micro_prompts: int,
) -> dict[str, float]:
    """Measures on the held-out prompts, each named `held_out_...`.

    `pair_accuracy_ROLE` and `_total` (the sum of both scores), with `_low` and `_high` of a 95% interval that counts
    prompts, not pairs; `margin_ROLE`; `loss`; `valid` (share of responses of the right form); `answer` (share of right
    answers); `right_over_wrong` and `right_over_wrong_within` (pairs of one prompt only), where there are such pairs.
    """

    def stream(row: Row, sample: int) -> int:
        return derive(seed, "held_out", row["id"], sample)

    groups = rollouts.sample(pool.held_out, SAMPLES, sampling, stream, batch_size)
    prompts = [rollouts.encoder.encode(row) for row in pool.held_out]
    teachers = [pool.demonstrations[row["id"]] for row in pool.held_out]
    batch = contest.pair_up(prompts, teachers, contest.valid_segments(groups, splitter))
    right = np.array([item.answer == prompts[r].answer for item, r in zip(batch.students, batch.which, strict=True)])
    responses = SAMPLES * len(prompts)
    found = {"valid": len(batch.students) / responses, "answer": float(right.sum()) / responses}
    if batch.students:
        scores = contest.judge(discriminator, batch, micro_prompts)
        found |= _accuracies(scores) | _separations(scores, right)
    return {f"held_out_{name}": value for name, value in found.items()}


def _accuracies(scores: contest.Scores) -> dict[str, float]:
    found: dict[str, float] = {}
    margins = scores.margins_2R
    prompts = len(np.unique(scores.which_R))
    for name, values in zip((*ROLES, "total"), (*margins, margins.sum(0)), strict=True):
        share = losses.pair_accuracy(values).value
        interval = losses.wilson(share * prompts, prompts)
        found[f"pair_accuracy_{name}"] = share
        found[f"pair_accuracy_{name}_low"], found[f"pair_accuracy_{name}_high"] = interval.low, interval.high
        found[f"margin_{name}"] = float(values.mean())
    found["loss"] = float(np.logaddexp(0, -margins).mean(1).sum())
    return found


def _separations(scores: contest.Scores, right: np.ndarray) -> dict[str, float]:
    reasoning = scores.student_2R[ROLES.index("reasoning")]
    within = losses.separation(reasoning, right, scores.which_R)
    across = losses.separation(reasoning, right)
    named = {"right_over_wrong": across, "right_over_wrong_within": within}
    return {name: value for name, value in named.items() if value is not None}
