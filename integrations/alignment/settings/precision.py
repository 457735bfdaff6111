"""Number formats and memory of the trained models, in both stages.

Bytes per trained parameter, on the device while a step runs (activations apart):

| compute, masters | weights | gradient | moments: fp32 | bf16 | 8bit | offload |
|---|---|---|---|---|---|---|
| fp32             | 4       | 4        | + 8           | + 4  | + 2.03 | + 0, and 8 on the host |
| bf16, fp32       | 2 + 4   | 2        | + 8           | + 4  | + 2.03 | + 0, and 8 on the host |
| bf16, split      | 2 + 2   | 2        | + 8           | + 4  | + 2.03 | + 0, and 8 on the host |
| bf16, none       | 2       | 2        | + 8           | + 4  | + 2.03 | + 0, and 8 on the host |

A frozen parameter takes its weight only, 4 or 2 bytes; so does every weight of a policy trained with `lora`.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from integrations.alignment.settings.kinds import Count, Natural, Positive
from integrations.contract import Settings

SMALLEST_UPDATE = 2.0**-9
"""Share of a bf16 weight below which any change is rounded away: its numbers lie 2^-8 to 2^-7 of their size apart."""
TYPICAL_WEIGHT = 0.02
"""Standard deviation that the language model's matrices are initialised with."""


Matrix = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class LoraSettings(Settings):
    """Low-rank adapters in fp32 beside frozen weights."""

    rank: Count = 32
    """Width of the adapters. Each matrix of m x n trains rank * (m + n) numbers instead of m * n."""

    alpha: Positive = 64.0
    """The adapters' product is scaled by alpha / rank, so that the learning rate need not follow the rank."""

    targets: Annotated[tuple[Matrix, ...], Field(min_length=1)] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )
    """Matrices of the language model that get adapters, by the last part of their names."""


class PrecisionSettings(Settings):
    """What the trained weights, their optimizer and the activations are kept in."""

    compute: Literal["fp32", "bf16"] = "fp32"
    """Format of weights, gradients and activations in both models' passes. `bf16` halves their memory and uses a
    GPU's matrix units; scores, log-probabilities, losses and the discriminator's heads are fp32 in any case."""

    masters: Literal["split", "fp32", "none"] = "split"
    """What AdamW updates with `compute: bf16`, whose weights cannot hold small updates. `fp32`: a full copy, 4 bytes
    per trained parameter. `split`: the 16 bits that the bf16 weight lacks, 2 bytes; both together are the fp32 number
    exactly, so it ends in the same weights bit for bit. `none`: nothing, and an update below 2^-9 of its weight is
    lost; refused where the learning rate makes that the rule. With `compute: fp32` the weights are the masters."""

    moments: Literal["fp32", "bf16", "8bit", "offload"] = "fp32"
    """Format of AdamW's two moments. `fp32`: 8 bytes per trained parameter. `bf16`: 4. `8bit`: 2.03, in blocks of 256
    with a scale each (bitsandbytes' dynamic quantisation; tensors of fewer than 4096 numbers stay fp32). `offload`:
    fp32 in the host's memory, 8 bytes there and none on the device, for 16 bytes of transfer per parameter and step;
    on CPU the same as `fp32`."""

    lora: LoraSettings | None = None
    """Train adapters of the policy instead of its weights, for one small GPU. The result is a plain checkpoint with
    the adapters merged in, and the frozen weights also serve as the reference, so that there is no second copy.
    `{}` takes `rank: 32` (width; a matrix of m x n trains rank (m + n) numbers), `alpha: 64` (their product is
    scaled by alpha / rank) and all seven `targets` of a layer, q_proj to down_proj. Adapters want some ten times
    the learning rate of weights. `null`: train the weights."""

    discriminator_lora: LoraSettings | None = None
    """The same for the discriminator's backbone, in both stages; heads are trained whole. A mixture of experts gets
    adapters in its attention only: experts and routers stay as they were, so an upcycled one should be warmed up whole
    before, or be `architecture: dense`. `null`: train the weights."""

    freeze_vision: bool = False
    """Keep the vision towers of policy and discriminator as they are; the stage fails if one changed by a bit."""

    micro_branches: Natural = 0
    """Responses and demonstrations whose graph is held in memory at once, after prompts that are read once for all of
    theirs; 0: those of `micro_prompts` prompts together. Where it is smaller than a step, the discriminator's scores
    and its gradient come from two forward passes instead of one. Changes memory and speed only."""

    head_chunk: Count = 1024
    """Response tokens whose logits are in memory at once: 4 bytes for each of them and each token of the vocabulary,
    three times over. They are computed again in the backward pass. Changes memory and speed only."""

    gradient_checkpointing: bool = False
    """Keep only each layer's input for the backward pass and compute the rest again: a small part of the activations'
    memory, for a third more computation. Changes memory and speed only."""

    @model_validator(mode="after")
    def _masters_have_a_use(self) -> Self:
        if self.compute == "fp32" and self.masters == "none":
            raise ValueError("masters: none needs `compute: bf16`, for fp32 weights are their own masters")
        return self

    def check_rate(self, field: str, rate: float, adapters: LoraSettings | None) -> None:
        """Refuse a learning rate whose updates bf16 weights would round away.

        AdamW moves a weight by about the learning rate in a step, so weights larger than rate / 2^-9 stand still.

        Args:
            adapters: what is trained in place of the weights; they are fp32.

        Raises:
            ValueError: naming the field and the reason.
        """
        if self.compute != "bf16" or self.masters != "none" or adapters is not None:
            return
        largest = rate / SMALLEST_UPDATE
        if largest < TYPICAL_WEIGHT:
            raise ValueError(
                f"{field} is {rate:g} and precision.masters is none: an update below 2^-9 of a bf16 weight is rounded "
                f"away, so weights above {largest:.1g} would never move (typical ones are {TYPICAL_WEIGHT:g}); set "
                f"`precision.masters: split`, or {field} to at least {TYPICAL_WEIGHT * SMALLEST_UPDATE:.1g}"
            )
