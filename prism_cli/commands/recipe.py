"""`prism recipe`: what recipes there are, what they say in full, and whether a file is one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer()

Name = Annotated[
    str | None, typer.Argument(metavar="RECIPE", help="A builtin recipe's name or a YAML file.", show_default="digits")
]
Profile = Annotated[str | None, typer.Option(help="Lay this profile of the recipe over it.")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one field, e.g. `rlvr.steps=20`.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


@app.command("list")
def list_recipes(json_: Json = False) -> None:
    """List the recipes that come with prism."""
    from prism_cli.recipes.load import builtin_names, is_ablation, load, profile_names

    recipes: list[dict[str, Any]] = []
    for name in builtin_names():
        recipe = load(name).recipe
        recipes.append(
            {
                "name": name,
                "description": recipe.description,
                "arms": [*recipe.arms],
                "profiles": profile_names(name),
                "ablation": is_ablation(name),
            }
        )
    if json_:
        _print_json({"recipes": recipes})
        return
    from prism_cli.ui.tables import print_table

    rows = [[r["name"], ", ".join(r["profiles"]), r["description"]] for r in recipes if not r["ablation"]]
    print_table(["recipe", "profiles", "what it is for"], rows)
    rows = [[r["name"], ", ".join(r["arms"]), r["description"]] for r in recipes if r["ablation"]]
    print_table(["ablations", "arms", "what they are for"], rows)
    print("prism recipe show NAME prints one; prism train --recipe NAME runs it.")


@app.command()
def show(
    recipe: Name = None,
    profile: Profile = None,
    set_: Sets = None,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Print every field, inherited and default ones too, as a run keeps it.")
    ] = False,
    docs: Annotated[bool, typer.Option("--docs", help="Print every field with what it means above it.")] = False,
    json_: Json = False,
) -> None:
    """Print a recipe: as written, or with `--resolved` in full.

    `--profile` and `--set` print it in full too, with the changes made.
    """
    from prism_cli.recipes.document import documented
    from prism_cli.recipes.load import dump, load, source_text

    loaded = load(recipe, profile, set_ or [])
    if json_:
        content = loaded.recipe.model_dump(mode="json", exclude={"extends", "profiles"})
        _print_json({"source": loaded.source, "chain": loaded.chain, "recipe": content})
    elif docs:
        print(documented(loaded.recipe), end="")
    elif resolved or profile or set_:
        print("\n".join([*(f"# {layer}" for layer in loaded.chain), dump(loaded.recipe)]), end="")
    else:
        print(source_text(recipe), end="")


@app.command()
def validate(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Recipes in YAML, each checked with every profile.")
    ],
    json_: Json = False,
) -> None:
    """Check recipes without running anything.

    Exit codes: 0 all are valid, 2 at least one is not.
    """
    results = [_checked(str(file)) for file in files]
    if json_:
        _print_json({"recipes": results})
    else:
        for result in results:
            for problem in result["problems"]:
                typer.echo(f"error: {problem['error']}\nnext: {problem['fix']}", err=True)
            if not result["problems"]:
                with_profiles = f" (profiles: {', '.join(result['profiles'])})" if result["profiles"] else ""
                print(f"{result['file']}: valid{with_profiles}")
    if any(result["problems"] for result in results):
        from integrations.errors import EXIT_BAD_INPUT

        raise typer.Exit(EXIT_BAD_INPUT)


@app.command()
def diff(
    one: Annotated[str, typer.Argument(metavar="A", help="A recipe, or RECIPE:PROFILE.")],
    other: Annotated[str, typer.Argument(metavar="B", help="Another one, or RECIPE:PROFILE.")],
    json_: Json = False,
) -> None:
    """Show every field in which two recipes differ, all that they inherit included.

    `prism recipe diff qwen3-vl-4b qwen3-vl-4b:1x80gb` shows what a profile changes.
    """
    from prism_cli.recipes.difference import between

    fields = between(_resolved(one), _resolved(other))
    if json_:
        _print_json({"a": one, "b": other, "differences": [field.to_json() for field in fields]})
    elif not fields:
        print("No field differs.")
    else:
        from prism_cli.ui.tables import print_table

        rows = [[field.path.removeprefix("stages."), field.shown(0), field.shown(1)] for field in fields]
        print_table(["field", one, other], rows)


def _resolved(name: str) -> dict[str, Any]:
    """A recipe's fields in full, `NAME` or `NAME:PROFILE`."""
    from prism_cli.recipes.load import load

    file, colon, profile = name.rpartition(":")
    recipe = load(file, profile).recipe if colon and not Path(name).is_file() else load(name).recipe
    return recipe.model_dump(mode="json", exclude={"extends", "profiles"})


@app.command()
def schema() -> None:
    """Print the JSON schema of a recipe, with every field's unit and effect.

    An editor that knows it completes and checks recipes while they are written.
    """
    from prism_cli.recipes.document import json_schema

    _print_json(json_schema())


def _checked(file: str) -> dict[str, Any]:
    """A file's profiles, and what is wrong with it in any of them."""
    from integrations.errors import BadInput
    from prism_cli.recipes.load import load, profile_names

    problems: list[dict[str, str]] = []
    profiles: list[str] = []
    try:
        profiles = profile_names(file)
        load(file)
        for profile in profiles:
            load(file, profile)
    except BadInput as error:
        problems.append({"error": error.problem, "fix": error.fix})
    return {"file": file, "profiles": profiles, "problems": problems}


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))
