"""`prism env`: list, build, check and remove the engines' environments, and recompile their locks.

`prism train` builds what it needs by itself; these commands are for looking, for preparing a machine (building needs
the network, running does not), and for getting disk space back.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from integrations.errors import EXIT_STAGE_FAILED

if TYPE_CHECKING:
    from prism_cli.engines.environments import Report

app = typer.Typer(no_args_is_help=True, help="List, build, check and remove the engines' environments.")

Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Engines. [default: all]")]
Usual = Annotated[
    list[str] | None, typer.Argument(metavar="[NAME]...", help="Engines. [default: all, optional ones once built]")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output instead of text.")]


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """Show every engine's environment: built or not, what it pins, where it is."""
    from prism_cli.engines import environments

    told = [_state(name) for name in environments.names()]
    if as_json:
        _print_json({"cache": str(environments.cache_folder()), "environments": told})
        return
    from prism_cli.ui.tables import print_table

    rows = [[state["name"], _status(state), state["packages"], state["torch"], state["key"]] for state in told]
    print_table(["engine", "state", "packages", "torch", "key"], rows, numbers=[2])
    typer.echo(f"cache: {environments.cache_folder()}")
    for state in told:
        if state["status"] == "your own":
            typer.echo(f"{state['name']}: your own environment in {state['path']}")
        if state["outdated"]:
            typer.echo(
                f"{state['name']}: {len(state['outdated'])} outdated; `prism env remove {state['name']}` clears them"
            )


@app.command()
def build(names: Usual = None, as_json: AsJson = False) -> None:
    """Build environments that are not there yet."""
    from prism_cli.engines import environments

    chosen = _chosen(names or environments.usual_names())
    for name in chosen:
        environments.ensure(name, _report(name, as_json))
    told = [_state(name) for name in chosen]
    if as_json:
        _print_json({"environments": told})
        return
    for state in told:
        typer.echo(f"{state['name']}: {state['status']}, {state['path']}")


@app.command()
def check(names: Usual = None, as_json: AsJson = False) -> None:
    """Compare environments with their locks and import their engines. Exit code 1 if one is not sound."""
    from prism_cli.engines import environments

    found: dict[str, list[str]] = {}
    for name in _chosen(names or environments.usual_names()):
        found[name] = environments.check(name)
        if not as_json:
            typer.echo(f"{name}: {'sound' if not found[name] else 'not sound'}")
            for problem in found[name]:
                typer.echo(f"  {problem}")
            if found[name] and environments.is_built(environments.locate(name)):
                typer.echo(f"  run `prism env remove {name}` and then `prism env build {name}`")
    if as_json:
        told = [{"name": name, "sound": not wrong, "problems": wrong} for name, wrong in found.items()]
        _print_json({"environments": told})
    if any(found.values()):
        raise typer.Exit(EXIT_STAGE_FAILED)


@app.command()
def remove(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Engines.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every engine.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove environments, with those of earlier locks. They are built again when needed."""
    from integrations.errors import BadInput
    from prism_cli.engines import environments

    if bool(names) == all_:
        raise BadInput("say which environments to remove", "name engines, or give --all (see `prism env list`)")
    chosen = [name for name in _chosen(names) if names or not environments.locate(name).own]
    removed = {name: [str(folder) for folder in environments.remove(name)] for name in chosen}
    if as_json:
        _print_json({"removed": removed})
        return
    for name, folders in removed.items():
        typer.echo(f"{name}: {'removed ' + ', '.join(folders) if folders else 'nothing to remove'}")


@app.command()
def lock(
    names: Names = None,
    upgrade: Annotated[bool, typer.Option("--upgrade", help="Take the newest versions that fit.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compile requirements.in to requirements.lock (for those who change the project)."""
    from prism_cli.engines.locks import compile_lock

    changed = {name: compile_lock(name, _report(None, as_json), upgrade) for name in _chosen(names)}
    if as_json:
        _print_json({"changed": changed})


def _chosen(names: list[str] | None) -> list[str]:
    from prism_cli.engines import environments

    for name in names or []:
        environments.lock_file(name)  # refuses an unknown one before anything is done
    return list(dict.fromkeys(names)) if names else environments.names()


def _state(name: str) -> dict[str, Any]:
    from prism_cli.engines import environments

    environment = environments.locate(name)
    built = environments.is_built(environment)
    return {
        "name": name,
        "status": "your own" if environment.own else "built" if built else "not built",
        "optional": environments.describe(name).optional,
        "path": str(environment.folder),
        "key": environment.key,
        "packages": len(environments.pins(name)),
        "torch": environments.pins(name).get("torch"),
        "lock": str(environments.lock_file(name)),
        "outdated": [str(path) for path in environments.outdated(name)],
        "built_as": environments.built_as(environment) if built else {},
    }


def _status(state: dict[str, Any]) -> str:
    """For people, who wonder why it was not built among the others."""
    return f"{state['status']} (optional)" if state["optional"] and state["status"] == "not built" else state["status"]


def _report(name: str | None, quiet: bool) -> Report:
    """Progress for people: on standard error when standard output carries JSON."""
    prefix = f"{name}: " if name else ""
    return lambda text: typer.echo(prefix + text, err=quiet)


def _print_json(told: object) -> None:
    typer.echo(json.dumps(told, indent=2))
