"""Stage kind `sft`: supervised fine-tuning by LLaMA-Factory, as published.

Two commands run in its environment: `prepare`, which looks at every row and writes those to train on, and
`llamafactory-cli train` with a rendered YAML file. Everything the engine writes lies below the stage's checkpoint
folder:

    data/          what `prepare` wrote
    tokenized/     the rows as token ids; written once, read again by a resumed attempt
    output/        checkpoint-N and trainer_log.jsonl
    cache/         what the engine's libraries would put into the home folder; removed at the end
    damaged/       half-written checkpoints, moved out of the way; removed at the end

The engine's exit status is not trusted: it is 0 for some failures. The stage counts as done when the checkpoint of
its last step is whole, every row that was given was trained on in full length, and the weights pass `publish`.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from integrations.common.checkpoint import check_model_folder, publish, read_tensors
from integrations.common.files import read_json, write_text
from integrations.common.jsonl import JsonlTail
from integrations.common.rows import structural_problem
from integrations.contract import Follower, Launch, Progress, StageContext, StageResult
from integrations.errors import BadInput, StageFailed
from integrations.llamafactory.memory import WHOLE_STATES, is_merged, merged, merging, method, sharding
from integrations.llamafactory.rows import DEMONSTRATION, given_rows
from integrations.llamafactory.settings import SftSettings

VISION = ("visual.pos_embed", "visual.patch_embed", "visual.blocks", "visual.deepstack_merger_list")
"""Parts of the names of the tensors that `freeze_vision` freezes."""
PROJECTOR = ("visual.merger",)
"""The same for `freeze_projector`."""

_TEMPLATES = {"qwen3_vl": "qwen3_vl_nothink", "qwen3_vl_moe": "qwen3_vl_nothink"}
"""LLaMA-Factory's chat template by model type. The one without `nothink` would put empty think blocks into responses
that begin otherwise."""
_NEVER_RESIZED = 2**40
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_NAMED = 5


class SftAdapter:
    """LLaMA-Factory's side of a stage (see `integrations.contract.StageAdapter`)."""

    def engine(self, settings: SftSettings) -> str:
        return "llamafactory"

    def total_steps(self, ctx: StageContext) -> int:
        settings: SftSettings = ctx.settings
        if ctx.gradient_steps is not None:
            return ctx.gradient_steps
        if settings.steps is not None:
            return settings.steps
        assert settings.epochs is not None
        rows = sum(_count_lines(ctx.data_dir / f"{pool}.jsonl") for pool in settings.data)
        return math.ceil(settings.epochs * math.ceil(rows / settings.batch_size))

    def check_inputs(self, ctx: StageContext) -> None:
        check_model_folder(ctx.policy)
        _model_type(ctx)
        _rows_per_device(ctx)
        _check_precision(ctx)
        _check_deepspeed(ctx)
        _check_rows(ctx)

    def render(self, ctx: StageContext) -> Sequence[Launch]:
        output = ctx.checkpoint_dir / "output"
        set_damaged_aside(output, ctx.checkpoint_dir / "damaged")
        last = output / f"checkpoint-{self.total_steps(ctx)}"
        merge = merging(ctx, last, _TEMPLATES[_model_type(ctx)])
        if complete(last):
            return merge
        _clear_half_tokenized(ctx.checkpoint_dir / "tokenized")
        write_text(ctx.attempt_dir / "train.yaml", _yaml(training_arguments(ctx, self.total_steps(ctx))))
        return [_prepare(ctx), _train(ctx), *merge]

    def follow(self, ctx: StageContext) -> Follower:
        return SftFollower(ctx.checkpoint_dir / "output" / "trainer_log.jsonl")

    def explain(self, ctx: StageContext, log_tail: str) -> str | None:
        dropped = (read_json(ctx.checkpoint_dir / "data" / "rows.json") or {}).get("dropped", ())
        if dropped and ctx.settings.bad_rows == "refuse":
            return f"{_rows_named(dropped)}; mend these rows, or set `bad_rows: drop` to go on without them"
        for pattern, cause in _CAUSES:
            if re.search(pattern, log_tail, re.IGNORECASE):
                return cause
        return None

    def finish(self, ctx: StageContext) -> StageResult:
        total = self.total_steps(ctx)
        output = ctx.checkpoint_dir / "output"
        last = output / f"checkpoint-{total}"
        if not complete(last):
            raise StageFailed(
                f"{ctx.name} stopped at step {_newest_step(output)} of {total}", f"read the log in {ctx.attempt_dir}"
            )
        rows, notes = _account_for_rows(ctx)
        frozen = (VISION if ctx.settings.freeze_vision else ()) + (PROJECTOR if ctx.settings.freeze_projector else ())
        if not is_merged(ctx):
            raise StageFailed(f"{ctx.name}: its adapters were not merged", f"read the log in {ctx.attempt_dir}")
        weights = last if ctx.settings.lora is None else merged(ctx)
        publish(weights, ctx.base_model, ctx.model_dir, parent=ctx.policy, frozen=frozen)
        for spent in ("cache", "damaged", "merged"):
            shutil.rmtree(ctx.checkpoint_dir / spent, ignore_errors=True)
        return StageResult(step=total, rows=rows, metrics=_last_metrics(last), notes=notes)

    def intermediate(self, ctx: StageContext) -> Sequence[tuple[int, Path]]:
        """Whole checkpoints; each holds the weights in Hugging Face form. Adapters alone are no policy."""
        if ctx.settings.lora is not None:
            return []
        found = _checkpoints(ctx.checkpoint_dir / "output")
        return [(int(path.name.removeprefix("checkpoint-")), path) for path in found if complete(path)]


class SftFollower:
    """Progress from trainer_log.jsonl, every step once.

    All attempts write to the same file, and a resumed one repeats the steps since its checkpoint: what earlier
    attempts reported is left out. The file's last line is a summary without a loss.
    """

    def __init__(self, path: Path) -> None:
        self._lines = JsonlTail(path)
        self._step = 0
        self.poll()

    def poll(self) -> Sequence[Progress]:
        news = []
        for line in self._lines.poll():
            step, loss = line.get("current_steps"), line.get("loss")
            if not isinstance(step, int) or not isinstance(loss, int | float) or step <= self._step:
                continue
            self._step = step
            metrics = {"loss": loss, "learning_rate": line.get("lr"), "epoch": line.get("epoch")}
            finite = {k: float(v) for k, v in metrics.items() if isinstance(v, int | float) and math.isfinite(v)}
            news.append(Progress(step, int(line.get("total_steps", step)), finite))
        return news


def training_arguments(ctx: StageContext, total: int) -> dict[str, Any]:
    """LLaMA-Factory's options for this stage; all are documented ones, nothing is left to its defaults that matters."""
    settings: SftSettings = ctx.settings
    on_cpu = ctx.machine.gpus == 0
    workers = ctx.machine.threads if ctx.machine.threads > 1 else None
    decaying_to = {"min_lr_rate": settings.final_learning_rate} if settings.final_learning_rate else None
    arguments: dict[str, Any] = {
        "stage": "sft",
        "do_train": True,
        **method(settings),
        "model_name_or_path": str(ctx.policy),
        "template": _TEMPLATES[_model_type(ctx)],
        "freeze_vision_tower": settings.freeze_vision,
        "freeze_multi_modal_projector": settings.freeze_projector,
        "freeze_language_model": False,
        # Images pass through untouched: only the model's own processor resizes them, as in every other engine.
        "image_max_pixels": _NEVER_RESIZED,
        "image_min_pixels": 1,
        "dataset_dir": str(ctx.checkpoint_dir / "data"),
        "media_dir": str(ctx.data_dir),
        "dataset": "train",
        "tokenized_path": str(ctx.checkpoint_dir / "tokenized"),
        "cutoff_len": settings.max_length,
        "output_dir": str(ctx.checkpoint_dir / "output"),
        "save_strategy": "steps",
        "save_steps": settings.checkpoint_every,
        "save_total_limit": settings.keep_checkpoints,
        "logging_steps": settings.log_every,
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
        "report_to": "none",
        "plot_loss": False,
        "per_device_train_batch_size": _rows_per_device(ctx),
        "gradient_accumulation_steps": settings.gradient_accumulation,
        "max_steps": total,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": _scheduler(settings),
        "warmup_steps": math.ceil(settings.warmup_ratio * total),
        "weight_decay": settings.weight_decay,
        "adam_beta1": settings.adam_beta1,
        "adam_beta2": settings.adam_beta2,
        "max_grad_norm": settings.grad_clip,
        "bf16": settings.precision == "bf16",
        "disable_gradient_checkpointing": not settings.gradient_checkpointing,
        "dataloader_num_workers": settings.dataloader_workers,
        "use_cpu": on_cpu,
        "full_determinism": on_cpu or settings.deterministic,
        "seed": ctx.seed,
        "data_seed": ctx.seed,
    }
    optional = {
        "lr_scheduler_kwargs": decaying_to,
        **sharding(ctx),
        "preprocessing_num_workers": workers,
        # The other processes wait while the first tokenizes, which takes longer than the half hour they would wait.
        "ddp_timeout": 10**7 if ctx.machine.gpus > 1 else None,
    }
    return arguments | {name: value for name, value in optional.items() if value is not None}


def complete(checkpoint: Path) -> bool:
    """Whether a checkpoint can be resumed from: whole weights, optimizer, schedule, random states and state.

    The engine writes `trainer_state.json` last and does not flush, so after a kill or a full disk any file may be
    missing, empty or cut short.
    """
    match = _CHECKPOINT.fullmatch(checkpoint.name)
    state = read_json(checkpoint / "trainer_state.json")
    if not match or not isinstance(state, dict) or state.get("global_step") != int(match[1]):
        return False
    random_states = list(checkpoint.glob("rng_state*.pth"))
    archives = [checkpoint / "scheduler.pt", *random_states]
    if not any(checkpoint.glob("global_step*")):  # where DeepSpeed keeps its optimizer state
        of_fsdp = checkpoint / "optimizer.bin"
        archives.append(of_fsdp if of_fsdp.exists() else checkpoint / "optimizer.pt")
    if not random_states or not all(_is_whole_zip(path) for path in archives):
        return False
    try:
        read_tensors(checkpoint)
    except BadInput:
        return False
    return True


def set_damaged_aside(output: Path, aside: Path) -> list[Path]:
    """Move half-written checkpoints away, so that the engine resumes from the newest whole one; returns the old paths.

    It takes the one of the highest number, whole or not, and dies of a half one.
    """
    damaged = [path for path in _checkpoints(output) if not complete(path)]
    for path in damaged:
        aside.mkdir(exist_ok=True)
        shutil.rmtree(aside / path.name, ignore_errors=True)
        path.rename(aside / path.name)
    return damaged


def _checkpoints(output: Path) -> list[Path]:
    found = [path for path in output.glob("checkpoint-*") if _CHECKPOINT.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("checkpoint-")))


def _newest_step(output: Path) -> int:
    return max(
        (int(path.name.removeprefix("checkpoint-")) for path in _checkpoints(output) if complete(path)), default=0
    )


def _is_whole_zip(path: Path) -> bool:
    """torch saves zip archives, whose directory stands at the end: a cut file has none."""
    try:
        with zipfile.ZipFile(path) as archive:
            return bool(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def _clear_half_tokenized(folder: Path) -> None:
    """LLaMA-Factory takes any non-empty folder for tokenized rows. Of its files `dataset_info.json` comes last."""
    if read_json(folder / "train" / "dataset_info.json") is None and folder.exists():
        shutil.rmtree(folder)


def _prepare(ctx: StageContext) -> Launch:
    settings: SftSettings = ctx.settings
    argv = ["python", "-m", "integrations.llamafactory.prepare", "--data-dir", str(ctx.data_dir)]
    for pool in settings.data:
        argv += ["--pool", pool]
    argv += ["--model", str(ctx.policy), "--max-length", str(settings.max_length), "--bad-rows", settings.bad_rows]
    argv += ["--workers", str(max(1, ctx.machine.threads)), "--out", str(ctx.checkpoint_dir / "data")]
    return Launch("llamafactory", argv, what="looking at the rows")


def _train(ctx: StageContext) -> Launch:
    cache = ctx.checkpoint_dir / "cache"
    env = {
        "HF_HOME": str(cache / "huggingface"),
        "HF_DATASETS_CACHE": str(cache / "datasets"),
        "TRITON_CACHE_DIR": str(cache / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        # The engine starts a process for every GPU that it sees.
        "CUDA_VISIBLE_DEVICES": _visible_gpus(ctx.machine.gpus),
        "OMP_NUM_THREADS": str(ctx.machine.threads),
        # Threads that wait asleep: spinning ones cost six times the time where another process wants the same cores.
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    if ctx.settings.sharding == "fsdp":
        env |= WHOLE_STATES
    if ctx.machine.gpus > 1 or ctx.settings.deepspeed or ctx.settings.sharding != "none":
        env |= {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": str(max(1, ctx.machine.gpus))}
    # A name without folders: under torchrun the command line is joined and split again at spaces.
    return Launch("llamafactory", ["llamafactory-cli", "train", "train.yaml"], env, packages=(), what="training")


def _visible_gpus(count: int) -> str:
    """The first `count` of the GPUs that the user lets prism use."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = given.split(",") if given else [str(number) for number in range(count)]
    return ",".join(devices[:count])


def _yaml(arguments: Mapping[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(dict(arguments), sort_keys=False, allow_unicode=True, width=2**20)


def _scheduler(settings: SftSettings) -> str:
    if settings.schedule == "cosine" and settings.final_learning_rate:
        return "cosine_with_min_lr"
    return {"constant": "constant_with_warmup"}.get(settings.schedule, settings.schedule)


def _model_type(ctx: StageContext) -> str:
    config = read_json(ctx.policy / "config.json") or {}
    if config.get("model_type") not in _TEMPLATES:
        raise BadInput(
            f"{ctx.policy / 'config.json'}: `model_type` {config.get('model_type')!r} is not supported",
            f"start from one of: {', '.join(_TEMPLATES)}",
        )
    return str(config["model_type"])


def _rows_per_device(ctx: StageContext) -> int:
    settings: SftSettings = ctx.settings
    parts = settings.gradient_accumulation * max(1, ctx.machine.gpus)
    if settings.batch_size % parts:
        raise BadInput(
            f"{ctx.name}: `batch_size` {settings.batch_size} does not divide into {parts} parts "
            f"({settings.gradient_accumulation} accumulated x {max(1, ctx.machine.gpus)} GPUs)",
            f"set `batch_size` to a multiple of {parts}",
        )
    return settings.batch_size // parts


def _check_precision(ctx: StageContext) -> None:
    dtypes = {tensor.dtype for tensor in read_tensors(ctx.policy).values()}
    if ctx.settings.precision == "fp32" and dtypes != {"F32"}:
        raise BadInput(
            f"{ctx.name}: `precision: fp32` needs weights stored in F32, {ctx.policy} has {', '.join(sorted(dtypes))}",
            "set `precision: bf16` (mixed precision)",
        )


def _check_deepspeed(ctx: StageContext) -> None:
    path, shared = ctx.settings.deepspeed, ctx.settings.sharding
    if shared != "none" and ctx.machine.gpus == 0:
        raise BadInput(f"{ctx.name}: `sharding: {shared}` needs GPUs and none is in use", "set `sharding: none`")
    if path is None:
        return
    if ctx.machine.gpus == 0:
        raise BadInput(f"{ctx.name}: `deepspeed` needs GPUs and none is in use", "set `deepspeed: null`")
    if not Path(path).is_absolute() or read_json(Path(path)) is None:
        raise BadInput(f"{ctx.name}: `deepspeed` {path} is no JSON file", "give the absolute path of a configuration")


def _count_lines(pool: Path) -> int:
    """Rows of a pool, without reading them (1.4 million rows are counted several times). Raises BadInput."""
    try:
        with pool.open("rb") as stream:
            return sum(1 for _ in stream)
    except OSError as error:
        raise BadInput(f"cannot read the data pool {pool}: {error.strerror}", "check the recipe's `data`") from error


def _check_rows(ctx: StageContext) -> None:
    """What can be seen without opening images; the rest is seen by `prepare`."""
    settings: SftSettings = ctx.settings
    given, bad = 0, []
    for row in given_rows(ctx.data_dir, settings.data):
        given += 1
        if why := structural_problem(row.row, ctx.data_dir, DEMONSTRATION):
            bad.append({"row": row.name, "why": why})
    if given == len(bad):
        raise BadInput(f"{ctx.name}: no row to train on in {', '.join(settings.data)}", "check the recipe's `data`")
    if bad and settings.bad_rows == "refuse":
        raise BadInput(f"{ctx.name}: {_rows_named(bad)}", "mend these rows, or set `bad_rows: drop`")


def _rows_named(bad: Sequence[Mapping[str, str]]) -> str:
    named = "; ".join(f"{row['row']}: {row['why']}" for row in bad[:_NAMED])
    more = f"; and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
    return f"{len(bad)} row{'s' * (len(bad) > 1)} cannot be trained on: {named}{more}"


def _account_for_rows(ctx: StageContext) -> tuple[dict[str, int], list[str]]:
    """Rows given, trained on and dropped. The engine must have tokenized every kept row in full length."""
    report = read_json(ctx.checkpoint_dir / "data" / "rows.json")
    if report is None:
        raise StageFailed(f"{ctx.name}: the record of its rows is gone", "delete the stage's checkpoints, run it again")
    lengths = list(_tokenized_lengths(ctx.checkpoint_dir / "tokenized"))
    if (len(lengths), sum(lengths)) != (report["kept"], report["tokens"]):
        raise StageFailed(
            f"{ctx.name}: {report['kept']} rows of {report['tokens']} tokens were given, the engine trained on "
            f"{len(lengths)} rows of {sum(lengths)} tokens",
            f"compare {ctx.checkpoint_dir / 'data' / 'train.parquet'} with the warnings in {ctx.attempt_dir}",
        )
    dropped = report["dropped"]
    notes = [_rows_named(dropped) + "; they were left out"] if dropped else []
    return {"given": report["given"], "trained": report["kept"], "dropped": len(dropped)}, notes


def _tokenized_lengths(folder: Path) -> Iterator[int]:
    """Tokens of each row that the engine trained on."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for path in sorted((folder / "train").glob("*.arrow")):
        with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as stream:
            for batch in stream:
                yield from pc.list_value_length(batch.column("input_ids")).to_pylist()


def _last_metrics(checkpoint: Path) -> dict[str, float]:
    """Mean loss since the line of progress before the last, from the engine's own record."""
    history = (read_json(checkpoint / "trainer_state.json") or {}).get("log_history", [])
    losses = [entry["loss"] for entry in history if isinstance(entry.get("loss"), int | float)]
    return {"loss": float(losses[-1])} if losses and math.isfinite(losses[-1]) else {}


_CAUSES = (
    (
        # torch does not say why its file could not be written; where the disk is not full it is as good as broken.
        r"No space left on device|os error 28|PytorchStreamWriter failed|basic_ios::clear: iostream error",
        "the disk is full; free space and run the same command again",
    ),
    (
        r"CUDA out of memory|OutOfMemoryError",
        "GPU memory ran out; raise `gradient_accumulation`, or set `gradient_checkpointing: true`",
    ),
    (
        r"DefaultCPUAllocator: can't allocate|Cannot allocate memory|MemoryError",
        "main memory ran out; raise `gradient_accumulation` or lower `batch_size`",
    ),
    (
        r"Can't find a valid checkpoint|PytorchStreamReader failed|SafetensorError|"
        r"Error while deserializing header|MetadataIncompleteBuffer",
        "a model file or checkpoint is corrupt or cut short; delete the file that the log names, then run it again",
    ),
    (r"UnidentifiedImageError|image file is truncated", "an image cannot be read; the log names it"),
    (
        r"Image features and image tokens do not match|Mismatch in `image` token count",
        "a row was cut in the middle of its image; raise `max_length`",
    ),
    (r"Read-only file system|Permission denied", "a folder cannot be written; the log names it"),
    (r"No module named 'deepspeed'|requires .*deepspeed", "DeepSpeed is not installed in the engine's environment"),
    (
        r"PyTorch and TorchAudio were compiled with different CUDA versions",
        "the environment's torch and torchaudio do not match; run `prism env remove llamafactory`, then try again",
    ),
)
"""Known last words of the engine, and what to do. Order matters: the first that fits is given."""
