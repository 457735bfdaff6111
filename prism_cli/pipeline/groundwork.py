"""Work that is not training: the data, the first policy, and the evaluation of a stage's result.

They run like stages (see `integrations.contract.StageAdapter`), so that they are skipped, resumed, logged and shown in
the same way.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from integrations.common.files import hash_file, hash_json, read_json, write_json
from integrations.common.jsonl import JsonlTail
from integrations.contract import Follower, Launch, Progress, StageContext, StageResult
from integrations.errors import BadInput, StageFailed


class NoProgress:
    """A follower of work that reports nothing on its way."""

    def poll(self) -> Sequence[Progress]:
        return ()


class Groundwork:
    """What the three have in common: they run in the alignment environment and count as one step."""

    engine = "alignment"

    def total_steps(self, ctx: StageContext) -> int:
        return 1

    def check_inputs(self, ctx: StageContext) -> None:
        return None

    def follow(self, ctx: StageContext) -> Follower:
        return NoProgress()

    def explain(self, ctx: StageContext, log_tail: str) -> str | None:
        return None

    def intermediate(self, ctx: StageContext) -> Sequence[tuple[int, Path]]:
        return ()


class World(Groundwork):
    """The pools every stage reads, in `<stage>/pools`."""

    def render(self, ctx: StageContext) -> Sequence[Launch]:
        if ctx.settings.kind == "files":
            return ()
        settings = ctx.attempt_dir / "world.json"
        write_json(settings, ctx.settings.model_dump(mode="json"))
        argv = ["python", "-m", "benchmarks.digits.build_world", "--settings", str(settings)]
        argv += ["--seed", str(ctx.seed), "--out", str(ctx.data_dir)]
        shutil.rmtree(ctx.data_dir, ignore_errors=True)
        return [Launch("alignment", argv, packages=("integrations", "benchmarks"), what="drawing the digits world")]

    def finish(self, ctx: StageContext) -> StageResult:
        if ctx.settings.kind == "files":
            _link(Path(ctx.settings.path).expanduser(), ctx.data_dir, "world.path")
        pools = {p.stem: _count_lines(p) for p in sorted(ctx.data_dir.glob("*.jsonl"))}
        if not pools:
            raise StageFailed(f"no data pool was written to {ctx.data_dir}", f"read the log in {ctx.attempt_dir}")
        return StageResult(step=1, rows=pools)


class FirstPolicy(Groundwork):
    """The model that every arm starts from, in `<stage>/model`."""

    def render(self, ctx: StageContext) -> Sequence[Launch]:
        if ctx.settings.kind == "hub":
            return ()
        settings = ctx.attempt_dir / "model.json"
        write_json(settings, ctx.settings.model_dump(mode="json"))
        argv = ["python", "-m", "benchmarks.digits.build_model", "--settings", str(settings)]
        argv += ["--data", str(ctx.data_dir), "--out", str(ctx.model_dir)]
        return [Launch("alignment", argv, packages=("integrations", "benchmarks"), what="building the first policy")]

    def finish(self, ctx: StageContext) -> StageResult:
        if ctx.settings.kind == "hub":
            _fetch(ctx.settings, ctx.model_dir)
        if not (ctx.model_dir / "config.json").is_file():
            raise StageFailed(f"{ctx.model_dir} holds no model (no config.json)", f"read the log in {ctx.attempt_dir}")
        return StageResult(step=1)


class Evaluation(Groundwork):
    """Scores of one policy on held-out items, in `<stage>/<protocol>`."""

    def total_steps(self, ctx: StageContext) -> int:
        return len(ctx.settings.protocols)

    def render(self, ctx: StageContext) -> Sequence[Launch]:
        config = ctx.attempt_dir / "evaluation.json"
        settings = ctx.settings.model_dump(mode="json")
        settings |= {
            "model": str(ctx.policy),
            "data_dir": str(ctx.data_dir),
            "out": str(ctx.stage_dir),
            "seed": ctx.seed,
            "threads": ctx.machine.threads,
            "protocols": [_PROTOCOLS[name] for name in ctx.settings.protocols],
        }
        write_json(config, settings)
        (ctx.stage_dir / "progress.jsonl").unlink(missing_ok=True)
        argv = ["python", "-m", "benchmarks.digits.evaluate", "--config", str(config)]
        return [Launch("alignment", argv, packages=("integrations", "benchmarks"), what="evaluating")]

    def follow(self, ctx: StageContext) -> Follower:
        return _EvaluationFollower(ctx.stage_dir / "progress.jsonl")

    def finish(self, ctx: StageContext) -> StageResult:
        metrics: dict[str, float] = {}
        for protocol in ctx.settings.protocols:
            scores = read_json(ctx.stage_dir / protocol / "scores.json")
            if scores is None or not (ctx.stage_dir / protocol / "items.parquet").is_file():
                raise StageFailed(f"{ctx.name}: no scores for `{protocol}`", f"read the log in {ctx.attempt_dir}")
            named = {f"{protocol}/{name}": scores[name] for name in ("answer", "perception", "reasoning", "format")}
            metrics |= {name: value for name, value in named.items() if value is not None}  # undefined: left out
        return StageResult(step=len(ctx.settings.protocols), metrics=metrics)


_PROTOCOLS: dict[str, dict[str, Any]] = {
    "greedy": {"name": "greedy", "temperature": 0.0, "top_p": 1.0},
    "sample": {"name": "sample", "temperature": 1.0, "top_p": 1.0},
}


class _EvaluationFollower:
    def __init__(self, path: Path) -> None:
        self._tail = JsonlTail(path)

    def poll(self) -> Sequence[Progress]:
        return [Progress(int(r["step"]), int(r["total"]), phase="evaluating") for r in self._tail.poll()]


def _link(source: Path, target: Path, field: str) -> None:
    if not source.is_dir():
        raise BadInput(f"recipe field `{field}`: {source} is not a folder", "give the folder of the data pools")
    target.unlink(missing_ok=True)
    os.symlink(source.resolve(), target, target_is_directory=True)


def _fetch(settings: Any, target: Path) -> None:
    """The published base model, from a folder or from the Hub at a pinned revision."""
    if settings.path is not None:
        _link(Path(settings.path).expanduser(), target, "model.path")
        return
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HTTPError

    try:
        snapshot_download(settings.repo, revision=settings.revision, local_dir=target)
    except (HTTPError, OSError, ValueError) as error:
        raise BadInput(
            f"cannot fetch the model {settings.repo} at revision {settings.revision}: {error}",
            "check the name, the network and the stored login, or set model.path to a folder",
        ) from error


def _count_lines(path: Path) -> int:
    with path.open("rb") as stream:
        return sum(1 for _ in stream)


def data_hash(folder: Path) -> str:
    """What identifies the data: every pool's bytes, and the name and size of every other file (images are many)."""
    pools = {path.name: hash_file(path) for path in sorted(folder.glob("*.jsonl"))}
    others = {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in pools
    }
    return hash_json({"pools": pools, "files": others})


def describe(result: StageResult) -> dict[str, Any]:
    """A stage's result as JSON."""
    return {**asdict(result), "rows": dict(result.rows), "metrics": dict(result.metrics), "notes": list(result.notes)}
