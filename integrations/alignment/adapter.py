"""Stage kinds `discriminator` and `align`: the host side of the alignment engine.

One command runs in the alignment environment, `python -m integrations.alignment.train`. Below the stage's checkpoint
folder lie `step-N` (see `checkpoints`) and, once the last step is done, `result` with weights and `result.json`. The
exit status is not trusted: a stage counts as done when its result is there, has reached its step and passes the checks
below.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from integrations.alignment.names import DESCRIPTION, POLICY_WEIGHTS, RESULT
from integrations.alignment.settings import AlignSettings, DiscriminatorSettings
from integrations.common import error_line
from integrations.common.checkpoint import carried_over, check_frozen, check_model_folder, publish, read_tensors
from integrations.common.files import flush, read_json, write_json
from integrations.common.jsonl import JsonlTail
from integrations.contract import Follower, Launch, Progress, StageContext, StageResult
from integrations.errors import BadInput, StageFailed

VISION = "visual."
"""In the names of the vision tower's tensors."""
NOT_CARRIED_OVER = ("config.json", "generation_config.json")
"""The discriminator is another architecture than the base model, so these are its own."""


class _AlignmentAdapter:
    """What both stages share (see `integrations.contract.StageAdapter`)."""

    def engine(self, settings: DiscriminatorSettings | AlignSettings) -> str:
        """vLLM samples inside the trainer's process, and its environment has what that needs."""
        return "vllm" if settings.rollout.engine == "vllm" else "alignment"

    def total_steps(self, ctx: StageContext) -> int:
        settings: DiscriminatorSettings | AlignSettings = ctx.settings
        return settings.steps if ctx.gradient_steps is None else ctx.gradient_steps

    def check_inputs(self, ctx: StageContext) -> None:
        check_model_folder(ctx.policy)
        pool = ctx.data_dir / f"{ctx.settings.teacher}.jsonl"
        if not pool.is_file():
            raise BadInput(
                f"{ctx.name}: the teacher pool {pool} does not exist", "name a pool of the recipe's data in `teacher`"
            )
        if not (ctx.base_model / "tokenizer.json").is_file():
            raise BadInput(
                f"{ctx.base_model} has no tokenizer.json, and the segments' boundaries need a fast tokenizer",
                "save the base model's tokenizer with its fast form",
            )
        if ctx.settings.rollout.engine == "vllm" and not ctx.machine.gpus and "PRISM_ENV_VLLM" not in os.environ:
            raise BadInput(
                f"{ctx.name}: `rollout.engine: vllm` needs a GPU, and this machine has none",
                "set it to transformers, or name an environment with a build of vLLM for CPUs in PRISM_ENV_VLLM",
            )

        self._check_processes(ctx)

    def _check_processes(self, ctx: StageContext) -> None:
        processes, prompts = _processes(ctx), min(ctx.settings.prompts_per_step, ctx.settings.held_out)
        if processes > prompts:
            raise BadInput(
                f"{ctx.name}: {processes} processes cannot share {prompts} prompts, of which each needs one",
                "raise `prompts_per_step` (and `held_out`), or lower `processes`",
            )
        if 0 < ctx.machine.gpus < processes:
            raise BadInput(
                f"{ctx.name}: `processes` is {processes}, and this machine has {ctx.machine.gpus} GPUs",
                "set it to at most one for each GPU, or to null",
            )

    def render(self, ctx: StageContext) -> Sequence[Launch]:
        for partial in ctx.checkpoint_dir.glob(".*.partial"):
            shutil.rmtree(partial)
        if self._result(ctx) is not None:
            return ()
        write_json(ctx.attempt_dir / "config.json", self._job(ctx))
        argv = ["-m", "integrations.alignment.train", "--config", str(ctx.attempt_dir / "config.json")]
        if _processes(ctx) > 1:
            argv = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(_processes(ctx)), *argv]
        threads = str(_threads(ctx))
        # Threads that wait asleep: spinning ones slow everything down where another process wants the same cores.
        asleep = {"OMP_WAIT_POLICY": "PASSIVE"}
        env = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1", **asleep}
        return [Launch(self.engine(ctx.settings), ["python", *argv], env, what="training")]

    def follow(self, ctx: StageContext) -> Follower:
        return AlignmentFollower(ctx.attempt_dir / "progress.jsonl")

    def explain(self, ctx: StageContext, log_tail: str) -> str | None:
        told = error_line.told(log_tail)
        if told:
            problem, fix = told
            return f"{problem}; {fix}" if fix else problem
        if "DefaultCPUAllocator" in log_tail or "OutOfMemoryError" in log_tail:
            return "out of memory; lower `rollout.batch_size`, `micro_prompts` or `prompts_per_step`"
        return None

    def intermediate(self, ctx: StageContext) -> Sequence[tuple[int, Path]]:
        """Checkpoints with the policy's weights; a folder of that name is whole, for it was renamed."""
        found = sorted(ctx.checkpoint_dir.glob(f"step-*/{POLICY_WEIGHTS}"))
        return [(int(path.parent.parent.name.removeprefix("step-")), path.parent) for path in found]

    def _job(self, ctx: StageContext) -> dict[str, Any]:
        """Content of the process's configuration, see `job.Job`."""
        return {
            "settings": ctx.settings.model_dump(mode="json"),
            "policy": str(ctx.policy),
            "discriminator": None,
            "upcycle_from": str(ctx.policy),
            "init_from": None,
            "base_model": str(ctx.base_model),
            "data_dir": str(ctx.data_dir),
            "checkpoint_dir": str(ctx.checkpoint_dir),
            "progress_file": str(ctx.attempt_dir / "progress.jsonl"),
            "result_dir": str(ctx.checkpoint_dir / "result"),
            "steps": self.total_steps(ctx),
            "seed": ctx.seed,
            "threads": _threads(ctx),
            "device": "cuda" if ctx.machine.gpus else "cpu",
        }

    def _result(self, ctx: StageContext) -> dict[str, Any] | None:
        """`result.json`, if the stage has come to its end."""
        result = read_json(ctx.checkpoint_dir / "result" / RESULT)
        if not isinstance(result, dict):
            return None
        ended = result.get("step") == self.total_steps(ctx) or result.get("stopped_early")
        return result if ended else None

    def _finished(self, ctx: StageContext) -> tuple[Path, dict[str, Any]]:
        """The result's folder and facts.

        Raises:
            StageFailed: the process ended without a result.
        """
        result = self._result(ctx)
        if result is None:
            raise StageFailed(
                f"{ctx.name} ended before its last step ({self.total_steps(ctx)})", f"read the log in {ctx.attempt_dir}"
            )
        return ctx.checkpoint_dir / "result", result


def _processes(ctx: StageContext) -> int:
    """How many train together."""
    return ctx.settings.processes or max(1, ctx.machine.gpus)


def _threads(ctx: StageContext) -> int:
    """CPU threads of each process."""
    return max(1, ctx.machine.threads // _processes(ctx))


def _stage_result(ctx: StageContext, result: Mapping[str, Any], notes: Sequence[str]) -> StageResult:
    metrics = {name: value for name, value in result["metrics"].items() if math.isfinite(value)}
    dropped, overlong = result["rows"]["dropped"], result["overlong_demonstrations"]
    if dropped:
        first = result["left_out"]
        notes = (*notes, f"{dropped} rows were left out, each is named in the log; the first: {first}")
    if overlong:
        limit = ctx.settings.rollout.max_new_tokens
        notes = (*notes, f"{overlong} demonstrations are longer than a response may be ({limit} tokens); kept whole")
    if ctx.machine.gpus > _processes(ctx):
        notes = (*notes, f"of {ctx.machine.gpus} GPUs {_processes(ctx)} were used, as `processes` says")
    return StageResult(result["step"], result["generated_tokens"], result["rows"], metrics, notes)


class DiscriminatorAdapter(_AlignmentAdapter):
    """Trains the discriminator and publishes it as a folder that `discriminator.load` accepts."""

    def check_inputs(self, ctx: StageContext) -> None:
        super().check_inputs(ctx)
        source, start = ctx.settings.upcycle_from, ctx.settings.init_from
        if start is not None:
            check_model_folder(Path(start).expanduser())
        elif source != "policy":
            check_model_folder(Path(source).expanduser())
        pairs = ctx.settings.pairs
        if pairs is not None and not Path(pairs).expanduser().is_file():
            raise BadInput(f"{ctx.name}: the pairs {pairs} do not exist", "point `pairs` at a JSONL file")

    def _job(self, ctx: StageContext) -> dict[str, Any]:
        job = super()._job(ctx)
        if ctx.settings.pairs is not None:
            job["settings"]["pairs"] = str(Path(ctx.settings.pairs).expanduser().resolve())
        for name in ("upcycle_from", "init_from"):
            source = getattr(ctx.settings, name)
            if source not in ("policy", None):
                job[name] = str(Path(source).expanduser().resolve())
        return job

    def finish(self, ctx: StageContext) -> StageResult:
        folder, result = self._finished(ctx)
        metrics = result["metrics"]
        # Responses restated from a demonstration may all be right: then it is the errors put in that it must tell.
        low = metrics.get("held_out_pair_accuracy_total_low", 0.0)
        told = {role: metrics.get(f"held_out_content_accuracy_{role}_low", 0.0) for role in ("perception", "reasoning")}
        if low <= 0.5 and min(told.values()) <= 0.5:
            accuracy = metrics.get("held_out_pair_accuracy_total", 0.5)
            raise StageFailed(
                f"{ctx.name}: on held-out prompts the demonstration beats the response in {accuracy:.0%} of pairs, "
                f"which is not above chance (95% interval from {low:.0%}), nor does it beat itself with an error",
                "train longer (`steps`), on more responses (`samples`), or hold more prompts out",
            )
        notes = []
        for role, content in told.items():
            if max(metrics.get(f"held_out_pair_accuracy_{role}_low", 0.0), content) <= 0.5:
                accuracy = metrics.get(f"held_out_pair_accuracy_{role}", 0.5)
                notes.append(f"pair accuracy of {role} alone, {accuracy:.0%}, is not above chance")
        if ctx.settings.precision.freeze_vision:
            job = self._job(ctx)
            check_frozen(folder, Path(job["init_from"] or job["upcycle_from"]), VISION)
        publish_discriminator(folder, ctx.base_model, ctx.model_dir)
        return _stage_result(ctx, result, notes)


class AlignAdapter(_AlignmentAdapter):
    """Plays the game and publishes the policy in the base model's format."""

    def check_inputs(self, ctx: StageContext) -> None:
        super().check_inputs(ctx)
        folder = ctx.parents.get("discriminator")
        if folder is None or not (folder / DESCRIPTION).is_file():
            raise BadInput(
                f"{ctx.name} needs a discriminator, and {folder} is none", "run the discriminator stage first"
            )
        read_tensors(folder)

    def _job(self, ctx: StageContext) -> dict[str, Any]:
        return super()._job(ctx) | {"discriminator": str(ctx.parents["discriminator"])}

    def finish(self, ctx: StageContext) -> StageResult:
        folder, result = self._finished(ctx)
        if not result["policy_steps"]:
            raise StageFailed(
                f"{ctx.name}: no group of responses gave a signal, so the policy never moved",
                "lower `min_spread`, or train the discriminator longer",
            )
        before, after = result["first"]["held_out_valid"], result["metrics"]["held_out_valid"]
        if after < ctx.settings.min_valid_share * before:
            raise StageFailed(
                f"{ctx.name}: the share of held-out responses of the right form fell from {before:.0%} to {after:.0%}",
                "lower `learning_rate`, raise `format_penalty`, or set `kl`",
            )
        frozen = [VISION] if ctx.settings.precision.freeze_vision else []
        publish(folder, ctx.base_model, ctx.model_dir, parent=ctx.policy, frozen=frozen)
        return _stage_result(ctx, result, game_notes(result, ctx.settings.rollout.max_new_tokens))


def game_notes(result: Mapping[str, Any], longest: int) -> list[str]:
    """What a person should know of a game that came to its end.

    Args:
        result: content of `result.json`.
        longest: limit of a response in tokens.
    """
    totals: dict[str, float] = result["totals"]
    step, skipped = result["step"], result["step"] - result["policy_steps"]
    notes = [f"ended early: {result['stopped']}"] if result["stopped"] else []
    if result["kept_step"] != step:
        notes.append(
            f"the result is the policy of step {result['kept_step']}, which won most pairs on held-out prompts"
        )
    if skipped:
        notes.append(f"{skipped} of {step} steps gave the policy no signal")
    silent, hopeless = totals["groups_without_signal"], totals["groups_all_invalid"]
    if silent or hopeless:
        notes.append(
            f"of {totals['groups']:.0f} groups {silent:g} gave no signal (one role counts as half a group) "
            f"and {hopeless:.0f} had no valid response"
        )
    if totals["invalid"] or totals["truncated"]:
        notes.append(
            f"{totals['invalid'] / totals['responses']:.1%} of responses had not the three blocks, "
            f"{totals['truncated'] / totals['responses']:.1%} were cut at {longest} tokens"
        )
    for role in ("perception", "reasoning"):
        if gated := totals[f"gated_{role}"]:
            notes.append(f"{role} gave no advantage in {gated:.0f} steps: its scores did not tell right from wrong")
    slowed, hastened = totals["discriminator_slowed"], totals["discriminator_hastened"]
    if slowed or hastened:
        notes.append(
            f"to stay in its band the discriminator was slowed in {slowed:.0f} steps, hastened in {hastened:.0f}"
        )
    return notes


class AlignmentFollower:
    """Progress from the attempt's own progress file."""

    def __init__(self, path: Path) -> None:
        self._lines = JsonlTail(path)

    def poll(self) -> Sequence[Progress]:
        return [
            Progress(line["step"], line["total"], line["metrics"], line["generated_tokens"], line["phase"])
            for line in self._lines.poll()
        ]


def publish_discriminator(result: Path, base_model: Path, model_dir: Path) -> None:
    """Make `model_dir` from a trained discriminator and the base model's processor files; whole or absent.

    Raises:
        StageFailed: the weights are corrupt, or the folder cannot be written.
    """
    try:
        read_tensors(result)
    except BadInput as error:
        raise StageFailed(f"the discriminator is unusable: {error.problem}", "run the stage again") from error
    partial = model_dir.with_name(f".{model_dir.name}.partial")
    own = [path for path in sorted(result.iterdir()) if path.name != RESULT]
    carried = [path for path in carried_over(base_model) if path.name not in NOT_CARRIED_OVER]
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for path in [*carried, *own]:
            _copy_to_disk(path, partial / path.name)
        shutil.rmtree(model_dir, ignore_errors=True)
        os.replace(partial, model_dir)
    except OSError as error:
        raise StageFailed(
            f"cannot write {model_dir}: {error.strerror}", "free disk space or choose a writable folder, run it again"
        ) from error


def _copy_to_disk(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    flush(target)
