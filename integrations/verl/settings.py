"""Settings of stage 3, reinforcement learning from verifiable rewards.

The defaults are the paper's (its appendix table of hyper-parameters for GRPO): 32 prompts of 16 responses, learning
rate 1e-6, clip 0.2, no KL term, temperature 1, reward 0.8 accuracy + 0.2 format. The names here are the field's; the
adapter translates them into verl's.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from integrations.contract import Settings


class RlvrSettings(Settings):
    """One RLVR stage. A step is one batch of prompts sampled, scored and learnt from: one optimizer step."""

    kind: Literal["rlvr"] = "rlvr"
    """Names the stage's type in a recipe."""
    data: list[str] = Field(min_length=1)
    """Pools to draw prompts from, e.g. `[rlvr]`; every row needs a reference `answer`, `response` is not read."""
    algorithm: Literal["grpo"] = "grpo"
    """How responses of one prompt become advantages and a loss. `grpo`: reward minus the group's mean, divided by
    the group's standard deviation, in a clipped policy-gradient loss averaged over tokens."""

    steps: int = Field(default=1500, ge=1)
    """Optimizer steps. The recipe's budget rule may lengthen a baseline."""
    prompts_per_step: int = Field(default=32, ge=1)
    """Prompts in one step; the pool must hold at least as many. Cost grows in proportion."""
    group_size: int = Field(default=16, ge=2)
    """Responses sampled for each prompt. Fewer make the group's mean noisier and more groups without any signal."""

    learning_rate: float = Field(default=1e-6, gt=0)
    """AdamW's learning rate after warm-up, then constant. Too high a rate first shows in captions that get worse
    while answers do not."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps over which the learning rate rises linearly from zero."""
    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW's decoupled weight decay, per step and unit of learning rate."""
    adam_beta2: float = Field(default=0.999, gt=0, lt=1)
    """AdamW's decay of the squared gradient's average; shorter stages need a smaller one."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients with a larger norm are scaled down to it."""

    clip_low: float = Field(default=0.2, gt=0, lt=1)
    """How far below 1 the probability ratio may fall before a response stops pushing the policy."""
    clip_high: float = Field(default=0.2, gt=0)
    """How far above 1 the probability ratio may rise before a response stops pushing the policy."""
    kl_coefficient: float = Field(default=0.0, ge=0)
    """Weight of the penalty for leaving the stage's initial policy. 0 (the paper's) needs no reference model; more
    than 0 keeps a second copy of the model in memory and costs one more forward pass a step."""

    temperature: float = Field(default=1.0, gt=0)
    """Sampling temperature. Log-probabilities are taken at the same temperature."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Share of the probability mass sampled from. Below 1 the samples no longer follow the policy exactly."""
    max_prompt_length: int = Field(default=2048, ge=1)
    """Longest prompt in tokens, image tokens included. A longer prompt is left out and reported."""
    max_response_length: int = Field(default=8192, ge=1)
    """Longest response in tokens; a longer one is cut and fails the format."""
    max_image_pixels: int = Field(default=1048576, ge=1024)
    """Images with more pixels than this are made smaller before they are given to the policy; the aspect is kept.
    More pixels cost more prompt tokens."""

    accuracy_weight: float = Field(default=0.8, ge=0, le=1)
    """Share of the reward for a right answer."""
    format_weight: float = Field(default=0.2, ge=0, le=1)
    """Share of the reward for the form `<caption>..</caption><think>..</think><answer>..</answer>`. An answer counts
    as right only inside the form."""

    micro_batch_size: int = Field(default=8, ge=1)
    """Responses in one forward and backward pass on one device. Memory, not results, depends on it. On a CPU with a
    small model the whole step in one pass is fastest."""
    gradient_checkpointing: bool = True
    """Recompute activations in the backward pass: less memory, about a third more time."""
    gpu_memory_share: float = Field(default=0.6, gt=0, lt=1)
    """Share of a GPU's memory for the rollout engine; the policy's training needs the rest. Not used on CPU."""

    checkpoint_every: int = Field(default=100, ge=1)
    """Steps between two checkpoints. A killed stage repeats at most this many. The newest two are kept; one holds
    weights, optimizer and the same weights once more in Hugging Face form, all in fp32."""
    max_failed_share: float = Field(default=0.02, ge=0, lt=1)
    """Largest share of responses that may be lost to errors in sampling or scoring before the stage counts as failed;
    verl pads the batch and goes on without a word."""

    @model_validator(mode="after")
    def _reward_is_a_share(self) -> RlvrSettings:
        if abs(self.accuracy_weight + self.format_weight - 1.0) > 1e-9:
            raise ValueError(
                f"accuracy_weight ({self.accuracy_weight}) and format_weight ({self.format_weight}) must add up to 1"
            )
        return self

    @model_validator(mode="after")
    def _warmup_fits(self) -> RlvrSettings:
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps ({self.warmup_steps}) must be smaller than steps ({self.steps})")
        return self

    @model_validator(mode="after")
    def _batches_divide(self) -> RlvrSettings:
        responses = self.prompts_per_step * self.group_size
        if self.micro_batch_size < responses and responses % self.micro_batch_size:
            raise ValueError(
                f"micro_batch_size ({self.micro_batch_size}) must divide the {responses} responses of a step "
                "(prompts_per_step x group_size)"
            )
        return self
