"""The recipe's settings as what differs from verl's own `ppo_trainer` configuration."""

from __future__ import annotations

import hashlib
import secrets
import shlex
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from integrations.contract import StageContext
from integrations.verl.prompts import PROMPTS
from integrations.verl.settings import RlvrSettings

CHECKPOINTS_KEPT = 2
METRICS = "metrics.jsonl"
JUDGE = "judge"
"""In the stage's folder: what the judge said."""
REVIEWS = "reviews.jsonl"
"""In that folder: the answers on which rules and judge differ."""
CPU_ROWS = 64
"""Most responses generated in one batch on a CPU; larger ones are slower for each response."""


def configuration(ctx: StageContext, total: int, longest: int) -> dict[str, Any]:
    """What differs from verl's `ppo_trainer` configuration. Raises nothing; verl checks it again."""
    settings: RlvrSettings = ctx.settings
    update = settings.prompts_per_step // settings.updates_per_step * settings.group_size
    micro_batch = min(settings.micro_batch_size, update)
    on_cpu = ctx.machine.gpus == 0
    return {
        "defaults": ["ppo_trainer", "_self_", {"override hydra/job_logging": "stdout"}],
        "hydra": {"run": {"dir": str(ctx.attempt_dir)}, "output_subdir": None},
        "algorithm": {
            "adv_estimator": "grpo",  # of all three: what sets them apart is in the loss and in the sampling
            "use_kl_in_reward": False,
            "filter_groups": _filter(settings),
            # On a CPU rollout and training compute in fp32 and agree: no need to compute log-probabilities twice.
            "rollout_correction": {"bypass_mode": on_cpu},
        },
        "data": _data(ctx, longest),
        "actor_rollout_ref": {
            "model": _model(ctx, settings),
            "actor": _actor(settings, micro_batch, ctx.seed, on_cpu),
            "ref": {
                "log_prob_micro_batch_size_per_gpu": micro_batch,
                "strategy": "fsdp2",
                "use_torch_compile": not on_cpu,
                "fsdp_config": _fsdp(on_cpu, ctx.seed) | {"param_offload": settings.offload},
            },
            "rollout": _rollout(ctx, settings, micro_batch),
        },
        "reward": _reward(ctx, settings),
        "transfer_queue": {"backend": {"SimpleStorage": {"num_data_storage_units": 1}}},
        "trainer": _trainer(ctx, total),
        "ray_kwargs": {"ray_init": _ray(ctx, on_cpu)},
    }


def _data(ctx: StageContext, longest: int) -> dict[str, Any]:
    settings: RlvrSettings = ctx.settings
    prompts = str(ctx.attempt_dir / PROMPTS)
    return {
        "train_files": prompts,
        "val_files": prompts,
        # Nothing is validated, but verl wants the data: one prompt, which may be too long and left out. Without a batch
        # size it would take the number of those left for one, and 0 is none.
        "val_max_samples": 1,
        "val_batch_size": 1,
        "train_batch_size": settings.prompts_per_step,
        "max_prompt_length": settings.max_prompt_length,
        "max_response_length": settings.max_response_length,
        "filter_overlong_prompts": longest > settings.max_prompt_length,
        "image_patch_size": None,
        "dataloader_num_workers": 0,
        "seed": ctx.seed,
        "shuffle": True,
    }


def _trainer(ctx: StageContext, total: int) -> dict[str, Any]:
    settings: RlvrSettings = ctx.settings
    on_cpu = ctx.machine.gpus == 0
    return {
        "device": "cpu" if on_cpu else "cuda",
        "n_gpus_per_node": max(1, ctx.machine.gpus),
        "nnodes": ctx.machine.nodes,
        "logger": ["console", "file"],
        "project_name": "prism",
        "experiment_name": ctx.name,
        "default_local_dir": str(ctx.checkpoint_dir),
        "resume_mode": "auto",
        "save_freq": settings.checkpoint_every,
        "max_actor_ckpt_to_keep": CHECKPOINTS_KEPT,
        "val_before_train": False,
        "test_freq": -1,
        "total_training_steps": total,
        "total_epochs": total + 1,
        "v1": {
            "sampler": {
                "custom_sampler": {"path": "pkg://integrations.verl.sampler", "name": "Sampler"},
                "sampler_kwargs": {
                    "poll_interval": 0.03 if on_cpu else 0.2,
                    "group_size": settings.group_size,
                    "last_step": total,
                    # verl passes a sampler of one's own nothing of `filter_groups`.
                    "prompts_per_step": settings.prompts_per_step,
                    "generation_limit": settings.generation_limit,
                    **_filter(settings),
                },
            }
        },
    }


def _filter(settings: RlvrSettings) -> dict[str, Any]:
    """Groups are told apart by their answers alone: the form's share of the reward would keep groups that are all
    wrong."""
    if not settings.filter_groups:
        return {"enable": False}
    return {"enable": True, "metric": "accuracy", "max_inflight_gen_batches": settings.generation_batch}


def _reward(ctx: StageContext, settings: RlvrSettings) -> dict[str, Any]:
    reward: dict[str, Any] = {
        "num_workers": 1,
        "custom_reward_function": {
            "path": "pkg://integrations.verl.reward",
            "name": "compute_score",
            "reward_kwargs": {
                "accuracy_weight": settings.accuracy_weight,
                "format_weight": settings.format_weight,
            },
        },
    }
    if settings.judge is not None:
        function = reward["custom_reward_function"]
        function["path"] = "pkg://integrations.verl.reward.second_opinion"
        function["reward_kwargs"]["judge"] = {
            **settings.judge.model_dump(),
            "folder": str(ctx.stage_dir / JUDGE),
            "reviews": REVIEWS,
        }
    if settings.overlong_share:
        length = max(1, round(settings.overlong_share * settings.max_response_length))
        reward["reward_manager"] = {"name": "dapo"}
        reward["reward_kwargs"] = {
            "max_resp_len": settings.max_response_length,
            "overlong_buffer_cfg": {"enable": True, "len": length, "penalty_factor": 1.0, "log": True},
        }
    return reward


def _model(ctx: StageContext, settings: RlvrSettings) -> dict[str, Any]:
    model: dict[str, Any] = {
        "path": str(ctx.policy),
        "enable_gradient_checkpointing": settings.gradient_checkpointing,
        "use_remove_padding": False,  # needs flash attention, which the environment does not have
        "override_config": {"attn_implementation": "sdpa"},
    }
    if settings.lora is not None:
        model |= {
            "lora_rank": settings.lora.rank,
            "lora_alpha": settings.lora.alpha,
            "target_modules": "all-linear",
            "exclude_modules": ".*visual.*",
            "lora": {"merge": True},  # the rollout engine gets plain weights, as without adapters
        }
    if ctx.machine.gpus == 0:
        model["external_lib"] = "integrations.verl.cpu.rollout"
    return model


def _actor(settings: RlvrSettings, micro_batch: int, seed: int, on_cpu: bool) -> dict[str, Any]:
    return {
        "strategy": "fsdp2",
        "ppo_mini_batch_size": settings.prompts_per_step // settings.updates_per_step,
        "ppo_micro_batch_size_per_gpu": micro_batch,
        "ppo_epochs": 1,
        "clip_ratio": settings.clip_low,
        "clip_ratio_low": settings.clip_low,
        "clip_ratio_high": settings.clip_high,
        "clip_ratio_c": settings.dual_clip,
        "policy_loss": {"loss_mode": "gspo" if settings.algorithm == "gspo" else "vanilla"},
        "loss_agg_mode": {"tokens": "token-mean", "responses": "seq-mean-token-mean"}[settings.loss_average],
        "entropy_coeff": 0,
        "calculate_entropy": on_cpu,
        "use_kl_loss": settings.kl_coefficient > 0,
        "kl_loss_coef": settings.kl_coefficient,
        "grad_clip": settings.max_grad_norm,
        "data_loader_seed": seed,
        "use_torch_compile": not on_cpu,
        "fsdp_config": _fsdp(on_cpu, seed) | _offload(settings),
        "optim": {
            "lr": settings.learning_rate,
            "lr_warmup_steps": settings.warmup_steps,
            "lr_scheduler_type": "constant",
            "weight_decay": settings.weight_decay,
            "betas": [0.9, settings.adam_beta2],
            "clip_grad": settings.max_grad_norm,
        },
        "checkpoint": {
            "save_contents": ["model", "optimizer", "extra", "hf_model"],
            "load_contents": ["model", "optimizer", "extra"],
        },
    }


def _fsdp(on_cpu: bool, seed: int) -> dict[str, Any]:
    fsdp: dict[str, Any] = {"model_dtype": "fp32", "seed": seed, "use_torch_compile": not on_cpu}
    if on_cpu:
        fsdp["mixed_precision"] = {"param_dtype": "fp32", "reduce_dtype": "fp32", "buffer_dtype": "fp32"}
        fsdp["reshard_after_forward"] = False  # there is one process: nothing is saved by gathering weights twice
    return fsdp


def _offload(settings: RlvrSettings) -> dict[str, bool]:
    return {"param_offload": settings.offload, "optimizer_offload": settings.offload}


def _rollout(ctx: StageContext, settings: RlvrSettings, micro_batch: int) -> dict[str, Any]:
    rollout: dict[str, Any] = {
        "name": "vllm",
        "n": settings.group_size,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "seed": ctx.seed,
        "calculate_log_probs": True,
        "tensor_model_parallel_size": 1,
        # By default the model's whole context (262,144 tokens), for one sequence of which vLLM insists on having room.
        "max_model_len": settings.max_prompt_length + settings.max_response_length,
        "gpu_memory_utilization": settings.gpu_memory_share,
        "log_prob_micro_batch_size_per_gpu": micro_batch,
        "agent": {"num_workers": max(1, ctx.machine.gpus * ctx.machine.nodes)},
    }
    if ctx.machine.gpus == 0:
        responses = settings.prompts_per_step * settings.group_size
        rollout |= {
            "name": "transformers_cpu",
            "agent": {"num_workers": 2},
            "free_cache_engine": False,
            "dtype": "float32",
            "custom": {"batch_size": responses, "rows": CPU_ROWS, "threads": ctx.machine.threads},
        }
    return rollout


def _ray(ctx: StageContext, on_cpu: bool) -> dict[str, Any]:
    """A cluster of its own for this attempt, whose processors are logical: they let verl's actors start, no more. Or
    a running one, whose workers know nothing of this process's environment and are told."""
    if ctx.machine.ray_address is not None:
        told = {name: value for name, value in environment(ctx).items() if not name.startswith("RAY_")}
        told["PYTHONPATH"] = str(ctx.attempt_dir / "import")
        return {"address": ctx.machine.ray_address, "runtime_env": {"env_vars": told}}
    ray: dict[str, Any] = {"address": "local", "include_dashboard": False, "_temp_dir": str(ray_folder(ctx))}
    if on_cpu:
        worker = shlex.join(
            ["python", "-I", "-S", str(Path(__file__).parent / "cpu" / "worker.py"), str(fork_socket(ctx))]
        )
        ray |= {
            "num_cpus": 16,
            "num_gpus": 1,
            "object_store_memory": 256 * 2**20,
            "runtime_env": {"py_executable": worker},
        }
    return ray


def environment(ctx: StageContext) -> dict[str, str]:
    """The variables of verl's processes."""
    env = {
        "VERL_FILE_LOGGER_PATH": str(ctx.attempt_dir / METRICS),
        "HF_DATASETS_CACHE": str(ctx.attempt_dir / "datasets"),
        "OMP_NUM_THREADS": str(ctx.machine.threads),
        "TOKENIZERS_PARALLELISM": "false",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_COLOR_PREFIX": "0",
        "RAY_raylet_start_wait_time_s": "120",
    }
    if ctx.machine.ray_address is None:
        token = ctx.attempt_dir / "ray_token"
        if not token.exists():
            token.touch(mode=0o600)
            token.write_text(secrets.token_hex(32), encoding="utf-8")
        env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    if ctx.machine.gpus == 0:
        env |= {
            "VERL_USE_EXTERNAL_MODULES": "integrations.verl.cpu.platform",
            "VERL_PLATFORM": "cpu",
            "TQ_NUM_THREADS": str(ctx.machine.threads),
            # Idle workers that Ray starts in advance, one per logical processor, only compete for the real ones.
            "RAY_enable_worker_prestart": "0",
            "RAY_prestart_worker_first_driver": "0",
        }
    return env


def fork_socket(ctx: StageContext) -> Path:
    return ray_folder(ctx) / "fork.sock"


def ray_folder(ctx: StageContext, attempt: Path | None = None) -> Path:
    """Where Ray keeps its sockets: their paths may not exceed 107 characters, so it cannot be in the run."""
    digest = hashlib.sha256(str(attempt or ctx.attempt_dir).encode()).hexdigest()[:12]
    base = tempfile.gettempdir()
    return Path(base if len(base) <= 24 else "/tmp") / f"prism-{digest}"


def to_yaml(value: Mapping[str, Any]) -> str:
    """YAML in which no text of ours is taken for an interpolation."""
    import yaml

    def escape(item: Any) -> Any:
        if isinstance(item, Mapping):
            return {key: escape(inner) for key, inner in item.items()}
        if isinstance(item, list):
            return [escape(inner) for inner in item]
        return item.replace("${", "\\${") if isinstance(item, str) else item

    return str(yaml.safe_dump(escape(value), sort_keys=False, width=2**20))
