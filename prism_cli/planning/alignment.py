"""The alignment engine's two stages: what each of its processes keeps, phase by phase.

Bytes of a trained parameter stand in `integrations.alignment.settings.precision`. With several processes (FSDP2) each
keeps its part of weights, masters, moments and gradients, and the model that is being run is put together whole, with
its gradient, in the format that it is computed in (`integrations.alignment.training.sharding`). Activations are those
of the prompts and continuations whose graph is held at once (`micro_prompts`, `precision.micro_branches`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prism_cli.planning import activations as kept
from prism_cli.planning.assumptions import GIB
from prism_cli.planning.job import Job, vision_patches
from prism_cli.planning.models import Dimensions
from prism_cli.planning.terms import Phase

PIECE = 1 << 24
"""Numbers that the optimizer updates at once: weight, gradient, both moments and two results, in fp32."""
MASTERS = {"split": 2.0, "fp32": 4.0, "none": 0.0}
MOMENTS = {"fp32": 8.0, "bf16": 4.0, "8bit": 2.03, "offload": 0.0}


@dataclass(frozen=True)
class Player:
    """One of the two models, as the processes keep it."""

    model: Dimensions
    precision: Any
    lora: Any
    processes: int
    heads: int = 0
    """Numbers of the discriminator's heads."""
    widened: bool = False
    """Whether it is fp32 where its parts are stored: a discriminator that was just grown."""

    @property
    def width(self) -> int:
        return 2 if self.precision.compute == "bf16" else 4

    @property
    def trained(self) -> int:
        if self.lora is not None:
            return self.model.adapters(self.lora.rank, tuple(self.lora.targets)) + self.heads
        return (
            self.model.parameters - (self.model.vision.parameters if self.precision.freeze_vision else 0) + self.heads
        )

    @property
    def states(self) -> dict[str, float]:
        """Weights, masters and moments of one process."""
        precision, many = self.precision, self.processes
        fp32 = self.width == 4 or (self.widened and many > 1)
        weights = (4.0 if fp32 else 2.0) * self.model.parameters
        masters = 0.0 if fp32 or self.lora is not None else MASTERS[precision.masters] * self.trained
        if self.lora is not None:
            weights += 4.0 * self.trained
        moments = MOMENTS[precision.moments] * self.trained
        return {"weights": weights / many, "masters": masters / many, "moments": moments / many}

    @property
    def gradient_width(self) -> int:
        return 4 if self.lora is not None else self.width

    @property
    def left_over(self) -> float:
        """The gradient of the step before, which stays until the next one begins."""
        return self.gradient_width * self.trained / self.processes

    @property
    def running(self) -> dict[str, float]:
        """What a step has beside the states: the model put together, and its gradient."""
        together = self.width * self.model.parameters if self.processes > 1 else 0.0
        return {"weights put together": together, "gradients": float(self.gradient_width * self.trained)}

    @property
    def pieces(self) -> float:
        """What the optimizer computes with where it keeps its numbers in less than fp32."""
        if self.width == 4 and self.precision.moments == "fp32":
            return 0.0
        return 24.0 * min(PIECE, self.model.largest / self.processes)

    @property
    def largest(self) -> float:
        """Bytes of the largest tensor's gradient, which is made beside the gathered one before it is added to it."""
        return 0.0 if self.lora is not None else float(self.gradient_width * self.model.largest)


def processes(job: Job) -> int:
    """How many train together: one for each GPU of one node, unless the recipe says otherwise."""
    return int(job.settings.processes or max(1, job.gpus.per_node))


def problems(job: Job) -> tuple[str, ...]:
    """What the engine would refuse."""
    found = []
    many, settings = processes(job), job.settings
    prompts = min(settings.prompts_per_step, settings.held_out)
    if many > prompts:
        found.append(f"{many} processes cannot share {prompts} prompts: set `processes` to at most {prompts}")
    if 0 < job.gpus.per_node < many:
        found.append(f"`processes` is {many} and a node has {job.gpus.per_node} GPUs: set it to at most that")
    if settings.rollout.engine == "vllm" and not job.gpus.per_node:
        found.append("`rollout.engine: vllm` needs a GPU: set it to transformers")
    return tuple(found)


def warmup_phases(job: Job) -> tuple[Phase, ...]:
    """The discriminator's warm-up: sampling the policy, then one step."""
    settings = job.settings
    judge = _judge(job, settings, settings, widened=settings.init_from is None)
    width = 2 if settings.precision.compute == "bf16" else 4
    resident = _named("policy", {"weights": float(width * job.model.parameters)}) | _named(
        "discriminator", judge.states
    )
    rollout, pace = _rollout(job, settings.samples, judge.left_over)
    if settings.pairs is not None:
        pace = 0.0
    together = settings.micro_prompts or settings.prompts_per_step
    step = _discriminator_step(job, judge, settings, settings.samples, together)
    per_step = settings.prompts_per_step * settings.samples * job.assumed.response_tokens
    host = _host(job, (judge,))
    work = _judge_work(job, judge.model, settings, settings.samples, settings.prompts_per_step)
    seconds = job.compute_seconds(job.steps * work, job.assumed.align_utilisation, processes(job))
    return (
        Phase("generation", resident | rollout, host, job.steps * pace, job.steps * per_step),
        Phase("training", resident | _held(job) | step, host, seconds, 2 * job.steps * per_step),
    )


def game_phases(job: Job) -> tuple[Phase, ...]:
    """The game: sampling, the discriminator's step, the policy's step."""
    settings, scoring, many = job.settings, job.scoring, processes(job)
    policy = Player(job.model, settings.precision, settings.precision.lora, many)
    judge = _judge(job, settings, scoring)
    resident = _named("policy", policy.states) | _named("discriminator", judge.states)
    if (scoring.score == "likelihood_ratio" or settings.kl > 0) and settings.precision.lora is None:
        resident["reference"] = float(policy.width * job.model.parameters)
    rollout, pace = _rollout(job, settings.group_size, judge.left_over + policy.left_over)
    first = _discriminator_step(job, judge, scoring, settings.group_size, settings.micro_prompts)
    second = _policy_step(job, policy)
    left = {"policy's gradient of the step before": policy.left_over}
    of_judge = {"discriminator's gradient of this step": judge.left_over}
    tokens = job.steps * settings.prompts_per_step * settings.group_size * job.assumed.response_tokens
    host = _host(job, (policy, judge))
    judging = _judge_work(job, judge.model, scoring, settings.group_size, settings.prompts_per_step)
    learning = _policy_work(job)
    speed = job.assumed.align_utilisation
    return (
        Phase("rollout", resident | rollout, host, job.steps * pace, tokens),
        Phase(
            "discriminator",
            resident | _held(job) | left | first,
            host,
            job.compute_seconds(job.steps * judging, speed, many),
            tokens,
        ),
        Phase(
            "policy",
            resident | _held(job) | of_judge | second,
            host,
            job.compute_seconds(job.steps * learning, speed, many) + _transfer_seconds(job, (policy, judge)),
            tokens,
        ),
    )


def _judge(job: Job, settings: Any, scoring: Any, widened: bool = False) -> Player:
    assert job.judge is not None
    heads = {"per_role": 2, "shared": 1}[scoring.heads] * job.judge.hidden if scoring.score == "head" else 0
    return Player(job.judge, settings.precision, settings.precision.discriminator_lora, processes(job), heads, widened)


def _named(whose: str, terms: Mapping[str, float]) -> dict[str, float]:
    return {f"{whose}'s {name}": value for name, value in terms.items()}


def _rollout(job: Job, samples: int, left: float) -> tuple[dict[str, float], float]:
    """Memory of sampling beside what is resident, and seconds of one step's."""
    settings, many = job.settings, processes(job)
    responses = settings.prompts_per_step * samples / many
    seconds = job.decoding_seconds(responses)
    gradients = {"gradients of the step before": left}
    if settings.rollout.engine == "vllm":
        share = settings.rollout.gpu_memory_share * job.gpus.card.gib * GIB
        return gradients | {"rollout engine": share} | job.beside(0.0), seconds
    width = 2 if settings.precision.compute == "bf16" else 4
    length = settings.max_prompt_tokens + settings.rollout.max_new_tokens
    sequences = min(settings.rollout.batch_size, settings.prompts_per_step * samples / many)
    cache = sequences * length * job.model.kv_per_token * width
    return gradients | {"keys and values": cache, "cache's growth": cache / job.model.layers} | job.beside(
        cache
    ), seconds


def _held(job: Job) -> dict[str, float]:
    """What the rollout engine keeps while others work."""
    rollout = job.settings.rollout
    if rollout.engine != "vllm" or rollout.sleep:
        return {}
    return {"rollout engine": rollout.gpu_memory_share * job.gpus.card.gib * GIB}


def graph(
    model: Dimensions,
    width: int,
    *,
    prompts: tuple[float, float],
    branches: tuple[float, float],
    images: float,
    head_chunk: float,
    checkpointing: bool,
    freeze_vision: bool,
    logits: bool = True,
    largest: float = 0.0,
    rows: int = 1,
) -> dict[str, float]:
    """Bytes of one part of a step: prompts that are read once, and continuations of them.

    What is kept adds up; of what comes and goes (a layer that is computed again, a chunk of logits) the largest counts.

    Args:
        prompts: how many are held, and tokens of each.
        branches: how many continuations are held, and tokens of each.
        images: image tokens of all prompts of the step, whose features are held from its beginning to its end.
        head_chunk: tokens whose logits are held at once.
        logits: whether the output layer is used.
        largest: bytes of the largest gradient.
        rows: sequences that a continuation is read as, each after the whole prompt.
    """
    read = prompts[0] * prompts[1]
    keys = branches[0] * (branches[1] + rows * prompts[1])
    tokens = branches[0] * branches[1]
    past = 2 * kept.attention_keys(model, width) * model.layers * read  # and their gradients
    of_prompts, one_of_prompts = kept.decoder(model, read, read, width, checkpointing)
    of_responses, one = kept.decoder(model, tokens, keys, width, checkpointing)
    seeing = (0.0, 0.0) if freeze_vision else kept.tower(model, vision_patches(model, images), width, checkpointing)
    experts = largest if model.experts > 1 else 0.0
    chunk = kept.LOGITS_OF_CHUNK * model.vocabulary * min(head_chunk, tokens) if logits else 0.0
    passing = {"logits": chunk + largest, "one layer again": max(one, one_of_prompts) + experts}
    passing["one vision layer again"] = seeing[1]
    most = max(passing, key=lambda name: passing[name])
    return {
        "prompts' activations": of_prompts + past,
        "responses' activations": of_responses,
        "images' features": kept.features(model, images, width),
        "vision activations": seeing[0],
        most: passing[most],
    }


def peak(player: Player, graph: dict[str, float], alone: bool) -> dict[str, float]:
    """The terms of a step at its fullest moment.

    Args:
        graph: of one of the step's parts.
        alone: there is only one, so that the gradient grows as its activations go.
    """
    running = player.running
    before = {name: value for name, value in graph.items() if name != "responses' activations"}
    moments = [running | before, running | {"optimizer's pieces": player.pieces}]
    gradients = {} if alone else {"gradients": running["gradients"]}
    moments.append({"weights put together": running["weights put together"]} | gradients | graph)
    return max(moments, key=lambda terms: sum(terms.values()))


def _limits(job: Job, samples: int, micro_prompts: int) -> tuple[float, float]:
    """Prompts and responses of one process whose graph is held at once."""
    settings = job.settings
    prompts = -(-settings.prompts_per_step // processes(job))
    held = min(prompts, micro_prompts)
    branches = held * samples
    if settings.precision.micro_branches:
        branches = min(branches, settings.precision.micro_branches)
    return held, branches


def _policy_step(job: Job, policy: Player) -> dict[str, float]:
    settings = job.settings
    held, branches = _limits(job, settings.group_size, settings.micro_prompts)
    active = graph(
        job.model,
        policy.width,
        prompts=(held, settings.max_prompt_tokens * job.assumed.most_tokens),
        branches=(branches, settings.rollout.max_new_tokens * job.assumed.most_tokens),
        images=-(-settings.prompts_per_step // processes(job)) * job.assumed.image_tokens,
        head_chunk=settings.precision.head_chunk,
        checkpointing=settings.precision.gradient_checkpointing,
        freeze_vision=settings.precision.freeze_vision or policy.lora is not None,
        largest=policy.largest,
    )
    alone = branches == settings.group_size * settings.prompts_per_step / processes(job)
    found = peak(policy, active, alone)
    return found | job.beside(sum(found.values()) - found.get("weights put together", 0.0))


def _discriminator_step(job: Job, judge: Player, scoring: Any, samples: int, micro_prompts: int) -> dict[str, float]:
    settings = job.settings
    held, branches = _limits(job, samples + 1, micro_prompts)
    reads = scoring.inputs == "multimodal"
    images = -(-settings.prompts_per_step // processes(job)) * job.assumed.image_tokens if reads else 0.0
    length = settings.max_prompt_tokens * job.assumed.most_tokens
    active = graph(
        judge.model,
        judge.width,
        prompts=(held, length if reads else length - job.assumed.image_tokens),
        branches=(branches, settings.rollout.max_new_tokens * job.assumed.most_tokens),
        images=images,
        head_chunk=settings.precision.head_chunk,
        checkpointing=settings.precision.gradient_checkpointing,
        freeze_vision=settings.precision.freeze_vision or judge.lora is not None,
        logits=scoring.score == "likelihood_ratio",
        largest=judge.largest,
        rows=2 if scoring.reasoning == "alone" else 1,
    )
    alone = branches == (samples + 1) * settings.prompts_per_step / processes(job)
    found = peak(judge, active, alone)
    return found | job.beside(sum(found.values()) - found.get("weights put together", 0.0))


def _passes(settings: Any) -> float:
    return 4.0 if settings.precision.gradient_checkpointing else 3.0


def _judge_work(job: Job, judge: Dimensions, scoring: Any, samples: int, prompts: int) -> float:
    """Operations of one step: scores first where the step's graph is not held whole, then forward and backward."""
    settings, assumed = job.settings, job.assumed
    held, branches = _limits(job, samples + 1, settings.micro_prompts or settings.prompts_per_step)
    whole = held * (samples + 1) <= branches and held >= prompts / processes(job)
    passes = _passes(settings) + (0.0 if whole else 1.0)
    rows = settings.prompts_per_step
    tokens = rows * (assumed.prompt_tokens + (samples + 1) * assumed.response_tokens)
    context = assumed.prompt_tokens + assumed.response_tokens / 2
    work = kept.flops(judge, tokens, context, passes)
    if scoring.score == "likelihood_ratio":
        work += kept.flops(job.model, tokens, context, 1.0)
    return work + _seeing(job, judge, rows, 1.0 if settings.precision.freeze_vision else _passes(settings))


def _policy_work(job: Job) -> float:
    settings, assumed = job.settings, job.assumed
    rows = settings.prompts_per_step
    tokens = rows * (assumed.prompt_tokens + settings.group_size * assumed.response_tokens)
    context = assumed.prompt_tokens + assumed.response_tokens / 2
    passes = _passes(settings) - (1.0 if settings.precision.lora is not None else 0.0)
    work = kept.flops(job.model, tokens, context, passes + (1.0 if settings.kl > 0 else 0.0))
    return work + _seeing(job, job.model, rows, 1.0 if settings.precision.freeze_vision else _passes(settings))


def _seeing(job: Job, model: Dimensions, rows: float, passes: float) -> float:
    per_image = vision_patches(model, job.assumed.image_tokens)
    return kept.tower_flops(model, rows * per_image, per_image, passes)


def _transfer_seconds(job: Job, players: tuple[Player, ...]) -> float:
    """Offloaded moments cross the link to main memory both ways in every step."""
    if job.settings.precision.moments != "offload" or not job.gpus.card.host_link:
        return 0.0
    moved = sum(16.0 * player.trained / player.processes for player in players)
    return job.steps * moved / (job.gpus.card.host_link * 1e9)


def _host(job: Job, players: tuple[Player, ...]) -> dict[str, float]:
    settings, many = job.settings, processes(job)
    found = {
        "processes": many * job.assumed.process_gib * GIB,
        "results and checkpoints in fp32": 4.0 * sum(player.model.parameters for player in players),
    }
    if settings.precision.moments == "offload":
        found["optimizer's moments"] = 8.0 * sum(player.trained for player in players)
    if settings.rollout.engine == "vllm" and settings.rollout.sleep and job.device == "cuda":
        found["rollout engine asleep"] = many * 2.0 * job.model.parameters
    return found


def disk(job: Job, with_policy: bool) -> Mapping[str, float]:
    """Two checkpoints are kept, a third is being written: fp32 weights of what is trained, and its moments."""
    judge = _judge(job, job.settings, job.scoring or job.settings)
    players = [judge]
    if with_policy:
        players.append(Player(job.model, job.settings.precision, job.settings.precision.lora, processes(job)))
    moments = max(MOMENTS[job.settings.precision.moments], 2.03) or 8.0
    moments = 8.0 if job.settings.precision.moments == "offload" else moments
    one = sum(4.0 * player.model.parameters + moments * player.trained for player in players)
    result = job.model if with_policy else judge.model
    return {"checkpoints": 3 * one, "result": (4.0 + 2.0) * result.parameters}
