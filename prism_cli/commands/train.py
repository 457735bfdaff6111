"""`prism train`: run a recipe's stages, or go on where an earlier run stopped."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from integrations.contract import Machine
    from prism_cli.pipeline.plan import Plan
    from prism_cli.planning.gpus import Gpus
    from prism_cli.planning.terms import StagePlan
    from prism_cli.recipes.load import Resolved
    from prism_cli.runs.store import RunStore
    from prism_cli.ui.view import View

WHAT, WHERE, OUTPUT = "What to train", "Where", "Output"


def train(
    stage: Annotated[
        str,
        typer.Option(
            help="`all` arms, one arm by name (e.g. `baseline`), or one stage: sft, discriminator, align, rlvr.",
            rich_help_panel=WHAT,
        ),
    ] = "all",
    recipe: Annotated[
        str | None,
        typer.Option(help="A built-in recipe's name or a YAML file. [default: digits]", rich_help_panel=WHAT),
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="A variant that the recipe defines, e.g. `quick`.", rich_help_panel=WHAT)
    ] = None,
    algorithm: Annotated[
        str | None,
        typer.Option(
            metavar="grpo|dapo|gspo",
            help="Of the RLVR stages; part of the run's name. [default: the recipe's]",
            rich_help_panel=WHAT,
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change one field, e.g. stages.rlvr.steps=20.", rich_help_panel=WHAT
        ),
    ] = None,
    arm: Annotated[
        str | None, typer.Option(help="The arm a single stage belongs to, e.g. `control`.", rich_help_panel=WHAT)
    ] = None,
    parent: Annotated[
        str | None,
        typer.Option(help="Start a single stage from this finished stage instead.", rich_help_panel=WHAT),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Training seed; one run per seed.", rich_help_panel=WHAT)
    ] = 0,
    run: Annotated[
        str | None,
        typer.Option(help="The run's name. [default: RECIPE-ALGORITHM-PROFILE-sSEED]", rich_help_panel=WHERE),
    ] = None,
    runs_dir: Annotated[
        Path, typer.Option(envvar="PRISM_RUNS", help="Folder that holds the runs.", rich_help_panel=WHERE)
    ] = Path("runs"),
    ray_address: Annotated[
        str | None,
        typer.Option(help="A running Ray cluster for RLVR (machine.ray_address).", rich_help_panel=WHERE),
    ] = None,
    track: Annotated[
        str | None,
        typer.Option(
            metavar="tensorboard|wandb|trackio",
            help="Pass every stage's figures on, step by step (tracking.to).",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write and print what would run; train nothing.", rich_help_panel=OUTPUT)
    ] = False,
    json_: Annotated[
        bool, typer.Option("--json", help="Print one JSON object at the end and nothing else.", rich_help_panel=OUTPUT)
    ] = False,
) -> None:
    """Train every stage of a recipe, on GPUs or on a laptop's CPU.

    Without a recipe this runs the `digits` world: real handwritten digits, a tiny Qwen3-VL, all real engines, no
    downloads but packages. Running the same command again resumes a killed run and skips what is done.

    Exit codes: 0 done, 1 a stage failed, 2 bad input, 3 the run is in use, 130 interrupted.
    """
    from prism_cli.pipeline.plan import make_plan, select
    from prism_cli.pipeline.preview import needs, preview
    from prism_cli.pipeline.tracking import heard
    from prism_cli.recipes.load import load
    from prism_cli.runs.store import RunStore
    from prism_cli.ui.view import choose_view

    changes = [*(set_ or []), *([f"machine.ray_address={ray_address}"] if ray_address else [])]
    changes += [f"tracking.to={track}"] if track else []
    resolved = load(recipe, profile, changes, algorithm)
    plan, before = select(make_plan(resolved.recipe), stage, arm, parent)
    name = run or "-".join([resolved.recipe.name, *(part for part in (algorithm, profile) if part), f"s{seed}"])
    view = choose_view(json_)
    if recipe is None:
        view.message(
            "No recipe given: running `digits`, a small world of handwritten digits that trains on a CPU.\n"
            "The paper's experiments are the recipes qwen3-vl-4b and qwen3-vl-8b (see `prism recipe list`)."
        )
    _require_finished(RunStore(runs_dir / name), before)
    store = RunStore.create(runs_dir, name)
    options = {"source": resolved.source, "profile": profile, "algorithm": algorithm, "set": changes}
    try:
        with store.locked():
            _begin(store, resolved, view)

            def execute(part: Plan) -> None:
                _execute(store, part, resolved, options, seed, view)

            if dry_run:
                steps = preview(store, plan, seed, _machine(resolved), execute)
            else:
                with heard(store, resolved.recipe.tracking, view):
                    execute(plan)
    finally:
        view.close()
    if dry_run:
        found = needs(resolved.recipe, plan, resolved.recipe.machine.nodes)
        _print_plan(store, steps, seed, json_, found)
    else:
        _report(store, json_)


def _require_finished(store: RunStore, names: list[str]) -> None:
    from integrations.errors import BadInput

    for name in names:
        if store.stage(name).done() is None:
            stage = name.rsplit("/", 1)[-1]
            raise BadInput(
                f"run `{store.name}` has no finished stage `{name}` to start from",
                f"train it first (prism train --stage {stage} ...), or name another with --parent",
            )


def _begin(store: RunStore, resolved: Resolved, view: View) -> None:
    from prism_cli.pipeline.preview import shown_path
    from prism_cli.recipes.load import dump

    view.message(f"run {store.name} in {shown_path(store.root)}")
    store.write_recipe(dump(resolved.recipe))
    store.event("started", recipe=resolved.recipe.name, source=resolved.source)


def _execute(store: RunStore, plan: Plan, resolved: Resolved, options: dict[str, Any], seed: int, view: View) -> None:
    from integrations.errors import PrismError
    from prism_cli.pipeline.execute import Execution
    from prism_cli.pipeline.lineage import manifest_of

    def keep_manifest() -> None:
        store.write_manifest(manifest_of(store, plan, resolved.recipe, options, seed))

    keep_manifest()
    machine = _machine(resolved)
    jobs = 1 if machine.gpus else resolved.recipe.machine.jobs  # a stage takes all the GPUs
    execution = Execution(store, plan, seed, machine, jobs, view, keep_manifest)
    try:
        execution.run()
    except PrismError as error:
        store.event("stopped", reason=type(error).__name__, problem=error.problem)
        raise
    store.event("finished")


def _machine(resolved: Resolved) -> Machine:
    from integrations.contract import Machine
    from prism_cli.pipeline.lineage import gpu_names

    machine = resolved.recipe.machine
    cores = len(os.sched_getaffinity(0))
    return Machine(
        threads=machine.threads or max(1, cores // machine.jobs),
        gpus=len(gpu_names()),
        ray_address=machine.ray_address,
        nodes=machine.nodes,
    )


def _print_plan(
    store: RunStore,
    steps: list[dict[str, Any]],
    seed: int,
    as_json: bool,
    found: tuple[list[StagePlan], Gpus] | str,
) -> None:
    from prism_cli.pipeline.preview import shown_path
    from prism_cli.planning.show import print_plan

    if as_json:
        stages = [] if isinstance(found, str) else [stage.to_json() for stage in found[0]]
        typer.echo(json.dumps({"run": store.name, "seed": seed, "plan": steps, "stages": stages}, indent=2))
        return
    for step in steps:
        after = ", ".join(step["parents"].values())
        size = f", {step['steps']} steps" if "steps" in step else ""
        typer.echo(f"{step['stage']}: {step['status']}, {step['engine']}{size}{f', from {after}' if after else ''}")
        for line in [*([step["asked"]] if "asked" in step else []), *step["commands"], *step["files"]]:
            typer.echo(f"    {line.replace(str(store.root), 'RUN')}")
    if isinstance(found, str):
        typer.echo(found)
    else:
        print_plan(*found)
    typer.echo(f"\nRUN is {shown_path(store.root)}. Nothing was trained.")
    if any(step["files"] for step in steps):
        typer.echo(f"What each stage would be given is in {shown_path(store.root / 'plan')}.")
    else:
        typer.echo("Configurations depend on the data and the first policy, and are rendered once those are here.")


def _report(store: RunStore, as_json: bool) -> None:
    from benchmarks.summary import summarize

    summary = summarize(store.root)
    if as_json:
        typer.echo(json.dumps(summary.to_json(), indent=2))
        return
    from rich.console import Console

    summary.render(Console())
