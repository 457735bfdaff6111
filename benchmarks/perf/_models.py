"""Policies and discriminators with random weights at chosen dimensions, and a step's data for them.

Nothing is read or downloaded: prompts are random tokens around a random image, responses are random tokens. What a
step costs does not depend on which tokens they are, and both sides of a comparison get the same ones.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import Qwen3VLForConditionalGeneration

from benchmarks.digits.build_model import FRAMES, MERGE, PATCH, SPECIAL, model_config
from integrations.alignment.data.prompts import Prompt, rope_positions
from integrations.alignment.data.segments import Segments
from integrations.alignment.discriminators.description import Description
from integrations.alignment.discriminators.discriminator import Discriminator
from integrations.alignment.discriminators.upcycle import upcycle
from integrations.alignment.forward.model import LinearPatchEmbed

EXPERTS, TOP_K = 4, 2
IMAGE_COLUMNS = 16
"""Merged patches in a row of the image."""


@dataclass(frozen=True)
class Width:
    """Dimensions of a Qwen3-VL, text and vision."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vision_hidden: int
    vision_intermediate: int
    vision_layers: int
    vision_heads: int
    vocabulary: int

    def config(self) -> Any:
        """As transformers takes it."""
        names = {"hidden": "hidden_size", "intermediate": "intermediate_size", "vocabulary": "vocab_size"}
        fields = {names.get(name, name): value for name, value in vars(self).items()}
        fields["vision_hidden_size"] = fields.pop("vision_hidden")
        fields["vision_intermediate_size"] = fields.pop("vision_intermediate")
        ids = {token: self.vocabulary - len(SPECIAL) + place for place, token in enumerate(SPECIAL)}
        return model_config(SimpleNamespace(**fields, initializer_range=0.02), ids)


@dataclass(frozen=True)
class Shape:
    """How many tokens a step has. The image's tokens are part of the prompt's."""

    prompt: int
    image: int
    caption: int
    reasoning: int
    group: int
    prompts: int = 1

    @property
    def response(self) -> int:
        return self.caption + self.reasoning


@dataclass(frozen=True)
class Size:
    """What is compared: the two models and a step."""

    policy: Width
    discriminator: Width
    shape: Shape
    measured: tuple[tuple[int, int], ...] = ((64, 16), (256, 4), (1024, 4))
    """Prompt lengths and group sizes whose ratios are measured too, in one round each."""
    fits: bool = True
    """The graph of a whole step fits in memory."""


QWEN_2B = Width(2048, 6144, 28, 16, 8, 128, 1024, 4096, 24, 16, 151_936)
QWEN_4B = Width(2560, 9728, 36, 32, 8, 128, 1024, 4096, 24, 16, 151_936)
SMALL = Width(256, 768, 3, 4, 2, 64, 128, 512, 2, 4, 4_096)
TINY = Width(64, 128, 2, 2, 1, 32, 32, 64, 1, 2, 512)
LONG = Shape(prompt=1000, image=800, caption=400, reasoning=1100, group=16)

SIZES = {
    "tiny": Size(TINY, TINY, Shape(prompt=48, image=32, caption=8, reasoning=16, group=5), measured=((64, 4),)),
    "small": Size(SMALL, SMALL, Shape(prompt=256, image=192, caption=100, reasoning=300, group=16)),
    "2b": Size(QWEN_2B, QWEN_2B, LONG, fits=False),
    "4b": Size(QWEN_4B, QWEN_2B, LONG, fits=False),
}
"""`small` is for a CPU, where arithmetic dominates its time; `2b` and `4b` have Qwen3-VL's dimensions (the 4B policy
meets a discriminator of four 2B experts, as in the paper) and need a GPU; `tiny` is for tests."""


@dataclass(frozen=True)
class Step:
    """A step's data: prompts, one demonstration each, and `group` responses to each."""

    prompts: list[Prompt]
    teachers: list[Segments]
    students: list[Segments]
    which: list[int]
    """The prompt of each response; ascending."""
    advantages: list[float]
    """One per response; what they are does not change the cost."""


def policy(width: Width, device: str, dtype: torch.dtype) -> Any:
    """A dense Qwen3-VL with random weights, as transformers runs it."""
    torch.manual_seed(0)
    model = Qwen3VLForConditionalGeneration._from_config(width.config(), dtype=dtype, attn_implementation="sdpa")
    return _linear(model).to(device).eval()


def backbone(width: Width, device: str, dtype: torch.dtype) -> Any:
    """A mixture of experts upcycled from a dense model with random weights, as transformers runs it."""
    torch.manual_seed(1)
    dense = Qwen3VLForConditionalGeneration._from_config(width.config(), dtype=dtype, attn_implementation="sdpa")
    grown = upcycle(dense, experts=EXPERTS, top_k=TOP_K, noise=0.05, router_std=0.5, seed=1)
    if device == "cuda":
        grown.set_experts_implementation("grouped_mm")
    return _linear(grown).to(device, dtype).eval()


def _linear(model: Any) -> Any:
    model.model.visual.patch_embed = LinearPatchEmbed(model.model.visual.patch_embed)
    return model


def discriminator(grown: Any, heads: nn.ModuleDict | None, *, reasoning: str, reference: Any = None) -> Discriminator:
    """The engine's discriminator around a backbone, whose routers it replaces.

    Routing is free, as in the paper's code, so that a plain forward of the backbone gives the same states.

    Args:
        heads: of a discriminator that scores by heads; None for a likelihood ratio.
        reasoning: `after_caption`, or `alone` as in the paper's code.
        reference: what a likelihood ratio compares with.
    """
    description = Description(
        score="likelihood_ratio" if heads is None else "head",
        reasoning=reasoning,
        routing="free",
        experts=EXPERTS,
        top_k=TOP_K,
        reference="",
        tokenizer="",
        held_out=0,
    )
    banned = torch.zeros(grown.lm_head.out_features, dtype=torch.bool)
    return Discriminator(grown, description, banned, reference=reference, heads=heads)


def twin(model: Any) -> Any:
    """Another model with the very same parameters, not copies of them."""
    return copy.deepcopy(model, {id(value): value for value in model.parameters()})


def step(size: Size, shape: Shape | None = None) -> Step:
    """A step of `shape`, the size's own by default."""
    shape = shape or size.shape
    random = np.random.default_rng(0)
    ordinary = min(size.policy.vocabulary, size.discriminator.vocabulary) - len(SPECIAL)
    prompts = [_prompt(size, shape, index, random, ordinary) for index in range(shape.prompts)]

    def segments() -> Segments:
        ids = random.integers(0, ordinary, shape.response)
        return Segments(tuple(ids.tolist()), shape.caption, "")

    which = [index for index in range(shape.prompts) for _ in range(shape.group)]
    advantages = random.normal(size=len(which)).tolist()
    return Step(prompts, [segments() for _ in prompts], [segments() for _ in which], which, advantages)


def _prompt(size: Size, shape: Shape, index: int, random: np.random.Generator, ordinary: int) -> Prompt:
    rows = shape.image // IMAGE_COLUMNS
    if rows * IMAGE_COLUMNS != shape.image or shape.image > shape.prompt:
        raise ValueError(f"an image of {shape.image} tokens is not a whole part of a prompt of {shape.prompt}")
    ids = random.integers(0, ordinary, shape.prompt)
    first = (shape.prompt - shape.image) // 2
    ids[first : first + shape.image] = size.policy.config().image_token_id
    is_image = ids == size.policy.config().image_token_id
    grid = [1, rows * MERGE, IMAGE_COLUMNS * MERGE]
    pixels = random.normal(size=(shape.image * MERGE**2, 3 * FRAMES * PATCH**2)) if rows else np.zeros((0, 0))
    return Prompt(
        id=f"prompt-{index}",
        ids=ids,
        positions=rope_positions(is_image, [grid] if rows else [], MERGE),
        patches=torch.from_numpy(pixels.astype(np.float32)),
        grids=torch.tensor([grid] if rows else np.zeros((0, 3)), dtype=torch.int64),
        answer="",
    )


def with_prompt(shape: Shape, prompt: int) -> Shape:
    """The shape with another length of prompt, the image's share kept as nearly as whole rows allow."""
    share = shape.image / shape.prompt
    return replace(shape, prompt=prompt, image=int(prompt * share) // IMAGE_COLUMNS * IMAGE_COLUMNS)
