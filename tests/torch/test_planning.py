"""The plan's counts against models that transformers builds, and its formula of memory against torch's allocations."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from planned import Case, measure
from torch import nn
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLMoeForConditionalGeneration

from benchmarks.perf._models import Shape, Size, Width
from integrations.alignment.discriminators import upcycle
from prism_cli.planning import models

WIDTH = Width(256, 768, 3, 4, 2, 64, 128, 512, 2, 4, 4_096)
SIZE = Size(WIDTH, WIDTH, Shape(prompt=96, image=64, caption=40, reasoning=80, group=4))


def count(module: Any) -> int:
    """Parameters, shared ones once."""
    return sum(value.numel() for value in module.parameters())


def on_meta(name: str) -> tuple[models.Dimensions, Any]:
    """A published size's dimensions, and the real model without memory."""
    config = json.loads((models.FACTS / f"{name}.json").read_text())
    with torch.device("meta"):
        return models.from_config(config, name), Qwen3VLForConditionalGeneration(Qwen3VLConfig(**config))


@pytest.mark.parametrize("name", models.known())
def test_parameters_are_those_of_the_real_model(name: str) -> None:
    ours, real = on_meta(name)
    language = real.model.language_model
    assert ours.parameters == count(real)
    assert ours.vision.parameters == count(real.model.visual)
    assert ours.vision.merger == count(real.model.visual.merger)
    assert ours.vision.per_layer == count(real.model.visual.blocks[0])
    assert ours.embedding == language.embed_tokens.weight.numel()
    assert ours.per_layer == count(language.layers[0])
    assert ours.tied == (real.lm_head.weight is language.embed_tokens.weight)


def test_the_discriminator_counts_as_the_upcycled_model() -> None:
    ours, real = on_meta("Qwen3-VL-2B")
    with torch.device("meta"):
        grown = Qwen3VLMoeForConditionalGeneration(upcycle._configuration(real.config, 4, 2))
    assert ours.mixture(4, 2).parameters == count(grown)
    assert ours.mixture(4, 2).per_layer == count(grown.model.language_model.layers[0])


def test_adapters_count_as_those_that_are_added() -> None:
    ours, real = on_meta("Qwen3-VL-4B")
    targets = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    matrices = [
        module
        for name, module in real.model.language_model.layers[0].named_modules()
        if isinstance(module, nn.Linear) and name.rsplit(".", 1)[-1] in targets
    ]
    assert len(matrices) == 7
    one = sum(32 * (matrix.in_features + matrix.out_features) for matrix in matrices)
    assert ours.adapters(32, targets) == 36 * one


@pytest.mark.parametrize(
    "case",
    [
        Case("policy"),
        Case("policy", compute="bf16", checkpointing=True, moments="8bit"),
        Case("discriminator", score="likelihood_ratio", checkpointing=True),
    ],
    ids=str,
)
def test_a_steps_memory_is_what_the_plan_says(case: Case) -> None:
    found = measure(case, SIZE)
    assert found.states[1] == pytest.approx(found.states[0], rel=0.01)
    assert found.step[1] == pytest.approx(found.step[0], rel=0.15)
