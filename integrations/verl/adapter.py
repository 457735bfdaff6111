"""Host side of stage 3: prompts as parquet, a configuration on top of verl's own, `verl.trainer.main_ppo` as published.

A checkpoint of verl is a folder `global_step_N` whose `data.pt` is written last; anything less is half-written and is
cleared before a launch, because verl trusts a tracker file that may point at it. verl exits with 0 when responses were
lost to errors and pads the batch instead, so the sampler counts them (`integrations.verl.sampler`) and `finish` judges.

On a machine without a GPU the plug-in `integrations.verl.cpu` takes the place of CUDA and vLLM.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import secrets
import shlex
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from integrations.common.checkpoint import check_model_folder, publish, read_tensors
from integrations.common.files import read_json, write_text
from integrations.common.jsonl import JsonlTail
from integrations.common.rows import Row, messages, read_rows
from integrations.contract import Launch, Progress, StageContext, StageResult
from integrations.errors import BadInput, StageFailed
from integrations.verl.settings import RlvrSettings

METRICS = "metrics.jsonl"
PROMPTS = "prompts.parquet"
TRACKER = "latest_checkpointed_iteration.txt"
CHECKPOINTS_KEPT = 2
CPU_ROWS = 64
"""Most responses generated in one batch on a CPU; larger ones are slower for each response."""
SAME_POLICY = 1e-4
"""On a CPU rollout and training compute in fp32: a larger mean difference of log-probabilities means other weights."""

_SHOWN = {
    "prism/reward": "reward",
    "prism/accuracy": "accuracy",
    "prism/format": "format",
    "prism/silent_groups": "silent_groups",
    "actor/entropy": "entropy",
    "actor/entropy_loss": "entropy",
    "response_length/mean": "response_length",
    "actor/grad_norm": "grad_norm",
    "timing_s/step": "seconds",
}
"""Names in verl's metrics file and ours."""

_DIED = "the same command resumes from the last checkpoint; if it happens again, watch the machine's memory"
_CAUSES = (
    (
        r"Reward self-test: (.+)",
        "the reward does not judge known answers as it must ({0})",
        "`prism env check verl` tells whether its environment is whole",
    ),
    (
        r"Reward errors: (.+)",
        "the reward cannot be trusted: {0}",
        "look for `Reward undecided` in the engine's log: it names the answers and their references",
    ),
    (
        r"OutOfMemoryError|CUDA out of memory|[Ww]orkers?\b.*killed due to .*memory",
        "the machine ran out of memory",
        "set a smaller micro_batch_size or group_size",
    ),
    (r"No space left on device", "the disk is full", "free some space"),
    (r"Ray actor died: (.+)", "a Ray worker died: {0}", _DIED),
    (r"ActorDiedError|ActorUnavailableError|WorkerCrashedError|worker died unexpectedly", "a Ray worker died", _DIED),
    (
        r"no materializable trajectories",
        "every response of a step was lost to an error",
        "look for `Error in _run_prompt` in the log",
    ),
    (
        r"Failed to start.*raylet|raylet.*did not start|Timed out waiting for file|ConnectionError: Could not",
        "Ray did not start in time",
        "try again when the machine is less busy",
    ),
    (r"exceeding\s+rollout\.prompt_length", "a prompt is longer than max_prompt_length", "raise max_prompt_length"),
    (r"Found no NVIDIA driver|No CUDA GPUs are available", "verl found no GPU", "run with 0 GPUs or repair the driver"),
    (
        r"Error loading state_dict|PytorchStreamReader failed|size mismatch for",
        "a checkpoint or the policy could not be read",
        "delete the newest global_step folder of the stage, then run the same command",
    ),
)
"""What verl and Ray say in their log, what it means, and what to do next. The first that is found counts."""


class RlvrAdapter:
    """Runs one `RlvrSettings` stage with verl (see `integrations.contract.StageAdapter`)."""

    engine = "verl"

    def total_steps(self, ctx: StageContext) -> int:
        """The recipe's steps, or what the budget rule made of them."""
        settings: RlvrSettings = ctx.settings
        return ctx.gradient_steps or settings.steps

    def check_inputs(self, ctx: StageContext) -> None:
        """Every row has an answer and its images, there are enough prompts, and the policy is a whole model folder."""
        settings: RlvrSettings = ctx.settings
        check_model_folder(ctx.policy)
        prompts = 0
        for pool, row in _rows(ctx):
            prompts += 1
            where = f"{ctx.data_dir / pool}.jsonl, row `{row['id']}`"
            if not str(row["answer"] or "").strip():
                raise BadInput(f"{where}: `answer` is empty", "rows for RLVR need a reference answer")
            if "<image>" in row["prompt"]:
                raise BadInput(f"{where}: `prompt` holds `<image>`", "name images in `images` only")
            for image in row["images"]:
                if not (ctx.data_dir / image).is_file():
                    raise BadInput(f"{where}: no image {ctx.data_dir / image}", "write the pool's images beside it")
        if prompts < settings.prompts_per_step:
            raise BadInput(
                f"the pools {settings.data} hold {prompts} prompts, fewer than prompts_per_step "
                f"({settings.prompts_per_step})",
                "add prompts or lower prompts_per_step",
            )
        if ctx.machine.gpus and settings.prompts_per_step * settings.group_size % ctx.machine.gpus:
            raise BadInput(
                f"{settings.prompts_per_step} prompts of {settings.group_size} responses cannot be shared evenly by "
                f"{ctx.machine.gpus} GPUs",
                "change prompts_per_step",
            )

    def render(self, ctx: StageContext) -> Sequence[Launch]:
        """Parquet, configuration, and a checkpoint folder verl can trust. No command when the last step is reached."""
        total = self.total_steps(ctx)
        _remove_scratch(ctx)
        reached = _settle_checkpoints(ctx.checkpoint_dir, total)
        longest = _write_prompts(ctx)
        write_text(ctx.attempt_dir / "rlvr.yaml", _to_yaml(_configuration(ctx, total, longest)))
        if reached == total:
            return []
        program = ["verl.trainer.main_ppo"]
        if ctx.machine.gpus == 0:
            program = ["integrations.verl.cpu.launch", str(_fork_socket(ctx)), _model_type(ctx.policy)]
        argv = ["python", "-m", *program, "--config-dir", str(ctx.attempt_dir), "--config-name", "rlvr"]
        return [Launch(engine=self.engine, argv=argv, env=_environment(ctx), what="reinforcement learning")]

    def follow(self, ctx: StageContext) -> _Follower:
        """Progress from this attempt's metrics, counted on from the attempts before it."""
        return _Follower(ctx, self.total_steps(ctx))

    def explain(self, ctx: StageContext, log_tail: str) -> str | None:
        """The first known cause in the log's end."""
        for pattern, cause, fix in _CAUSES:
            if found := re.search(pattern, log_tail):
                return f"{cause.format(*found.groups())}; {fix}"
        return None

    def finish(self, ctx: StageContext) -> StageResult:
        """Judge the last checkpoint and the metrics of all attempts; publish the weights as `model_dir`."""
        settings: RlvrSettings = ctx.settings
        total = self.total_steps(ctx)
        checkpoint = ctx.checkpoint_dir / f"global_step_{total}"
        if not is_complete(checkpoint):
            raise StageFailed(
                f"verl ended without a whole checkpoint of step {total} in {ctx.checkpoint_dir}",
                f"read {ctx.attempt_dir / 'engine.log'}, then run the same command to resume",
            )
        steps = {step: row for step, row in read_metrics(ctx.stage_dir).items() if step <= total}
        notes = _judge(steps, settings, on_cpu=ctx.machine.gpus == 0)
        publish(checkpoint / "actor" / "huggingface", ctx.base_model, ctx.model_dir, parent=ctx.policy)
        _settle_checkpoints(ctx.checkpoint_dir, total)
        _remove_scratch(ctx)
        given, kept = _prompts_given_and_kept(ctx)
        if kept < given:
            notes.append(f"{given - kept} of {given} prompts are longer than max_prompt_length and were left out")
        last = [steps[step] for step in sorted(steps)[-10:]]
        return StageResult(
            step=total,
            generated_tokens=sum(_tokens(row) for row in steps.values()),
            rows={"given": given, "trained": kept, "dropped": given - kept},
            metrics=_means([_shown(row) for row in last]),
            notes=notes,
        )

    def intermediate(self, ctx: StageContext) -> Sequence[tuple[int, Path]]:
        """Whole checkpoints; verl writes the weights in Hugging Face form beside its own."""
        steps = {int(p.name.removeprefix("global_step_")): p for p in ctx.checkpoint_dir.glob("global_step_*")}
        return [(step, steps[step] / "actor" / "huggingface") for step in sorted(steps) if is_complete(steps[step])]


class _Follower:
    """Reads the metrics file of one attempt."""

    def __init__(self, ctx: StageContext, total: int) -> None:
        self.tail = JsonlTail(ctx.attempt_dir / METRICS)
        self.total = total
        self.tokens = {
            step: _tokens(row) for step, row in read_metrics(ctx.stage_dir, before=ctx.attempt_dir.name).items()
        }

    def poll(self) -> Sequence[Progress]:
        news = []
        for line in self.tail.poll():
            step, row = line["step"], line["data"]
            self.tokens[step] = _tokens(row)
            spent = sum(tokens for other, tokens in self.tokens.items() if other <= step)
            news.append(Progress(step, self.total, _shown(row), spent))
        return news


def read_metrics(stage_dir: Path, before: str | None = None) -> dict[int, dict[str, Any]]:
    """verl's metrics by step over all attempts; a step done again after a resume counts as the last attempt did it.

    Args:
        before: name of the attempt at which to stop, that one left out.
    """
    steps: dict[int, dict[str, Any]] = {}
    for attempt in _attempts(stage_dir):
        if attempt.name == before:
            break
        steps.update((line["step"], line["data"]) for line in JsonlTail(attempt / METRICS).poll())
    return steps


def is_complete(checkpoint: Path) -> bool:
    """Whether every file of a `global_step_N` folder was written to its end."""
    shards = [*checkpoint.glob("actor/*_rank_*.pt"), checkpoint / "data.pt"]
    kinds = {path.name.split("_world_size_")[0] for path in shards}
    if not {"model", "optim", "extra_state"} <= kinds or not all(zipfile.is_zipfile(path) for path in shards):
        return False
    try:
        read_tensors(checkpoint / "actor" / "huggingface")
    except BadInput:
        return False
    return True


def _settle_checkpoints(folder: Path, total: int) -> int:
    """Keep the newest whole checkpoints up to step `total`, point verl at the last. Returns its step, 0 without any.

    verl itself keeps the newest it has written since it was started, and leaves those of earlier attempts.
    """
    steps = {int(path.name.removeprefix("global_step_")): path for path in folder.glob("global_step_*")}
    kept = sorted(step for step, path in steps.items() if step <= total and is_complete(path))[-CHECKPOINTS_KEPT:]
    for step in steps.keys() - set(kept):
        shutil.rmtree(steps[step])
    reached = kept[-1] if kept else 0
    if reached:
        write_text(folder / TRACKER, str(reached))
    else:
        (folder / TRACKER).unlink(missing_ok=True)
    return reached


def _rows(ctx: StageContext) -> Iterator[tuple[str, Row]]:
    settings: RlvrSettings = ctx.settings
    for pool in settings.data:
        for row in read_rows(ctx.data_dir / f"{pool}.jsonl"):
            yield pool, row


def _write_prompts(ctx: StageContext) -> int:
    """The pools as the parquet file verl reads. Returns an upper bound of the longest prompt, in tokens."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    smallest, largest, token_side = _image_limits(ctx)
    records = []
    longest = 0
    for index, (_, row) in enumerate(_rows(ctx)):
        images = [
            {"bytes": (ctx.data_dir / image).read_bytes(), "min_pixels": smallest, "max_pixels": largest}
            for image in row["images"]
        ]
        records.append(
            {
                "data_source": str(row.get("source") or "prism"),
                "prompt": messages(row),
                "images": images,
                "reward_model": {"style": "rule", "ground_truth": str(row["answer"])},
                "extra_info": {"index": index, "id": str(row["id"])},
            }
        )
        text = len(row["prompt"].encode()) + len((row.get("system") or "").encode())
        longest = max(longest, text + len(images) * (largest // token_side**2 + 2) + 64)
    image = pa.struct([("bytes", pa.binary()), ("min_pixels", pa.int64()), ("max_pixels", pa.int64())])
    turn = pa.struct([("role", pa.string()), ("content", pa.string())])
    schema = pa.schema(
        [
            ("data_source", pa.string()),
            ("prompt", pa.list_(turn)),
            ("images", pa.list_(image)),
            ("reward_model", pa.struct([("style", pa.string()), ("ground_truth", pa.string())])),
            ("extra_info", pa.struct([("index", pa.int64()), ("id", pa.string())])),
        ]
    )
    pq.write_table(pa.Table.from_pylist(records, schema), ctx.attempt_dir / PROMPTS)
    return longest


def _image_limits(ctx: StageContext) -> tuple[int, int, int]:
    """Fewest and most pixels of an image, and the side in pixels of one visual token, as the policy's processor has it.

    verl resizes images before the processor does, with limits of its own unless the row says otherwise.
    """
    settings: RlvrSettings = ctx.settings
    image: dict[str, Any] = {}
    for name, key in (("preprocessor_config.json", None), ("processor_config.json", "image_processor")):
        path = ctx.policy / name
        if path.is_file():
            value = json.loads(path.read_text(encoding="utf-8"))
            image = value if key is None else value.get(key, {})
            break
    size = image.get("size") or {}
    side = int(image.get("patch_size", 16)) * int(image.get("merge_size", 2))
    smallest = int(size.get("shortest_edge") or image.get("min_pixels") or side**2)
    largest = int(size.get("longest_edge") or image.get("max_pixels") or settings.max_image_pixels)
    return smallest, max(smallest, min(largest, settings.max_image_pixels)), side


def _configuration(ctx: StageContext, total: int, longest: int) -> dict[str, Any]:
    """What differs from verl's `ppo_trainer` configuration. Raises nothing; verl checks it again."""
    settings: RlvrSettings = ctx.settings
    prompts = str(ctx.attempt_dir / PROMPTS)
    micro_batch = min(settings.micro_batch_size, settings.prompts_per_step * settings.group_size)
    on_cpu = ctx.machine.gpus == 0
    return {
        "defaults": ["ppo_trainer", "_self_", {"override hydra/job_logging": "stdout"}],
        "hydra": {"run": {"dir": str(ctx.attempt_dir)}, "output_subdir": None},
        "algorithm": {
            "adv_estimator": settings.algorithm,
            "use_kl_in_reward": False,
            # On a CPU rollout and training compute in fp32 and agree: no need to compute log-probabilities twice.
            "rollout_correction": {"bypass_mode": on_cpu},
        },
        "data": {
            "train_files": prompts,
            "val_files": prompts,
            "val_max_samples": 1,
            "train_batch_size": settings.prompts_per_step,
            "max_prompt_length": settings.max_prompt_length,
            "max_response_length": settings.max_response_length,
            "filter_overlong_prompts": longest > settings.max_prompt_length,
            "image_patch_size": None,
            "dataloader_num_workers": 0,
            "seed": ctx.seed,
            "shuffle": True,
        },
        "actor_rollout_ref": {
            "model": _model(ctx, settings),
            "actor": _actor(settings, micro_batch, ctx.seed, on_cpu),
            "ref": {
                "log_prob_micro_batch_size_per_gpu": micro_batch,
                "strategy": "fsdp2",
                "use_torch_compile": not on_cpu,
                "fsdp_config": _fsdp(on_cpu, ctx.seed),
            },
            "rollout": _rollout(ctx, settings, micro_batch),
        },
        "reward": {
            "num_workers": 1,
            "custom_reward_function": {
                "path": "pkg://integrations.verl.reward",
                "name": "compute_score",
                "reward_kwargs": {
                    "accuracy_weight": settings.accuracy_weight,
                    "format_weight": settings.format_weight,
                },
            },
        },
        "transfer_queue": {"backend": {"SimpleStorage": {"num_data_storage_units": 1}}},
        "trainer": {
            "device": "cpu" if on_cpu else "cuda",
            "n_gpus_per_node": max(1, ctx.machine.gpus),
            "nnodes": 1,
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
                    },
                }
            },
        },
        "ray_kwargs": {"ray_init": _ray(ctx, on_cpu)},
    }


def _model(ctx: StageContext, settings: RlvrSettings) -> dict[str, Any]:
    model: dict[str, Any] = {
        "path": str(ctx.policy),
        "enable_gradient_checkpointing": settings.gradient_checkpointing,
        "use_remove_padding": False,  # needs flash attention, which the environment does not have
        "override_config": {"attn_implementation": "sdpa"},
    }
    if ctx.machine.gpus == 0:
        model["external_lib"] = "integrations.verl.cpu.rollout"
    return model


def _actor(settings: RlvrSettings, micro_batch: int, seed: int, on_cpu: bool) -> dict[str, Any]:
    return {
        "strategy": "fsdp2",
        "ppo_mini_batch_size": settings.prompts_per_step,
        "ppo_micro_batch_size_per_gpu": micro_batch,
        "ppo_epochs": 1,
        "clip_ratio": settings.clip_low,
        "clip_ratio_low": settings.clip_low,
        "clip_ratio_high": settings.clip_high,
        "loss_agg_mode": "token-mean",
        "entropy_coeff": 0,
        "calculate_entropy": on_cpu,
        "use_kl_loss": settings.kl_coefficient > 0,
        "kl_loss_coef": settings.kl_coefficient,
        "grad_clip": settings.max_grad_norm,
        "data_loader_seed": seed,
        "use_torch_compile": not on_cpu,
        "fsdp_config": _fsdp(on_cpu, seed),
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


def _rollout(ctx: StageContext, settings: RlvrSettings, micro_batch: int) -> dict[str, Any]:
    rollout: dict[str, Any] = {
        "name": "vllm",
        "n": settings.group_size,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "seed": ctx.seed,
        "calculate_log_probs": True,
        "tensor_model_parallel_size": 1,
        "gpu_memory_utilization": settings.gpu_memory_share,
        "log_prob_micro_batch_size_per_gpu": micro_batch,
        "agent": {"num_workers": max(1, ctx.machine.gpus)},
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
    """A cluster of its own for this attempt. Its processors are logical: they let verl's actors start, no more."""
    ray: dict[str, Any] = {"address": "local", "include_dashboard": False, "_temp_dir": str(_ray_folder(ctx))}
    if on_cpu:
        worker = shlex.join(
            ["python", "-I", "-S", str(Path(__file__).parent / "cpu" / "worker.py"), str(_fork_socket(ctx))]
        )
        ray |= {
            "num_cpus": 16,
            "num_gpus": 1,
            "object_store_memory": 256 * 2**20,
            "runtime_env": {"py_executable": worker},
        }
    return ray


def _fork_socket(ctx: StageContext) -> Path:
    return _ray_folder(ctx) / "fork.sock"


def _model_type(policy: Path) -> str:
    return str((read_json(policy / "config.json") or {}).get("model_type", ""))


def _environment(ctx: StageContext) -> dict[str, str]:
    token = ctx.attempt_dir / "ray_token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32), encoding="utf-8")
    env = {
        "VERL_FILE_LOGGER_PATH": str(ctx.attempt_dir / METRICS),
        "HF_DATASETS_CACHE": str(ctx.attempt_dir / "datasets"),
        "OMP_NUM_THREADS": str(ctx.machine.threads),
        "TOKENIZERS_PARALLELISM": "false",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_COLOR_PREFIX": "0",
        "RAY_raylet_start_wait_time_s": "120",
    }
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


def _ray_folder(ctx: StageContext, attempt: Path | None = None) -> Path:
    """Where Ray keeps its sockets: their paths may not exceed 107 characters, so it cannot be in the run."""
    digest = hashlib.sha256(str(attempt or ctx.attempt_dir).encode()).hexdigest()[:12]
    base = tempfile.gettempdir()
    return Path(base if len(base) <= 24 else "/tmp") / f"prism-{digest}"


def _remove_scratch(ctx: StageContext) -> None:
    """What finished or killed attempts of this stage left: Ray's folder, prompts with their images, converted data."""
    for attempt in _attempts(ctx.stage_dir):
        shutil.rmtree(_ray_folder(ctx, attempt), ignore_errors=True)
        shutil.rmtree(attempt / "datasets", ignore_errors=True)
        (attempt / PROMPTS).unlink(missing_ok=True)
        (attempt / "ray_token").unlink(missing_ok=True)


def _attempts(stage_dir: Path) -> list[Path]:
    return sorted(stage_dir.glob("attempt-*"), key=lambda path: int(path.name.removeprefix("attempt-")))


def _to_yaml(value: Mapping[str, Any]) -> str:
    """YAML in which no text of ours is taken for an interpolation."""
    import yaml

    def escape(item: Any) -> Any:
        if isinstance(item, Mapping):
            return {key: escape(inner) for key, inner in item.items()}
        if isinstance(item, list):
            return [escape(inner) for inner in item]
        return item.replace("${", "\\${") if isinstance(item, str) else item

    return str(yaml.safe_dump(escape(value), sort_keys=False, width=2**20))


def _judge(steps: Mapping[int, Mapping[str, Any]], settings: RlvrSettings, on_cpu: bool) -> list[str]:
    """Notes on what the metrics say. Raises StageFailed for what makes the result worthless."""
    lost = sum(int(row["prism/lost"]) for row in steps.values())
    asked = lost + sum(int(row["prism/responses"]) for row in steps.values())
    if lost > settings.max_failed_share * asked:
        raise StageFailed(
            f"{lost} of {asked} responses were lost to errors, more than max_failed_share "
            f"({settings.max_failed_share:.0%}) allows",
            "look for `Error in _run_prompt` in the engine's log",
        )
    notes = [f"{lost} of {asked} responses were lost to errors"] if lost else []
    if undecided := sum(int(row.get("prism/reward_errors", 0)) for row in steps.values()):
        notes.append(f"{undecided} of {asked} answers got no verdict and no reward (`Reward undecided` in the log)")
    stale = max((row.get("training/off_policy/trajectory_staleness_worst/max", 0) for row in steps.values()), default=0)
    apart = max((abs(row.get("actor/ppo_kl", 0.0)) for row in steps.values()), default=0.0)
    if stale > 0 or (on_cpu and apart > SAME_POLICY):
        raise StageFailed(
            f"responses came from other weights than those trained ({stale:.0f} steps older, log-probabilities "
            f"{apart:.3g} apart)",
            "run the stage again",
        )
    silent = [float(row["prism/silent_groups"]) for row in steps.values()]
    if silent and sum(silent) / len(silent) > 0.5:
        notes.append(
            f"{sum(silent) / len(silent):.0%} of the groups had equal rewards for all responses and taught nothing"
        )
    return notes


def _prompts_given_and_kept(ctx: StageContext) -> tuple[int, int]:
    """Prompts in the pools, and those verl kept (it prints the count when it filters by length)."""
    given = sum(1 for _ in _rows(ctx))
    for attempt in reversed(_attempts(ctx.stage_dir)):
        log = attempt / "engine.log"
        text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
        if found := re.search(r"filter dataset len: (\d+)", text):
            return given, int(found.group(1))
    return given, given


def _tokens(row: Mapping[str, Any]) -> int:
    return int(row.get("prism/generated_tokens", 0))


def _shown(row: Mapping[str, Any]) -> dict[str, float]:
    values = {ours: row[theirs] for theirs, ours in _SHOWN.items() if theirs in row}
    return {name: float(value) for name, value in values.items() if value is not None and math.isfinite(value)}


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = {name for row in rows for name in row}
    return {name: sum(row[name] for row in rows if name in row) / sum(name in row for row in rows) for name in names}
