"""Adapters, sharding and offload in LLaMA-Factory's own options, for models that do not fit a GPU whole.

Adapters are saved alone; `merging` is the engine's own command that puts them into the weights, in fp32, once the last
step is done. FSDP2 is torch's; the two ZeRO stages need DeepSpeed in the environment.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from integrations.common.checkpoint import check_model_folder
from integrations.common.files import write_json, write_text
from integrations.contract import Launch, StageContext
from integrations.errors import BadInput
from integrations.llamafactory.settings import SftSettings

LAYERS = ["Qwen3VLTextDecoderLayer", "Qwen3VLVisionBlock"]
"""What FSDP puts together at a time, by transformers' class names."""
WHOLE_STATES = {"FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT"}
"""accelerate then saves whole weights, as `publish` reads them; its own default for FSDP2 are shards."""


def method(settings: SftSettings) -> dict[str, Any]:
    """What is trained: the weights, or adapters beside them."""
    if settings.lora is None:
        return {"finetuning_type": "full"}
    return {
        "finetuning_type": "lora",
        "lora_target": "all",  # every linear layer that is not frozen
        "lora_rank": settings.lora.rank,
        "lora_alpha": settings.lora.alpha,
        "lora_dropout": settings.lora.dropout,
    }


def sharding(ctx: StageContext) -> dict[str, Any]:
    """What GPUs share; writes DeepSpeed's configuration where that does it."""
    settings: SftSettings = ctx.settings
    if settings.sharding == "none":
        return {} if settings.deepspeed is None else {"deepspeed": settings.deepspeed}
    if settings.sharding == "fsdp":
        words = "full_shard auto_wrap offload" if settings.offload else "full_shard auto_wrap"
        return {"fsdp": words, "fsdp_config": {"fsdp_version": 2, "transformer_layer_cls_to_wrap": LAYERS}}
    path = ctx.attempt_dir / "deepspeed.json"
    write_json(path, zero(settings))
    return {"deepspeed": str(path)}


def zero(settings: SftSettings) -> dict[str, Any]:
    """DeepSpeed's configuration; `auto` is filled in by transformers from the engine's own options."""
    stage = {"zero2": 2, "zero3": 3}[settings.sharding]
    optimization: dict[str, Any] = {"stage": stage, "overlap_comm": True, "contiguous_gradients": True}
    if settings.offload:
        optimization["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if stage == 3:
        optimization["stage3_gather_16bit_weights_on_model_save"] = True
        if settings.offload:
            optimization["offload_param"] = {"device": "cpu", "pin_memory": True}
    return {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": "auto"},
        "zero_optimization": optimization,
    }


def merged(ctx: StageContext) -> Path:
    """Where the weights with the adapters in them are."""
    return ctx.checkpoint_dir / "merged"


def is_merged(ctx: StageContext) -> bool:
    """Whether nothing is left to merge."""
    if ctx.settings.lora is None:
        return True
    try:
        check_model_folder(merged(ctx))
    except BadInput:
        return False
    return True


def merging(ctx: StageContext, last: Path, template: str) -> tuple[Launch, ...]:
    """The command that merges the adapters of the last checkpoint; none where there are none or it is done.

    Args:
        last: the checkpoint of the last step.
        template: LLaMA-Factory's chat template of this model.
    """
    if is_merged(ctx):
        return ()
    import yaml

    arguments = {
        "model_name_or_path": str(ctx.policy),
        "adapter_name_or_path": str(last),
        "finetuning_type": "lora",
        "template": template,
        "infer_dtype": "float32",  # rounded once, by `publish`
        "export_dir": str(merged(ctx)),
        "export_size": 5,
        "export_device": "cpu",
    }
    write_text(ctx.attempt_dir / "merge.yaml", yaml.safe_dump(arguments, sort_keys=False))
    env = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": str(ctx.machine.threads)}
    argv = ["llamafactory-cli", "export", "merge.yaml"]
    return (Launch("llamafactory", argv, env, packages=(), what="merging the adapters"),)
