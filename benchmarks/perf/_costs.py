"""Floating-point operations of a step by formula, for the shapes that are not run.

A multiply-add is two operations; attention counts every query with every key, masked or not, as the kernels' own
counters do. A backward pass takes twice the operations of its matrix products (once where the input is data) and 2.5
times those of its attention. Norms, rotations, routing choices and the optimizer are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.digits.build_model import FRAMES, MERGE, PATCH
from benchmarks.perf._models import EXPERTS, TOP_K, Shape, Size, Width


@dataclass(frozen=True)
class Cost:
    """Operations of a forward pass."""

    products: float = 0.0
    attention: float = 0.0
    data: float = 0.0
    """Matrix products of data, which gets no gradient."""

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.products + other.products, self.attention + other.attention, self.data + other.data)

    def __mul__(self, times: float) -> Cost:
        return Cost(self.products * times, self.attention * times, self.data * times)

    @property
    def forward(self) -> float:
        return self.products + self.attention + self.data

    @property
    def learning(self) -> float:
        """Forward and backward."""
        return 3 * self.products + 3.5 * self.attention + 2 * self.data


def text(width: Width, tokens: int, keys: int, experts: bool) -> Cost:
    """The text layers on `tokens` tokens, each of which attends to `keys`."""
    queries, shared = width.heads * width.head_dim, width.kv_heads * width.head_dim
    attention = width.hidden * (queries + 2 * shared) + queries * width.hidden
    mlp = 3 * width.hidden * width.intermediate * (TOP_K if experts else 1)
    router = width.hidden * EXPERTS if experts else 0
    return Cost(
        2 * tokens * width.layers * (attention + mlp + router),
        4 * tokens * keys * width.layers * queries,
    )


def image(width: Width, tokens: int) -> Cost:
    """The vision tower on one image of `tokens` merged patches, its outputs to the text layers included."""
    if not tokens:
        return Cost()
    patches, hidden = tokens * MERGE**2, width.vision_hidden
    layer = 4 * hidden**2 + 2 * hidden * width.vision_intermediate
    merged = hidden * MERGE**2
    outputs = 1 + min(3, width.vision_layers, width.layers)
    merger = merged**2 + merged * width.hidden
    products = patches * width.vision_layers * layer + tokens * outputs * merger
    embedding = patches * 3 * FRAMES * PATCH**2 * hidden
    return Cost(2 * products, 4 * patches**2 * width.vision_layers * hidden, 2 * embedding)


def head(width: Width, tokens: int) -> Cost:
    """The output layer."""
    return Cost(2 * tokens * width.hidden * width.vocabulary)


def reference(size: Size, shape: Shape) -> dict[str, float]:
    """Operations of the published code's scheme, by phase."""
    judge, policy, responses = size.discriminator, size.policy, shape.prompts * shape.group
    segments = [shape.prompt + shape.caption, shape.prompt + shape.reasoning]
    pair = Cost()
    for tokens in segments:
        pair += text(judge, tokens, tokens, experts=True) + image(judge, shape.image)
    whole = shape.prompt + shape.response
    one = text(policy, whole, whole, experts=False) + image(policy, shape.image) + head(policy, whole)
    return {
        "discriminator": responses * (pair.forward + 2 * pair.learning),
        "policy": responses * (one.forward + one.learning),
    }


def ours(size: Size, shape: Shape) -> dict[str, float]:
    """Operations with prompts shared and everything passed once, by phase."""
    found = {}
    for name, width, branches in (("discriminator", size.discriminator, 1), ("policy", size.policy, 0)):
        rows = shape.group + branches
        cost = text(width, shape.prompt, shape.prompt, experts=bool(branches)) + image(width, shape.image)
        cost += text(width, shape.response, shape.prompt + shape.response, experts=bool(branches)) * rows
        logits = Cost() if branches else head(width, shape.response * rows)
        again = logits.forward  # computed anew in the backward pass
        found[name] = shape.prompts * ((cost + logits).learning + again)
    return found


def ratios(size: Size, shape: Shape) -> dict[str, float]:
    """The reference's operations over ours: `discriminator`, `policy` and `step`."""
    theirs, own = reference(size, shape), ours(size, shape)
    found = {name: theirs[name] / own[name] for name in own}
    return found | {"step": sum(theirs.values()) / sum(own.values())}
