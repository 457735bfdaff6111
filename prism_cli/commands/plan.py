"""`prism plan`: memory, time and disk of every stage of a recipe, before anything runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from prism_cli.planning.assumptions import Assumptions
    from prism_cli.planning.gpus import Gpus
    from prism_cli.planning.terms import StagePlan

WHAT, WHERE, OUTPUT = "What to plan", "Where", "Output"


def plan(
    recipe: Annotated[
        str | None,
        typer.Option(help="A built-in recipe's name or a YAML file. [default: digits]", rich_help_panel=WHAT),
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="A variant that the recipe defines, e.g. `1x80gb`.", rich_help_panel=WHAT)
    ] = None,
    algorithm: Annotated[
        str | None, typer.Option(metavar="grpo|dapo|gspo", help="Of the RLVR stages.", rich_help_panel=WHAT)
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one field, e.g. sft.lora={}.", rich_help_panel=WHAT),
    ] = None,
    stage: Annotated[str, typer.Option(help="`all`, one arm by name, or one stage.", rich_help_panel=WHAT)] = "all",
    gpus: Annotated[
        str | None,
        typer.Option(
            metavar="COUNTxKIND",
            help="E.g. 8xH100-80GB, 2x8xH200-141GB (two nodes), cpu. [default: this machine's]",
            rich_help_panel=WHERE,
        ),
    ] = None,
    nodes: Annotated[
        int | None, typer.Option(min=1, help="Nodes with so many GPUs each.", rich_help_panel=WHERE)
    ] = None,
    assume: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="What the plan takes on trust, e.g. response_tokens=2500, rows.sft=50000.",
            rich_help_panel=WHERE,
        ),
    ] = None,
    phases: Annotated[
        bool,
        typer.Option("--phases", help="The terms of every phase, not only of the fullest.", rich_help_panel=OUTPUT),
    ] = False,
    json_: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else.", rich_help_panel=OUTPUT)
    ] = False,
) -> None:
    """Say what each stage of a recipe needs: memory, time, disk, and what makes it fit.

    Memory is that of the fullest GPU with rows at the recipe's longest length, term by term; time is for typical
    lengths. Nothing is loaded or run.

    Exit codes: 0 every stage fits, 2 at least one does not, or bad input.
    """
    from prism_cli.pipeline.plan import make_plan, select
    from prism_cli.planning.assumptions import given
    from prism_cli.planning.plan import make
    from prism_cli.recipes.load import load

    machine = _gpus(gpus, nodes)
    assumed = given(assume or [])
    changes = [*(set_ or [])]
    resolved = load(recipe, profile, changes, algorithm)
    part, _ = select(make_plan(resolved.recipe), stage, None, None)
    options = _options(recipe, profile, algorithm, changes)
    stages = make(resolved.recipe, machine, assumed, options, part)
    better = _fitting(recipe, algorithm, changes, stage, machine, assumed) if not all(s.fits for s in stages) else []
    if json_:
        content = _content(resolved.recipe.name, machine, assumed, stages)
        print(json.dumps(content | {"fitting_profiles": better}, indent=2))
    else:
        _show(stages, machine, phases)
        if better:
            print(f"The recipe's own profiles in which every stage fits here: {', '.join(better)} (--profile).")
    if not all(one.fits for one in stages):
        from integrations.errors import EXIT_BAD_INPUT

        raise typer.Exit(EXIT_BAD_INPUT)


def _gpus(spec: str | None, nodes: int | None) -> Gpus:
    from prism_cli.planning.gpus import parse, this_machine

    return this_machine(nodes or 1) if spec is None else parse(spec, nodes)


def _options(recipe: str | None, profile: str | None, algorithm: str | None, changes: list[str]) -> list[str]:
    named = (("--recipe", recipe), ("--profile", profile), ("--algorithm", algorithm))
    options = [word for name, value in named if value is not None for word in (name, value)]
    return [*options, *(word for change in changes for word in ("--set", change))]


def _fitting(
    recipe: str | None, algorithm: str | None, changes: list[str], stage: str, machine: Gpus, assumed: Assumptions
) -> list[str]:
    """The recipe's profiles with which every stage fits this machine."""
    from prism_cli.pipeline.plan import make_plan, select
    from prism_cli.planning.plan import make
    from prism_cli.recipes.load import load, profile_names

    found = []
    for profile in profile_names(recipe):
        other = load(recipe, profile, changes, algorithm).recipe
        part, _ = select(make_plan(other), stage, None, None)
        if all(one.fits for one in make(other, machine, assumed, graph=part, advise=False)):
            found.append(profile)
    return found


def _content(name: str, machine: Gpus, assumed: Assumptions, stages: list[StagePlan]) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "recipe": name,
        "gpus": str(machine),
        "fits": all(stage.fits for stage in stages),
        "hours": round(sum(stage.hours for stage in stages), 2),
        "disk_gib": round(sum(stage.disk_gib for stage in stages), 2),
        "assumed": asdict(assumed),
        "stages": [stage.to_json() for stage in stages],
    }


def _show(stages: list[StagePlan], machine: Gpus, phases: bool) -> None:
    from prism_cli.planning.show import print_plan

    print_plan(stages, machine, phases)
    hours, disk = sum(stage.hours for stage in stages), sum(stage.disk_gib for stage in stages)
    print(f"In all {hours:.0f} hours and {disk:.0f} GiB of disk.")
    print("Commands, one stage after the other (or all at once with `--stage all`):")
    for stage in stages:
        print(f"    {stage.command}")
