"""Recipe fields of the alignment game."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from integrations.alignment.settings.kinds import Count, Natural, Positive, Rate, Share, Weight
from integrations.alignment.settings.modes import Mode, ModeSettings
from integrations.alignment.settings.precision import PrecisionSettings
from integrations.alignment.settings.rollout import RolloutSettings


class AlignSettings(ModeSettings):
    """The adversarial game: the policy is rewarded by the discriminator, which learns on the same responses."""

    PAPER: ClassVar[Mapping[str, Any]] = {
        "credit": "mixed",
        "invalid": "lowest",
        "format_penalty": 1.5,
        "min_spread": 0.0,
        "min_separation": 0.0,
        "score_clip": 10.0,
        "balance": 0.0,
        "accuracy_low": 0.0,
        "accuracy_high": 1.0,
        "wording": "demonstration",
    }

    kind: Literal["align"] = "align"

    mode: Mode = "prism"
    """`prism`: the defaults below. `paper`: those of the paper's code, for every field whose text names one; a field
    that is given keeps its value in both. The discriminator's own repairs have a `mode` in its stage."""

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

    wording: Literal["response", "demonstration"] = "response"
    """What responses are compared with when the discriminator learns, as in its own stage: the demonstration's content
    in the words of one of the group's responses, or the demonstration as it stands, as in the paper."""

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
    `mixed` (paper): every token with alpha times perception's plus 1 - alpha times reasoning's, so that a good
    caption is also praised for its wrong conclusion."""

    normalise: Literal["per_role", "mixed"] = "per_role"
    """What is compared within a group. `per_role`: each role's scores by themselves, as in the paper's code, so that
    the role with the larger spread does not drown the other. `mixed`: alpha times perception's plus 1 - alpha times
    reasoning's score, the paper's equation 3; gives one advantage for the whole response, so it needs
    `credit: mixed`."""

    invalid: Literal["apart", "lowest"] = "apart"
    """Responses without the three blocks or cut at the limit. `apart`: the others are normalised among themselves, the
    penalty is shared out so that each group sums to zero, and a group of invalid responses only gives nothing.
    `lowest` (paper): they take the group's lowest score less one, the group is normalised with them, and each loses
    the penalty besides; one in sixteen then shrinks the others' advantages to about half, and a group of invalid
    responses only is pushed down whole."""

    format_penalty: Annotated[float, Field(ge=0, le=5)] = 1.0
    """Advantage lost by an invalid response, in standard deviations; paper 1.5. With `invalid: apart` no response
    moves by more than this. 0: no penalty."""

    kl: Weight = 0.0
    """Weight of the KL divergence to the starting policy (estimated per token, non-negative). 0, as in the paper,
    leaves the reference model unloaded when the discriminator does not need it."""

    importance: Literal["none", "truncated"] = "none"
    """`truncated`: each token's gradient is weighted by how much likelier the trained policy makes it than the rollout
    engine did, at most `importance_cap`; for an engine whose arithmetic differs from the trainer's. Needs an engine
    that reports log-probabilities. `none`: they are taken to be equal, as in the paper; their gap is logged anyway."""

    importance_cap: Positive = 2.0
    """Largest weight of a token with `importance: truncated`."""

    min_spread: Share = 0.05
    """A role's scores within a group give no advantage where their standard deviation is below this share of the
    running mean margin of the pairs whose scores differ: dividing by it would turn noise into a full step.
    Paper 0: only scores equal to rounding give none."""

    min_separation: Share = 0.6
    """Gate: a role gives the policy no advantage while the last held-out check puts a right response above a wrong
    one less often than this, for it then judges style (0.5 is chance). Where a check has no such pair the gate is
    open. Paper 0: no gate."""

    score_clip: Weight = 0.0
    """Scores beyond plus or minus this are cut, in the reward and in the discriminator's loss; paper 10. Cut scores
    have no gradient, so the default 0 never cuts and leaves their size to `score_regulariser`."""

    score_regulariser: Weight = 1e-3
    """Weight of the mean squared score in the discriminator's loss, as in the paper's code."""

    balance: Weight = 0.01
    """Weight of the discriminator's load-balancing loss. Paper 0: its code balances in the warm-up only, and experts
    may then die in the game."""

    accuracy_low: Share = 0.55
    """Lower end of the discriminator's band. While its running pair accuracy (both roles, among pairs whose scores
    differ) is below, its learning rate grows by a quarter per step, up to twofold: a judge at chance rewards noise.
    Paper 0: never."""

    accuracy_high: Share = 0.95
    """Upper end of the band. Above it the rate falls by a fifth per step, down to a thirty-second, and inside the band
    it returns: scores that only ever say `not the demonstration` rank nothing. Paper 1: never (there the game ends
    with 98.8% of pairs told apart)."""

    stop_when: Literal["never", "indistinguishable", "falling", "either"] = "never"
    """End early at a held-out check. `indistinguishable`: the interval of the pair accuracy holds one half for both
    roles. `falling`: answers, captions or valid form are below the starting policy's by more than chance."""

    keep: Literal["last", "best"] = "last"
    """The policy that becomes the result: the `last` one, or that of the held-out check at which it won most pairs
    against the demonstrations (both roles; of equals the later), among checks that passed `min_separation` and
    `min_valid_share` and where neither answers, captions nor valid form were more than a standard error below the
    starting policy's. The judge changes too, so a win rate is no absolute measure."""

    bad_rows: Literal["refuse", "skip"] = "skip"
    """Demonstrations without the three blocks, with an unreadable image or with too long a prompt: `skip` leaves them
    out, names each in the log and counts them in the result; `refuse` ends the stage at the first."""

    max_prompt_tokens: Count = 2048
    """Longest prompt in tokens, the image's included; longer ones are bad rows. The paper's limit."""

    micro_prompts: Count = 8
    """Prompts whose graph is held in memory at once. With at least `prompts_per_step` the discriminator's scores and
    its gradient come from one forward pass, else from two. Changes memory and speed only."""

    check_every: Count = 20
    """Steps between checks on the held-out prompts; the first and last states are always checked."""

    checkpoint_every: Count = 10
    """Steps between checkpoints that a killed stage resumes from."""

    processes: Count | None = None
    """Processes that train together, each on whole groups of its own and with its part of the weights' and optimizers'
    memory. `null`: one for each GPU, or one where there is none. The same steps either way, but for rounding; a stage
    resumes with as many as it began with."""

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

    @model_validator(mode="after")
    def _updates_are_not_lost(self) -> Self:
        rate, formats = self.discriminator_learning_rate, self.precision
        formats.check_rate("learning_rate", self.learning_rate, formats.lora)
        formats.check_rate("discriminator_learning_rate", rate, formats.discriminator_lora)
        return self

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.normalise == "mixed" and self.credit != "mixed":
            raise ValueError("normalise: mixed gives the whole response one advantage, so it needs `credit: mixed`")
        if self.accuracy_low >= self.accuracy_high:
            raise ValueError(f"accuracy_low is {self.accuracy_low}, but accuracy_high only {self.accuracy_high}")
        if 0 < self.min_separation < 0.5:
            raise ValueError(
                "min_separation must be 0 or at least 0.5, for a judge below chance prefers wrong responses"
            )
        return self
