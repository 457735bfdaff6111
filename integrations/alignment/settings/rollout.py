"""How the policy is sampled, in both stages."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from integrations.alignment.settings.kinds import Count, Positive
from integrations.contract import Settings


class RolloutSettings(Settings):
    """How the policy is sampled."""

    engine: Literal["transformers", "vllm"] = "transformers"
    """`transformers`: the trainer's own model, with no second copy of it. `vllm`: several times faster for billions of
    parameters; the stage then runs in the vLLM environment, which holds a copy of the weights on the same GPU."""

    temperature: Positive = 1.0
    """Sampling temperature. The policy gradient is exact only at 1, where samples come from the policy itself."""

    max_new_tokens: Count = 96
    """Longest response in tokens, the end of turn included. Longer ones count as truncated, and so as invalid."""

    batch_size: Count = 64
    """Most sequences decoded together. Changes speed and memory only: each sample has its own random stream."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the responses' computation. `auto`: transformers samples the trainer's own model as it is, vLLM
    computes in bfloat16 on a GPU, else in float32. With another, transformers, too, samples a copy of the policy. In
    bfloat16 log-probabilities differ from the trainer's by some thousandths and more (`logprob_gap_mean`)."""

    canary_tolerance: Positive | None = None
    """Largest mean difference per token, in nats, between the log-probabilities that an engine with weights of its own
    and the trainer give to the canary responses after each takeover of the weights; above it the stage fails. Default:
    0.0001 where both compute in float32, 0.05 where one of them does not."""

    max_images: Annotated[int, Field(ge=0)] = 8
    """vLLM: most images in one prompt. Room for so many of the largest size is reserved."""

    gpu_memory_share: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """vLLM: share of the GPU's memory for its weights and cache; the rest is the trainer's."""

    compiled: bool = True
    """vLLM on a GPU: compile the model and capture CUDA graphs, a minute or two at the start for faster responses."""

    sleep: bool = False
    """vLLM on a GPU: move its weights to main memory and give up its cache while the trainer works. Costs some seconds
    a step, and lets `gpu_memory_share` and the trainer count on the same memory."""
