"""Work that is not training: the data and the first policy.

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

from integrations.common.files import hash_file, hash_json, write_json
from integrations.common.parquet_rows import convert
from integrations.contract import Follower, Launch, Progress, StageContext, StageResult
from integrations.errors import BadInput, StageFailed
from prism_cli.datasets.get import fetched_model


class NoProgress:
    """A follower of work that reports nothing on its way."""

    def poll(self) -> Sequence[Progress]:
        return ()


class Groundwork:
    """What the two have in common: they run in the alignment environment and count as one step."""

    def engine(self, settings: Any) -> str:
        return "alignment"

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
            _gather(Path(ctx.settings.path).expanduser(), ctx.data_dir, ctx.settings.pools)
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


def _gather(source: Path, target: Path, pools: Sequence[str]) -> None:
    """The folder of a user's pools as it is, or its parquet files converted beside links to the rest."""
    published = [pool for pool in pools if not (source / f"{pool}.jsonl").exists()]
    published = [pool for pool in published if (source / f"{pool}.parquet").is_file()]
    if not published:
        _link(source, target, "world.path")
        return
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "images").mkdir(parents=True)
    for path in sorted(source.rglob("*")):  # rows of both kinds of pools name images below the same folder
        if path.is_file() and path.suffix != ".parquet":
            link = partial / path.relative_to(source)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())
    for pool in published:
        convert(source / f"{pool}.parquet", partial, pool)
    target.unlink(missing_ok=True) if target.is_symlink() else shutil.rmtree(target, ignore_errors=True)
    partial.replace(target)


def _link(source: Path, target: Path, field: str) -> None:
    if not source.is_dir():
        raise BadInput(f"recipe field `{field}`: {source} is not a folder", "give the folder of the data pools")
    target.unlink(missing_ok=True)
    os.symlink(source.resolve(), target, target_is_directory=True)


def _fetch(settings: Any, target: Path) -> None:
    """The published base model, from a folder, as `prism data get` fetched it, or from the Hub."""
    if settings.path is not None:
        _link(Path(settings.path).expanduser(), target, "model.path")
        return
    if (here := fetched_model(settings.repo, settings.revision)) is not None:
        _link(here, target, "model.repo")
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
