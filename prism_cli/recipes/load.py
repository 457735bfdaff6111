"""Recipes from files: inheritance, profiles, `--set`, and errors that name the layer, the field and the fix.

A recipe is a stack of layers: the recipe it extends (and so on down), the recipe itself, a profile, single values from
the command line. Mappings are merged, lists and values replaced. In the mappings of named things (`stages`, `arms`,
`profiles`) null removes an inherited entry; elsewhere null is a value.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from integrations.errors import BadInput
from prism_cli.recipes import text as yaml_text
from prism_cli.recipes.fields import complaint, meant, step
from prism_cli.recipes.schema import FORMAT, Recipe

BUILTIN = Path(__file__).with_name("builtin")
DEFAULT = "digits"
_PATHS = (
    ("world", "path"),
    ("model", "path"),
    *(("stages", "*", name) for name in ("upcycle_from", "init_from", "pairs", "deepspeed")),
)
"""Fields that hold a path; `policy` in `upcycle_from` is a word, not a path."""


@dataclass(frozen=True)
class Resolved:
    """A recipe with everything applied, and where it came from."""

    recipe: Recipe
    source: str
    """The builtin's name or the file's path."""
    chain: list[str]
    """Every layer in the order applied, e.g. `digits`, `mine.yaml`, `--profile quick`, `--set machine.jobs=2`."""


@dataclass(frozen=True)
class _Layer:
    """One part of a recipe: a file's content, a profile, or a single value."""

    name: str
    """As the chain has it."""
    data: dict[str, Any]
    where: str = ""
    """What to call it in a message; its name if empty."""
    is_change: bool = False
    """Whether it was given on the command line."""


def builtin_names() -> list[str]:
    """Names of the recipes that come with prism: the default first, ablations last."""
    return sorted(_builtins(), key=lambda name: (name != DEFAULT, is_ablation(name), name))


def is_ablation(name: str) -> bool:
    """Whether a builtin recipe is one of the ablations."""
    return _builtins()[name].parent != BUILTIN


def _builtins() -> dict[str, Path]:
    return {path.stem: path for path in BUILTIN.rglob("*.yaml")}


def load(
    name_or_file: str | None = None,
    profile: str | None = None,
    sets: Iterable[str] = (),
    algorithm: str | None = None,
) -> Resolved:
    """Read, merge and check a recipe.

    Args:
        name_or_file: a builtin's name or a YAML file; None is the default recipe.
        profile: one of the recipe's profiles.
        sets: changes as `key=value`; the key is a dotted path from the top (`stages.sft.epochs`) or from a stage's
            name (`sft.epochs`), the value is YAML.
        algorithm: of every RLVR stage; laid over the recipe before profile and changes.

    Raises:
        BadInput: the recipe cannot be read or run as it is.
    """
    stack = _files(name_or_file)
    source, data = stack[-1].name, _merged(stack)
    profiles = _profiles(source, data)
    if algorithm is not None:
        stack.append(_Layer(f"--algorithm {algorithm}", _algorithm(algorithm, source, data), is_change=True))
        data = merge(data, stack[-1].data)
    if profile is not None:
        content = _profile(source, profile, profiles)
        stack.append(_Layer(f"--profile {profile}", content, f"{source}, profile `{profile}`", is_change=True))
        data = merge(data, stack[-1].data)
    for change in sets:
        stack.append(_Layer(f"--set {change}", _change(change, data), is_change=True))
        data = merge(data, stack[-1].data)
    data = {field: value for field, value in data.items() if field not in ("extends", "profiles")}
    return Resolved(_checked(data, stack), source, [layer.name for layer in stack])


def profile_names(name_or_file: str | None = None) -> list[str]:
    """Names of a recipe's profiles, inherited ones included.

    Raises:
        BadInput: the recipe cannot be read.
    """
    stack = _files(name_or_file)
    return [*_profiles(stack[-1].name, _merged(stack))]


def source_text(name_or_file: str | None = None) -> str:
    """The recipe's own file as it is written, comments included.

    Raises:
        BadInput: there is no such recipe, or it cannot be read.
    """
    return _text(_locate(name_or_file or DEFAULT, Path.cwd(), None))


def dump(recipe: Recipe) -> str:
    """The fully resolved recipe as YAML that loads back to an equal recipe."""
    return yaml_text.write(recipe.model_dump(mode="json", exclude={"extends", "profiles"}))


def merge(below: Any, above: Any, path: tuple[str, ...] = ()) -> Any:
    """`above` laid over `below`: mappings merged, the rest replaced; null removes a named thing. Changes neither."""
    if not isinstance(below, dict) or not isinstance(above, dict) or _is_another_kind(below, above):
        return copy.deepcopy(above)
    merged = copy.deepcopy(below)
    for key, value in above.items():
        if value is None and _names_things(path):
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value, (*path, key))
    return merged


def _is_another_kind(below: dict[str, Any], above: dict[str, Any]) -> bool:
    """Settings of another kind replace the old ones whole: their fields have nothing in common."""
    return "kind" in below and "kind" in above and below["kind"] != above["kind"]


def _names_things(path: tuple[str, ...]) -> bool:
    path = path[2:] if path[:1] == ("profiles",) and len(path) > 1 else path
    return path in (("stages",), ("arms",), ("profiles",))


# Files


def _files(name_or_file: str | None) -> list[_Layer]:
    """The recipe's file and those it extends, the lowest first."""
    path = _locate(name_or_file or DEFAULT, Path.cwd(), None)
    paths: list[Path] = []
    stack: list[_Layer] = []
    while path not in paths:
        paths.append(path)
        stack.insert(0, _Layer(_label(path), _anchored(_read(path), path)))
        parent = stack[0].data.get("extends")
        if parent is None:
            return stack
        if not isinstance(parent, str) or not parent:
            raise BadInput(f"{_label(path)}, field `extends`: not a recipe's name or file", _other_recipes())
        path = _locate(parent, path.parent, path)
    circle = " -> ".join(_label(p) for p in (*paths, path))
    raise BadInput(f"{_label(paths[-1])}, field `extends`: goes in a circle: {circle}", "cut the circle")


def _merged(stack: list[_Layer]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for layer in stack:
        data = merge(data, layer.data)
    return data


def _locate(name: str, folder: Path, asked_by: Path | None) -> Path:
    """The file of a recipe: a builtin's name, or a path from `folder`."""
    looks_like_file = "/" in name or "\\" in name or name.endswith((".yaml", ".yml"))
    if not looks_like_file:
        if name in builtin_names():
            return _builtins()[name]
        if not (folder / name).is_file():
            where = f"{_label(asked_by)}, field `extends`: " if asked_by else ""
            raise BadInput(f"{where}there is no recipe `{name}`{meant(name, builtin_names())}", _other_recipes())
    return _absolute(folder, name)


def _text(path: Path) -> str:
    return yaml_text.read_file(path, _label(path), _other_recipes())


def _read(path: Path) -> dict[str, Any]:
    """One file's mapping; refuses what is not YAML, not a mapping, or of a newer format."""
    where = _label(path)
    try:
        data = yaml_text.parse(_text(path))
    except yaml_text.NotYaml as error:
        place = f", {error.place}" if error.place else ""
        raise BadInput(f"{where}{place}: {error.reason}", "correct the YAML there") from error
    if data is None:
        raise BadInput(f"{where} is empty", f"start with a line `extends: {DEFAULT}`")
    if not isinstance(data, dict):
        raise BadInput(f"{where} does not hold `key: value` lines", f"start with a line `extends: {DEFAULT}`")
    version = data.get("format", FORMAT)
    if isinstance(version, int) and not isinstance(version, bool) and version > FORMAT:
        raise BadInput(
            f"{where}, field `format`: this recipe needs a newer prism (format {version}, this one reads {FORMAT})",
            "upgrade prism, or use a recipe of the older format",
        )
    return data


def _anchored(data: dict[str, Any], path: Path) -> dict[str, Any]:
    """Relative paths in a user's recipe start at its file; a builtin's start where the command runs."""
    folder = Path.cwd() if path.is_relative_to(BUILTIN) else path.parent
    profiles = data.get("profiles")
    for part in (data, *(profiles.values() if isinstance(profiles, dict) else ())):
        for field in _PATHS:
            _anchor(part, field, folder)
    return data


def _anchor(part: Any, field: tuple[str, ...], folder: Path) -> None:
    if not isinstance(part, dict):
        return
    for key in [*part] if field[0] == "*" else [field[0]]:
        value = part.get(key)
        if len(field) > 1:
            _anchor(value, field[1:], folder)
        elif isinstance(value, str) and value not in ("", "policy"):
            part[key] = str(_absolute(folder, value))


def _absolute(folder: Path, name: str) -> Path:
    return Path(os.path.abspath(folder / os.path.expanduser(name)))


def _label(path: Path) -> str:
    """What to call a recipe's file in a message."""
    if path.is_relative_to(BUILTIN):
        return path.stem
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _other_recipes() -> str:
    return f"name a YAML file, or one of the builtin recipes: {', '.join(builtin_names())}"


# Profiles


def _profiles(source: str, data: dict[str, Any]) -> dict[str, Any]:
    profiles = data.get("profiles") or {}
    if not isinstance(profiles, dict):
        problem = f"{source}, field `profiles`: not a mapping of partial recipes"
        raise BadInput(problem, "give each a name, or remove it")
    return profiles


def _profile(source: str, name: str, profiles: dict[str, Any]) -> dict[str, Any]:
    if name not in profiles:
        fix = f"its profiles: {', '.join(profiles)}" if profiles else "run it without --profile"
        raise BadInput(f"recipe {source} has no profile `{name}`{meant(name, profiles)}", fix)
    partial = profiles[name]
    if not isinstance(partial, dict):
        raise BadInput(f"{source}, field `profiles.{name}`: not a partial recipe", "give it `key: value` lines")
    for field in ("extends", "profiles", "format"):
        if field in partial:
            raise BadInput(f"{source}, field `profiles.{name}.{field}`: a profile cannot have this", "remove it")
    return partial


# --algorithm and --set


def _algorithm(name: str, source: str, data: dict[str, Any]) -> dict[str, Any]:
    """The algorithm as a partial recipe: that of every RLVR stage."""
    stages = data.get("stages")
    named = stages.items() if isinstance(stages, dict) else ()
    changed = [key for key, stage in named if isinstance(stage, dict) and stage.get("kind") == "rlvr"]
    if not changed:
        raise BadInput(f"--algorithm {name}: recipe {source} has no RLVR stage", "run it without --algorithm")
    return {"stages": {key: {"algorithm": name} for key in changed}}


def _change(change: str, data: dict[str, Any]) -> dict[str, Any]:
    """`key=value` as a partial recipe."""
    key, equals, raw = change.partition("=")
    if not equals or not key.strip():
        raise BadInput(f"--set {change}: not `key=value`", "e.g. --set rlvr.steps=50")
    try:
        value = yaml_text.parse(raw)
    except yaml_text.NotYaml as error:
        raise BadInput(
            f"--set {change}: {error.reason}", "write the value as YAML: 'sft.data=[sft, teacher]'"
        ) from error
    path = _path_of(key.strip(), data)
    _check_path(change, path, data)
    for part in reversed(path):
        value = {part: value}
    return _anchored(value, Path.cwd() / "--set")


def _path_of(key: str, data: dict[str, Any]) -> list[str]:
    path = key.split(".")
    stages = data.get("stages")
    if path[0] not in Recipe.model_fields and isinstance(stages, dict) and path[0] in stages:
        path = ["stages", *path]
    if path[0] == "arms" and len(path) > 4 and path[2] == "set":
        path = [*path[:3], ".".join(path[3:])]
    return path


def _check_path(change: str, path: list[str], data: dict[str, Any]) -> None:
    """Every part of the path must be a field that exists, or a new name at the end of a mapping of names."""
    if path[0] in ("extends", "profiles", "format"):
        raise BadInput(f"--set {change}: `{path[0]}` can only be given in a recipe file", "remove this --set")
    where: Any = Recipe
    value: Any = data
    for depth, part in enumerate(path):
        known, following = step(where, part, value)
        begun = ".".join(path[:depth])
        if known is None:
            raise BadInput(f"--set {change}: `{begun}` has no fields", "shorten the key")
        is_new_name = following is not None and depth == len(path) - 1
        if part not in known and not is_new_name:
            stages = data.get("stages")
            names = [*known, *stages] if depth == 0 and isinstance(stages, dict) else known
            what = f"`{begun}` has no field `{part}`" if begun else f"a recipe has no field `{part}`"
            raise BadInput(f"--set {change}: {what}{meant(part, names)}", "prism recipe schema lists all fields")
        where, value = following, value.get(part) if isinstance(value, dict) else None


# Checking


def _checked(data: dict[str, Any], stack: list[_Layer]) -> Recipe:
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        records = error.errors()
    lines = []
    for record in records[:5]:
        path, message = complaint(record, data)
        field = f", field `{'.'.join(path)}`" if path else ""
        lines.append(f"{_origin(path, stack, is_of_many=not record['loc'])}{field}: {message}")
    if len(records) > 5:
        lines.append(f"and {len(records) - 5} more")
    raise BadInput("\n".join(lines), "correct the recipe; `prism recipe schema` describes every field")


def _origin(path: list[str], stack: list[_Layer], is_of_many: bool) -> str:
    """The layer that gave a field: the topmost of those that reach deepest into its path.

    Args:
        path: the field.
        stack: all layers, the lowest first.
        is_of_many: whether other fields may be the cause as well; then changes from the command line are named too.
    """
    best = stack[-1]
    for layer in reversed(stack):
        if _depth(path, layer.data) > _depth(path, best.data):
            best = layer
    changes = [layer.name for layer in stack if layer.is_change and layer is not best]
    also = f" with {', '.join(changes)}" if is_of_many and changes and not best.is_change else ""
    return (best.where or best.name) + also


def _depth(path: list[str], data: Any) -> int:
    """How many parts of the path a layer has."""
    for depth, part in enumerate(path):
        if not isinstance(data, dict) or part not in data:
            return depth
        data = data[part]
    return len(path)
