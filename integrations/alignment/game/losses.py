"""Losses of the game and what is measured beside them: pure functions over tensors and arrays.

Legend: 2 roles (perception, reasoning), B prompts with one demonstration each, R responses.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
import torch
import torch.nn.functional as F

TIE = 1e-4
"""Margins this near to zero are ties; equal segments differ only by rounding."""


def pair_margins(teacher_2B: torch.Tensor, student_2R: torch.Tensor, which_R: torch.Tensor) -> torch.Tensor:
    """(2, R) score of the prompt's demonstration minus the response's; response r answers prompt `which_R[r]`."""
    return teacher_2B[:, which_R] - student_2R


def discriminator_loss(
    teacher_2B: torch.Tensor,
    student_2R: torch.Tensor,
    which_R: torch.Tensor,
    regulariser: float,
    counts: tuple[int, int],
    clip: float = 0.0,
) -> torch.Tensor:
    """Bradley-Terry loss of both roles plus the mean squared score, as this part's share of the whole step's.

    Each role's mean is taken over all valid pairs of the step, however they were batched, so every pair weighs the
    same; the paper's code takes it over each micro-batch, where pairs in batches with few valid ones weigh more.

    Args:
        counts: demonstrations and responses in the whole step.
        clip: `AlignSettings.score_clip`; 0 leaves it to the regulariser to keep scores small, since a cut score has no
            gradient where it is needed most.
    """
    if clip:
        teacher_2B, student_2R = teacher_2B.clamp(-clip, clip), student_2R.clamp(-clip, clip)
    margins = pair_margins(teacher_2B, student_2R, which_R)
    pairs = -F.logsigmoid(margins).sum() / counts[1]
    return pairs + regulariser * (teacher_2B.pow(2).sum() / counts[0] + student_2R.pow(2).sum() / counts[1]) / 2


def balance_loss(
    assigned_LKE: torch.Tensor, probability_LKE: torch.Tensor, tokens_K: torch.Tensor, allowed_KE: torch.Tensor
) -> torch.Tensor:
    """Load-balancing loss of Switch Transformers, for each role over the experts it may use; 1 at perfect balance.

    Args:
        assigned_LKE: per layer, kind of token and expert, the number of tokens sent there. No gradient.
        probability_LKE: the sum of the router's probabilities (after its mask).
        tokens_K: number of tokens of each kind in the whole step.
        allowed_KE: bool.

    Returns:
        Scalar: mean over layers and the kinds of token that occur.
    """
    occurs = tokens_K > 0
    share = assigned_LKE / assigned_LKE.sum(-1, keepdim=True).clamp_min(1)
    mean_probability = probability_LKE / tokens_K.clamp_min(1)[:, None]
    per_kind = (share * mean_probability).sum(-1) * allowed_KE.sum(-1)
    return per_kind[:, occurs].mean()


def policy_loss(
    log_probs_RT: torch.Tensor, weights_RT: torch.Tensor, mask_RT: torch.Tensor, total_tokens: int
) -> torch.Tensor:
    """REINFORCE with group-relative advantages, a mean over all response tokens of the step.

    Each batch of responses is used for one step, so policy and sampling policy are equal and their ratio is one:
    GRPO's clipped objective has this same gradient, and needs neither a second pass for old log-probabilities nor a
    clip range.

    Args:
        log_probs_RT: of the sampled tokens, with gradient.
        weights_RT: advantage of each token.
        mask_RT: bool, True at real tokens.
        total_tokens: response tokens in the whole step, over all micro-batches.
    """
    return -(weights_RT * log_probs_RT)[mask_RT].sum() / total_tokens


def kl_loss(
    log_probs_RT: torch.Tensor, reference_RT: torch.Tensor, mask_RT: torch.Tensor, total_tokens: int
) -> torch.Tensor:
    """Per-token estimate of KL(policy || reference), never negative: exp(d) - d - 1 with d = reference - policy."""
    difference = (reference_RT - log_probs_RT)[mask_RT]
    return (difference.exp() - difference - 1).sum() / total_tokens


def importance_weights(log_probs_RT: torch.Tensor, rollout_RT: torch.Tensor, cap: float) -> torch.Tensor:
    """(R, T) truncated importance weights min(policy / rollout engine, cap), without gradient.

    The gradient is then that of samples from the trained policy, up to the cap (Yao et al. 2025, "Your efficient RL
    framework secretly brings you off-policy RL training").

    Args:
        log_probs_RT, rollout_RT: of the sampled tokens, by the trainer and by the engine that sampled them.
        cap: largest weight; it bounds the variance.
    """
    return (log_probs_RT.detach() - rollout_RT).exp().clamp(max=cap)


@dataclass(frozen=True)
class Share:
    """A share of n cases with its 95% Wilson interval."""

    value: float
    low: float
    high: float
    n: int


def wilson(successes: float, n: int, z: float = 1.96) -> Share:
    """The share `successes / n`; ties may count as half a success. n = 0 gives [0, 1] around 0.5."""
    if n == 0:
        return Share(0.5, 0.0, 1.0, 0)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Share(share, centre - half, centre + half, n)


def pair_accuracy(margins: np.ndarray) -> Share:
    """Share of pairs in which the demonstration scores higher; ties count as a half."""
    ties = np.abs(margins) <= TIE
    return wilson(float((margins[~ties] > 0).sum() + 0.5 * ties.sum()), len(margins))


def decided(margins: np.ndarray) -> tuple[int, int]:
    """Pairs that the demonstration wins, and pairs with a winner at all."""
    return int((margins > TIE).sum()), int((np.abs(margins) > TIE).sum())


def decided_margin(margins: np.ndarray) -> float | None:
    """Mean margin of the pairs with a winner; None where there is none."""
    return float(margins[np.abs(margins) > TIE].mean()) if decided(margins)[1] else None


def separation(scores: np.ndarray, right: np.ndarray, groups: np.ndarray | None = None) -> float | None:
    """Area under the ROC curve: chance that a right response scores above a wrong one; ties count as a half.

    Args:
        scores: (R,).
        right: (R,) bool.
        groups: (R,) prompt of each response; given, only pairs within a prompt count.

    Returns:
        None where there is no such pair.
    """
    higher, pairs = 0.0, 0
    group_of = np.zeros(len(scores), np.int64) if groups is None else groups
    for group in np.unique(group_of):
        inside = group_of == group
        difference = scores[inside & right][:, None] - scores[inside & ~right][None]
        ties = np.abs(difference) <= TIE
        higher += float((difference[~ties] > 0).sum() + 0.5 * ties.sum())
        pairs += difference.size
    return higher / pairs if pairs else None
