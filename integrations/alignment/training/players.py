"""A model that learns: its trained parameters, their optimizer and its schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from integrations.alignment.training import adamw, lora, sharding
from integrations.alignment.training.formats import narrow
from integrations.alignment.training.world import World
from integrations.errors import StageFailed


class Player:
    """One of the two models of the game.

    Args:
        what: its name in messages.
        parameters: the whole model's; those that want a gradient are trained.
        learning_rate: peak; rises linearly over `warmup_steps` and is constant then.
        gradient_clip: largest norm of the whole gradient.
        precision: `PrecisionSettings`; None keeps everything in the parameters' own format.
        adapted: the model that `parameters` are of, where its adapters are trained (`lora.add`).
        world: the processes that train the model; each updates its own part of what `sharding.shard` took apart.
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
        precision: Any = None,
        adapted: Any = None,
        world: World | None = None,
    ) -> None:
        self.what, self.learning_rate, self.warmup_steps = what, learning_rate, warmup_steps
        self.gradient_clip, self.world = gradient_clip, world or World()
        self.scale = 1.0
        """Multiplies the rate; whoever controls the game sets it before each step, and restores it."""
        self.model, self.adapted = dict(parameters), adapted
        self.parameters = {name: value for name, value in self.model.items() if value.requires_grad}
        numbers = narrow(self.model.items()) if precision is not None and precision.compute == "bf16" else {}
        self.parts = {name: sharding.part(value) for name, value in self.parameters.items()}
        """What this process updates, in the parameters' own memory."""
        exact = {self.parts[name]: value for name, value in numbers.items() if name in self.parts}
        self.optimizer = adamw.build(list(self.parts.values()), exact, precision, learning_rate, weight_decay)
        self.frozen = {name: value.cpu() for name, value in numbers.items() if name not in self.parts}
        """What rounding took from weights that are not trained."""

    def begin(self, step: int) -> None:
        """Forget the gradient and set the rate, a function of the step and `scale`, so that it need not be restored."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.scale * self.learning_rate * min(1.0, (step + 1) / (self.warmup_steps + 1))
        for value in (*self.parameters.values(), *self.parts.values()):
            value.grad = None

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
        norm = sharding.gather_gradients(self.parameters, self.parts, self.world)
        torch.nn.utils.clip_grads_with_norm_(self.parts.values(), self.gradient_clip, torch.tensor(norm))
        return norm

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every parameter of the model, trained or not, whole, under the name it is published by.

        This is the one way to the weights: for results, checkpoints and rollout engines. In fp32, from the masters
        where there are any, with adapters merged, and of frozen ones what was loaded. One after the other, on the
        model's device and without gradient, so that a large model need not be held twice. Every process must take them
        all: each is put together from all processes' parts.
        """
        own = ((name, self._exact(name, value)) for name, value in self.model.items())
        if self.adapted is None:
            return own
        adapters = {name: self._exact(name, value) for name, value in self.model.items() if ".lora_" in name}
        return lora.merged(self.adapted, own, adapters)

    def _exact(self, name: str, value: nn.Parameter) -> torch.Tensor:
        if name in self.parts:
            return sharding.full(sharding.like(value, self.optimizer.exact(self.parts[name])))
        if name in self.frozen:
            return self.frozen[name].to(value.device)
        whole = sharding.full(value)
        return whole.to(torch.float32) if whole.dtype == torch.bfloat16 else whole

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps beside the weights."""
        state = {"optimizer": self.optimizer.state_dict()}
        if self.adapted is not None:
            state["adapters"] = {name: self._exact(name, value) for name, value in self.parameters.items()}
        return state

    def restore(self, state: dict[str, Any], weights: Mapping[str, torch.Tensor]) -> None:
        """Go on from `state()` and `weights()`.

        Raises:
            ValueError: the weights are not those of this model.
        """
        found = weights if self.adapted is None else state["adapters"]
        if not self.parameters.keys() <= found.keys():
            raise ValueError(f"the weights are not those of this {self.what}")
        for name, value in self.parameters.items():
            self.optimizer.assign(self.parts[name], sharding.cut(value, found[name]))
        self.optimizer.load_state_dict(state["optimizer"])
