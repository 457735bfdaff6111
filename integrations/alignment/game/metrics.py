"""What a step of the game is reported to have seen: pure functions over its responses, scores and advantages.

Everything is of the whole step, over all processes. ROLE is perception or reasoning; what cannot be measured in a step
(no valid response, no wrong one, no step of the policy) is left out.

Discriminator, its scores being those before its own step:
  discriminator_loss, balance_loss, discriminator_gradient (norm before clipping), discriminator_scale (factor on its
  learning rate), running_accuracy (what the band looks at);
  pair_accuracy_ROLE, margin_ROLE: demonstration against response; pair_accuracy_ROLE_same_style, _same_length: among
  pairs of one wording or one length;
  right_over_wrong_ROLE, right_over_wrong_answer, each also _within a prompt and among segments of the _same_style:
  chance that a right segment scores above a wrong one, see `heldout`.
Reward:
  reward_spread_ROLE (mean deviation within a group), advantage_mean, advantage_abs, advantage_max (per response, both
  roles and format), groups_without_signal (one role counts as half), groups_all_invalid, gated_ROLE.
Policy:
  policy_loss, policy_gradient, policy_skipped, entropy (nats per token);
  logprob_gap_mean, logprob_gap_max (trainer against rollout engine, nats per token), importance_ratio, canary_gap;
  valid, truncated, caption, answer: shares of all responses; response_tokens: their mean length.
Speed:
  seconds_PHASE for rollout, discriminator, policy and sync; tokens_per_second of the rollout; tflops_PHASE, and on
  known GPUs mfu_PHASE (share of the GPU's dense bf16 peak).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from integrations.alignment.data.segments import ROLES, Segments
from integrations.alignment.game import heldout
from integrations.alignment.game.advantages import Advantages
from integrations.alignment.game.contest import Scores
from integrations.alignment.rollouts.rollout import Generation
from integrations.common.rows import Row

PEAKS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "RTX 4090": 165e12,
    "A10G": 70e12,
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
    rows: list[Row]
    """The row of each prompt."""
    prompt_tokens: list[int]

    @property
    def tokens(self) -> int:
        """Tokens of the responses."""
        return sum(len(item.token_ids) for group in self.groups for item in group)


def join(shares: Sequence[Seen]) -> Seen:
    """A whole step's material from every process's own."""
    return Seen(*([item for share in shares for item in getattr(share, one.name)] for one in fields(Seen)))


def response_metrics(seen: Seen) -> dict[str, float]:
    """Form and length of a step's responses."""
    flat = [item for group in seen.groups for item in group]
    return {
        "valid": len(seen.students) / len(flat),
        "truncated": sum(not item.finished for item in flat) / len(flat),
        "response_tokens": seen.tokens / len(flat),
    }


def content_metrics(seen: Seen, scores: Scores) -> dict[str, float]:
    """What the discriminator owes to content and what to style, among the step's own responses.

    `caption` and `answer`: shares of all responses that are right. `right_over_wrong_ROLE`, with `_within` and
    `_same_style`, `pair_accuracy_ROLE_same_style` and `_same_length`: as in `heldout.check`, here while both learn.
    """
    responses = sum(len(group) for group in seen.groups)
    judged = heldout.judge_responses(seen.rows, seen.teachers, seen.groups, seen.segments)
    caption, answer = judged.right_2R.sum(1) / responses
    found = {"caption": float(caption), "answer": float(answer)}
    if seen.students:
        measured = heldout.accuracies(scores, judged) | heldout.separations(scores, judged)
        wanted = ("right_over_wrong", "same_style", "same_length")
        ends = ("_low", "_high", "_pairs")
        found |= {
            name: value
            for name, value in measured.items()
            if any(word in name for word in wanted) and not name.endswith(ends)
        }
    return found


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
            backward pass. Attention, the output layer and the
            vision tower are left out, so the figures are lower bounds.
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
