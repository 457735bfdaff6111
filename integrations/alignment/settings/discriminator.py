"""Recipe fields of the discriminator's warm-up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from integrations.alignment.settings.kinds import Count, Natural, Positive, Rate, Weight
from integrations.alignment.settings.modes import Mode, ModeSettings
from integrations.alignment.settings.precision import PrecisionSettings
from integrations.alignment.settings.rollout import RolloutSettings


class DiscriminatorSettings(ModeSettings):
    """Builds the discriminator and warms it up on pairs of a demonstration and the policy's own response."""

    PAPER: ClassVar[Mapping[str, Any]] = {
        "score": "head",
        "heads": "shared",
        "positions": "text",
        "reasoning": "alone",
        "terminator": "turn-end",
        "routing": "free",
        "noise": 0.5,
        "wording": "demonstration",
        "likelihood": 0.0,
        "pretrain_steps": 0,
        "score_regulariser": 0.0,
    }

    kind: Literal["discriminator"] = "discriminator"

    mode: Mode = "prism"
    """`prism`: the defaults below. `paper`: those of the paper's code, for every field whose text names one; a field
    that is given keeps its value in both. `paper` is how the authors' published discriminator reads and scores."""

    teacher: str = "teacher"
    """Name of the pool with the demonstrations: `<teacher>.jsonl` in the run's data folder."""

    held_out: Annotated[int, Field(ge=16)] = 64
    """Demonstrations never trained on, in prompts; they measure the discriminator. Picked by a hash of the row's id,
    so that every stage with the same figure holds out the same prompts."""

    bad_rows: Literal["refuse", "skip"] = "skip"
    """Demonstrations without the three blocks, with an unreadable image or with too long a prompt: `skip` leaves them
    out, names each in the log and counts them in the result; `refuse` ends the stage at the first."""

    max_prompt_tokens: Count = 2048
    """Longest prompt in tokens, the image's included; longer ones are bad rows. The paper's limit."""

    steps: Count = 140
    """Optimizer steps of the warm-up, `pretrain_steps` included."""

    prompts_per_step: Count = 24
    """Teacher prompts per step."""

    samples: Count = 2
    """Responses drawn from the policy per prompt; each one is paired with the prompt's demonstration."""

    pairs: str | None = None
    """File with pairs in place of the policy's own responses, one JSON object a line: `id`, `image`, `question`,
    `teacher_caption`, `teacher_cot`, `student_caption`, `student_cot`, as the authors publish theirs. `samples` is then
    of no use, and no response is generated but for the held-out checks, which stay with the teacher pool."""

    wording: Literal["response", "demonstration"] = "response"
    """What a response is compared with. `response`: the demonstration's content in the words of one of the prompt's
    responses, so that pairs differ in what is said and not in style: the demonstration's numbers, place by place, and
    its answer. Where no response has as many numbers in the same groups, and so in most free text, the demonstration
    as it stands. `demonstration`: always as it stands, as in the paper, which teaches style before content."""

    likelihood: Weight = 1.0
    """Weight of the demonstrations' negative log-likelihood (in their `wording`, a mean per token) beside the
    Bradley-Terry loss: it teaches what a right response is at every token, where a pair teaches one comparison.
    0, as in the paper: pairs alone. Of no use with `score: head`."""

    pretrain_steps: Natural = 120
    """So many of the first steps take the likelihood alone, and so score no responses but those whose words the
    demonstrations are restated in. 0, as in the paper: none. Of no use with `score: head`."""

    micro_prompts: Natural = 0
    """Prompts whose graph is held in memory at once; 0: those of a whole step. Changes memory and speed only."""

    learning_rate: Rate = 1e-3
    """Peak learning rate of AdamW."""

    decay: bool = True
    """Whether the learning rate falls from its peak to a tenth, as half a cosine over `steps`, or stays. The paper's
    falls too."""

    warmup_steps: Natural = 5
    """Steps over which the learning rate rises linearly."""

    weight_decay: Weight = 0.01
    """AdamW's decoupled weight decay."""

    gradient_clip: Positive = 1.0
    """Largest norm of the whole gradient."""

    upcycle_from: str = "policy"
    """Dense checkpoint whose copies become the experts: `policy` (the stage's parent) or a folder. The likelihood
    ratio starts at zero only with `policy`. The paper uses a smaller model of the policy's family."""

    init_from: str | None = None
    """Folder with a discriminator to start from in place of an upcycled one: a result of this stage, or the authors'
    published one (`mode: paper`). It must read and score as the fields here say, and have the policy's vocabulary;
    `upcycle_from`, `noise` and `router_std` are then of no use."""

    architecture: Literal["moe", "dense"] = "moe"
    """`moe`: a mixture of experts. `dense`: the checkpoint as it is, without experts or routing: the dense
    discriminator of the paper's ablation (there a larger model, of the experts' active size)."""

    inputs: Literal["multimodal", "text"] = "multimodal"
    """`multimodal`: prompt with images. `text`: the images are left out, so a caption can be judged by its style
    alone: the text-only discriminator of the paper's ablation."""

    positions: Literal["multimodal", "text"] = "multimodal"
    """`multimodal`: the true positions in time, height and width. `text`: every token counts up by one on all three
    axes, as in the paper's code; where things are in the image is then lost to the discriminator."""

    experts: Annotated[int, Field(ge=3)] = 4
    """Experts per layer. With `routing: roles` the first is perception's own, the last reasoning's own."""

    top_k: Count = 2
    """Experts that process each token."""

    noise: Annotated[float, Field(ge=0, le=1)] = 1e-3
    """Standard deviation of the noise that tells the expert copies apart, as a share of each weight matrix's own. The
    paper's code adds 0.01 whatever the weight, about half of a deviation of 0.02 (`paper`: 0.5), which damages the
    copies before the first step."""

    router_std: Weight = 0.02
    """Standard deviation of the routers' initial weights. With 0 all tokens start on the same experts."""

    routing: Literal["roles", "free"] = "roles"
    """`roles`: prompt and image tokens route over all experts, perception over all but the last, reasoning over all
    but the first. `free`: every token over all experts, as in the paper's code, where no expert is of one role."""

    score: Literal["likelihood_ratio", "head"] = "likelihood_ratio"
    """`likelihood_ratio`: log-probability of the segment under the discriminator minus under the stage's policy, so it
    starts near zero and needs no new parameters. `head`: a scalar read at the segment's last token, as in the paper;
    it learns style before content."""

    heads: Literal["per_role", "shared"] = "per_role"
    """With `score: head`. `per_role`: one head for perception, one for reasoning. `shared`: one that reads both, as in
    the paper's code. In fp32 and without dropout in either case: in bfloat16, scores within a group tie."""

    reasoning: Literal["after_caption", "alone"] = "after_caption"
    """`after_caption`: prompt, caption and reasoning are one sequence, so reasoning that contradicts the caption can
    be seen. `alone`: reasoning follows the prompt without its caption, as in the paper's code; each segment is then
    a turn of its own with its own terminator, and costs a sequence of its own."""

    terminator: Literal["end-of-turn", "turn-end"] = "end-of-turn"
    """What follows the last token of demonstration and response alike, and where a head reads: `end-of-turn` is
    `<|im_end|>`; `turn-end` adds the chat template's newline, as the paper's warm-up does. The paper's game ends
    demonstrations with a padding token and responses with another, which tells them apart and is no option."""

    teacher_tokens: Count | None = None
    """Tokens kept of each segment of a demonstration; null: all of them. The paper's code cuts at 512, after which
    length and a missing end tell demonstrations from responses. The game does as this stage did."""

    score_regulariser: Weight = 1e-3
    """Weight of the mean squared score, which keeps scores near zero without a hard clip. Paper 0 in the warm-up; its
    game has 0.001."""

    balance: Weight = 0.01
    """Weight of the load-balancing loss, kept through the game. 0 switches it off."""

    patience: Natural = 0
    """Held-out checks without a better loss after which the warm-up ends early, keeping the last weights; 0: never."""

    check_every: Count = 70
    """Steps between checks on the held-out prompts; the last step is always checked."""

    checkpoint_every: Count = 10
    """Steps between checkpoints that a killed stage resumes from."""

    processes: Count | None = None
    """Processes that train together, each on whole groups of its own and with its part of the weights' and optimizers'
    memory. `null`: one for each GPU, or one where there is none. The same steps either way, but for rounding; a stage
    resumes with as many as it began with."""

    rollout: RolloutSettings = RolloutSettings()
    """How the policy is sampled."""

    precision: PrecisionSettings = PrecisionSettings()
    """Number formats and memory."""

    @model_validator(mode="after")
    def _precision_fits(self) -> Self:
        if self.precision.lora is not None:
            raise ValueError("precision.lora is for the policy, which the align stage trains: discriminator_lora here")
        self.precision.check_rate("learning_rate", self.learning_rate, self.precision.discriminator_lora)
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        allowed = self.experts - 1 if self.routing == "roles" else self.experts
        if self.top_k > allowed:
            raise ValueError(f"top_k is {self.top_k}, but `routing: {self.routing}` leaves a token {allowed} experts")
        return self
