"""What a recipe needs from the Hub, and where it goes.

The pools are the paper's own data sets (`prism-vlm`), by the names that the built-in recipes have for them; a pool of
another name is the user's own. Models go where the recipe's paths look for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from integrations.errors import BadInput

if TYPE_CHECKING:
    from prism_cli.recipes.schema import Recipe

Kind = Literal["dataset", "model"]
Form = Literal["pool", "pairs", "folder"]
AUTHORS = "prism-vlm"


@dataclass(frozen=True)
class Source:
    """Files of one repository."""

    repo: str
    kind: Kind
    form: Form
    """`pool`: becomes rows and images; `pairs`: JSON lines beside their images; `folder`: stays as it is."""
    files: tuple[str, ...] = ("*",)
    """Patterns of the files that are wanted."""
    leave: tuple[str, ...] = ()
    """Patterns of files among them that are not."""
    revision: str | None = None
    """Commit, tag or branch; None: the newest of the main branch."""


@dataclass(frozen=True)
class Wanted:
    """A source and the place that it is for."""

    name: str
    """As `--only` has it."""
    source: Source
    target: Path
    """A pool's or the pairs' JSON lines, or a folder."""


def _pool(repo: str, *files: str) -> Source:
    return Source(f"{AUTHORS}/{repo}", "dataset", "pool", files or ("*",), ("README.md", ".gitattributes"))


POOLS = {
    "public": _pool("gemini_public_mmr1"),
    "curated": _pool("gemini_distill"),
    "teacher": _pool("rl_dataset", "rl_training_data_5.9k.parquet"),
    "rlvr": _pool("rl_dataset", "rl_training_data_filtered_2k.parquet"),
    "rlvr-10k": _pool("rl_dataset", "rl_training_data_10k.parquet"),
}
PAIRS = Source(
    f"{AUTHORS}/rl_dataset",
    "dataset",
    "pairs",
    ("qwen3_vl_moe_warmup_pairwise_120k.jsonl", "*.tar.gz", "*.tar", "*.zip"),
)
_LEAVE = ("*.bin", "*.pth", "*.gguf", "*.onnx", "*.h5", "*.msgpack", "original/*", ".gitattributes")
"""Other copies of weights that are in safetensors anyway. (A value head in `.pt` is no copy.)"""


def model(repo: str, revision: str | None = None) -> Source:
    """A model's repository."""
    return Source(repo, "model", "folder", leave=_LEAVE, revision=revision)


def needed(recipe: Recipe) -> tuple[list[Wanted], list[str]]:
    """What a recipe takes from the Hub, and its pools that are not published."""
    found: dict[str, Wanted] = {}
    own: list[str] = []
    if recipe.world.kind == "files":
        data = Path(recipe.world.path)
        for pool in recipe.pools:
            if pool in POOLS:
                found[pool] = Wanted(pool, POOLS[pool], data / f"{pool}.jsonl")
            else:
                own.append(pool)
    models = Path("models").absolute()
    if recipe.model.kind == "hub" and recipe.model.repo:
        name = recipe.model.repo.split("/")[1]
        found[name] = Wanted(name, model(recipe.model.repo, recipe.model.revision), models / name)
    for folder in _values(recipe, "upcycle_from", "init_from"):
        owner = AUTHORS if "-SFT" in folder.name or "Moe" in folder.name else "Qwen"
        if folder.name.startswith("Qwen"):
            found.setdefault(folder.name, Wanted(folder.name, model(f"{owner}/{folder.name}"), folder))
    for pairs in _values(recipe, "pairs"):
        found["pairs"] = Wanted("pairs", PAIRS, pairs)
    return [*found.values()], own


def _values(recipe: Recipe, *fields: str) -> Iterator[Path]:
    """Paths that stages name in these fields, in every arm's own settings."""
    everything = [*recipe.stages.values()]
    everything += [recipe.stage_of(arm, stage) for arm in recipe.arms for stage in recipe.arms[arm].stages]
    for settings in everything:
        for field in fields:
            value = getattr(settings, field, None)
            if isinstance(value, str) and value != "policy":
                yield Path(value)


def extras(data: Path, models: Path) -> list[Wanted]:
    """What no stage asks for by itself: other pools, the warm-up pairs, the published discriminator, benchmarks."""
    found = [Wanted(name, POOLS[name], data / f"{name}.jsonl") for name in POOLS]
    found.append(Wanted("pairs", PAIRS, data.parent / "pairs" / "pairs.jsonl"))
    discriminator = "Qwen3-VL-2B-4X-Moe-warmup-120k"
    found.append(Wanted(discriminator, model(f"{AUTHORS}/{discriminator}"), models / discriminator))
    return [*found, *benchmarks(data.parent / "benchmarks")]


def benchmarks(folder: Path) -> list[Wanted]:
    """The data sets of the suites, laid out as `prism eval --data` and `prism data check --held-out` take them."""
    import re

    import benchmarks.suites as suites

    tasks = Path(suites.__path__[0]) / "tasks"
    texts = (path.read_text(encoding="utf-8") for path in sorted(tasks.glob("*.yaml")))
    repos = {match[1] for text in texts if (match := re.search(r"^dataset_path: (\S+/\S+)$", text, re.MULTILINE))}
    leave = ("README.md", ".gitattributes", "*.zip", "*.tar.gz")
    return [
        Wanted(f"benchmark:{repo}", Source(repo, "dataset", "folder", leave=leave), folder / repo)
        for repo in sorted(repos)
    ]


def chosen(names: Sequence[str], offered: Sequence[Wanted]) -> list[Wanted]:
    """Those that were named, by their own name or a group's: `pools`, `models`, `benchmarks`.

    Raises:
        BadInput: there is none of a name.
    """
    by_name = {one.name: one for one in reversed(offered)}  # what the recipe says goes before what is offered besides
    found: dict[str, Wanted] = {}
    for name in names:
        group = {one.name: one for one in by_name.values() if _group(one) == name}
        if name not in by_name and not group:
            raise BadInput(
                f"--only {name}: there is nothing of that name", f"one of: {', '.join(sorted(by_name))}, {GROUPS}"
            )
        found |= group or {name: by_name[name]}
    return [*found.values()]


GROUPS = "pools, models, benchmarks"


def _group(one: Wanted) -> str:
    if one.name.startswith("benchmark:"):
        return "benchmarks"
    return "models" if one.source.kind == "model" else "pools" if one.source.form == "pool" else ""
