"""Recipe fields of stage 2: the discriminator's warm-up and the alignment game.

Defaults are those of the embedded digits world, where every figure was settled on the validation pool; what a real
checkpoint needs is set in its own recipe.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from integrations.contract import Settings

Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0, lt=1)]
Weight = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


class RolloutSettings(Settings):
    """How the policy is sampled."""

    temperature: Positive = 1.0
    """Sampling temperature. The policy gradient is exact only at 1, where samples come from the policy itself."""

    max_new_tokens: Count = 96
    """Longest response in tokens, the end of turn included. Longer ones count as truncated, and so as invalid."""

    batch_size: Count = 64
    """Most sequences decoded together. Changes speed and memory only: each sample has its own random stream."""


class DiscriminatorSettings(Settings):
    """Builds the discriminator and warms it up on pairs of a demonstration and the policy's own response."""

    kind: Literal["discriminator"] = "discriminator"

    teacher: str = "teacher"
    """Name of the pool with the demonstrations: `<teacher>.jsonl` in the run's data folder."""

    held_out: Annotated[int, Field(ge=16)] = 64
    """Demonstrations never trained on, in prompts; they measure the discriminator. Picked by a hash of the row's id,
    so that every stage with the same figure holds out the same prompts."""

    steps: Count = 20
    """Optimizer steps of the warm-up."""

    prompts_per_step: Count = 8
    """Teacher prompts per step."""

    samples: Count = 4
    """Responses drawn from the policy per prompt; each one is paired with the prompt's demonstration."""

    learning_rate: Rate = 3e-4
    """Peak learning rate of AdamW; constant after the warm-up."""

    warmup_steps: Natural = 2
    """Steps over which the learning rate rises linearly."""

    weight_decay: Weight = 0.01
    """AdamW's decoupled weight decay."""

    gradient_clip: Positive = 1.0
    """Largest norm of the whole gradient."""

    upcycle_from: str = "policy"
    """Dense checkpoint whose copies become the experts: `policy` (the stage's parent) or a folder. The likelihood
    ratio starts at zero only with `policy`."""

    experts: Annotated[int, Field(ge=3)] = 4
    """Experts per layer. With `routing: roles` the first is perception's own, the last reasoning's own."""

    top_k: Count = 2
    """Experts that process each token."""

    noise: Annotated[float, Field(ge=0, le=0.1)] = 1e-3
    """Standard deviation of the noise that tells the expert copies apart, as a share of each weight matrix's own."""

    router_std: Weight = 0.02
    """Standard deviation of the routers' initial weights. With 0 all tokens start on the same experts."""

    routing: Literal["roles", "free"] = "roles"
    """`roles`: prompt and image tokens route over all experts, perception over all but the last, reasoning over all
    but the first. `free`: every token over all experts, as in the paper's own code."""

    score: Literal["likelihood_ratio", "head"] = "likelihood_ratio"
    """`likelihood_ratio`: log-probability of the segment under the discriminator minus under the stage's policy, so it
    starts near zero and needs no new parameters. `head`: a scalar read at the segment's last token, one head per
    role, as in the paper; it learns style before content."""

    score_regulariser: Weight = 1e-3
    """Weight of the mean squared score, which keeps scores near zero without a hard clip."""

    balance: Weight = 0.01
    """Weight of the load-balancing loss, kept through the game. 0 switches it off."""

    patience: Natural = 0
    """Held-out checks without a better loss after which the warm-up ends early, keeping the last weights; 0: never."""

    check_every: Count = 10
    """Steps between checks on the held-out prompts; the last step is always checked."""

    checkpoint_every: Count = 10
    """Steps between checkpoints that a killed stage resumes from."""

    rollout: RolloutSettings = RolloutSettings()
    """How the policy is sampled."""

    @model_validator(mode="after")
    def _experts_suffice(self) -> Self:
        allowed = self.experts - 1 if self.routing == "roles" else self.experts
        if self.top_k > allowed:
            raise ValueError(f"top_k is {self.top_k}, but `routing: {self.routing}` leaves a token {allowed} experts")
        return self


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

    @model_validator(mode="after")
    def _on_policy(self) -> Self:
        if self.rollout.temperature != 1:
            raise ValueError("rollout.temperature must be 1: the policy gradient needs samples of the policy itself")
        return self
