"""Log-probabilities of responses, with gradient, and the policy's step: each prompt read once for its whole group.

Differs from the paper's code: no pass for old log-probabilities (each batch of responses is used for one step, so the
ratio to them is one), no padding, and an output layer that sees response tokens only, some at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from integrations.alignment.data.prompts import Prompt
from integrations.alignment.forward import batching
from integrations.alignment.forward.batching import Limits


@dataclass(frozen=True)
class Part:
    """Some of a step's responses, as the policy sees them."""

    rows: list[int]
    """Their numbers among all responses."""
    log_probs_RT: torch.Tensor
    """Of the tokens, with gradient; 0 at padding."""
    entropies_RT: torch.Tensor
    """Of the tokens' distributions in nats, without gradient."""
    mask_RT: torch.Tensor
    """bool, True at real tokens."""
    reference_RT: torch.Tensor | None
    """The reference's log-probabilities, without gradient; None where there is no reference."""


def token_log_probs(
    model: Any,
    state: batching.PromptState,
    hidden_RTH: torch.Tensor,
    tails: batching.Tails,
    banned_V: torch.Tensor,
    head_chunk: int = Limits.head_chunk,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of each continuation token, and the entropy of its distribution.

    The output layer runs on real tokens only, over the tokens that sampling allows.

    Args:
        head_chunk: tokens whose logits are in memory at once; they are computed again in the backward pass.

    Returns:
        (R, T) float32 log-probabilities, 0 at padding; (R, T) float32 entropies in nats, without gradient.
    """
    mask = tails.mask_RT
    states_NH, ids_N = batching.predicting_states(state, hidden_RTH)[mask], tails.ids_RT[mask]
    pieces = [
        checkpoint(_chunk_log_probs, model.lm_head, states, ids, banned_V, use_reentrant=False)
        for states, ids in zip(states_NH.split(head_chunk), ids_N.split(head_chunk), strict=True)
    ]
    both = [torch.cat(piece) for piece in zip(*pieces, strict=True)]
    log_probs, entropies = (one.new_zeros(mask.shape).masked_scatter(mask, one) for one in both)
    return log_probs, entropies


def _chunk_log_probs(
    head: Any, states_NH: torch.Tensor, ids_N: torch.Tensor, banned_V: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(N,) log-probabilities and (N,) entropies of some tokens."""
    logits = head(states_NH)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).masked_fill(banned_V, -torch.inf)
    distribution = logits.log_softmax(-1)
    with torch.no_grad():
        entropies = -(distribution.exp() * distribution.masked_fill(banned_V, 0)).sum(-1)
    return distribution.gather(-1, ids_N[:, None])[:, 0], entropies


def response_log_probs(
    model: Any,
    prompts: Sequence[Prompt],
    which: Sequence[int],
    responses: Sequence[Sequence[int]],
    banned_V: torch.Tensor,
    head_chunk: int = Limits.head_chunk,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probabilities of `responses`, of which r answers `prompts[which[r]]`.

    Returns:
        (R, T) log-probabilities, (R, T) entropies, (R, T) bool mask of real tokens.
    """
    state = batching.read_prompts(model, prompts)
    return _continued(model, state, which, responses, banned_V, head_chunk)


def _continued(
    model: Any,
    state: batching.PromptState,
    which: Sequence[int],
    responses: Sequence[Sequence[int]],
    banned_V: torch.Tensor,
    head_chunk: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`response_log_probs` after prompts that have been read."""
    tails = batching.Tails.pack(responses, banned_V.device)
    rows = batching.repeat(state, which)
    hidden_RTH = batching.continue_prompts(model, rows, tails)
    log_probs, entropies = token_log_probs(model, rows, hidden_RTH, tails, banned_V, head_chunk)
    return log_probs, entropies, tails.mask_RT


def policy_gradient(
    model: Any,
    prompts: Sequence[Prompt],
    which: Sequence[int],
    responses: Sequence[Sequence[int]],
    loss: Callable[[Part], torch.Tensor],
    banned_V: torch.Tensor,
    limits: Limits,
    reference: Any = None,
) -> None:
    """Add the gradient of the policy's loss, a sum over responses, to the parameters' own.

    Each prompt is read once and its image seen once, however few responses fit in memory at a time.

    Args:
        which: the prompt of each response.
        loss: of some of the responses.
        reference: the model whose log-probabilities `loss` is also given.
    """
    features, others = batching.see(model, prompts), None
    held = features.detached()
    if reference is not None:
        with torch.no_grad():
            others = batching.see(reference, prompts)
    for part in limits.parts(len(prompts)):
        rows = [row for row, prompt in enumerate(which) if prompt in part]
        some = prompts[part.start : part.stop]
        state = batching.read_prompts(model, some, held.part(part))
        ends = state.detached()
        with torch.no_grad():
            other = None if others is None else batching.read_prompts(reference, some, others.part(part))
        for group in limits.groups(len(rows)):
            numbers = [rows[index] for index in group]
            follow, texts = [which[row] - part.start for row in numbers], [responses[row] for row in numbers]
            found = _continued(model, ends, follow, texts, banned_V, limits.head_chunk)
            told = None
            if other is not None:
                with torch.no_grad():
                    told = _continued(reference, other, follow, texts, banned_V, limits.head_chunk)[0]
            loss(Part(numbers, *found, told)).backward()
        state.backward(ends)
    features.backward(held)
