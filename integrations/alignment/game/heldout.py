"""What the discriminator and the policy are worth on prompts that neither was trained on.

The responses are drawn with the same random streams at every check, so that checks differ by the models alone.

A large margin may be style. What shows that content is seen is `right_over_wrong_ROLE`: the chance that the role's
score puts a right segment above a wrong one, both the policy's own and so of one author. Which are right is known on
any pool with demonstrations and answers:

  - a caption is right when it says what the demonstration's says (`negatives.says_the_same`);
  - reasoning is right when it ends in the reference answer, and is compared among responses with a right caption:
    the score of reasoning is given its caption, and right reasoning from a wrong caption ends in a wrong answer.
    Over all responses the same is `right_over_wrong_answer`, which mixes the two roles.

Where captions are free text that never agrees word for word, nothing is known to be right, and the measures are
missing; `content_accuracy_ROLE` (demonstrations against themselves with one error) is there on every pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from integrations.alignment.data import negatives
from integrations.alignment.data.pool import TeacherPool
from integrations.alignment.data.seeds import derive, generator
from integrations.alignment.data.segments import ROLES, Segments, Splitter
from integrations.alignment.discriminators.discriminator import Discriminator
from integrations.alignment.game import contest, losses
from integrations.alignment.rollouts.engines import Sampler
from integrations.alignment.rollouts.rollout import Generation, Sampling
from integrations.alignment.training.session import Session
from integrations.alignment.training.world import World
from integrations.common.response import Response, parse
from integrations.common.rows import Row

SAMPLES = 4
"""Responses per held-out prompt."""
RESAMPLES = 200
"""Of the held-out prompts, for intervals."""
ALIKE = 0.1
"""Segments whose lengths differ by at most this share are of one length."""


@dataclass(frozen=True)
class Judged:
    """What is known of the valid responses to the held-out prompts, by role. Legend: R responses."""

    right_2R: np.ndarray
    """bool: caption as demonstrated, answer as referred to."""
    style_2R: np.ndarray
    """str: the segment's wording without its numbers."""
    alike_2R: np.ndarray
    """bool: the segment is worded as the demonstration's, numbers apart."""
    long_2R: np.ndarray
    """bool: the segment is as long as the demonstration's."""


def check_stage(discriminator: Discriminator, session: Session, micro_prompts: int) -> dict[str, float]:
    """`check` with what a stage's session and settings say."""
    job = session.job
    return check(
        discriminator,
        session.rollouts,
        session.pool,
        session.splitter,
        job.sampling,
        seed=job.seed,
        batch_size=job.settings.rollout.batch_size,
        micro_prompts=micro_prompts,
        world=session.world,
        wording=job.settings.wording,
    )


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
    world: World,
    wording: str = "demonstration",
) -> dict[str, float]:
    """Measures on the held-out prompts, each named `held_out_...`; what has no pair to measure it by is missing.

    Of the policy: `valid`, `caption`, `answer`: shares of all responses that have the form, a right caption, a right
    answer.

    Of the discriminator, for each ROLE:
    `right_over_wrong_ROLE`, with `_low` and `_high` of a 95% interval (prompts resampled); `_within`, over pairs of
    one prompt only; `_same_style`, over pairs of one wording; `_pairs`, the number of pairs. The same without
    interval for `right_over_wrong_answer`.
    `pair_accuracy_ROLE` and `_total` (the sum of both scores): demonstration over response, with `_low` and `_high` of
    a 95% interval that counts prompts, not pairs; `_same_style` and `_same_length`, over responses that are worded
    as their demonstration, or as long. `margin_ROLE`; `loss`.
    `content_accuracy_ROLE` with `_low` and `_high`: demonstration over the same with one error.

    Args:
        wording: of the demonstrations that responses are compared with, see `TeacherPool.teachers`.
    """

    def stream(row: Row, sample: int) -> int:
        return derive(seed, "held_out", row["id"], sample)

    rows = world.mine(pool.held_out)
    groups = rollouts.sample(rows, SAMPLES, sampling, stream, batch_size)
    prompts = [rollouts.encoder.encode(row) for row in rows]
    segments = contest.valid_segments(groups, splitter)
    teachers, _ = pool.teachers(rows, groups, splitter, wording, seed, "held_out")
    batch = contest.pair_up(prompts, teachers, segments)
    scores = contest.join(world.gather(contest.judge(discriminator, batch, micro_prompts)))
    judged = join(world.gather(judge_responses(rows, teachers, groups, segments)))
    responses = SAMPLES * len(pool.held_out)
    caption, answer = judged.right_2R.sum(1) / responses
    found = {"valid": len(scores.which_R) / responses, "caption": float(caption), "answer": float(answer)}
    if len(scores.which_R):
        found |= accuracies(scores, judged) | separations(scores, judged, seed)
    for place, role in enumerate(ROLES):
        texts = [pool.editor.edit(row["response"], role, seed, row["id"]) for row in rows]
        whole = [pool.demonstrations[row["id"]] for row in rows]
        spoilt = contest.pair_up(prompts, whole, [[splitter.split(text) if text else None] for text in texts])
        preferred = contest.join(world.gather(contest.judge(discriminator, spoilt, micro_prompts)))
        if len(preferred.which_R):
            found |= _share(f"content_accuracy_{role}", preferred.margins_2R[place], preferred.which_R)
    return {f"held_out_{name}": value for name, value in found.items()}


def join(shares: Sequence[Judged]) -> Judged:
    """What is known of a whole check's responses from every process's own."""
    return Judged(*(np.concatenate([getattr(share, one.name) for share in shares], 1) for one in fields(Judged)))


def judge_responses(
    rows: Sequence[Row],
    teachers: Sequence[Segments],
    groups: Sequence[Sequence[Generation]],
    segments: Sequence[Sequence[Segments | None]],
) -> Judged:
    """What is known of the valid responses, in the order of `contest.pair_up`."""
    found = []
    for row, teacher, group, valid in zip(rows, teachers, groups, segments, strict=True):
        wanted = parse(row["response"])
        for generation, own in zip(group, valid, strict=True):
            said = parse(generation.text)
            if own is None or said is None or wanted is None:
                continue
            right = negatives.says_the_same(said.caption, wanted.caption), said.answer == str(row["answer"])
            words, model = _wordings(said), _wordings(wanted)
            alike = tuple(one == other for one, other in zip(words, model, strict=True))
            found.append((right, words, alike, _as_long(own, teacher)))
    columns = zip(*found, strict=True) if found else ((), (), (), ())
    kinds = (bool, str, bool, bool)
    return Judged(*(np.array(column, kind).reshape(-1, 2).T for column, kind in zip(columns, kinds, strict=True)))


def _wordings(response: Response) -> tuple[str, str]:
    return negatives.wording(response.caption), negatives.wording(f"{response.think} / {response.answer}")


def _as_long(one: Segments, other: Segments) -> tuple[bool, bool]:
    lengths = [(item.perception, len(item.ids) - item.perception) for item in (one, other)]
    perception, reasoning = (abs(own - wanted) <= ALIKE * wanted for own, wanted in zip(*lengths, strict=True))
    return perception, reasoning


def accuracies(scores: contest.Scores, judged: Judged) -> dict[str, float]:
    """How often demonstrations score above responses; see `check`."""
    found: dict[str, float] = {}
    margins = scores.margins_2R
    for name, values in zip((*ROLES, "total"), (*margins, margins.sum(0)), strict=True):
        found |= _share(f"pair_accuracy_{name}", values, scores.which_R)
        found[f"margin_{name}"] = float(values.mean())
    for matched, masks in (("style", judged.alike_2R), ("length", judged.long_2R)):
        for role, values, mask in zip(ROLES, margins, masks, strict=True):
            if mask.any():
                found[f"pair_accuracy_{role}_same_{matched}"] = losses.pair_accuracy(values[mask]).value
    found["loss"] = float(np.logaddexp(0, -margins).mean(1).sum())
    return found


def _share(name: str, margins: np.ndarray, which: np.ndarray) -> dict[str, float]:
    """A pair accuracy and its interval, which counts prompts."""
    prompts = len(np.unique(which))
    share = losses.pair_accuracy(margins).value
    interval = losses.wilson(share * prompts, prompts)
    return {name: share, f"{name}_low": interval.low, f"{name}_high": interval.high}


def separations(scores: contest.Scores, judged: Judged, seed: int | None = None) -> dict[str, float]:
    """How often right segments score above wrong ones; see `check`. Without `seed` there are no intervals."""
    caption, answer = judged.right_2R
    everything: np.ndarray = np.ones(len(caption), bool)
    asked = {
        "perception": (0, caption, everything),
        "reasoning": (1, answer, caption),
        "answer": (1, answer, everything),
    }
    found: dict[str, float | None] = {}
    for name, (role, right, mask) in asked.items():
        values, right, which = scores.student_2R[role][mask], right[mask], scores.which_R[mask]
        name = f"right_over_wrong_{name}"
        found[name] = losses.separation(values, right)
        found[f"{name}_pairs"] = float(right.sum() * (~right).sum()) or None
        found[f"{name}_within"] = losses.separation(values, right, which)
        found[f"{name}_same_style"] = losses.separation(values, right, judged.style_2R[role][mask])
        if seed is not None and name != "right_over_wrong_answer":
            found[f"{name}_low"], found[f"{name}_high"] = separation_interval(values, right, which, seed)
    return {name: value for name, value in found.items() if value is not None}


def separation_interval(
    values: np.ndarray, right: np.ndarray, which: np.ndarray, seed: int
) -> tuple[float | None, float | None]:
    """95% interval of `losses.separation` over all pairs, by resampling prompts; None where there is no pair.

    Args:
        values: (R,) scores; right: (R,) bool; which: (R,) the prompt of each response.
    """
    prompts = [np.flatnonzero(which == prompt) for prompt in np.unique(which)]
    rng, found = generator(seed, "held_out", "interval"), []
    for _ in range(RESAMPLES if prompts else 0):
        chosen = np.concatenate([prompts[index] for index in rng.integers(len(prompts), size=len(prompts))])
        value = losses.separation(values[chosen], right[chosen])
        if value is not None:
            found.append(value)
    if not found:
        return None, None
    return float(np.quantile(found, 0.025)), float(np.quantile(found, 0.975))
