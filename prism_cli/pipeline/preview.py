"""What a plan would run, rendered by the same code that runs it, into `<run>/plan/<stage>/`.

A stage's configuration depends on the data and the first policy, so those two are made if they are missing and cheap
to make (the digits world). Parents that are not trained yet are stood in for by the first policy, which has the same
form; in what is written and shown, their real paths stand.
"""

from __future__ import annotations

import os
import shlex
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from integrations.contract import Launch, Machine, StageContext
from integrations.errors import BadInput
from integrations.lmms_eval import adapter as harness
from prism_cli.evaluation.models import Model
from prism_cli.evaluation.run import evaluator_of
from prism_cli.pipeline.adapters import adapter_for
from prism_cli.pipeline.plan import DATA, MODEL, Node, Plan
from prism_cli.planning.assumptions import Assumptions
from prism_cli.planning.gpus import Gpus, this_machine
from prism_cli.planning.plan import make
from prism_cli.planning.terms import StagePlan
from prism_cli.runs.store import RunStore
from prism_cli.ui.view import QuietView

_RENDERED = (".yaml", ".yml", ".json")


def preview(
    store: RunStore, plan: Plan, seed: int, machine: Machine, make: Callable[[Plan], None]
) -> list[dict[str, Any]]:
    """Render every stage of the plan.

    Args:
        make: runs a plan for real; used for data and first policy only.

    Returns:
        One JSON object per node: stage, status (`done` or `to run`), engine, steps, parents, commands, files.
    """
    shutil.rmtree(store.root / "plan", ignore_errors=True)
    if plan.nodes[DATA].settings.kind == "digits" and plan.nodes[MODEL].settings.kind == "tiny-qwen3-vl":
        make(plan.with_requirements([MODEL]))
    ready = store.stage(DATA).done() is not None and store.stage(MODEL).done() is not None
    return [_step(store, node, seed, machine, ready) for node in plan.nodes.values()]


def needs(recipe: Any, plan: Plan, nodes: int) -> tuple[list[StagePlan], Gpus] | str:
    """What the plan's stages need on this machine's GPUs, as `prism plan` says it; or why that is not known."""
    try:
        gpus = this_machine(nodes)
        return make(recipe, gpus, Assumptions(), graph=plan), gpus
    except BadInput as error:
        return f"what the stages need is not known: {error.problem}"


def _step(store: RunStore, node: Node, seed: int, machine: Machine, ready: bool) -> dict[str, Any]:
    if node.kind == "evaluate":
        return _evaluation(store, node, seed, machine, ready)
    adapter = adapter_for(node.kind)
    done = store.stage(node.name).done() is not None
    step: dict[str, Any] = {
        "stage": node.name,
        "status": "done" if done else "to run",
        "engine": adapter.engine(node.settings),
        "parents": dict(node.parents),
        "commands": [],
        "files": [],
    }
    if node.kind in (DATA, "model") or not ready:
        return step
    ctx = _context(store, node, seed, machine)
    step["steps"] = adapter.total_steps(ctx)
    real = {str(path): str(store.stage(node.parents[role]).model_dir) for role, path in ctx.parents.items()}
    stage = store.stage(node.name)
    real[str(ctx.attempt_dir)] = str(stage.path / f"attempt-{len(stage.attempts()) + 1}")
    real[str(ctx.stage_dir)] = str(stage.path)
    step["commands"] = [_shown(launch, real) for launch in adapter.render(ctx)]
    for path in sorted(p for p in ctx.attempt_dir.rglob("*") if p.suffix in _RENDERED):
        path.write_text(_replace(path.read_text(encoding="utf-8"), real), encoding="utf-8")
        step["files"].append(path.relative_to(store.root).as_posix())
    return step


def _evaluation(store: RunStore, node: Node, seed: int, machine: Machine, ready: bool) -> dict[str, Any]:
    """What a policy will be asked, by which commands; while it is not trained its weights' hash is shown as zeros."""
    settings, policy = node.settings, node.parents["policy"]
    items = f"{settings.limit or 'all'} items of {settings.pool}"
    done = store.stage(policy).done()
    step: dict[str, Any] = {
        "stage": node.name,
        "status": "to check" if done else "to run",
        "engine": harness.ENGINE,
        "parents": dict(node.parents),
        "asked": f"suite {settings.suite}, {' and '.join(settings.protocols)}, {items}",
        "commands": [],
        "files": [],
    }
    if not ready:
        return step
    folder = store.root / "plan" / node.name
    folder.mkdir(parents=True)
    stand_in = folder / "parent-policy"
    os.symlink(store.stage(MODEL).model_dir, stand_in, target_is_directory=True)
    weights = done["hash"] if done else "0" * 64
    model = Model(policy, stand_in, weights, store.root / "eval", seed, store.root / DATA / "pools")
    evaluator = evaluator_of(settings, machine, QuietView(), threading.Event())
    real = {str(stand_in): str(store.stage(policy).model_dir)}
    step["commands"] = [_shown(launch, real) for launch in evaluator.preview(model, folder)]
    step["files"] = [(folder / "job.json").relative_to(store.root).as_posix()]
    return step


def _context(store: RunStore, node: Node, seed: int, machine: Machine) -> StageContext:
    folder = store.root / "plan" / node.name
    folder.mkdir(parents=True)
    first = store.stage(MODEL).model_dir
    parents = {}
    for role in node.parents:
        parents[role] = folder / f"parent-{role}"
        os.symlink(first, parents[role], target_is_directory=True)
    (folder / "checkpoints").mkdir()
    attempt = folder / "attempt"
    attempt.mkdir()
    return StageContext(
        name=node.name,
        settings=node.settings,
        stage_dir=folder,
        attempt_dir=attempt,
        checkpoint_dir=folder / "checkpoints",
        model_dir=store.stage(node.name).model_dir,
        parents=parents,
        base_model=first,
        data_dir=store.root / DATA / "pools",
        seed=seed,
        machine=machine,
        gradient_steps=node.steps,
    )


def _shown(launch: Launch, real: dict[str, str]) -> str:
    words = [f"{key}={value}" for key, value in sorted(launch.env.items())] + list(launch.argv)
    return _replace(shlex.join(words), real)


def _replace(text: str, real: dict[str, str]) -> str:
    for placeholder, path in real.items():
        text = text.replace(placeholder, path)
    return text


def shown_path(path: Path) -> str:
    """A path as short as it can be for people."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
