"""Recipe fields of the alignment game."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from integrations.alignment.settings.kinds import Count, Natural, Positive, Rate, Share, Weight
from integrations.alignment.settings.precision import PrecisionSettings
from integrations.alignment.settings.rollout import RolloutSettings
from integrations.contract import Settings


class AlignSettings(Settings):
    """The adversarial game: the policy is rewarded by the discriminator, which learns on the same responses."""

    kind: Literal["align"] = "align"

    teacher: str = "teacher"
    """Name of the pool with the demonstrations: `<teacher>.jsonl` in the run's data folder."""

    held_out: Annotated[int, Field(ge=16)] = 64
    """Demonstrations never trained on, in prompts. At most the discriminator stage's own figure."""

    steps: Count = 60
    """Optimizer steps of policy and discriminator, one each per batch of responses."""

    prompts_per_step: Count = 8
    """Prompts per step."""

    group_size: Annotated[int, Field(ge=2)] = 8
    """Responses per prompt, which are compared with each other."""

    learning_rate: Rate = 4e-5
    """Peak learning rate of the policy's AdamW; constant after the warm-up."""

    discriminator_learning_rate: Rate = 3e-4
    """Learning rate of the discriminator's AdamW in the game. Several times the policy's: a policy that learns faster
    than its judge finds what the judge has not seen yet and loses its captions."""

    warmup_steps: Natural = 5
    """Steps over which both learning rates rise linearly."""

    weight_decay: Weight = 0.0
    """AdamW's decoupled weight decay of the policy; the discriminator keeps its own stage's."""

    gradient_clip: Positive = 1.0
    """Largest norm of the whole gradient, for each of the two models."""

    alpha: Share = 0.5
    """Weight of perception; reasoning has 1 - alpha."""

    credit: Literal["per_role", "mixed"] = "per_role"
    """`per_role`: a token is credited with its own segment's advantage, weighted 2 alpha or 2 (1 - alpha).
    `mixed`: every token with alpha times perception's plus 1 - alpha times reasoning's, as in the paper's code."""

    format_penalty: Annotated[float, Field(ge=0, le=5)] = 1.0
    """Advantage lost by a response without the three blocks, shared out so that each group's sum is zero; it lies in
    [-format_penalty, format_penalty] and does not touch the normalisation of valid responses. 0: no penalty."""

    kl: Weight = 0.0
    """Weight of the KL divergence to the starting policy (estimated per token, non-negative). 0, as in the paper,
    leaves the reference model unloaded when the discriminator does not need it."""

    min_spread: Share = 0.05
    """A role's scores within a group give no advantage where their standard deviation is below this share of the
    running mean margin between demonstrations and responses: dividing by it would turn noise into a full step."""

    score_regulariser: Weight = 1e-3
    """Weight of the mean squared score in the discriminator's loss."""

    balance: Weight = 0.01
    """Weight of the discriminator's load-balancing loss. 0 switches it off."""

    micro_prompts: Count = 8
    """Prompts whose graph is held in memory at once. With at least `prompts_per_step` the discriminator's scores and
    its gradient come from one forward pass, else from two. Changes memory and speed only."""

    check_every: Count = 20
    """Steps between checks on the held-out prompts; the first and last states are always checked."""

    checkpoint_every: Count = 10
    """Steps between checkpoints that a killed stage resumes from."""

    min_valid_share: Share = 0.5
    """The stage fails when fewer held-out responses than this share of the starting policy's have the right form."""

    rollout: RolloutSettings = RolloutSettings()
    """How the policy is sampled."""

    precision: PrecisionSettings = PrecisionSettings()
    """Number formats and memory."""

    @model_validator(mode="after")
    def _on_policy(self) -> Self:
        if self.rollout.temperature != 1:
            raise ValueError("rollout.temperature must be 1: the policy gradient needs samples of the policy itself")
        return self
