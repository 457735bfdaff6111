"""Which files a command is about: named ones, or a recipe's pools with what each is used for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from integrations.errors import BadInput

if TYPE_CHECKING:
    from prism_cli.recipes.schema import Recipe


@dataclass(frozen=True)
class Chosen:
    """Files to look at."""

    files: dict[Path, str | None]
    """With what each is used for (`schema.USES`), None where that is not known."""
    held_out: list[Path]
    """The recipe's own held-out pools."""
    model: Path | None
    """The recipe's first policy where it is a folder here."""
    limit: int | None
    """The longest row that its SFT takes, in tokens."""


def choose(files: Sequence[Path] | None, recipe: str | None, use: str | None = None) -> Chosen:
    """The files that were named, or the pools of a recipe.

    Raises:
        BadInput: neither or both were given, a file is missing, or the recipe's pools are generated.
    """
    if bool(files) == (recipe is not None):
        raise BadInput("say which data to look at", "name files, or give --recipe")
    if files:
        for file in files:
            if not file.is_file():
                raise BadInput(f"there is no file {file}", "name JSON lines, JSON or parquet files")
        return Chosen(dict.fromkeys(files, use), [], None, None)
    from prism_cli.recipes.load import load

    found = load(recipe).recipe
    if found.world.kind != "files":
        raise BadInput(
            f"the pools of recipe {found.name} are generated for each run",
            "name a run's: runs/<run>/data/pools/*.jsonl",
        )
    folder = Path(found.world.path)
    uses = uses_of(found)
    there: dict[Path, str | None] = {folder / f"{pool}.jsonl": uses[pool] for pool in found.pools if pool in uses}
    missing = [file.stem for file in there if not file.is_file()]
    if missing:
        raise BadInput(
            f"{', '.join(missing)} of recipe {found.name} {'is' if len(missing) == 1 else 'are'} not in {folder}",
            f"fetch what is published: prism data get --recipe {recipe}",
        )
    held_out = [folder / f"{pool}.jsonl" for pool in (found.evaluation.pool, found.evaluation.eval_pool)]
    return Chosen(there, [file for file in held_out if file.is_file()], _model(found), _limit(found))


def uses_of(recipe: Recipe) -> dict[str, str]:
    """What each pool that is trained on is for; of several uses the one that asks most of a row."""
    uses: dict[str, str] = {}
    for arm in recipe.arms:
        for name in recipe.arms[arm].stages:
            settings = recipe.stage_of(arm, name)
            for pool in getattr(settings, "data", None) or []:
                uses.setdefault(pool, settings.kind)
    for settings in recipe.stages.values():
        teacher = getattr(settings, "teacher", None)
        if isinstance(teacher, str):
            uses[teacher] = "teacher"
    return uses


def _model(recipe: Recipe) -> Path | None:
    if recipe.model.kind != "hub":
        return None
    folder = Path(recipe.model.path or Path("models") / str(recipe.model.repo).split("/")[-1])
    return folder if (folder / "tokenizer.json").is_file() else None


def _limit(recipe: Recipe) -> int | None:
    limits = [stage.max_length for stage in recipe.stages.values() if stage.kind == "sft"]
    return min(limits, default=None)
