"""What a step of the game is reported to have seen: pure functions over its responses, scores and advantages.

Names of phases: `rollout`, `discriminator`, `policy`. Everything here is of the whole step, over all processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from integrations.alignment import losses
from integrations.alignment.advantages import Advantages
from integrations.alignment.contest import Scores
from integrations.alignment.rollout import Generation
from integrations.alignment.segments import ROLES, Segments, Vocabulary

PEAKS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
    "A10": 125e12,
    "L4": 121e12,
}
"""Dense bf16 operations per second by a part of the GPU's name, the longer names first where one holds another
(NVIDIA's data sheets)."""


@dataclass(frozen=True)
class Seen:
    """A step's material, light enough to be sent between processes."""

    groups: list[list[Generation]]
    segments: list[list[Segments | None]]
    """Of each response; None where it is invalid."""
    teachers: list[Segments]
    """One demonstration per prompt."""
    students: list[Segments]
    """The valid responses, in the scores' order."""
    answers: list[str]
    """The reference answer of each prompt."""
    prompt_tokens: list[int]

    @property
    def tokens(self) -> int:
        """Tokens of the responses."""
        return sum(len(item.token_ids) for group in self.groups for item in group)


def join(shares: Sequence[Seen]) -> Seen:
    """A whole step's material from every process's own."""
    return Seen(*([item for share in shares for item in getattr(share, one.name)] for one in fields(Seen)))


def response_metrics(seen: Seen, scores: Scores) -> dict[str, float]:
    """Form, length and right answers of a step's responses, and whether reasoning scores put right above wrong.

    `right_over_wrong_reasoning` compares within each prompt and across prompts, `..._within` within alone; they are
    left out where there is no pair.
    """
    flat = [item for group in seen.groups for item in group]
    valid = [(index, item) for index, group in enumerate(seen.segments) for item in group if item is not None]
    right = np.array([item.answer == seen.answers[index] for index, item in valid], bool)
    found = {
        "valid": len(valid) / len(flat),
        "truncated": sum(not item.finished for item in flat) / len(flat),
        "response_tokens": sum(len(item.token_ids) for item in flat) / len(flat),
        "answer": float(right.sum()) / len(flat),
    }
    if valid:
        reasoning = scores.student_2R[ROLES.index("reasoning")]
        across, within = (losses.separation(reasoning, right, groups) for groups in (None, scores.which_R))
        named = {"right_over_wrong_reasoning": across, "right_over_wrong_reasoning_within": within}
        found |= {name: value for name, value in named.items() if value is not None}
    return found


def matched_accuracies(seen: Seen, scores: Scores, vocabulary: Vocabulary) -> dict[str, float]:
    """Pair accuracy among pairs whose segments are alike in length, and in layout (see `losses.alike`).

    `length_matched_ROLE` and `style_matched_ROLE` are the shares of such pairs; the accuracies are left out where
    there is none.
    """
    found: dict[str, float] = {}
    if not seen.students:
        return found
    for index, role in enumerate(ROLES):
        for name, measure in (("length_matched", _lengths), ("style_matched", _layouts)):
            demonstrations = measure(seen.teachers, index, vocabulary)[scores.which_R]
            alike = losses.alike(demonstrations, measure(seen.students, index, vocabulary))
            found[f"{name}_{role}"] = float(alike.mean())
            if alike.any():
                found[f"pair_accuracy_{role}_{name}"] = losses.pair_accuracy(scores.margins_2R[index, alike]).value
    return found


def _ids(item: Segments, role: int) -> Sequence[int]:
    return item.ids[item.perception :] if role else item.ids[: item.perception]


def _lengths(items: Sequence[Segments], role: int, vocabulary: Vocabulary) -> np.ndarray:
    return np.array([[len(_ids(item, role))] for item in items])


def _layouts(items: Sequence[Segments], role: int, vocabulary: Vocabulary) -> np.ndarray:
    return np.array([losses.style_counts(vocabulary.text(_ids(item, role))) for item in items])


def advantage_metrics(shares: Sequence[Advantages]) -> dict[str, float]:
    """Spread of the reward, size of the advantages, and groups that gave none, from every process's own."""
    found: dict[str, float] = {
        "groups_without_signal": sum(share.without_signal for share in shares) / len(ROLES),
        "groups_all_invalid": sum(share.all_invalid for share in shares),
    }
    for index, role in enumerate(ROLES):
        spreads = [value for share in shares for value in share.spreads[index]]
        if spreads:
            found[f"reward_spread_{role}"] = float(np.mean(spreads))
    totals = np.concatenate(
        [((share.perception_GN + share.reasoning_GN) / 2 + share.format_GN).ravel() for share in shares]
    )
    found["advantage_mean"] = float(totals.mean())
    found["advantage_abs"] = float(np.abs(totals).mean())
    found["advantage_max"] = float(np.abs(totals).max())
    return found


COUNTED = ("groups_without_signal", "groups_all_invalid", *(f"gated_{role}" for role in ROLES))


def counts(found: Mapping[str, float], seen: Seen) -> dict[str, float]:
    """A step's counts, to be summed over the stage for its notes.

    Args:
        found: the step's metrics.
    """
    numbers = {name: found[name] for name in COUNTED}
    responses = sum(len(group) for group in seen.groups)
    truncated = sum(not item.finished for group in seen.groups for item in group)
    numbers |= {"steps": 1.0, "groups": float(len(seen.groups)), "responses": float(responses)}
    numbers |= {"truncated": float(truncated), "invalid": float(responses - len(seen.students) - truncated)}
    scale = found["discriminator_scale"]
    return numbers | {"discriminator_slowed": float(scale < 1), "discriminator_hastened": float(scale > 1)}


def step_work(seen: Seen, *, policy: int, discriminator: int, learnt: bool, moved: bool) -> dict[str, float]:
    """Floating-point operations of a step's phases, as `utilisation` takes them; each prompt counts once per phase.

    Args:
        policy, discriminator: active parameters.
        learnt, moved: whether the discriminator and the policy took a step.
    """
    prompts = sum(seen.prompt_tokens)
    segments = sum(len(item.ids) for item in (*seen.teachers, *seen.students))
    work = {"rollout": 2.0 * policy * (prompts + seen.tokens)}
    work["discriminator"] = (6.0 if learnt else 2.0) * discriminator * (prompts + segments)
    return work | ({"policy": 6.0 * policy * (prompts + seen.tokens)} if moved else {})


def active_parameters(model: Any) -> int:
    """Parameters that one text token passes through: experts count by the share that is chosen, images not at all."""
    config = model.config.get_text_config()
    chosen = getattr(config, "num_experts_per_tok", 1) / max(getattr(config, "num_experts", 1), 1)
    total = 0.0
    for name, value in model.model.language_model.named_parameters():
        if "embed_tokens" not in name:
            total += value.numel() * (chosen if ".experts." in name else 1.0)
    return round(total)


def peak(device_name: str) -> float | None:
    """Operations per second that the GPU can do at most; None for one that is not in the table."""
    return next((value for part, value in PEAKS.items() if part in device_name), None)


def utilisation(
    work: Mapping[str, float], seconds: Mapping[str, float], peak_per_second: float | None
) -> dict[str, float]:
    """`tflops_PHASE` and, where the peak is known, `mfu_PHASE`.

    Args:
        work: floating-point operations per phase: 2 per active parameter and token in a forward pass, 6 with the
            backward pass. Attention and the vision tower are left out, so the figures are lower bounds.
        seconds: as `Stopwatch.seconds`, named `seconds_PHASE`.
        peak_per_second: of all processes together.
    """
    found = {}
    for phase, operations in work.items():
        rate = operations / seconds[f"seconds_{phase}"]
        found[f"tflops_{phase}"] = rate / 1e12
        if peak_per_second:
            found[f"mfu_{phase}"] = rate / peak_per_second
    return found
