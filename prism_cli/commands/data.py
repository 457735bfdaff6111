"""`prism data`: fetch, check, count and describe the data that stages train on."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from integrations.errors import EXIT_STAGE_FAILED
from prism_cli.commands.data_making import COMMANDS as MAKING

if TYPE_CHECKING:
    from prism_cli.datasets.catalogue import Wanted
    from prism_cli.datasets.choice import Chosen

app = typer.Typer(no_args_is_help=True, help="Fetch, make, check and count data.")

Files = Annotated[
    list[Path] | None,
    typer.Argument(metavar="[FILE]...", help="Pools (JSON lines), or files in the published forms (parquet, JSON)."),
]
OfRecipe = Annotated[str | None, typer.Option("--recipe", help="The pools of this recipe instead of files.")]
Model = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Also count tokens, with this model's tokenizer and image processor."),
]
Jobs = Annotated[
    int | None, typer.Option(min=1, help="Processes or threads that work. [default: the cores, at most 8]")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


@app.command()
def get(
    recipe: Annotated[str, typer.Option(help="A builtin recipe's name or a YAML file.")] = "qwen3-vl-4b",
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Only this; may be repeated. A pool's or model's name, `pools`, `models`, or what no stage needs by "
            "itself: `rlvr-10k`, `pairs`, `benchmarks`.",
        ),
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for the pools. [default: the recipe's own]")
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Commit, tag or branch; with a single --only. [default: the receipt's, or main]")
    ] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Take the newest commits, not those that the receipts name.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show sizes and fetch nothing.")] = False,
    jobs: Jobs = None,
    json_: Json = False,
) -> None:
    """Fetch what a recipe needs from the Hub: pools converted to rows, models as they are.

    A receipt beside each result has the commit, and size and checksum of every file; the next run takes the same commit
    and fetches only what is missing. Gated data need an account: HF_TOKEN, or `hf auth login`.
    """
    from prism_cli.datasets import get as getting
    from prism_cli.datasets import show

    wanted, own, downloads = _wanted(recipe, only, data_dir, revision)
    found = [getting.plan(one, downloads, update, revision) for one in wanted]
    told = [one.told() for one in found]
    if not json_:
        show.plans(told, own, dry_run)
    getting.check_space(found)
    done = [] if dry_run else [getting.fetch(one, _jobs(jobs), _news(json_)) for one in found]
    if json_:
        _print_json({"plans": told, "own": own, "receipts": done})
    elif done:
        if any(one.wanted.source.form != "folder" for one in found):
            print(f"{_short(downloads)} holds the files as they were fetched; it can be removed")
        show.receipts([(_short(one.wanted.target), receipt) for one, receipt in zip(found, done, strict=True)])


@app.command()
def check(
    files: Files = None,
    recipe: OfRecipe = None,
    use: Annotated[
        str | None,
        typer.Option(help="What the rows are for: sft, teacher, rlvr or test. [default: a recipe says it; else any]"),
    ] = None,
    held_out: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH",
            help="Pools, or the folder of `prism eval --data`, that must not be trained on; may be repeated. "
            "[default: a recipe's own held-out pools]",
        ),
    ] = None,
    pictures: Annotated[
        bool | None,
        typer.Option(
            "--pictures/--no-pictures",
            help="Open every picture: can it be read, is it held out. [default: if something is held out]",
        ),
    ] = None,
    jobs: Jobs = None,
    json_: Json = False,
) -> None:
    """Check rows: fields, segments, duplicates, and what is held out. Exit code 1 if something is not sound.

    A held-out picture is found also after JPEG compression or resizing; a question by runs of 13 words.
    """
    from integrations.errors import BadInput
    from prism_cli.datasets import check as checking
    from prism_cli.datasets import show
    from prism_cli.datasets.choice import choose
    from prism_cli.datasets.leakage import HeldOut
    from prism_cli.datasets.schema import USES

    if use is not None and use not in USES:
        raise BadInput(f"--use {use}: rows are not used for that", f"one of: {', '.join(USES)}")
    chosen = choose(files, recipe, use)
    apart = [*(held_out or []), *chosen.held_out]
    look = bool(apart) if pictures is None else pictures
    known = HeldOut.read(apart, look, _jobs(jobs), show.counter("held-out questions")) if apart else None
    told = []
    for file, purpose in chosen.files.items():
        tick = show.counter(f"{file.name}: rows")
        told.append(checking.check(file, purpose, known, look, _jobs(jobs), tick).told())
        if not json_:
            show.report(told[-1])
    if json_:
        _print_json({"files": told, "sound": all(one["sound"] for one in told)})
    if not all(one["sound"] for one in told):
        raise typer.Exit(EXIT_STAGE_FAILED)


@app.command()
def stats(
    files: Files = None,
    recipe: OfRecipe = None,
    model: Model = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Count rows of more tokens. [default: the recipe's `sft.max_length`]")
    ] = None,
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the histogram of tokens.")] = None,
    jobs: Jobs = None,
    json_: Json = False,
) -> None:
    """Count rows, sources, images, and lengths in characters and tokens.

    An image's tokens follow from its size; texts are counted by the model's tokenizer, in LLaMA-Factory's environment.
    """
    from integrations.errors import BadInput
    from prism_cli.datasets import show
    from prism_cli.datasets import stats as counting
    from prism_cli.datasets.choice import choose

    chosen = choose(files, recipe)
    folder = model or chosen.model
    if png is not None and folder is None:
        raise BadInput("--png draws tokens, and no model counts them", "name a model's folder with --model")
    told = []
    for file, found, lengths in _counted(chosen, folder, limit, jobs, json_):
        told.append(found)
        if png is not None:
            out = png if len(chosen.files) == 1 else png.with_name(f"{png.stem}-{file.stem}{png.suffix}")
            counting.draw(lengths, out, file.stem, limit or chosen.limit)
        if not json_:
            show.statistics(found)
    if json_:
        _print_json({"files": told})


@app.command()
def card(
    files: Files = None,
    recipe: OfRecipe = None,
    name: Annotated[str, typer.Option(help="The data set's title.")] = "Pools for PRISM",
    license_: Annotated[
        str, typer.Option("--license", help="The Hub's licence id; for data of others, theirs.")
    ] = "unknown",
    summary: Annotated[str, typer.Option(help="What the data are, in words.")] = "",
    model: Model = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it here. [default: standard output]")] = None,
    jobs: Jobs = None,
) -> None:
    """Write a data set's card (README.md of a Hub repository) from what is counted of its pools."""
    from integrations.common.dataset_card import card as written
    from integrations.common.files import read_json, write_text
    from prism_cli.datasets.choice import choose
    from prism_cli.datasets.get import receipt_of

    chosen = choose(files, recipe)
    pools = {file.stem: found for file, found, _ in _counted(chosen, model or chosen.model, None, jobs, True)}
    receipts = [receipt for file in chosen.files if (receipt := read_json(receipt_of(file)))]
    text = written(name, pools, license_, summary, receipts)
    if out is None:
        print(text, end="")
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, text)
        print(f"written: {out}", file=sys.stderr)


def _counted(chosen: Chosen, model: Path | None, limit: int | None, jobs: int | None, quiet: bool) -> Any:
    """Every file with its statistics and, where a model counts, its lengths in tokens."""
    from prism_cli.datasets import show
    from prism_cli.datasets import stats as counting
    from prism_cli.datasets.tokens import count

    for file in chosen.files:
        found = counting.statistics(file, show.counter(f"{file.name}: rows"))
        lengths = None
        if model is not None:
            lengths = count(
                file, model, _jobs(jobs), _news(quiet), show.counter(f"{file.name}: rows counted in tokens")
            )
            found["tokens"] = counting.token_statistics(lengths, limit or chosen.limit)
        show.clear()
        yield file, found, lengths


def _wanted(
    recipe: str, only: Sequence[str] | None, data_dir: Path | None, revision: str | None
) -> tuple[list[Wanted], list[str], Path]:
    """What is to be fetched, the recipe's pools that are not published, and the folder for what is converted."""
    from dataclasses import replace

    from integrations.errors import BadInput
    from prism_cli.datasets.catalogue import chosen, extras, needed
    from prism_cli.recipes.load import load

    found = load(recipe).recipe
    wanted, own = needed(found)
    folder = data_dir or (Path(found.world.path) if found.world.kind == "files" else Path("data/prism"))
    folder = folder.absolute()
    if data_dir is not None:
        wanted = [replace(w, target=folder / w.target.name) if w.source.form == "pool" else w for w in wanted]
    if only:
        wanted, own = chosen(only, [*wanted, *extras(folder, Path("models").absolute())]), []
    if not wanted:
        raise BadInput(f"recipe {found.name} takes nothing from the Hub", "it needs no `prism data get`")
    if revision is not None and len(wanted) > 1:
        raise BadInput("--revision is one repository's, and several are to be fetched", "name one with --only")
    return wanted, own, folder.parent / "hub"


def _jobs(given: int | None) -> int:
    return given or min(8, len(os.sched_getaffinity(0)))


def _news(quiet: bool) -> Callable[[str], None]:
    """For people: on standard error, so that standard output has the result alone."""
    return lambda text: None if quiet else print(text, file=sys.stderr)


def _short(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def _print_json(told: object) -> None:
    print(json.dumps(told, indent=2, ensure_ascii=False))


for _name, _command in MAKING.items():
    app.command(_name)(_command)
