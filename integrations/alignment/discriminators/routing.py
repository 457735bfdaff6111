"""Which experts each token may use, and how evenly they are used.

Role routing makes the first expert perception's own and the last one reasoning's own, while prompt and image tokens
use all of them and so are computed once for both roles. The paper speaks of experts for perception and for reasoning,
but in its code every token routes freely over all of them (`routing: free`) and nothing keeps the load even once the
game begins; here the load-balancing loss counts each kind of token apart, over the experts it may use.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers.models.qwen3_vl_moe.modeling_qwen3_vl_moe import Qwen3VLMoeTextTopKRouter

PROMPT, PERCEPTION, REASONING, PADDING = 0, 1, 2, -1
"""Kinds of token that the routers tell apart."""


def allowed_experts(experts: int, routing: str) -> torch.Tensor:
    """(3, experts) bool: which experts prompt, perception and reasoning tokens may use."""
    allowed = torch.ones((3, experts), dtype=torch.bool)
    if routing == "roles":
        allowed[PERCEPTION, -1] = False
        allowed[REASONING, 0] = False
    return allowed


class Routing:
    """What the routers of one model share: each token's kind, and the sums for the load-balancing loss.

    Legend: L layers, K kinds of token (3), E experts.
    """

    def __init__(self, allowed_KE: torch.Tensor) -> None:
        self.allowed_KE = allowed_KE
        self.kinds_N = torch.empty(0, dtype=torch.int64)
        self.counting = True
        self.reset()

    def reset(self) -> None:
        """Forget the sums."""
        self._assigned: dict[int, torch.Tensor] = {}
        self._probability: dict[int, torch.Tensor] = {}

    def set_kinds(self, kinds: torch.Tensor) -> None:
        """Kinds of the tokens of the next pass, any shape, in the order of the hidden states; padding is not run."""
        self.kinds_N = kinds[kinds != PADDING]

    def mask_NE(self) -> torch.Tensor:
        """bool, the experts each token may use; padding counts as prompt."""
        return self.allowed_KE[self.kinds_N.clamp_min(PROMPT)]

    def record(self, layer: int, probabilities_NE: torch.Tensor, chosen_Nk: torch.Tensor) -> None:
        """Add one pass of one layer to the sums."""
        member_KN = F.one_hot(self.kinds_N + 1, 4)[:, 1:].T.to(probabilities_NE.dtype)
        with torch.no_grad():
            chosen_NE = torch.zeros_like(probabilities_NE).scatter(-1, chosen_Nk, 1.0)
            assigned = member_KN @ chosen_NE
        probability = member_KN @ probabilities_NE
        if not self.counting:
            return
        self._assigned[layer] = self._assigned[layer] + assigned if layer in self._assigned else assigned
        self._probability[layer] = self._probability[layer] + probability if layer in self._probability else probability

    def again(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Contexts of a pass and of its repetition in the backward pass: of the same kinds, and not counted twice."""
        kinds = self.kinds_N

        @contextmanager
        def repetition() -> Iterator[None]:
            before, self.kinds_N, self.counting = self.kinds_N, kinds, False
            try:
                yield
            finally:
                self.kinds_N, self.counting = before, True

        return nullcontext(), repetition()

    @property
    def assigned_LKE(self) -> torch.Tensor:
        """Tokens sent to each expert; one layer of zeros for a model without routers."""
        if not self._assigned:
            return self.allowed_KE.new_zeros((1, *self.allowed_KE.shape), dtype=torch.float32)
        return torch.stack([self._assigned[layer] for layer in sorted(self._assigned)])

    @property
    def probability_LKE(self) -> torch.Tensor:
        """Summed router probabilities, with gradient."""
        return torch.stack([self._probability[layer] for layer in sorted(self._probability)])


class RoleRouter(Qwen3VLMoeTextTopKRouter):
    """Top-k router that leaves out the experts a token's kind may not use. Takes over the original's weight."""

    def __init__(self, original: Qwen3VLMoeTextTopKRouter, layer: int, routing: Routing) -> None:
        nn.Module.__init__(self)
        self.top_k, self.num_experts = original.top_k, original.num_experts
        self.hidden_dim, self.weight = original.hidden_dim, original.weight
        self.layer, self.routing = layer, routing

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(N, H) -> logits (N, E), weights (N, k) that sum to one, expert indices (N, k)."""
        hidden = hidden_states.reshape(-1, self.hidden_dim)
        logits = F.linear(hidden, self.weight)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).masked_fill(
            ~self.routing.mask_NE(), -torch.inf
        )
        probabilities = logits.softmax(-1)
        weights, chosen = probabilities.topk(self.top_k, -1)
        self.routing.record(self.layer, probabilities, chosen)
        weights = weights / weights.sum(-1, keepdim=True)
        # A copy: some releases' expert kernels change the indices in place, and topk's backward pass needs them.
        return logits, weights.to(hidden.dtype), chosen.clone()


def install(backbone: Any, allowed_KE: torch.Tensor) -> Routing:
    """Put a `RoleRouter` in the place of each of the model's routers; a dense model has none and stays as it is.

    Only the chosen experts run: one after the other on a CPU, in one kernel for all of them on a GPU. On one CPU
    thread in float32 (7,056 tokens, width 256, 4 layers) the first takes 3.1 s for scores and gradient, the second 3.6.

    Args:
        allowed_KE: see `allowed_experts`.
    """
    routing = Routing(allowed_KE)
    if allowed_KE.is_cuda and any(hasattr(layer.mlp, "gate") for layer in backbone.model.language_model.layers):
        backbone.set_experts_implementation("grouped_mm")
    for index, layer in enumerate(backbone.model.language_model.layers):
        if hasattr(layer.mlp, "gate"):
            layer.mlp.gate = RoleRouter(layer.mlp.gate, index, routing)
    return routing
