"""Low-rank adapters (PEFT) in a model: trained in place of its weights, merged wherever the weights are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from integrations.alignment.data.seeds import derive
from integrations.errors import BadInput

NAME = "default"
"""The adapters' name within PEFT."""


def add(model: Any, lora: Any, seed: int) -> Any | None:
    """Freeze the model and put adapters beside the matrices of its language model; they change nothing at first.

    Args:
        lora: `LoraSettings`, or None for no adapters.
        seed: of the adapters' first matrices.

    Returns:
        The model, or None where it stays as it is.

    Raises:
        BadInput: the model has none of the matrices.
    """
    if lora is None:
        return None
    from peft import LoraConfig, inject_adapter_in_model  # takes seconds, and few runs need it

    model.requires_grad_(False)
    matrices = "|".join(lora.targets)
    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=0.0, target_modules=rf".*language_model.*\.({matrices})"
    )
    with torch.random.fork_rng():
        torch.manual_seed(derive(seed, "lora"))
        try:
            inject_adapter_in_model(config, model, adapter_name=NAME)
        except ValueError as error:
            raise BadInput(
                f"none of the adapters' targets ({', '.join(lora.targets)}) is a matrix of this model",
                "name some of its attention in `targets`; a mixture of experts has no others",
            ) from error
    for module in adapted(model).values():
        for matrix in (module.lora_A[NAME].weight, module.lora_B[NAME].weight):
            matrix.data = matrix.data.to(torch.float32)
    return model


def adapted(model: Any) -> dict[str, Any]:
    """The matrices with adapters, by their names in the plain model."""
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def merged(
    model: Any, weights: Iterable[tuple[str, torch.Tensor]], adapters: Mapping[str, torch.Tensor]
) -> Iterator[tuple[str, torch.Tensor]]:
    """The plain model's weights: each matrix with its adapters' product added, in fp32, one after the other.

    Args:
        weights: the model's own parameters by name, whole; adapters among them are passed over.
        adapters: those, by name.
    """
    modules = adapted(model)
    for name, value in weights:
        matrix, _, kind = name.rpartition(".base_layer.")
        if not matrix:
            if ".lora_" not in name:
                yield name, value
            continue
        if kind == "weight":
            low, high = adapters[f"{matrix}.lora_A.{NAME}.weight"], adapters[f"{matrix}.lora_B.{NAME}.weight"]
            value = value.to(torch.float32) + modules[matrix].scaling[NAME] * (high @ low)
        yield f"{matrix}.{kind}", value
