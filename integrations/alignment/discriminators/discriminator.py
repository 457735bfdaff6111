"""The discriminator: a mixture of experts grown from a dense Qwen3-VL, and the scores it gives.

A score is either a log-likelihood ratio, `log p_D(segment | prompt, what came before) - log p_policy(same)`, or a
scalar read at the segment's last token by a head in fp32. Experts and routing: `routing`; how it is grown: `upcycle`;
folders on disk: `storage`; what each option means: `settings.discriminator`.

Differs from the paper's code, each point an option unless said otherwise: two heads (or none) in place of one for
both segments; experts of each role's own; reasoning that is scored after its caption, so that one forward pass reads
both and the caption's truth counts; true multimodal positions; heads in fp32, where bfloat16 scores tie within a
group (no option); no dropout before the head (no option: scores and gradient come from one forward pass, and a
reward with dropout is a noisy one).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from integrations.alignment.data.prompts import Prompt
from integrations.alignment.data.seeds import derive
from integrations.alignment.data.segments import ROLES, Segments
from integrations.alignment.data.views import seen_by
from integrations.alignment.discriminators.description import Description
from integrations.alignment.discriminators.routing import (
    PADDING,
    PERCEPTION,
    PROMPT,
    REASONING,
    allowed_experts,
    install,
)
from integrations.alignment.forward import batching
from integrations.alignment.forward.model import prepare
from integrations.alignment.forward.policy import token_log_probs
from integrations.alignment.game import losses

SHARED = "shared"
"""Name of the one head for both roles."""


class Discriminator:
    """Scores segments.

    Args:
        backbone: the mixture-of-experts model, whose routers are replaced by `RoleRouter`s, or a dense model.
        description: how it reads and scores.
        banned_V: tokens that no response holds (`model.banned_tokens`), left out of likelihoods.
        reference: the dense policy whose likelihood is subtracted; needed for `likelihood_ratio` only.
        heads: see `new_heads`; needed for `head` only.
    """

    def __init__(
        self,
        backbone: Any,
        description: Description,
        banned_V: torch.Tensor,
        *,
        reference: Any = None,
        heads: nn.ModuleDict | None = None,
    ) -> None:
        if (description.score == "head") != (heads is not None):
            raise ValueError("a discriminator has heads exactly when its score is `head`")
        if description.score == "likelihood_ratio" and reference is None:
            raise ValueError("a likelihood ratio needs the reference policy")
        device = backbone.lm_head.weight.device
        self.backbone, self.description = prepare(backbone), description
        self.banned_V, self.reference, self.heads = banned_V.to(device), reference, heads
        self.head_chunk = batching.Limits.head_chunk
        self.routing = install(backbone, allowed_experts(description.experts, description.routing).to(device))

    def save_memory(self, precision: Any) -> None:
        """Keep less for the backward pass, as the `PrecisionSettings` ask; changes memory and speed only."""
        self.head_chunk = precision.head_chunk
        if precision.gradient_checkpointing:
            batching.checkpoint_layers(self.backbone, self.routing.again)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Trained parameters; the reference is none of them."""
        yield from self.backbone.named_parameters()
        if self.heads is not None:
            yield from ((f"heads.{name}", value) for name, value in self.heads.named_parameters())

    def score(
        self,
        prompts: Sequence[Prompt],
        which: Sequence[int],
        segments: Sequence[Segments],
        features: batching.Features | None = None,
    ) -> torch.Tensor:
        """(2, R) scores of perception and reasoning, with gradient; segment r answers `prompts[which[r]]`."""
        return self.evidence(prompts, which, segments, features) - self.baseline(prompts, which, segments)

    def see(self, prompts: Sequence[Prompt]) -> batching.Features:
        """The prompts' images, for `read`, with gradient."""
        return batching.see(self.backbone, seen_by(self.description, self.backbone.config, prompts))

    def read(self, prompts: Sequence[Prompt], features: batching.Features | None = None) -> batching.PromptState:
        """The prompts, for `weigh`, with gradient; adds to `routing`'s sums."""
        prompts = seen_by(self.description, self.backbone.config, prompts)
        tokens = sum(len(prompt.ids) for prompt in prompts)
        self.routing.set_kinds(torch.full((tokens,), PROMPT, device=self.banned_V.device))
        return batching.read_prompts(self.backbone, prompts, features)

    def evidence(
        self,
        prompts: Sequence[Prompt],
        which: Sequence[int],
        segments: Sequence[Segments],
        features: batching.Features | None = None,
    ) -> torch.Tensor:
        """(2, R) the model's own part of the score, with gradient; adds to `routing`'s sums."""
        return self.weigh(self.read(prompts, features), which, segments)

    def weigh(self, state: batching.PromptState, which: Sequence[int], segments: Sequence[Segments]) -> torch.Tensor:
        """`evidence` after prompts that have been read."""
        device = self.banned_V.device
        branches = Branches.of(which, segments, self.description.reasoning)
        tails = batching.Tails.pack(branches.ids, device)
        kinds_NT = token_kinds(tails, torch.tensor(branches.boundaries, device=device))
        state = batching.repeat(state, branches.which)
        self.routing.set_kinds(kinds_NT)
        hidden_NTH = batching.continue_prompts(self.backbone, state, tails)
        if self.heads is None:
            log_probs, _ = token_log_probs(self.backbone, state, hidden_NTH, tails, self.banned_V, self.head_chunk)
            return branches.fold(sum_by_role(log_probs, kinds_NT))
        return torch.stack([self._read(role, hidden_NTH, place) for role, place in enumerate(branches.read)])

    def _read(self, role: int, hidden_NTH: torch.Tensor, place: tuple[list[int], list[int]]) -> torch.Tensor:
        """(R,) the role's head at these rows and positions."""
        assert self.heads is not None
        head = self.heads[SHARED if self.description.heads == SHARED else ROLES[role]]
        return head(hidden_NTH[place].to(head.weight.dtype))[:, 0]

    @torch.no_grad()
    def baseline(self, prompts: Sequence[Prompt], which: Sequence[int], segments: Sequence[Segments]) -> torch.Tensor:
        """(2, R) what is subtracted: the reference's log-likelihood, or zero for heads.

        The reference reads what the discriminator reads, so that the ratio starts at zero under every option.
        """
        device = self.banned_V.device
        if self.reference is None:
            return torch.zeros((2, len(segments)), device=device)
        prompts = seen_by(self.description, self.reference.config, prompts)
        branches = Branches.of(which, segments, self.description.reasoning)
        tails = batching.Tails.pack(branches.ids, device)
        state = batching.repeat(batching.read_prompts(self.reference, prompts), branches.which)
        hidden_NTH = batching.continue_prompts(self.reference, state, tails)
        log_probs, _ = token_log_probs(self.reference, state, hidden_NTH, tails, self.banned_V, self.head_chunk)
        kinds_NT = token_kinds(tails, torch.tensor(branches.boundaries, device=device))
        return branches.fold(sum_by_role(log_probs, kinds_NT))

    def balance(self, tokens_K: torch.Tensor, assigned_LKE: torch.Tensor) -> torch.Tensor:
        """Load-balancing loss of what `evidence` has read since `routing.reset`; zero for a dense model.

        Args:
            tokens_K, assigned_LKE: of the whole step, where this is only a part of it (the loss then adds up).
        """
        if self.description.architecture == "dense":
            return torch.zeros((), device=self.banned_V.device)
        return losses.balance_loss(assigned_LKE, self.routing.probability_LKE, tokens_K, self.routing.allowed_KE)


@dataclass(frozen=True)
class Branches:
    """What follows the prompts: one row for each response, or with `reasoning: alone` one for each segment.

    Legend: N rows, R responses.
    """

    which: list[int]
    """The prompt of each row."""
    ids: list[tuple[int, ...]]
    boundaries: list[int]
    """Perception tokens at the start of each row; the rest are reasoning's."""
    read: tuple[tuple[list[int], list[int]], tuple[list[int], list[int]]]
    """Per role the row and position of each response's scored token."""

    @classmethod
    def of(cls, which: Sequence[int], segments: Sequence[Segments], reasoning: str) -> Branches:
        rows = list(range(len(segments)))
        first = (rows, [item.perception - 1 for item in segments])
        if reasoning == "after_caption":
            boundaries = [item.perception for item in segments]
            last = (rows, [len(item.ids) - 1 for item in segments])
            return cls(list(which), [item.ids for item in segments], boundaries, (first, last))
        captions = [item.ids[: item.perception] for item in segments]
        thoughts = [item.ids[item.perception :] for item in segments]
        boundaries = [len(ids) for ids in captions] + [0] * len(segments)
        last = ([len(segments) + row for row in rows], [len(ids) - 1 for ids in thoughts])
        return cls([*which, *which], captions + thoughts, boundaries, (first, last))

    def fold(self, values_2N: torch.Tensor) -> torch.Tensor:
        """(2, R): sums of each role over the rows of each response."""
        return values_2N.unflatten(1, (-1, len(self.read[0][0]))).sum(1)


def token_kinds(tails: batching.Tails, boundary_N: torch.Tensor) -> torch.Tensor:
    """(N, T) int64: PERCEPTION before the boundary, REASONING from there on, PADDING after the end."""
    steps = torch.arange(tails.ids_RT.shape[1], device=boundary_N.device)
    kinds = torch.where(steps < boundary_N[:, None], PERCEPTION, REASONING)
    return kinds.masked_fill(~tails.mask_RT, PADDING)


def sum_by_role(values_NT: torch.Tensor, kinds_NT: torch.Tensor) -> torch.Tensor:
    """(2, N) sums over each segment's tokens."""
    return torch.stack([(values_NT * (kinds_NT == kind)).sum(1) for kind in (PERCEPTION, REASONING)])


def new_heads(width: int, seed: int, heads: str = "per_role", device: torch.device | str = "cpu") -> nn.ModuleDict:
    """Heads in fp32, near zero, so that scores start small; without bias, which no difference of scores would show.

    Args:
        heads: `per_role` for one of each role's own, `shared` for one that reads both, as in the paper's code.
    """
    generator = torch.Generator().manual_seed(derive(seed, "heads"))
    names = (SHARED,) if heads == SHARED else ROLES
    made = nn.ModuleDict({name: nn.Linear(width, 1, bias=False, dtype=torch.float32) for name in names})
    for head in made.values():
        nn.init.normal_(head.weight, std=0.02, generator=generator)
    return made.to(device)
