"""RLVR by verl: FSDP2 over fp32 weights with bf16 arithmetic, and vLLM on the same GPUs.

Bytes for each trained parameter over n GPUs: weights 4 / n, gradient 4 / n, moments 8 / n; one layer and the embedding
are put together in bf16 at a time. While it samples, vLLM has its share of the GPU (`gpu_memory_share`); while the
policy learns it sleeps and gives all of it back. `offload` moves the policy's part to main memory whenever it does not
learn.
"""

from __future__ import annotations

from collections.abc import Mapping

from prism_cli.planning import activations as kept
from prism_cli.planning.assumptions import GIB
from prism_cli.planning.job import Job, vision_patches
from prism_cli.planning.models import Dimensions
from prism_cli.planning.sft import ALL_MATRICES
from prism_cli.planning.terms import Phase


def trained(job: Job) -> int:
    """Parameters that learn."""
    settings = job.settings
    return job.model.parameters if settings.lora is None else job.model.adapters(settings.lora.rank, ALL_MATRICES)


def phases(job: Job) -> tuple[Phase, ...]:
    """Rollout, log-probabilities of what was sampled, and the update."""
    settings, count = job.settings, max(1, job.gpus.total)
    learn = trained(job)
    weights = 4.0 * job.model.parameters / count
    moments = 8.0 * learn / count
    host = _host(job, weights + moments)
    states = {"weights": weights, "optimizer's moments": moments}
    loaded = _loaded(job)
    resident = {} if settings.offload else states
    rollout = dict(resident) | _sampling(job) | job.beside(0.0)
    looking = resident | {"weights": weights} | loaded | _graph(job, gradient=False)
    looking |= job.beside(_graph(job, gradient=False)["logits"])
    active = _graph(job, gradient=True)
    gradients = {"gradients": 4.0 * learn / count + 2.0 * job.model.per_layer}
    update = states | gradients | loaded | active | job.beside(sum(active.values()) + sum(gradients.values()))
    if settings.kl_coefficient > 0:
        reference = {"reference": 4.0 * job.model.parameters / count}
        looking, update, rollout = (part | reference for part in (looking, update, rollout))
    seconds = _seconds(job)
    tokens = job.steps * settings.prompts_per_step * settings.group_size * job.assumed.response_tokens
    generated = tokens * (job.assumed.generation_excess if settings.filter_groups else 1.0)
    return (
        Phase("rollout", rollout, host, seconds["rollout"], generated),
        Phase("log-probabilities", looking, host, seconds["log-probabilities"], tokens),
        Phase("update", update, host, seconds["update"], tokens),
    )


def _loaded(job: Job) -> dict[str, float]:
    """A layer at a time is put together in bf16, the next one already under way; embedding and output layer stay."""
    model = job.model
    ends = model.embedding * (1 if model.tied else 2)
    return {"layers put together": 2.0 * (2 * model.per_layer + ends)}


def _sampling(job: Job) -> dict[str, float]:
    if job.device == "cpu":
        model, settings = job.model, job.settings
        length = settings.max_prompt_length + settings.max_response_length
        return {"keys and values": 64.0 * length * model.kv_per_token * 4}
    return {"rollout engine": job.settings.gpu_memory_share * job.gpus.card.gib * GIB}


def _graph(job: Job, gradient: bool) -> dict[str, float]:
    settings, model = job.settings, job.model
    width = 2 if job.device == "cuda" else 4
    length = (settings.max_prompt_length + settings.max_response_length) * job.assumed.most_tokens
    tokens = settings.micro_batch_size * length
    found = {"logits": (kept.LOGITS_OF_VERL if gradient else 6) * model.vocabulary * tokens * width / 2}
    found["attention mask"] = settings.micro_batch_size * length * length * width
    if gradient:
        found["activations"], layer = kept.decoder(model, tokens, tokens, width, settings.gradient_checkpointing)
        if layer > found["logits"]:
            del found["logits"]
            found["one layer again"] = layer
        if settings.lora is None:
            images = settings.micro_batch_size * job.assumed.image_tokens
            patches = vision_patches(model, images)
            found["vision activations"] = sum(kept.tower(model, patches, width, settings.gradient_checkpointing))
    else:
        found["activations"] = kept.per_token(model, width) * tokens
    return found


def _seconds(job: Job) -> dict[str, float]:
    settings, assumed, model = job.settings, job.assumed, job.model
    responses = settings.prompts_per_step * settings.group_size
    excess = assumed.generation_excess if settings.filter_groups else 1.0
    pace = job.decoding_seconds(responses * excess / max(1, job.gpus.total))
    length = assumed.prompt_tokens + assumed.response_tokens
    look = _work(job, model, responses, length, 1.0)
    passes = (4.0 if settings.gradient_checkpointing else 3.0) - (1.0 if settings.lora is not None else 0.0)
    learn = _work(job, model, responses, length, passes)
    old = 2.0 if settings.kl_coefficient > 0 else 1.0
    return {
        "rollout": job.steps * pace,
        "log-probabilities": job.compute_seconds(job.steps * old * look, assumed.rlvr_utilisation),
        "update": job.compute_seconds(job.steps * learn, assumed.rlvr_utilisation) + _transfers(job),
    }


def _work(job: Job, model: Dimensions, responses: float, length: float, passes: float) -> float:
    """Every response is run with its whole prompt, image included: verl shares none of it."""
    per_image = vision_patches(model, job.assumed.image_tokens)
    return kept.flops(model, responses * length, length / 2, passes) + kept.tower_flops(
        model, responses * per_image, per_image, passes
    )


def _transfers(job: Job) -> float:
    """Offloaded weights and moments cross the link to main memory and back in every step."""
    if not job.settings.offload or not job.gpus.card.host_link:
        return 0.0
    moved = 2 * (4.0 * job.model.parameters + 8.0 * trained(job)) / job.gpus.total
    return job.steps * moved / (job.gpus.card.host_link * 1e9)


def _host(job: Job, states: float) -> dict[str, float]:
    """vLLM sleeps with its weights in main memory; Ray keeps prompts and responses in its object store."""
    per_node = max(1, job.gpus.per_node)
    settings = job.settings
    rows = settings.prompts_per_step * settings.group_size
    found = {
        "processes": (2 * per_node + 3) * job.assumed.process_gib * GIB,
        "rollout engines asleep": 2.0 * job.model.parameters * job.gpus.per_node,
        "responses": rows * (settings.max_prompt_length + settings.max_response_length) * 40.0,
        "checkpoint in fp32": 4.0 * job.model.parameters,
    }
    if settings.offload:
        found["policy and moments"] = states * per_node
    return found


def disk(job: Job) -> Mapping[str, float]:
    """Two checkpoints are kept, a third is being written: weights, moments and the weights once more, all fp32."""
    learn = trained(job)
    return {
        "checkpoints": 3 * (8.0 * job.model.parameters + 8.0 * learn),
        "model": 2.0 * job.model.parameters,
    }
