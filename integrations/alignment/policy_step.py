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

from integrations.alignment import losses
from integrations.alignment.advantages import Advantages, token_weights
from integrations.alignment.players import Player
from integrations.alignment.policy import response_log_probs
from integrations.alignment.prompts import Prompt
from integrations.alignment.rollout import Generation
from integrations.alignment.session import Session
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
        parts = []
        for start in range(0, len(prompts), settings.micro_prompts):
            some = slice(start, start + settings.micro_prompts)
            loss, seen = self._part_loss(prompts[some], groups[some], earned, start, total_tokens)
            loss.backward()
            parts.append(seen | {"loss": float(loss.detach())})
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

    def _part_loss(
        self,
        prompts: Sequence[Prompt],
        groups: Sequence[Sequence[Generation]],
        earned: Advantages,
        first: int,
        total_tokens: int,
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Loss of some prompts' groups, and sums over their tokens; `first` is the number of the first prompt."""
        settings, banned_V = self.session.job.settings, self.session.banned_V
        which = [index for index, group in enumerate(groups) for _ in group]
        flat = [item for group in groups for item in group]
        responses = [item.token_ids for item in flat]
        log_probs, entropies, mask = response_log_probs(self.policy, prompts, which, responses, banned_V)
        weights = torch.zeros_like(log_probs)
        for row, (group, ids) in enumerate(zip(which, responses, strict=True)):
            place = (first + group, row - which.index(group))
            weights[row, : len(ids)] = torch.from_numpy(self._token_weights(earned, place, ids)).to(weights)
        seen = {"entropy": float(entropies.sum())}
        rollout = _told(flat, log_probs)
        if rollout is not None:
            gap = (log_probs.detach() - rollout)[mask]
            seen |= {"gap": float(gap.abs().sum()), "gap_max": float(gap.abs().max()), "ratio": float(gap.exp().sum())}
        if settings.importance == "truncated":
            if rollout is None:
                raise StageFailed("the rollout engine tells no log-probabilities", "set `importance: none`")
            weights = weights * losses.importance_weights(log_probs, rollout, settings.importance_cap)
        loss = losses.policy_loss(log_probs, weights, mask, total_tokens)
        if settings.kl:
            with torch.no_grad():
                reference, _, _ = response_log_probs(self.reference, prompts, which, responses, banned_V)
            loss = loss + settings.kl * losses.kl_loss(log_probs, reference, mask, total_tokens)
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
