"""Supervised fine-tuning by LLaMA-Factory: what it keeps, by how the weights are sharded.

`precision: bf16` is mixed precision: trained weights are fp32 masters, arithmetic is bf16. Bytes for each trained
parameter, n GPUs (transformers' Trainer with DDP, FSDP; DeepSpeed's ZeRO, arXiv 1910.02054):

| sharding | weights and masters | gradient | moments |
|---|---|---|---|
| none | 4, and 2 for autocast's copies | 4, and 4 for DDP's buckets where n > 1 | 8 |
| zero2 | 2, and 4 / n | 2, then 4 / n | 8 / n |
| zero3, fsdp | 4 / n, and one layer whole | 4 / n, and one layer whole | 8 / n |

`offload` moves masters and moments to main memory. Frozen weights are bf16, and whole but for zero3 and fsdp.
"""

from __future__ import annotations

from collections.abc import Mapping

from prism_cli.planning import activations as kept
from prism_cli.planning.assumptions import GIB
from prism_cli.planning.job import Job, vision_patches
from prism_cli.planning.terms import Phase

ALL_MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ONLY_IN_PASSES = ("copies for bf16 arithmetic", "layers put together")
"""Terms that are gone when the optimizer steps."""
BUCKET = 5e8 * 2
"""Bytes that DeepSpeed gathers or reduces at once (its default of 5e8 numbers)."""


def phases(job: Job) -> tuple[Phase, ...]:
    """Forward with backward, and the optimizer's step."""
    settings, model = job.settings, job.model
    states, host = _states(job)
    width = 2 if settings.precision == "bf16" else 4
    rows = settings.batch_size / (settings.gradient_accumulation * max(1, job.gpus.total))
    tokens = rows * settings.max_length * job.assumed.most_tokens
    images = rows * job.assumed.image_tokens
    activations, layer = kept.decoder(model, tokens, tokens, width, settings.gradient_checkpointing)
    logits = kept.LOGITS_IN_TRAINING * model.vocabulary * tokens
    active: dict[str, float] = {"activations": activations}
    active |= {"logits": logits} if logits > layer else {"one layer again": layer}
    if not settings.freeze_vision and settings.lora is None:
        patches = vision_patches(model, images)
        active["vision activations"] = sum(kept.tower(model, patches, width, settings.gradient_checkpointing))
    gradients = {"gradients": states.pop("gradients")}
    backward = states | gradients | active
    backward |= job.beside(sum(active.values()) + sum(gradients.values()))
    stay = {name: value for name, value in states.items() if name not in ONLY_IN_PASSES}
    step = stay | gradients | {"optimizer's working space": _working(job)}
    step |= job.beside(sum(gradients.values()))
    length = job.assumed.prompt_tokens + job.assumed.response_tokens
    total = job.steps * settings.batch_size * length
    passes = 4.0 if settings.gradient_checkpointing else 3.0
    passes -= 1.0 if settings.lora is not None else 0.0  # frozen weights have no gradient of their own
    work = kept.flops(model, total, length / 2, passes)
    patches = vision_patches(model, job.steps * settings.batch_size * job.assumed.image_tokens)
    per_image = vision_patches(model, job.assumed.image_tokens)
    work += kept.tower_flops(model, patches, per_image, 1.0 if settings.freeze_vision else passes)
    seconds = job.compute_seconds(work, job.assumed.sft_utilisation)
    return (
        Phase("forward and backward", backward, host, seconds, total),
        Phase("optimizer step", step, host, _step_seconds(job)),
    )


def trained(job: Job) -> int:
    """Parameters that learn."""
    settings, model = job.settings, job.model
    if settings.lora is not None:
        return model.adapters(settings.lora.rank, ALL_MATRICES)
    tower = model.vision.parameters - model.vision.merger
    frozen = (tower if settings.freeze_vision else 0) + (model.vision.merger if settings.freeze_projector else 0)
    return model.parameters - frozen


def _states(job: Job) -> tuple[dict[str, float], dict[str, float]]:
    """Bytes that stay on one GPU, gradients among them, and in a node's main memory."""
    settings, model, count = job.settings, job.model, max(1, job.gpus.total)
    learn = trained(job)
    frozen = model.parameters - (0 if settings.lora is not None else learn)
    layer = model.per_layer + model.embedding
    processes = max(1, job.gpus.per_node)
    host = {"processes": processes * job.assumed.process_gib * GIB, "loading the model": 2.0 * model.parameters}
    if settings.precision == "fp32":
        terms = {"weights": 4.0 * model.parameters, "gradients": 4.0 * learn, "optimizer's moments": 8.0 * learn}
        return terms, host
    if settings.sharding == "none":
        terms = {
            "weights": 4.0 * learn + 2.0 * frozen,
            "copies for bf16 arithmetic": 2.0 * learn if settings.lora is None else 0.0,
            "gradients": (8.0 if count > 1 else 4.0) * learn,
            "optimizer's moments": 8.0 * learn,
        }
    elif settings.sharding == "zero2":
        terms = {
            "weights": 2.0 * (learn + frozen),
            "masters": 4.0 * learn / count,
            "gradients": 2.0 * learn + 4.0 * learn / count + BUCKET,
            "optimizer's moments": 8.0 * learn / count,
        }
    else:
        terms = {
            "weights": (4.0 * learn + 2.0 * frozen) / count,
            "layers put together": 2.0 * 2 * layer,
            "gradients": 4.0 * learn / count + 2.0 * layer,
            "optimizer's moments": 8.0 * learn / count,
        }
    if settings.offload:
        share = job.gpus.per_node / count if job.gpus.per_node else 1.0
        host["optimizer's moments and masters"] = 12.0 * learn * share
        terms |= {"optimizer's moments": 0.0, "masters": 0.0}
        if settings.sharding in ("zero3", "fsdp"):
            terms["weights"] = 0.0
    return terms, host


def _working(job: Job) -> float:
    """torch updates many parameters at once and holds one more copy of a group's moments."""
    return 4.0 * min(trained(job), job.model.largest)


def _step_seconds(job: Job) -> float:
    settings, card, learn = job.settings, job.gpus.card, trained(job)
    if not card.bandwidth:
        return 0.0
    share = learn / (1 if settings.sharding == "none" else job.gpus.total)
    update = 28.0 * share / (card.bandwidth * 1e12)
    if settings.offload:
        update = 8.0 * share / (card.host_link * 1e9) + 28.0 * share * job.gpus.per_node / 200e9
    return job.steps * update


def disk(job: Job) -> Mapping[str, float]:
    """Checkpoints hold fp32 weights and both moments, one more than is kept while it is written; and the result."""
    settings, learn = job.settings, trained(job)
    weights = 4.0 * learn + 2.0 * (0 if settings.lora is not None else job.model.parameters - learn)
    return {
        "checkpoints": (settings.keep_checkpoints + 1) * (weights + 8.0 * learn),
        "model": 2.0 * job.model.parameters * (2 if settings.lora is not None else 1),
        "tokenized rows": 24.0 * job.steps * settings.batch_size * job.assumed.response_tokens,
    }
