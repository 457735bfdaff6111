"""Settings of stage 3, reinforcement learning from verifiable rewards.

The defaults are the paper's (its appendix table of hyper-parameters): 32 prompts of 16 responses, learning rate 1e-6,
no KL term, temperature 1, reward 0.8 accuracy + 0.2 format. What makes an algorithm (`ALGORITHMS`) comes with its name
and yields to what a recipe gives. The names here are the field's; the adapter translates them into verl's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from integrations.contract import Settings
from integrations.presets import PresetSettings

ALGORITHMS: dict[str, dict[str, Any]] = {
    # The paper's table and its GRPO script agree but for the KL term: "per-algorithm default" in the README, off in all
    # three scripts, and off here.
    "grpo": {"clip_low": 0.2, "clip_high": 0.2, "dual_clip": 3.0, "loss_average": "tokens", "warmup_steps": 0},
    "dapo": {  # DAPO script; the paper's table has neither clip ranges nor warm-up
        "clip_low": 0.2,
        "clip_high": 0.28,
        "dual_clip": 10.0,
        "loss_average": "tokens",
        "warmup_steps": 10,
        "filter_groups": True,
        "overlong_share": 0.5,  # 4096 of 8192 tokens
    },
    "gspo": {  # GSPO script
        "clip_low": 3e-4,
        "clip_high": 4e-4,
        "dual_clip": 3.0,
        "loss_average": "responses",
        "warmup_steps": 75,  # 5% of 1500 steps
    },
}
"""What each algorithm is, with the sources. The scripts' weight decay of 0.1 for DAPO and GSPO is not taken: the
paper's table has 0.01 for all three, and a comparison should not differ in it."""


class JudgeSettings(Settings):
    """A judge for rewards: a language model behind an OpenAI-compatible address. `prism judge check` tries one."""

    url: str = Field(min_length=1)
    """Its server, with or without `/v1`."""
    model: str | None = None
    """The model's name there; null: the only one that the server lists."""
    key_variable: str | None = None
    """Environment variable that holds the key; null: OPENAI_API_KEY, where it is safe to send. The key is written
    nowhere."""
    concurrency: int = Field(default=8, ge=1)
    """Questions under way at the same time."""


class RlvrLora(Settings):
    """Low-rank adapters of every linear layer of the language model, beside frozen weights."""

    rank: int = Field(default=32, ge=1)
    """Width of the adapters; vLLM reserves memory for it. Each matrix of m x n trains rank * (m + n) numbers."""
    alpha: int = Field(default=64, ge=1)
    """The adapters' product is scaled by alpha / rank, so that the learning rate need not follow the rank."""


class RlvrSettings(PresetSettings):
    """One RLVR stage. A step is one batch of prompts sampled, scored and learnt from."""

    PRESET: ClassVar[str] = "algorithm"

    @classmethod
    def preset(cls, data: Mapping[str, Any]) -> Mapping[str, Any]:
        """What makes the algorithm; its warm-up is at most a tenth of the stage."""
        defaults = ALGORITHMS.get(str(data.get("algorithm", "grpo")), {})
        steps = data.get("steps", cls.model_fields["steps"].default)
        if not defaults or not isinstance(steps, int):
            return defaults
        return {**defaults, "warmup_steps": min(defaults["warmup_steps"], steps // 10)}

    kind: Literal["rlvr"] = "rlvr"
    """Names the stage's type in a recipe."""
    data: list[str] = Field(min_length=1)
    """Pools to draw prompts from, e.g. `[rlvr]`; every row needs a reference `answer`, `response` is not read."""
    algorithm: Literal["grpo", "dapo", "gspo"] = "grpo"
    """How responses of one prompt become a loss. All three reward a response relative to its group: reward minus the
    group's mean, over the group's standard deviation. `grpo` clips the probability ratio of each token. `dapo` clips
    higher upwards, leaves out groups whose answers are all right or all wrong and samples others in their place, and
    takes reward from responses near the length limit. `gspo` uses one ratio for a whole response, the geometric mean
    over its tokens, with clips of a few ten-thousandths. Sets the defaults of the fields below that name it."""

    steps: int = Field(default=1500, ge=1)
    """Batches sampled and learnt from. The recipe's budget rule may lengthen a baseline."""
    prompts_per_step: int = Field(default=32, ge=1)
    """Prompts in one step; the pool must hold at least as many. Cost grows in proportion."""
    group_size: int = Field(default=16, ge=2)
    """Responses sampled for each prompt. Fewer make the group's mean noisier and more groups without any signal."""

    updates_per_step: int = Field(default=1, ge=1)
    """Optimizer steps on one batch, each on a share of its prompts. With 1 the policy is the one that sampled, every
    ratio is one and nothing is ever clipped; with more the later shares are a little off-policy, and clips matter."""

    learning_rate: float = Field(default=1e-6, gt=0)
    """AdamW's learning rate after warm-up, then constant. Too high a rate first shows in captions that get worse
    while answers do not."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps over which the learning rate rises linearly from zero. `dapo`: 10, `gspo`: 75, but at most a tenth of
    `steps`."""
    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW's decoupled weight decay, per step and unit of learning rate."""
    adam_beta2: float = Field(default=0.999, gt=0, lt=1)
    """AdamW's decay of the squared gradient's average; shorter stages need a smaller one."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients with a larger norm are scaled down to it."""

    clip_low: float = Field(default=0.2, gt=0, lt=1)
    """How far below 1 the probability ratio may fall before a response stops pushing the policy. `gspo`: 0.0003."""
    clip_high: float = Field(default=0.2, gt=0)
    """How far above 1 the probability ratio may rise before a response stops pushing the policy. `dapo`: 0.28, `gspo`:
    0.0004."""
    dual_clip: float = Field(default=3.0, gt=1)
    """Largest ratio that counts for a response worse than its group's mean. `dapo`: 10."""
    loss_average: Literal["tokens", "responses"] = "tokens"
    """`tokens`: every token of the step weighs the same, so long responses weigh more. `responses`: every response
    does. `gspo`: responses."""
    filter_groups: bool = False
    """Leave out groups whose answers are all right or all wrong and sample other prompts in their place, until a step
    has `prompts_per_step` groups that differ. `dapo`: yes. Which prompts these are depends on which responses end
    first, so such a stage does not repeat exactly."""
    generation_batch: int = Field(default=3, ge=1)
    """With `filter_groups`: most prompts sampled at the same time, in units of `prompts_per_step`. The DAPO script
    samples in batches of 96 for steps of 32; verl samples prompt by prompt and holds this many in flight."""
    generation_limit: int = Field(default=30, ge=2)
    """With `filter_groups`: most prompts sampled for one step, in units of `prompts_per_step`; a step that needs more
    ends the stage, for the prompts are then too easy or too hard to learn from. The DAPO script has at most 10 batches
    of 96 for steps of 32."""
    overlong_share: float = Field(default=0.0, ge=0, le=1)
    """The last share of `max_response_length` in which the reward falls linearly with every token, down to 1 less at
    the limit. 0: length costs nothing. `dapo`: 0.5."""
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
    max_image_pixels: int | None = Field(default=None, ge=1024)
    """Images with more pixels than this are made smaller before they are given to the policy; the aspect is kept.
    Null: the limit of the policy's own image processor, as in every other stage and in evaluation. With a smaller one
    prompts cost fewer tokens, and RLVR shows the policy other images than they do."""

    accuracy_weight: float = Field(default=0.8, ge=0, le=1)
    """Share of the reward for a right answer."""
    format_weight: float = Field(default=0.2, ge=0, le=1)
    """Share of the reward for the form `<caption>..</caption><think>..</think><answer>..</answer>`. An answer counts
    as right only inside the form."""

    judge: JudgeSettings | None = None
    """A second opinion on every answer: right is what the judge calls right. Null: rules alone, as in the paper. Its
    agreement with the rules is among the metrics, and `prism reward review` lists where they differ."""

    micro_batch_size: int = Field(default=8, ge=1)
    """Responses in one forward and backward pass on one device. Memory, not results, depends on it. On a CPU with a
    small model the whole step in one pass is fastest."""
    gradient_checkpointing: bool = True
    """Recompute activations in the backward pass: less memory, about a third more time."""
    lora: RlvrLora | None = None
    """Train adapters instead of the weights, for one small GPU; the result has them merged in. `{}` takes rank 32 and
    alpha 64. Adapters want some ten times the learning rate of weights. Null: train the weights."""
    offload: bool = False
    """Keep the policy's weights and moments in main memory while it does not learn, 12 bytes for each parameter over
    all GPUs: room for the rollout engine, for some seconds of transfer a step. On in the paper's scripts."""
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
        if self.prompts_per_step % self.updates_per_step:
            raise ValueError(
                f"updates_per_step ({self.updates_per_step}) must divide prompts_per_step ({self.prompts_per_step})"
            )
        responses = self.prompts_per_step // self.updates_per_step * self.group_size
        if self.micro_batch_size < responses and responses % self.micro_batch_size:
            raise ValueError(
                f"micro_batch_size ({self.micro_batch_size}) must divide the {responses} responses of an update "
                "(prompts_per_step x group_size / updates_per_step)"
            )
        return self
