"""What a recipe may say about supervised fine-tuning (stage kind `sft`)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from integrations.contract import Settings


class SftLora(Settings):
    """Low-rank adapters, trained in fp32 beside frozen bf16 weights and merged into them at the end."""

    rank: int = Field(default=32, ge=1)
    """Width of the adapters. Each matrix of m x n trains rank * (m + n) numbers instead of m * n."""
    alpha: int = Field(default=64, ge=1)
    """The adapters' product is scaled by alpha / rank, so that the learning rate need not follow the rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the adapters' inputs left out at random in each step; 0 for none."""


class SftSettings(Settings):
    """Supervised fine-tuning of all unfrozen weights on demonstrations, by LLaMA-Factory.

    Only response tokens carry loss; the prompt, the image and padding do not. Image sizes are not set here: the
    model's own processor decides them, so that every stage and the evaluation see the same pixels.
    """

    kind: Literal["sft"] = "sft"

    data: list[str] = Field(min_length=1)
    """Pools to train on, by name (`sft` is `data/sft.jsonl`); several are concatenated, then shuffled together."""
    steps: int | None = Field(default=None, ge=1)
    """Optimizer steps. Give this or `epochs`."""
    epochs: float | None = Field(default=None, gt=0)
    """Passes over the rows given; steps = ceil(epochs x ceil(rows / batch_size)). Give this or `steps`."""
    bad_rows: Literal["refuse", "drop"] = "refuse"
    """A row that cannot be trained (no response, unreadable image, longer than `max_length`): `refuse` stops the
    stage and names the rows; `drop` leaves them out, names them in the attempt's log and counts them in the result."""

    batch_size: int = Field(default=32, ge=1)
    """Rows per optimizer step, over all processes. Larger is smoother and slower; scale `learning_rate` with it."""
    gradient_accumulation: int = Field(default=1, ge=1)
    """Parts that a batch is computed in; must divide `batch_size`. More parts need less memory. The loss is the mean
    over parts of each part's mean over tokens, so a step is not exactly that of one undivided batch."""
    max_length: int = Field(default=2048, ge=16)
    """Tokens of the longest row, prompt, image tokens and response together; longer rows are `bad_rows`."""

    learning_rate: float = Field(default=1e-5, gt=0)
    """Peak learning rate of AdamW."""
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """Course of the learning rate after warm-up: flat, straight down, or a half cosine down."""
    final_learning_rate: float = Field(default=0.0, ge=0, le=1)
    """Where a `cosine` schedule ends, as a share of `learning_rate`."""
    warmup_ratio: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps in which the learning rate rises linearly from 0 to its peak."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's decoupled weight decay; norms and biases are exempt."""
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of AdamW's mean of gradients."""
    adam_beta2: float = Field(default=0.999, ge=0, lt=1)
    """Decay of AdamW's mean of squared gradients; 0.95 adapts faster, which suits short runs."""
    grad_clip: float = Field(default=1.0, gt=0)
    """Largest global L2 norm of the gradient; longer ones are scaled down to it."""

    freeze_vision: bool = True
    """Keep the vision tower (patch embedding, blocks, position embedding, DeepStack mergers) as it is."""
    freeze_projector: bool = False
    """Keep the merger between vision tower and language model as it is."""

    precision: Literal["fp32", "bf16"] = "bf16"
    """Arithmetic of forward and backward. `bf16` is mixed precision: the weights being trained stay fp32 while
    training, and the result has the base model's dtype in both cases."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: about a third slower, much less memory."""
    lora: SftLora | None = None
    """Train adapters of the linear layers that are not frozen instead of the weights, for one small GPU; the merger
    between vision tower and language model gets none. The result is a plain checkpoint with the adapters merged in.
    `{}` takes rank 32 and alpha 64. Adapters want some ten times the learning rate of weights. Null: train the
    weights."""
    sharding: Literal["none", "fsdp", "zero2", "zero3"] = "none"
    """What several GPUs share. `none`: each holds everything, 20 bytes for each trained parameter. `fsdp`: weights,
    gradients and moments are dealt out, 16 bytes over all GPUs together (torch's FSDP2, in every environment). `zero2`:
    masters, moments and gradients are dealt out and bf16 weights stay whole; `zero3`: those too. Both by DeepSpeed,
    which must be installed in the environment."""
    offload: bool = False
    """With `sharding`: keep masters and moments in main memory, 12 bytes for each trained parameter, and update them
    there; several times slower steps, for models that do not fit otherwise."""
    deepspeed: str | None = None
    """Absolute path of a DeepSpeed configuration (JSON) of your own in place of `sharding`'s. Needs an environment in
    which DeepSpeed is installed."""
    deterministic: bool = False
    """On GPUs: use only deterministic kernels (slower), so that a repeated run gives the same bits. On CPU runs
    always repeat."""
    dataloader_workers: int = Field(default=0, ge=0)
    """Processes that load and resize images beside training; 0: the training process itself does it."""

    checkpoint_every: int = Field(default=100, ge=1)
    """Optimizer steps between checkpoints; a killed stage loses at most this many."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """Newest checkpoints kept; each holds the weights and twice their size in fp32 optimizer state."""
    log_every: int = Field(default=10, ge=1)
    """Optimizer steps between two lines of progress; the loss shown is the mean since the last line."""

    @model_validator(mode="after")
    def _no_contradictions(self) -> SftSettings:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either `steps` or `epochs`, not both and not neither")
        if self.batch_size % self.gradient_accumulation:
            raise ValueError(
                f"`gradient_accumulation` {self.gradient_accumulation} must divide `batch_size` {self.batch_size}"
            )
        if self.offload and self.sharding == "none":
            raise ValueError("`offload` needs `sharding`: fsdp, zero2 or zero3")
        if self.deepspeed is not None and self.sharding != "none":
            raise ValueError("give either `sharding` or a `deepspeed` configuration of your own")
        if self.sharding != "none" and self.precision != "bf16":
            raise ValueError(f"`sharding: {self.sharding}` needs `precision: bf16`")
        if self.final_learning_rate and self.schedule != "cosine":
            raise ValueError("`final_learning_rate` needs `schedule: cosine`")
        return self
