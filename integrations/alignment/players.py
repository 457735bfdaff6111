"""A model that learns: its trained parameters, their optimizer and its schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from integrations.errors import StageFailed


class Player:
    """One of the two models of the game.

    Args:
        what: its name in messages.
        parameters: those that are trained.
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
        self.parameters = {name: value for name, value in parameters if value.requires_grad}
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
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.gradient_clip))
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise StageFailed(
                f"the {self.what}'s loss is {loss} and its gradient {norm}",
                f"lower the {self.what}'s learning rate and start the stage anew",
            )
        self.optimizer.step()
        return norm

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps beside the weights."""
        return self.optimizer.state_dict()

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state()`."""
        self.optimizer.load_state_dict(state)
