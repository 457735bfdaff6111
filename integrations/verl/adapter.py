"""Host side of stage 3: prompts as parquet, a configuration on top of verl's own, `verl.trainer.main_ppo` as published.

A checkpoint of verl is a folder `global_step_N` whose `data.pt` is written last; anything less is half-written and is
cleared before a launch, because verl trusts a tracker file that may point at it. verl exits with 0 when responses were
lost to errors and pads the batch instead, so the sampler counts them (`integrations.verl.sampler`) and `finish` judges.

On a machine without a GPU the plug-in `integrations.verl.cpu` takes the place of CUDA and vLLM.
"""

from __future__ import annotations

import math
import re
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from integrations.common import error_line
from integrations.common.checkpoint import check_model_folder, publish, read_tensors
from integrations.common.files import read_json, write_text
from integrations.common.jsonl import JsonlTail
from integrations.contract import Launch, Progress, StageContext, StageResult
from integrations.errors import BadInput, StageFailed
from integrations.verl.adapters import merged, merging, weights
from integrations.verl.check_prompts import CHECKED, told
from integrations.verl.configuration import (
    CHECKPOINTS_KEPT,
    METRICS,
    configuration,
    environment,
    fork_socket,
    ray_folder,
    to_yaml,
)
from integrations.verl.health import Health
from integrations.verl.prompts import LOOKED_AT, PROMPTS, named, notes_on, survey, write_prompts
from integrations.verl.settings import RlvrSettings

TRACKER = "latest_checkpointed_iteration.txt"
MOST_UNREADABLE = 0.02
"""Largest share of reference answers that the reward may fail to read; the same as of answers without a verdict."""
SAME_POLICY = 1e-4
"""On a CPU rollout and training compute in fp32: with one update per step a larger mean difference of log-probabilities
means other weights."""

_SHOWN = {
    "prism/reward": "reward",
    "prism/accuracy": "accuracy",
    "prism/format": "format",
    "prism/silent_groups": "silent_groups",
    "prism/evicted_groups": "evicted_groups",
    "prism/overlong": "overlong",
    "actor/pg_clipfrac": "clipped",
    "actor/kl_loss": "kl_to_parent",
    "training/rollout_probs_diff_mean": "rollout_gap",
    "response_length/clip_ratio": "truncated",
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
        r"Groups without variance: (.+)",
        "there is nothing to learn: {0}",
        "take prompts that the policy answers sometimes right and sometimes wrong, raise `generation_limit`, or set "
        "`filter_groups: false`",
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

    def engine(self, settings: RlvrSettings) -> str:
        return "verl"

    def total_steps(self, ctx: StageContext) -> int:
        """The recipe's steps, or what the budget rule made of them."""
        settings: RlvrSettings = ctx.settings
        return ctx.gradient_steps or settings.steps

    def check_inputs(self, ctx: StageContext) -> None:
        """Every row can be used, there are enough prompts, and the policy is a whole model folder."""
        settings: RlvrSettings = ctx.settings
        check_model_folder(ctx.policy)
        seen = survey(ctx)
        if len(seen.unreadable) > MOST_UNREADABLE * seen.prompts:
            raise BadInput(
                f"the reward does not find {len(seen.unreadable)} of {seen.prompts} reference answers equal to "
                f"themselves, e.g. {named(seen.unreadable)}",
                "correct these answers, or leave these rows out",
            )
        if seen.prompts < settings.prompts_per_step:
            raise BadInput(
                f"the pools {settings.data} hold {seen.prompts} prompts, fewer than prompts_per_step "
                f"({settings.prompts_per_step})",
                "add prompts or lower prompts_per_step",
            )
        processes = max(1, ctx.machine.gpus) * ctx.machine.nodes
        if settings.prompts_per_step * settings.group_size % processes:
            raise BadInput(
                f"{settings.prompts_per_step} prompts of {settings.group_size} responses cannot be shared evenly by "
                f"{processes} GPUs",
                "change prompts_per_step",
            )

    def render(self, ctx: StageContext) -> Sequence[Launch]:
        """Parquet, configuration, and a checkpoint folder verl can trust. No command when the last step is reached."""
        total = self.total_steps(ctx)
        _remove_scratch(ctx)
        reached = _settle_checkpoints(ctx.checkpoint_dir, total)
        longest = write_prompts(ctx).longest
        write_text(ctx.attempt_dir / "rlvr.yaml", to_yaml(configuration(ctx, total, longest)))
        merge = merging(ctx, total)
        if reached == total:
            return merge
        program = ["verl.trainer.main_ppo"]
        if ctx.machine.gpus == 0 and ctx.machine.ray_address is None:
            program = ["integrations.verl.cpu.launch", str(fork_socket(ctx)), _model_type(ctx.policy)]
        config = ["--config-dir", str(ctx.attempt_dir), "--config-name", "rlvr"]
        check = ["python", "-m", "integrations.verl.check_configuration", *config]
        return [
            Launch(engine="verl", argv=check, what="checking configuration and prompts"),
            Launch(
                engine="verl",
                argv=["python", "-m", *program, *config],
                env=environment(ctx),
                what="reinforcement learning",
                passed_on=_passed_on(ctx),
            ),
            *merge,
        ]

    def follow(self, ctx: StageContext) -> _Follower:
        """Progress from this attempt's metrics, counted on from the attempts before it."""
        return _Follower(ctx, self.total_steps(ctx))

    def explain(self, ctx: StageContext, log_tail: str) -> str | None:
        """What one of our own processes told, or the first known cause in the log's end."""
        if told := error_line.told(log_tail):
            return "; ".join(part for part in told if part)
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
        publish(weights(ctx, total), ctx.base_model, ctx.model_dir, parent=ctx.policy)
        shutil.rmtree(merged(ctx), ignore_errors=True)
        _settle_checkpoints(ctx.checkpoint_dir, total)
        _remove_scratch(ctx)
        seen = read_json(ctx.attempt_dir / LOOKED_AT) or vars(survey(ctx))
        given = seen["prompts"]
        kept, left_out = _prompts_kept(ctx, given)
        notes += notes_on(seen, kept, left_out)
        last = [steps[step] for step in sorted(steps)[-10:]]
        return StageResult(
            step=total,
            generated_tokens=sum(_tokens(row) for row in steps.values()),
            rows={"given": given, "trained": kept, "dropped": given - kept},
            metrics=_means([_shown(row) for row in last]),
            notes=notes,
        )

    def intermediate(self, ctx: StageContext) -> Sequence[tuple[int, Path]]:
        """Whole checkpoints; verl writes the weights in Hugging Face form beside its own. Adapters are no policy."""
        if ctx.settings.lora is not None:
            return []
        steps = {int(p.name.removeprefix("global_step_")): p for p in ctx.checkpoint_dir.glob("global_step_*")}
        return [(step, steps[step] / "actor" / "huggingface") for step in sorted(steps) if is_complete(steps[step])]


class _Follower:
    """Reads the metrics file of one attempt."""

    def __init__(self, ctx: StageContext, total: int) -> None:
        self.tail = JsonlTail(ctx.attempt_dir / METRICS)
        self.total = total
        self.ctx = ctx
        self.prompts_told = False
        self.health = Health()
        self.tokens = {
            step: _tokens(row) for step, row in read_metrics(ctx.stage_dir, before=ctx.attempt_dir.name).items()
        }

    def poll(self) -> Sequence[Progress]:
        news = self._about_prompts()
        for line in self.tail.poll():
            step, row = line["step"], line["data"]
            self.tokens[step] = _tokens(row)
            spent = sum(tokens for other, tokens in self.tokens.items() if other <= step)
            shown = _shown(row)
            alarms = self.health.look(shown | _losses(row))
            news.append(Progress(step, self.total, shown, spent, alarms=alarms))
        return news

    def _about_prompts(self) -> list[Progress]:
        """Once, before the first step: what was found wrong with prompts, if anything was."""
        checked = None if self.prompts_told else read_json(self.ctx.attempt_dir / CHECKED)
        if checked is None:
            return []
        self.prompts_told = True
        alarms = told(checked, self.ctx.settings.max_prompt_length)
        return [Progress(0, self.total, alarms=alarms)] if alarms else []


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


def _model_type(policy: Path) -> str:
    return str((read_json(policy / "config.json") or {}).get("model_type", ""))


def _passed_on(ctx: StageContext) -> list[str]:
    """Names of the secrets that the stage needs: the judge's key, and what a running cluster asks for."""
    from integrations.common.chat import DEFAULT_KEY  # a client of HTTP that few stages need

    judge = ctx.settings.judge
    key = [] if judge is None else [judge.key_variable or DEFAULT_KEY]
    return key + ([] if ctx.machine.ray_address is None else ["RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"])


def _remove_scratch(ctx: StageContext) -> None:
    """What finished or killed attempts of this stage left: Ray's folder, prompts with their images, converted data."""
    for attempt in _attempts(ctx.stage_dir):
        shutil.rmtree(ray_folder(ctx, attempt), ignore_errors=True)
        shutil.rmtree(attempt / "datasets", ignore_errors=True)
        (attempt / PROMPTS).unlink(missing_ok=True)
        (attempt / "ray_token").unlink(missing_ok=True)


def _attempts(stage_dir: Path) -> list[Path]:
    return sorted(stage_dir.glob("attempt-*"), key=lambda path: int(path.name.removeprefix("attempt-")))


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
    judged, agreed = (
        sum(float(row.get(f"prism/{name}", 0)) for row in steps.values()) for name in ("judged", "agreed")
    )
    if judged:
        notes.append(f"rules and judge agreed on {agreed / judged:.1%} of {judged:.0f} answers (`prism reward review`)")
    if undecided := sum(int(row.get("prism/reward_errors", 0)) for row in steps.values()):
        notes.append(f"{undecided} of {asked} answers got no verdict and no reward (`Reward undecided` in the log)")
    stale = max((row.get("training/off_policy/trajectory_staleness_worst/max", 0) for row in steps.values()), default=0)
    apart = max((abs(row.get("actor/ppo_kl", 0.0)) for row in steps.values()), default=0.0)
    if stale > 0 or (on_cpu and settings.updates_per_step == 1 and apart > SAME_POLICY):
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


def _prompts_kept(ctx: StageContext, given: int) -> tuple[int, list[str]]:
    """How many prompts verl kept (it prints the count when it filters by length), and which it left out."""
    for attempt in reversed(_attempts(ctx.stage_dir)):
        log = attempt / "engine.log"
        text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
        if found := re.search(r"filter dataset len: (\d+)", text):
            checked = read_json(attempt / CHECKED) or {"over": []}
            return int(found.group(1)), [str(prompt["id"]) for prompt in checked["over"]]
    return given, []


def _tokens(row: Mapping[str, Any]) -> int:
    return int(row.get("prism/generated_tokens", 0))


def _shown(row: Mapping[str, Any]) -> dict[str, float]:
    values = {ours: row[theirs] for theirs, ours in _SHOWN.items() if theirs in row}
    if row.get("prism/judged"):
        values["judge_agreement"] = row["prism/agreed"] / row["prism/judged"]
    return {name: float(value) for name, value in values.items() if value is not None and math.isfinite(value)}


def _losses(row: Mapping[str, Any]) -> dict[str, float]:
    """Shares of what was sampled in vain, for the alarms."""
    lost, kept = float(row.get("prism/lost", 0)), float(row.get("prism/responses", 0))
    evicted = float(row.get("prism/evicted_groups", 0))
    groups = evicted + float(row.get("prism/groups", 0))
    shares = {"lost": lost / (lost + kept)} if lost + kept else {}
    return shares | ({"evicted_share": evicted / groups} if evicted else {})


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = {name for row in rows for name in row}
    return {name: sum(row[name] for row in rows if name in row) / sum(name in row for row in rows) for name in names}
