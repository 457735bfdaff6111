"""A model's trained weights dealt out over several processes (FSDP2), so that each holds and updates its part only.

Every decoder layer is a unit that is put together when it runs and taken apart again; what is outside of them
(embeddings, norms, output layer, vision tower) is one more unit, whole while `run` lasts. This engine calls a model's
parts, not its `forward`, so every computation goes through `run`, which is registered with FSDP as a forward method.

Gradients are sums over processes, not means: losses are shares of the whole step's. A process alone keeps plain
models, and all functions here hand them through.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from integrations.alignment.world import World

Named = Iterable[tuple[str, nn.Parameter]]
Result = TypeVar("Result")


def shard(model: Any, world: World) -> Any:
    """Take a Qwen3-VL, dense or mixture of experts, apart in place; every process must have the same weights.

    The vision tower stays in one piece with the embeddings: a process whose prompts have no image does not run it,
    and the others must not wait for it.

    Returns:
        The model, to be used through `run` only; unchanged where the process is alone.
    """
    if world.size == 1:
        return model
    mesh = init_device_mesh(model.lm_head.weight.device.type, (world.size,))
    for unit in (*model.model.language_model.layers, model):
        fully_shard(unit, mesh=mesh, reshard_after_forward=True, shard_placement_fn=partial(_placement, world.size))
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)
    model.compute = partial(_compute, model)
    register_fsdp_forward_method(model, "compute")
    return model


def _placement(processes: int, value: nn.Parameter) -> Shard:
    """A stack of experts is cut through each of them where that is even: there may be fewer than processes."""
    return Shard(1 if value.ndim == 3 and value.shape[1] % processes == 0 else 0)


def run(model: Any, function: Callable[..., Result], *arguments: Any) -> Result:
    """`function(*arguments)` with the model's weights at hand.

    Its result, a tensor or a tuple of tensors, is what the backward pass may start from.
    """
    return model.compute(function, *arguments) if isinstance(model, FSDPModule) else function(*arguments)


def _compute(model: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    result = function(*arguments)
    if not torch.is_grad_enabled():
        return result
    # Processes exchange the gradients of the same weights, so those of the vision tower must exist on all.
    seeing = [value for value in model.model.visual.parameters() if value.requires_grad]
    if isinstance(result, torch.Tensor):
        return _Reach.apply(result, *seeing)
    return (_Reach.apply(result[0], *seeing), *result[1:])


class _Reach(torch.autograd.Function):
    """The value as it is, with a gradient of zero for parameters that it may not depend on."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        ctx.parameters = parameters
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return slopes[0], *(torch.zeros_like(value) for value in ctx.parameters)


@torch.no_grad()
def part(parameter: nn.Parameter) -> nn.Parameter:
    """This process's part of a parameter, in the same memory; all of it where it is not taken apart."""
    return nn.Parameter(parameter.to_local()) if isinstance(parameter, DTensor) else parameter


def parts(parameters: Named) -> dict[str, torch.Tensor]:
    """This process's part of each parameter."""
    return {name: part(value).detach() for name, value in parameters}


@torch.no_grad()
def whole(parameters: Named, world: World) -> dict[str, torch.Tensor]:
    """The parameters put together, in the first process's main memory; nothing in the others, which must call it too.

    Where the process is alone, the parameters themselves.
    """
    if world.size == 1:
        return dict(parameters)
    found = {}
    for name, value in parameters:
        full = value.full_tensor() if isinstance(value, DTensor) else value
        if world.first:
            found[name] = full.detach().cpu()
    return found


@torch.no_grad()
def copy_whole(source: Named, target: Named) -> None:
    """Set every parameter of `target`, which is not taken apart, to that of `source`, which may be."""
    values = dict(target)
    for name, value in source:
        values[name].copy_(value.full_tensor() if isinstance(value, DTensor) else value)


@torch.no_grad()
def fill(parameters: Named, values: Mapping[str, torch.Tensor]) -> None:
    """Set parameters to what `whole` or `parts` gave.

    Raises:
        ValueError: the names or shapes are others.
    """
    own = dict(parameters)
    if own.keys() != values.keys():
        raise ValueError(f"the parameters are not this model's: {sorted(own.keys() ^ values.keys())[:3]}")
    for name, parameter in own.items():
        value = values[name]
        if isinstance(parameter, DTensor) and value.shape == parameter.shape:
            placed = distribute_tensor(
                value.to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None
            )
            value = placed.to_local()
        local = part(parameter)
        if local.shape != value.shape:
            raise ValueError(f"{name} has the shape {tuple(value.shape)}, not {tuple(local.shape)}")
        local.copy_(value)


def total_norm(gradients: Iterable[torch.Tensor], apart: Iterable[bool], world: World) -> float:
    """Euclidean norm of a gradient whose parts marked `apart` are this process's share of it."""
    own, shared = 0.0, 0.0
    for value, is_part in zip(gradients, apart, strict=True):
        square = float(value.detach().double().square().sum())
        own, shared = (own + square, shared) if is_part else (own, shared + square)
    return math.sqrt(world.sum(own) + shared)
