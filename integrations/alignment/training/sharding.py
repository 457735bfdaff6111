"""A model's trained weights dealt out over several processes (FSDP2), so that each holds and updates its part only.

`run` puts the whole model together for as long as one function lasts, which may make any number of forward and
backward passes: processes talk before the first one and after the last, so they need not make the same ones. It is
what FSDP calls gradient accumulation without communication. A layer at a time, as FSDP is more often used, would need
less memory, and an exchange for every layer of every pass: here a step has dozens of them, on prompts, images and
some responses each. So a process needs room for one model's weights and gradient in the format that it computes in,
and for its part only of what those are stored in, and of the optimizer's state.

Gradients are sums over processes, not means: losses are shares of the whole step's. A process alone keeps plain
models, and all functions here hand them through.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from integrations.alignment.training.world import World

Result = TypeVar("Result")
FORMATS = {"fp32": None, "bf16": torch.bfloat16}
"""What weights are turned into when they are put together; None: nothing."""


def shard(model: Any, world: World, compute: str = "fp32") -> Any:
    """Take a Qwen3-VL, dense or mixture of experts, apart in place; every process must have the same weights.

    Args:
        compute: format that weights and gradient have within `run`, and are exchanged in: `fp32` or `bf16`.

    Returns:
        The model, to be used within `run` only; unchanged where the process is alone.
    """
    if world.size == 1:
        return model
    mesh = init_device_mesh(model.lm_head.weight.device.type, (world.size,))
    options = {
        "mesh": mesh,
        "reshard_after_forward": False,
        "shard_placement_fn": partial(_placement, world.size),
        "mp_policy": MixedPrecisionPolicy(param_dtype=FORMATS[compute], cast_forward_inputs=False),
    }
    for unit in (*model.model.language_model.layers, *model.model.visual.blocks, model):
        fully_shard(unit, **options)
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)
    model.compute = partial(_compute, model)
    register_fsdp_forward_method(model, "compute")
    return model


def _placement(processes: int, value: nn.Parameter) -> Shard:
    """A stack of experts is cut through each of them where that is even: there may be fewer than processes."""
    return Shard(1 if value.ndim == 3 and value.shape[1] % processes == 0 else 0)


def run(model: Any, function: Callable[..., Result], *arguments: Any) -> Result:
    """`function(*arguments)` with all of the model's weights at hand; every process must come here.

    Where gradients are on, the function makes the backward passes too, on its share of the loss.
    """
    if not isinstance(model, FSDPModule):
        return function(*arguments)
    model.set_requires_gradient_sync(False)
    model.set_reshard_after_backward(False)
    result, end = model.compute(function, *arguments)
    if torch.is_grad_enabled():
        model.set_requires_gradient_sync(True)
        model.set_reshard_after_backward(True)
        end.backward()  # of nothing: FSDP exchanges what the function has gathered, and takes the model apart
    for unit in _units(model):
        unit.reshard()
    return result


def _compute(model: Any, function: Callable[..., Any], *arguments: Any) -> tuple[Any, torch.Tensor]:
    for unit in _units(model):
        unit.unshard()
    result = function(*arguments)
    if torch.is_grad_enabled():
        # Exchanged are the gradients of the same weights everywhere, also where no prompt had an image.
        for value in model.parameters():
            if value.requires_grad and value.grad is None:
                value.grad = torch.zeros_like(value)
    return result, torch.zeros((), requires_grad=True) + 0


def _units(model: Any) -> list[FSDPModule]:
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


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
    """All of some full weights at once, in the first process's main memory; empty in the others."""
    return {name: value.cpu() for name, value in weights if world.first}


def gather_gradients(parameters: Mapping[str, nn.Parameter], parts: Mapping[str, nn.Parameter], world: World) -> float:
    """Give every part its share of the gradient, summed over processes; returns the whole gradient's norm.

    FSDP has summed those of what it took apart. What lies whole in every process (a head) is summed here.
    """
    own: list[torch.Tensor] = []
    shared: list[torch.Tensor] = []
    for name, value in parameters.items():
        if isinstance(value.grad, DTensor):
            parts[name].grad = value.grad.to_local()
            own.append(_norm(parts[name].grad))
        elif value.grad is not None:
            parts[name].grad = world.total(value.grad)
            shared.append(_norm(parts[name].grad))
    if world.size == 1:
        return _together(shared)
    return math.sqrt(world.sum(_together(own) ** 2) + _together(shared) ** 2)


def _together(norms: Sequence[torch.Tensor]) -> float:
    """The norm of several tensors, from the norm of each."""
    return float(torch.linalg.vector_norm(torch.stack(list(norms)))) if norms else 0.0


def _norm(gradient: torch.Tensor) -> torch.Tensor:
    """The norm, not rounded to bf16 as torch's own would be."""
    return torch.linalg.vector_norm(gradient, dtype=torch.promote_types(gradient.dtype, torch.float32))
