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
    """This process's part of a parameter, in the same memory; itself where it is not taken apart."""
    return nn.Parameter(parameter.to_local()) if isinstance(parameter, DTensor) else parameter


@torch.no_grad()
def full(parameter: torch.Tensor) -> torch.Tensor:
    """A parameter put together from all processes' parts, which must all ask for it; itself where it is in one."""
    return parameter.full_tensor() if isinstance(parameter, DTensor) else parameter.detach()


def cut(parameter: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """This process's part of a full value for the parameter; every process has the value."""
    if not isinstance(parameter, DTensor):
        return value
    placed = distribute_tensor(
        value.to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None
    )
    return placed.to_local()


def like(parameter: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """This process's part of a parameter's values, in whatever format, as a tensor that `full` puts together."""
    if not isinstance(parameter, DTensor):
        return value
    mesh, placements = parameter.device_mesh, parameter.placements
    return DTensor.from_local(value, mesh, placements, shape=parameter.shape, stride=parameter.stride())


def collect(weights: Iterable[tuple[str, torch.Tensor]], world: World) -> dict[str, torch.Tensor]:
    """All of some full weights at once: in the first process, in main memory where there are others; empty in those."""
    if world.size == 1:
        return dict(weights)
    return {name: value.cpu() for name, value in weights if world.first}


def gather_gradients(parameters: Mapping[str, nn.Parameter], parts: Mapping[str, nn.Parameter], world: World) -> float:
    """Give every part its share of the gradient, summed over processes; returns the whole gradient's norm.

    FSDP has summed those of what it took apart. What lies whole in every process (a head) is summed here.
    """
    if world.size == 1:
        gradients = [value.grad for value in parameters.values() if value.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients))
    own, shared = 0.0, 0.0
    for name, value in parameters.items():
        if value.grad is None:
            continue
        if isinstance(value.grad, DTensor):
            parts[name].grad = value.grad.to_local()
            own += float(parts[name].grad.double().square().sum())
        else:
            parts[name].grad = world.total(value.grad)
            shared += float(parts[name].grad.double().square().sum())
    return math.sqrt(world.sum(own) + shared)
