"""The command line: what `prism --help` lists, and how a command's module is found when it is called.

A command is imported only when it runs or shows its own help, so that `prism --help` costs no more than typer itself.
Its one line in the list stands here; a test holds it equal to the first line of the command's own help.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from integrations.errors import Interrupted

MARKUP: Literal["markdown"] = "markdown"
"""Help is read as Markdown: backticks stand out, and square brackets are shown as they are."""
TRAIN, LOOK, SET_UP = "Train and compare", "Look at what there is", "Set up"


@dataclass(frozen=True)
class Lazy:
    """A command that is not imported yet."""

    module: str
    attribute: str
    """A function with typer's annotations, or a Typer with commands of its own."""
    help: str
    panel: str


COMMANDS = {
    "train": Lazy(
        "prism_cli.commands.train",
        "train",
        "Train every stage of a recipe, on GPUs or on a laptop's CPU.",
        TRAIN,
    ),
    "eval": Lazy(
        "prism_cli.commands.eval",
        "evaluate",
        "Ask checkpoints a suite of benchmarks and compare them with the baseline.",
        TRAIN,
    ),
    "compare": Lazy(
        "prism_cli.commands.compare",
        "compare",
        "Compare models on the same items with a baseline: differences, intervals, tests.",
        TRAIN,
    ),
    "report": Lazy(
        "prism_cli.commands.report",
        "report",
        "Write one HTML file: results, curves, cost, provenance, every response.",
        TRAIN,
    ),
    "plan": Lazy(
        "prism_cli.commands.plan",
        "plan",
        "Say what each stage of a recipe needs: memory, time, disk, and what makes it fit.",
        TRAIN,
    ),
    "release": Lazy(
        "prism_cli.commands.release",
        "app",
        "Publish checked models with their cards on the Hugging Face Hub, and verify what is there.",
        TRAIN,
    ),
    "recipe": Lazy("prism_cli.commands.recipe", "app", "List, show and check recipes.", LOOK),
    "runs": Lazy("prism_cli.commands.runs", "app", "List, show and remove runs.", LOOK),
    "reward": Lazy("prism_cli.commands.reward", "app", "See how the reward judges answers.", LOOK),
    "align": Lazy("prism_cli.commands.align", "app", "See what the discriminator reads and rewards.", LOOK),
    "doctor": Lazy(
        "prism_cli.commands.doctor",
        "doctor",
        "Say whether this machine will carry a run, before the first hour.",
        SET_UP,
    ),
    "data": Lazy("prism_cli.commands.data", "app", "Fetch, make, check and count data.", SET_UP),
    "env": Lazy("prism_cli.commands.env", "app", "List, build, check and remove the engines' environments.", SET_UP),
    "judge": Lazy("prism_cli.commands.judge", "app", "Start a judge, or check one with golden items.", SET_UP),
    "bench": Lazy("prism_cli.commands.bench", "bench", "Measure how fast a part of prism is.", SET_UP),
}


def real_command(name: str) -> Any:
    """The command behind a name, imported now."""
    lazy = COMMANDS[name]
    part = getattr(importlib.import_module(lazy.module), lazy.attribute)
    holder = typer.Typer(rich_markup_mode=MARKUP)
    holder.callback()(lambda: None)
    if isinstance(part, typer.Typer):
        holder.add_typer(part, name=name, help=lazy.help, no_args_is_help=True)
    else:
        holder.command(name)(part)
    return typer.main.get_group(holder).commands[name]


class LazyGroup(TyperGroup):
    """Lists stand-ins, and runs the real commands in their place."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, typer.Abort):  # typer would leave in silence, also where `--json` promises an object
            raise Interrupted("interrupted", "the same command goes on from where it stopped") from None

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, real_command(name) if name in COMMANDS else command, rest


app = typer.Typer(
    name="prism",
    cls=LazyGroup,
    help="Post-train a vision-language model with SFT, PRISM alignment and RLVR, and measure what each stage is worth.",
    epilog="Start with `prism train`: it runs all stages on a small world of handwritten digits, on a CPU.",
    no_args_is_help=True,
    rich_markup_mode=MARKUP,
    pretty_exceptions_enable=False,
)


def _stand_in() -> Callable[[], None]:
    def stand_in() -> None:
        """Never called: `LazyGroup` runs the real command."""

    return stand_in


for _name, _lazy in COMMANDS.items():
    app.command(_name, help=_lazy.help, rich_help_panel=_lazy.panel)(_stand_in())


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"prism {version('prism-suite')}")
        raise typer.Exit


@app.callback()
def prism(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and leave.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Takes the options that stand before the command."""
