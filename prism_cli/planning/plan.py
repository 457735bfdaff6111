"""From a recipe and GPUs to one `StagePlan` for each stage that would be trained."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from integrations.errors import BadInput
from prism_cli.pipeline.plan import SHARED, Node, Plan, make_plan
from prism_cli.planning import advice, alignment, models, rlvr, sft
from prism_cli.planning.assumptions import ROWS, Assumptions
from prism_cli.planning.gpus import Gpus
from prism_cli.planning.job import Job
from prism_cli.planning.terms import Phase, StagePlan

PLANNED = ("sft", "discriminator", "align", "rlvr")
"""Kinds of stages that have a plan."""


@dataclass(frozen=True)
class _Planner:
    """How a kind of stage is planned."""

    phases: Callable[[Job], tuple[Phase, ...]]
    disk: Callable[[Job], Mapping[str, float]]
    problems: Callable[[Job], tuple[str, ...]] = lambda job: ()


def _sft_problems(job: Job) -> tuple[str, ...]:
    parts = job.settings.gradient_accumulation * max(1, job.gpus.total)
    if job.settings.batch_size % parts:
        return (f"`batch_size` {job.settings.batch_size} does not divide into {parts} parts: set it to a multiple",)
    if job.settings.sharding != "none" and not job.gpus.per_node:
        return (f"`sharding: {job.settings.sharding}` needs GPUs: set it to none",)
    return ()


def _rlvr_problems(job: Job) -> tuple[str, ...]:
    rows = job.settings.prompts_per_step * job.settings.group_size
    if job.gpus.total and rows % job.gpus.total:
        return (f"the {rows} responses of a step do not divide among {job.gpus.total} GPUs: change `prompts_per_step`",)
    return ()


_PLANNERS = {
    "sft": _Planner(sft.phases, sft.disk, _sft_problems),
    "discriminator": _Planner(
        alignment.warmup_phases, lambda job: alignment.disk(job, with_policy=False), alignment.problems
    ),
    "align": _Planner(alignment.game_phases, lambda job: alignment.disk(job, with_policy=True), alignment.problems),
    "rlvr": _Planner(rlvr.phases, rlvr.disk, _rlvr_problems),
}


def make(
    recipe: Any,
    gpus: Gpus,
    assumed: Assumptions,
    options: Sequence[str] = (),
    graph: Plan | None = None,
    advise: bool = True,
) -> list[StagePlan]:
    """Plan every stage, in the order in which they run.

    Args:
        recipe: a `prism_cli.recipes.schema.Recipe`.
        options: of the command line, for the commands that are shown.
        graph: the part of the recipe's graph to plan; all of it by default.
        advise: look for the settings that make a stage fit where it does not.

    Raises:
        BadInput: a model is of another family or not known, or a pool's rows are not.
    """
    graph = graph or make_plan(recipe)
    policy = dimensions(recipe.model)
    found = []
    for node in graph.nodes.values():
        if node.kind in PLANNED:
            job = _job(recipe, graph, node, policy, gpus, assumed)
            command = shlex.join(["prism", "train", *options, *_selection(node)])
            planned = replace(_stage(job, node), command=command)
            if advise and not planned.fits_memory:
                planned = replace(planned, knobs=advice.look(job, node.kind, partial(_peak, node.kind)))
            found.append(planned)
    return found


def dimensions(model: Any) -> models.Dimensions:
    """The first policy's.

    Raises:
        BadInput: it is of another family, or a repository that is not known.
    """
    if model.kind != "hub":
        return _tiny(model)
    if model.path is not None:
        return models.from_folder(Path(model.path).expanduser())
    known = models.published(model.repo)
    if known is None:
        raise BadInput(
            f"field `model.repo`: the dimensions of {model.repo} do not come with prism",
            f"download it and give its folder (--set model.repo=null --set model.path=FOLDER), or take one of "
            f"{', '.join(models.known())}",
        )
    return known


def _tiny(model: Any) -> models.Dimensions:
    """The digits world's own model; its vision tower is Qwen3-VL's but for its size (`benchmarks.digits`)."""
    vision = models.Vision(
        depth=model.vision_layers,
        hidden=model.vision_hidden_size,
        inside=model.vision_intermediate_size,
        heads=model.vision_heads,
        out=model.hidden_size,
        deepstack=min(3, model.vision_layers),
        patch=3 * 2 * 16 * 16,
        merge=2,
        positions=2304,
    )
    return models.Dimensions(
        hidden=model.hidden_size,
        layers=model.layers,
        heads=model.heads,
        kv_heads=model.kv_heads,
        head=model.head_dim,
        inside=model.intermediate_size,
        vocabulary=model.vocab_size,
        tied=True,
        vision=vision,
    )


def _job(recipe: Any, graph: Plan, node: Node, policy: models.Dimensions, gpus: Gpus, assumed: Assumptions) -> Job:
    if node.kind == "rlvr":
        gpus = replace(gpus, nodes=min(gpus.nodes, recipe.machine.nodes)) if gpus.per_node else gpus
    else:
        gpus = replace(gpus, nodes=1)  # one process group on one machine
    steps = node.steps or getattr(node.settings, "steps", None) or _epochs(recipe, node.settings, assumed)
    judge, scoring = None, None
    if node.kind == "discriminator":
        judge = _grown(node.settings, policy)
    elif node.kind == "align":
        before = (
            graph.nodes.get(node.parents["discriminator"]) or make_plan(recipe).nodes[node.parents["discriminator"]]
        )
        judge, scoring = _grown(before.settings, policy), before.settings
    return Job(node.settings, steps, policy, gpus, assumed, judge, scoring)


def _grown(settings: Any, policy: models.Dimensions) -> models.Dimensions:
    """The discriminator that a warm-up makes."""
    source = settings.init_from or settings.upcycle_from
    if source == "policy":
        dense = policy
    elif (Path(source).expanduser() / "config.json").is_file():
        dense = models.from_folder(Path(source).expanduser())
    else:
        known = models.published(source)
        if known is None:
            raise BadInput(
                f"the discriminator's {source} is not there, and its name is no published size",
                "download it first, or give its folder a name that begins with its size, e.g. Qwen3-VL-2B",
            )
        dense = known
    if settings.architecture == "dense" or dense.experts > 1:
        return dense
    return dense.mixture(settings.experts, settings.top_k)


def _epochs(recipe: Any, settings: Any, assumed: Assumptions) -> int:
    rows = sum(_rows(recipe.world, pool, assumed) for pool in settings.data)
    return math.ceil(settings.epochs * math.ceil(rows / settings.batch_size))


def _rows(world: Any, pool: str, assumed: Assumptions) -> int:
    """Rows of a pool: as told, as counted, or as published."""
    if pool in assumed.rows:
        return assumed.rows[pool]
    if world.kind != "files":
        return int(getattr(world, pool, 0) or 1000)
    path = Path(world.path).expanduser()
    if (path / f"{pool}.jsonl").is_file():
        with (path / f"{pool}.jsonl").open("rb") as stream:
            return sum(1 for _ in stream)
    if (path / f"{pool}.parquet").is_file():
        import pyarrow.parquet

        return int(pyarrow.parquet.read_metadata(path / f"{pool}.parquet").num_rows)
    if pool not in ROWS:
        raise BadInput(
            f"pool `{pool}` is not in {path}, and its size is not known", f"say it: --assume rows.{pool}=1000"
        )
    return ROWS[pool]


def _stage(job: Job, node: Node) -> StagePlan:
    planner = _PLANNERS[node.kind]
    limit, phases = job.gpus.card.gib, planner.phases(job)
    if not job.gpus.per_node:  # what a GPU would hold is in main memory
        phases = tuple(replace(phase, gpu={}, host={**phase.host, **phase.gpu}) for phase in phases)
    return StagePlan(node.name, node.kind, job.steps, phases, planner.disk(job), limit, problems=planner.problems(job))


def _peak(kind: str, job: Job) -> float:
    """GiB of the fullest GPU."""
    return max(phase.gpu_gib for phase in _PLANNERS[kind].phases(job))


def _selection(node: Node) -> list[str]:
    """Options that train this stage alone."""
    chosen = ["--stage", node.stage]
    return chosen if node.name.startswith(f"{SHARED}/") else [*chosen, "--arm", node.arms[0]]
