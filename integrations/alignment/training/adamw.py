"""AdamW whose weights and moments are stored in less than fp32 each, and computed in fp32.

The arithmetic is torch's; what is added is where its numbers are kept (`formats`). One piece of one parameter is in
fp32 at a time, so the step needs no memory to speak of. With fp32 throughout use `torch.optim.AdamW`, whose results
these are bit for bit wherever formats lose nothing (`masters: split`, `moments: offload`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim.adamw import adamw

from integrations.alignment.training.formats import SMALLEST_QUANTISED, Blockwise, Doubled, Plain, Split, Vector

PIECE = 1 << 24
"""Numbers updated at once; a step's temporary memory is some 30 bytes for each."""


@dataclass
class Slot:
    """One parameter as the optimizer keeps it."""

    weight: Vector
    first: Vector
    second: Vector
    steps: int = 0


def build(
    parameters: Sequence[nn.Parameter],
    numbers: Mapping[nn.Parameter, torch.Tensor],
    precision: Any,
    learning_rate: float,
    weight_decay: float,
) -> PlainAdamW | NarrowAdamW:
    """The optimizer that keeps its numbers as `PrecisionSettings` say; None: as they are.

    Args:
        numbers: see `NarrowAdamW`.
    """
    # The second moment forgets faster than AdamW's default, as usual for short runs.
    betas = (0.9, 0.95)
    if precision is None or (precision.compute, precision.moments) == ("fp32", "fp32"):
        # One parameter at a time: on a GPU torch would take all together, with a copy of their size and other rounding.
        return PlainAdamW(parameters, lr=learning_rate, weight_decay=weight_decay, betas=betas, foreach=False)
    return NarrowAdamW(
        parameters,
        numbers,
        lr=learning_rate,
        weight_decay=weight_decay,
        betas=betas,
        masters=precision.masters,
        moments=precision.moments,
    )


class PlainAdamW(torch.optim.AdamW):
    """torch's AdamW on weights that are their own masters."""

    def exact(self, value: nn.Parameter) -> torch.Tensor:
        """The parameter as exactly as it is known."""
        return value.detach()

    @torch.no_grad()
    def assign(self, value: nn.Parameter, numbers: torch.Tensor) -> None:
        """Set the parameter."""
        value.copy_(numbers)


class NarrowAdamW(torch.optim.Optimizer):
    """AdamW for one group of parameters.

    Args:
        parameters: fp32, or bf16 with masters.
        numbers: what the bf16 parameters are in fp32, where their starting values were rounded; taken over as the
            masters' memory, or not kept.
        masters: `fp32`, `split` or `none`; of bf16 parameters.
        moments: `fp32`, `bf16`, `8bit` or `offload`.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        numbers: Mapping[nn.Parameter, torch.Tensor],
        *,
        lr: float,
        weight_decay: float,
        betas: tuple[float, float],
        masters: str,
        moments: str,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "betas": betas, "eps": 1e-8})
        self.slots = {
            value: Slot(
                _weight(value, numbers.get(value, value), masters),
                _moment(value, moments, signed=True),
                _moment(value, moments, signed=False),
            )
            for value in parameters
        }

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for value in group["params"]:
                if value.grad is not None:
                    self._update(self.slots[value], _flat(value.grad), group)

    def _update(self, slot: Slot, gradient_N: torch.Tensor, group: dict[str, Any]) -> None:
        slot.steps += 1
        for piece in pieces(len(gradient_N)):
            weight, first, second = slot.weight.read(piece), slot.first.read(piece), slot.second.read(piece)
            adamw(
                [weight],
                [gradient_N[piece].to(torch.float32)],
                [first],
                [second],
                [],
                [torch.tensor(slot.steps - 1.0)],  # which it raises by one
                foreach=False,
                amsgrad=False,
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=False,
            )
            slot.weight.write(piece, weight)
            slot.first.write(piece, first)
            slot.second.write(piece, second)

    @torch.no_grad()
    def exact(self, value: nn.Parameter) -> torch.Tensor:
        """The parameter in fp32, as exactly as it is known."""
        return self.slots[value].weight.read(slice(0, _flat(value).numel())).view(value.shape)

    @torch.no_grad()
    def assign(self, value: nn.Parameter, numbers: torch.Tensor) -> None:
        """Set the parameter and its master."""
        flat = numbers.to(value.device, torch.float32).reshape(-1)
        for piece in pieces(len(flat)):
            self.slots[value].weight.write(piece, flat[piece])

    def state_dict(self) -> dict[str, Any]:
        """Steps and moments of each parameter, in their formats; weights and masters are `exact`'s to give."""
        return {
            "steps": [slot.steps for slot in self.slots.values()],
            "first": [slot.first.tensors for slot in self.slots.values()],
            "second": [slot.second.tensors for slot in self.slots.values()],
        }

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        found = zip(state_dict["steps"], state_dict["first"], state_dict["second"], strict=True)
        for slot, (steps, first, second) in zip(self.slots.values(), found, strict=True):
            slot.steps = steps
            for vector, saved in ((slot.first, first), (slot.second, second)):
                for name, tensor in vector.tensors.items():
                    tensor.copy_(saved[name])


def pieces(count: int) -> Iterator[slice]:
    """0 to `count` in pieces of PIECE."""
    return (slice(start, min(start + PIECE, count)) for start in range(0, count, PIECE))


def _weight(value: nn.Parameter, numbers: torch.Tensor, masters: str) -> Vector:
    weight_N = _flat(value)
    if value.dtype != torch.bfloat16 or masters == "none":
        return Plain(weight_N, value.device)
    numbers_N = _flat(numbers).to(torch.float32)
    return Split(weight_N, numbers_N) if masters == "split" else Doubled(weight_N, numbers_N)


def _moment(value: nn.Parameter, moments: str, signed: bool) -> Vector:
    flat_N = _flat(value)
    count, device = len(flat_N), flat_N.device
    if moments == "8bit" and count >= SMALLEST_QUANTISED:
        return Blockwise(count, device, signed)
    if moments == "offload":
        pinned = device.type == "cuda"
        return Plain(torch.zeros(count, dtype=torch.float32, pin_memory=pinned), device)
    dtype = torch.bfloat16 if moments == "bf16" else torch.float32
    return Plain(torch.zeros(count, dtype=dtype, device=device), device)


def _flat(value: torch.Tensor) -> torch.Tensor:
    return value.detach().view(-1)
