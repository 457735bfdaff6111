"""Recipes from YAML files: inheritance, profiles, `--set`, and errors that name the file, the field and the fix.

A recipe is a stack of layers: the recipe it extends (and so on down), the recipe itself, a profile, single values from
the command line. Mappings are merged, lists and values replaced. In the mappings of named things (`stages`, `arms`,
`profiles`) null removes an inherited entry; elsewhere null is a value.

The YAML read here is narrower than the standard's first version: only `true` and `false` are booleans, `1e-5` is a
number, dates and times are text, a key may occur once, and anchors are refused.
"""

from __future__ import annotations

import copy
import difflib
import os
import re
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from integrations.errors import BadInput
from prism_cli.recipes.schema import FORMAT, Recipe, plain_message

BUILTIN = Path(__file__).with_name("builtin")
DEFAULT = "digits"
_LARGEST = 1_000_000
"""Bytes; a recipe is a page or two, so more is some other file."""
_PATHS = (("world", "path"), ("model", "path"), ("stages", "*", "upcycle_from"), ("stages", "*", "deepspeed"))
"""Fields that hold a path; `policy` in `upcycle_from` is a word, not a path."""


@dataclass(frozen=True)
class Resolved:
    """A recipe with everything applied, and where it came from."""

    recipe: Recipe
    source: str
    """The builtin's name or the file's path."""
    chain: list[str]
    """Every layer in the order applied, e.g. `digits`, `mine.yaml`, `--profile quick`, `--set machine.jobs=2`."""


def builtin_names() -> list[str]:
    """Names of the recipes that come with prism, the default first."""
    return sorted((path.stem for path in BUILTIN.glob("*.yaml")), key=lambda name: (name != DEFAULT, name))


def load(name_or_file: str | None = None, profile: str | None = None, sets: Iterable[str] = ()) -> Resolved:
    """Read, merge and check a recipe.

    Args:
        name_or_file: a builtin's name or a YAML file; None is the default recipe.
        profile: one of the recipe's profiles.
        sets: changes as `key=value`; the key is a dotted path from the top (`stages.sft.epochs`) or from a stage's
            name (`sft.epochs`), the value is YAML.

    Raises:
        BadInput: the recipe cannot be read or run as it is.
    """
    source, data, chain = layers(name_or_file)
    profiles = data.pop("profiles", None) or {}
    data.pop("extends", None)
    if profile is not None:
        _check_profile(source, profile, profiles)
        data = merge(data, profiles[profile])
        chain.append(f"--profile {profile}")
    for text in sets:
        data = _with_set(source, data, text)
        chain.append(f"--set {text}")
    return Resolved(_validate(source, data), source, chain)


def profile_names(name_or_file: str | None = None) -> list[str]:
    """Names of a recipe's profiles, inherited ones included.

    Raises:
        BadInput: the recipe cannot be read.
    """
    return [*(layers(name_or_file)[1].get("profiles") or {})]


def dump(recipe: Recipe) -> str:
    """The fully resolved recipe as YAML that loads back to an equal recipe."""
    data = recipe.model_dump(mode="json", exclude={"extends", "profiles"})
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110, default_flow_style=False)


def one_line(value: Any) -> str:
    """A value as YAML on one line."""
    text = yaml.dump(
        value, Dumper=_OneLineDumper, sort_keys=False, allow_unicode=True, width=10**9, default_flow_style=True
    )
    return text.removesuffix("...\n").strip()


# Reading one file


class _Loader(yaml.SafeLoader):
    """Safe YAML without the surprises named at the top."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"`{key}` is not a name", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"`{key}` is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if getattr(event, "anchor", None):
            raise yaml.composer.ComposerError(None, None, "anchors and aliases are not used here", event.start_mark)
        return super().compose_node(parent, index)


class _OneLineDumper(yaml.SafeDumper):
    """Writes what `_Loader` reads back."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> Any:
        # Written plain, some of Unicode's line breaks would be read back as spaces; in double quotes they are escaped.
        style = None if data.isprintable() or data.isascii() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


class _Dumper(_OneLineDumper):
    """The same over many lines, lists of plain values on one."""

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> Any:
        scalars = all(not isinstance(item, list | tuple | dict) for item in sequence)
        return super().represent_sequence(tag, sequence, flow_style=scalars)


def _narrow(scheme: Any) -> None:
    """Give a loader or dumper the scalar types of YAML 1.2's core schema."""
    kept = {"tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"}
    scheme.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag in kept]
        for first, resolvers in scheme.yaml_implicit_resolvers.items()
    }
    scheme.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))
    scheme.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$"), list("-+0123456789"))
    number = r"^[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$|^[-+]?\.inf$|^\.nan$"
    scheme.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(number), list("-+.0123456789"))


_OneLineDumper.add_representer(str, _OneLineDumper.represent_str)
_narrow(_Loader)
_narrow(_OneLineDumper)
_narrow(_Dumper)


def _read(path: Path) -> dict[str, Any]:
    """One file's mapping.

    Raises:
        BadInput: the file cannot be read, is not YAML, is not a mapping, or has a newer format.
    """
    return _parse(read_text(path), _label(path))


def read_text(path: Path) -> str:
    """A recipe file's text.

    Raises:
        BadInput: the file cannot be read, or is no recipe by its size or encoding.
    """
    try:
        if path.is_dir():
            raise BadInput(f"{_label(path)} is a folder, not a recipe", "name the YAML file in it")
        if path.exists() and not path.is_file():
            raise BadInput(f"{_label(path)} is not a file", "name a YAML file")
        if path.stat().st_size > _LARGEST:
            raise BadInput(
                f"{_label(path)} is larger than any recipe ({path.stat().st_size} bytes)", "check the file's name"
            )
        raw = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise BadInput(f"cannot read the recipe {_label(path)}: {reason}", _other_recipes()) from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(
            f"{_label(path)} is not text (byte {error.start} is not UTF-8)", "save it as UTF-8 YAML"
        ) from error


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        data = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise BadInput(f"{where}{place}: {error.problem or error.context}", "correct the YAML there") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise BadInput(f"{where}: not YAML ({reason})", "correct the YAML there") from error
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


# Stacking layers


def layers(name_or_file: str | None) -> tuple[str, dict[str, Any], list[str]]:
    """The recipe's source, its data with everything it extends merged in (profiles kept), and the chain's names.

    Raises:
        BadInput: a file of the chain cannot be read, or the chain has no end.
    """
    path = locate(name_or_file)
    source = _label(path)
    chain: list[tuple[Path, dict[str, Any]]] = []
    while True:
        if path in (earlier for earlier, _ in chain):
            names = " -> ".join(_label(p) for p in (*(p for p, _ in chain), path))
            raise BadInput(f"{_label(chain[-1][0])}, field `extends`: goes in a circle: {names}", "cut the circle")
        data = _anchored(_read(path), path)
        chain.append((path, data))
        parent = data.get("extends")
        if parent is None:
            break
        if not isinstance(parent, str) or not parent:
            raise BadInput(f"{_label(path)}, field `extends`: not a recipe's name or file", _other_recipes())
        path = _locate(parent, path.parent, path)
    merged: dict[str, Any] = {}
    for _, data in reversed(chain):
        merged = merge(merged, data)
    if not isinstance(merged.get("profiles") or {}, dict):
        raise BadInput(
            f"{source}, field `profiles`: not a mapping of partial recipes", "give each a name, or remove it"
        )
    return source, merged, [_label(p) for p, _ in reversed(chain)]


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


def locate(name_or_file: str | None) -> Path:
    """The file of a recipe that a user names; None is the default recipe.

    Raises:
        BadInput: there is no builtin recipe of that name.
    """
    return _locate(name_or_file or DEFAULT, Path.cwd(), None)


def _locate(name: str, folder: Path, asked_by: Path | None) -> Path:
    """The file of a recipe: a builtin's name, or a path from `folder`."""
    looks_like_file = "/" in name or "\\" in name or name.endswith((".yaml", ".yml"))
    if not looks_like_file:
        if name in builtin_names():
            return BUILTIN / f"{name}.yaml"
        if not (folder / name).is_file():
            where = f"{_label(asked_by)}, field `extends`: " if asked_by else ""
            raise BadInput(f"{where}there is no recipe `{name}`{_meant(name, builtin_names())}", _other_recipes())
    return _absolute(folder, name)


def _anchored(data: dict[str, Any], path: Path) -> dict[str, Any]:
    """Relative paths in a user's recipe start at its file; a builtin's start where the command runs."""
    folder = Path.cwd() if path.parent == BUILTIN else path.parent
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


def _check_profile(source: str, profile: str, profiles: dict[str, Any]) -> None:
    names = [*profiles]
    if profile not in profiles:
        fix = f"its profiles: {', '.join(names)}" if names else "run it without --profile"
        raise BadInput(f"recipe {source} has no profile `{profile}`{_meant(profile, names)}", fix)
    partial = profiles[profile]
    if not isinstance(partial, dict):
        raise BadInput(f"{source}, field `profiles.{profile}`: not a partial recipe", "give it `key: value` lines")
    for field in ("extends", "profiles", "format"):
        if field in partial:
            raise BadInput(f"{source}, field `profiles.{profile}.{field}`: a profile cannot have this", "remove it")


# --set


def _with_set(source: str, data: dict[str, Any], text: str) -> dict[str, Any]:
    key, equals, raw = text.partition("=")
    if not equals or not key.strip():
        raise BadInput(f"--set {text}: not `key=value`", "e.g. --set rlvr.steps=50")
    try:
        value = yaml.load(raw, Loader=_Loader)
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or "not YAML"
        raise BadInput(
            f"--set {text}: {problem}", "quote the value as YAML, for example: 'sft.data=[sft, teacher]'"
        ) from error
    path = _set_path(data, key.strip())
    _check_set_path(text, data, path)
    change: Any = value
    for part in reversed(path):
        change = {part: change}
    return merge(data, _anchored(change, Path.cwd() / "--set"))


def _set_path(data: dict[str, Any], key: str) -> list[str]:
    path = key.split(".")
    stages = data.get("stages")
    if path[0] not in Recipe.model_fields and isinstance(stages, dict) and path[0] in stages:
        path = ["stages", *path]
    if path[0] == "arms" and len(path) > 4 and path[2] == "set":
        path = [*path[:3], ".".join(path[3:])]
    return path


def _check_set_path(text: str, data: dict[str, Any], path: list[str]) -> None:
    """Every part of the path must be a field that exists, or a new name at the end of a mapping of names."""
    if path[0] in ("extends", "profiles", "format"):
        raise BadInput(f"--set {text}: `{path[0]}` can only be given in a recipe file", "remove this --set")
    where: Any = Recipe
    value: Any = data
    for depth, part in enumerate(path):
        known, following = _step(where, part, value)
        begun = ".".join(path[:depth])
        if known is None:
            raise BadInput(f"--set {text}: `{begun}` has no fields", "shorten the key")
        is_new_name = following is not None and depth == len(path) - 1
        if part not in known and not is_new_name:
            stages = data.get("stages")
            names = [*known, *stages] if depth == 0 and isinstance(stages, dict) else known
            what = f"`{begun}` has no field `{part}`" if begun else f"a recipe has no field `{part}`"
            raise BadInput(f"--set {text}: {what}{_meant(part, names)}", "prism recipe schema lists all fields")
        where, value = following, value.get(part) if isinstance(value, dict) else None


def _step(annotation: Any, part: str, value: Any) -> tuple[list[str] | None, Any]:
    """Names known at a place of the recipe, and the type behind `part`.

    For a settings class the names are its fields; for a mapping of names, those it holds, and any new one has the
    mapping's type. (None, None) where nothing can be below.
    """
    annotation = _plain(annotation, value)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        field = annotation.model_fields.get(part)
        return [*annotation.model_fields], field.annotation if field else None
    if typing.get_origin(annotation) in (dict, Mapping):
        return [*value] if isinstance(value, dict) else [], typing.get_args(annotation)[1]
    return None, None


def _plain(annotation: Any, value: Any) -> Any:
    """The class that `value` belongs to: Annotated and Optional taken off, a union decided by `kind`."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _plain(typing.get_args(annotation)[0], value)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        members = [member for member in typing.get_args(annotation) if member is not type(None)]
        kind = value.get("kind") if isinstance(value, dict) else None
        chosen = [m for m in members if kind_of(m) == kind] or members
        return _plain(chosen[0], value)
    return annotation


def kind_of(settings: Any) -> str | None:
    """The value of `kind` that a settings class answers to, or None."""
    field: FieldInfo | None = getattr(settings, "model_fields", {}).get("kind")
    return typing.get_args(field.annotation)[0] if field is not None else None


# Checking


def _validate(source: str, data: dict[str, Any]) -> Recipe:
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        problems = [_problem(record, data) for record in error.errors()]
    lines = [f"{source}, {problem}" for problem in problems[:5]]
    if len(problems) > 5:
        lines.append(f"and {len(problems) - 5} more")
    raise BadInput("\n".join(lines), "correct the recipe; `prism recipe schema` describes every field")


def _problem(record: Any, data: dict[str, Any]) -> str:
    """One of pydantic's complaints with the field's dotted path and, for an unknown field, what may have been meant."""
    path = _path_in_recipe(record["loc"], data)
    field = ".".join(path)
    message = plain_message(record)
    if record["type"] == "extra_forbidden":
        message += _meant(path[-1], _siblings(path, data))
    elif record["type"] in ("union_tag_invalid", "union_tag_not_found"):
        field, message = f"{field}.kind", f"must be one of {record['ctx'].get('expected_tags') or _kinds(path)}"
    if field:
        return f"field `{field}`: {message}"
    where, colon, rest = message.partition(": ")
    return f"field `{where}`: {rest}" if colon and re.fullmatch(r"[\w.*-]+", where) else message


def _path_in_recipe(loc: tuple[int | str, ...], data: dict[str, Any]) -> list[str]:
    """The location as written in the file; pydantic adds the kind of each settings class to it."""
    path = [str(part) for part in loc]
    depth = {"world": 1, "model": 1, "stages": 2}.get(path[0], len(path)) if path else 0
    if len(path) > depth:
        del path[depth]
    return path


def _siblings(path: list[str], data: dict[str, Any]) -> list[str]:
    where: Any = Recipe
    value: Any = data
    for part in path[:-1]:
        where, value = _step(where, part, value)[1], value.get(part) if isinstance(value, dict) else None
    return _step(where, path[-1], value)[0] or []


def _kinds(path: list[str]) -> str:
    annotation: Any = Recipe.model_fields[path[0]].annotation
    union = typing.get_args(annotation)[1] if path[0] == "stages" else annotation
    union = typing.get_args(union)[0] if typing.get_origin(union) is typing.Annotated else union
    return ", ".join(f"'{kind_of(member)}'" for member in typing.get_args(union))


def _label(path: Path) -> str:
    if path.parent == BUILTIN:
        return path.stem
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _meant(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, [*known], n=1)
    return f", did you mean `{close[0]}`?" if close else ""


def _other_recipes() -> str:
    return f"name a YAML file, or one of the builtin recipes: {', '.join(builtin_names())}"
