"""One policy-gradient step: each token of each response weighted by what its segment earned.

Every batch of responses is used for one step, so the sampling policy is the trained one and GRPO's clipped objective
has the same gradient as the plain one here. Where the rollout engine computes in another number format, its samples
are slightly another policy's: the gap is always measured, and `importance: truncated` corrects for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from integrations.alignment.data.prompts import Prompt
from integrations.alignment.forward.batching import Limits
from integrations.alignment.forward.policy import Part, policy_gradient
from integrations.alignment.game import losses
from integrations.alignment.game.advantages import Advantages, token_weights
from integrations.alignment.rollouts.rollout import Generation
from integrations.alignment.training import sharding
from integrations.alignment.training.players import Player
from integrations.alignment.training.session import Session
from integrations.errors import StageFailed


class PolicyStep:
    """The policy's side of a step.

    Args:
        player: the policy's parameters and optimizer.
        reference: the starting policy; needed where `kl` is more than 0.
    """

    def __init__(self, session: Session, player: Player, reference: Any) -> None:
        self.session, self.policy, self.player, self.reference = session, session.policy, player, reference

    def take(
        self, prompts: Sequence[Prompt], groups: Sequence[Sequence[Generation]], earned: Advantages, step: int
    ) -> dict[str, float]:
        """One optimizer step; none where no response has an advantage.

        Args:
            prompts, groups, earned: this process's share.
            step: number of the step, from 0.

        Returns:
            `policy_skipped`; and after a step `policy_loss`, `policy_gradient` (norm before clipping), `entropy` (nats
            per token) and, where the engine told its log-probabilities, the trainer's distance from them in nats per
            token (`logprob_gap_mean`, `logprob_gap_max`) and the mean ratio of both, uncut (`importance_ratio`).

        Raises:
            StageFailed: the loss or the gradient is not finite, or `importance` needs what the engine does not tell.
        """
        settings, world = self.session.job.settings, self.session.world
        if all(world.gather(earned.empty)) and not settings.kl:
            return {"policy_skipped": 1.0}
        self.player.begin(step)
        total_tokens = int(world.sum(sum(len(item.token_ids) for group in groups for item in group)))
        parts = sharding.run(self.policy, self._gradient, prompts, groups, earned, total_tokens)
        shares = [part for share in world.gather(parts) for part in share]
        loss = sum(part["loss"] for part in shares)
        norm = self.player.finish(loss)
        found = {"policy_skipped": 0.0, "policy_loss": loss, "policy_gradient": norm}
        found["entropy"] = sum(part["entropy"] for part in shares) / total_tokens
        if all("gap" in part for part in shares):
            found["logprob_gap_mean"] = sum(part["gap"] for part in shares) / total_tokens
            found["logprob_gap_max"] = max(part["gap_max"] for part in shares)
            found["importance_ratio"] = sum(part["ratio"] for part in shares) / total_tokens
        return found

    def _gradient(
        self,
        prompts: Sequence[Prompt],
        groups: Sequence[Sequence[Generation]],
        earned: Advantages,
        total_tokens: int,
    ) -> list[dict[str, float]]:
        """Gather the gradient part by part; the loss of each, and sums over its tokens."""
        settings = self.session.job.settings
        which = [index for index, group in enumerate(groups) for _ in group]
        flat = [item for group in groups for item in group]
        places = [(index, sample) for index, group in enumerate(groups) for sample in range(len(group))]
        weights = [self._token_weights(earned, place, item.token_ids) for place, item in zip(places, flat, strict=True)]
        parts = []

        def loss(part: Part) -> torch.Tensor:
            some = [flat[row] for row in part.rows]
            found, seen = self._part_loss(part, some, [weights[row] for row in part.rows], total_tokens)
            parts.append(seen | {"loss": float(found.detach())})
            return found

        policy_gradient(
            self.policy,
            prompts,
            which,
            [item.token_ids for item in flat],
            loss,
            self.session.banned_V,
            Limits(settings.micro_prompts, settings.precision.micro_branches, settings.precision.head_chunk),
            self.reference if settings.kl else None,
        )
        return parts

    def _part_loss(
        self, part: Part, responses: Sequence[Generation], weights: Sequence[np.ndarray], total_tokens: int
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Loss of some responses, and sums over their tokens."""
        settings, log_probs, mask = self.session.job.settings, part.log_probs_RT, part.mask_RT
        weights_RT = torch.zeros_like(log_probs, requires_grad=False)
        for row, values in enumerate(weights):
            weights_RT[row, : len(values)] = torch.from_numpy(values).to(weights_RT)
        seen = {"entropy": float(part.entropies_RT.sum())}
        rollout = _told(responses, log_probs)
        if rollout is not None:
            gap = (log_probs.detach() - rollout)[mask]
            seen |= {"gap": float(gap.abs().sum()), "gap_max": float(gap.abs().max()), "ratio": float(gap.exp().sum())}
        if settings.importance == "truncated":
            if rollout is None:
                raise StageFailed("the rollout engine tells no log-probabilities", "set `importance: none`")
            weights_RT = weights_RT * losses.importance_weights(log_probs, rollout, settings.importance_cap)
        loss = losses.policy_loss(log_probs, weights_RT, mask, total_tokens)
        if part.reference_RT is not None:
            loss = loss + settings.kl * losses.kl_loss(log_probs, part.reference_RT, mask, total_tokens)
        return loss, seen

    def _token_weights(self, earned: Advantages, place: tuple[int, int], ids: Sequence[int]) -> np.ndarray:
        settings = self.session.job.settings
        return token_weights(
            float(earned.perception_GN[place]),
            float(earned.reasoning_GN[place]),
            float(earned.format_GN[place]),
            tokens=len(ids),
            boundary=self.session.splitter.vocabulary.perception_tokens(ids),
            alpha=settings.alpha,
            credit=settings.credit,
        )


def _told(responses: Sequence[Generation], like_RT: torch.Tensor) -> torch.Tensor | None:
    """(R, T) log-probabilities by the rollout engine, 0 at padding; None where it did not tell them all."""
    told_RT = torch.zeros_like(like_RT, requires_grad=False)
    for row, item in enumerate(responses):
        if item.log_probs is None:
            return None
        told_RT[row, : len(item.log_probs)] = torch.tensor(item.log_probs).to(told_RT)
    return told_RT
