"""Bytes that a pass through a Qwen3-VL keeps for its backward pass, and what it computes.

Counted operation by operation in the published modelling code, as autograd keeps their inputs: a normalisation keeps
its input in fp32, what it scaled and its result; a linear layer its input; attention its queries, keys, values and
result. `tests/campaign/plan_memory.py` compares the sums with what torch allocates.

Legend: H hidden width, I width inside the MLP, V vocabulary; `width` bytes of a number, 2 (bf16) or 4 (fp32).
"""

from __future__ import annotations

from prism_cli.planning.models import Dimensions

LOGITS_IN_TRAINING = 14
"""Bytes for each token and word of the vocabulary where a loss takes all logits at once: bf16 logits (2), in fp32 (4),
log-softmax (4), and its gradient (4)."""
LOGITS_OF_VERL = 10
"""The same in verl without flash attention: bf16 logits, those without padding, log-softmax row by row, and both
gradients, 2 bytes each."""
LOGITS_OF_CHUNK = 20
"""The same in a chunk of the alignment's output layer: logits and distribution in fp32, and three for the entropy."""


def per_token(model: Dimensions, width: int) -> float:
    """Kept by one decoder layer for one token, keys and values of its attention apart (`attention_keys`)."""
    norm, head_norm = (8, 6) if width == 2 else (12, 8)
    queries, keys = model.heads * model.head, model.kv_heads * model.head
    norms = 2 * norm * model.hidden + head_norm * (queries + keys)
    attention = 3 * width * queries + 4 * model.heads  # queries, result, result side by side; and the softmax's sum
    inside = 4 * width * model.inside  # gate, its activation, up, and their product
    if model.experts > 1:
        inside = model.top_k * (inside + 2 * width * model.hidden)  # and each expert's input and result
    return norms + attention + inside


def attention_keys(model: Dimensions, width: int) -> float:
    """Kept by one layer's attention for one key that a sequence sees: its key and value."""
    return 2 * width * model.kv_heads * model.head


def decoder(model: Dimensions, tokens: float, keys: float, width: int, checkpointing: bool) -> tuple[float, float]:
    """All decoder layers' activations: those that are kept until the way back, and those of one layer at a time.

    Args:
        tokens: that run.
        keys: that their sequences see, prompts counted once for each sequence.
        checkpointing: each layer keeps its input, and its keys and values for the repetition; one at a time has all.
    """
    layer = per_token(model, width) * tokens + attention_keys(model, width) * keys
    final = (8 if width == 2 else 12) * model.hidden * tokens
    if not checkpointing:
        return model.layers * layer + final, 0.0
    kept = (width * model.hidden + attention_keys(model, width)) * tokens
    return model.layers * kept + final, layer + working(model, tokens, width)


def working(model: Dimensions, tokens: float, width: int) -> float:
    """Gradients of one layer's MLP on the way back: of the product, gate and up."""
    return 3 * width * model.inside * max(1, model.top_k) * tokens


def tower(model: Dimensions, patches: float, width: int, checkpointing: bool) -> tuple[float, float]:
    """The vision tower's activations where it is trained, as `decoder`'s."""
    vision = model.vision
    block = width * (11 * vision.hidden + 2 * vision.inside) * patches
    mergers = (1 + vision.deepstack) * width * 4 * vision.hidden * patches
    if not checkpointing:
        return vision.depth * block + mergers, 0.0
    return vision.depth * width * vision.hidden * patches + mergers, block


def features(model: Dimensions, image_tokens: float, width: int) -> float:
    """What the tower hands on, for the first layers too, with its gradient."""
    return 2 * (1 + model.vision.deepstack) * width * model.hidden * image_tokens


def flops(model: Dimensions, tokens: float, context: float, passes: float) -> float:
    """Operations of the language model: 2 for each active parameter and token, and attention over the context.

    Args:
        context: keys that a token sees on average.
        passes: 1 forward, 3 with the backward pass, 4 where layers are computed again.
    """
    attention = 4.0 * model.layers * model.heads * model.head * context
    return passes * tokens * (2.0 * model.active + attention)


def tower_flops(model: Dimensions, patches: float, per_image: float, passes: float) -> float:
    """The same of the vision tower; every patch sees its image's."""
    vision = model.vision
    return passes * patches * (2.0 * vision.parameters + 4.0 * vision.depth * vision.hidden * per_image)
