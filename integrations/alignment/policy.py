"""Log-probabilities of responses, with gradient, each prompt read once for its whole group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from integrations.alignment import batching
from integrations.alignment.prompts import Prompt


def token_log_probs(
    model: Any, state: batching.PromptState, hidden_RTH: torch.Tensor, tails: batching.Tails, banned_V: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of each continuation token, and the entropy of its distribution.

    The output layer runs on real tokens only, over the tokens that sampling allows.

    Returns:
        (R, T) float32 log-probabilities, 0 at padding; (R, T) float32 entropies in nats, without gradient.
    """
    mask = tails.mask_RT
    states = batching.predicting_states(state, hidden_RTH)[mask]
    logits = model.lm_head(states)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).masked_fill(banned_V, -torch.inf)
    distribution = logits.log_softmax(-1)
    chosen = distribution.gather(-1, tails.ids_RT[mask][:, None])[:, 0]
    log_probs = chosen.new_zeros(mask.shape).masked_scatter(mask, chosen)
    with torch.no_grad():
        terms = distribution.exp() * distribution.masked_fill(banned_V, 0)
        entropies = chosen.new_zeros(mask.shape).masked_scatter(mask, -terms.sum(-1))
    return log_probs, entropies


def response_log_probs(
    model: Any,
    prompts: Sequence[Prompt],
    which: Sequence[int],
    responses: Sequence[Sequence[int]],
    banned_V: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probabilities of `responses`, of which r answers `prompts[which[r]]`.

    Returns:
        (R, T) log-probabilities, (R, T) entropies, (R, T) bool mask of real tokens.
    """
    device = banned_V.device
    tails = batching.Tails.pack(responses, device)
    state = batching.repeat(batching.read_prompts(model, prompts), torch.as_tensor(which, device=device))
    hidden = batching.continue_prompts(model, state, tails)
    log_probs, entropies = token_log_probs(model, state, hidden, tails, banned_V)
    return log_probs, entropies, tails.mask_RT
