"""Recipe fields of the discriminator's warm-up."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from integrations.alignment.settings.kinds import Count, Natural, Positive, Rate, Weight
from integrations.alignment.settings.precision import PrecisionSettings
from integrations.alignment.settings.rollout import RolloutSettings
from integrations.contract import Settings


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

    precision: PrecisionSettings = PrecisionSettings()
    """Number formats and memory."""

    @model_validator(mode="after")
    def _experts_suffice(self) -> Self:
        allowed = self.experts - 1 if self.routing == "roles" else self.experts
        if self.top_k > allowed:
            raise ValueError(f"top_k is {self.top_k}, but `routing: {self.routing}` leaves a token {allowed} experts")
        return self
