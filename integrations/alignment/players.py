"""A model that learns: its trained parameters, their optimizer and its schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from integrations.errors import StageFailed


class Player:
    """One of the two models of the game.

    Args:
        what: its name in messages.
        parameters: the whole model's; those that want a gradient are trained.
        learning_rate: peak; rises linearly over `warmup_steps` and is constant then.
        gradient_clip: largest norm of the whole gradient.
    """

    def __init__(
        self,
        what: str,
        parameters: Iterable[tuple[str, nn.Parameter]],
        *,
        learning_rate: float,
        weight_decay: float,
        warmup_steps: int,
        gradient_clip: float,
    ) -> None:
        self.what, self.learning_rate, self.warmup_steps = what, learning_rate, warmup_steps
        self.gradient_clip = gradient_clip
        self.scale = 1.0
        """Multiplies the rate; whoever controls the game sets it before each step, and restores it."""
        self.model = dict(parameters)
        self.parameters = {name: value for name, value in self.model.items() if value.requires_grad}
        # The second moment forgets faster than AdamW's default, as usual for short runs.
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=learning_rate, weight_decay=weight_decay, betas=(0.9, 0.95)
        )

    def begin(self, step: int) -> None:
        """Forget the gradient and set the rate, a function of the step and `scale`, so that it need not be restored."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.scale * self.learning_rate * min(1.0, (step + 1) / (self.warmup_steps + 1))
        self.optimizer.zero_grad(set_to_none=True)

    def finish(self, loss: float) -> float:
        """One optimizer step; the gradient's norm before clipping.

        Raises:
            StageFailed: the loss or the gradient is not finite.
        """
        norm = self.clip()
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise StageFailed(
                f"the {self.what}'s loss is {loss} and its gradient {norm}",
                f"lower the {self.what}'s learning rate and start the stage anew",
            )
        self.optimizer.step()
        return norm

    def clip(self) -> float:
        """Scale the gradient down to `gradient_clip` where it is longer; its norm before."""
        return float(torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.gradient_clip))

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every parameter of the model, trained or not, whole, under the name it is published by.

        This is the one way to the weights: for results, checkpoints and rollout engines. One after the other, on the
        model's device and without gradient, so that a large model need not be held twice.
        """
        return ((name, value.detach()) for name, value in self.model.items())

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps beside the weights."""
        return self.optimizer.state_dict()

    @torch.no_grad()
    def restore(self, state: dict[str, Any], weights: Mapping[str, torch.Tensor]) -> None:
        """Go on from `state()` and `weights()`.

        Raises:
            ValueError: the weights are not those of this model.
        """
        if weights.keys() != self.model.keys():
            raise ValueError(f"the weights are not those of this {self.what}")
        for name, value in self.model.items():
            value.copy_(weights[name])
        self.optimizer.load_state_dict(state)
