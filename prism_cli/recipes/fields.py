"""The fields of a recipe by their place in it: which there are, and what is wrong with one, in a user's words."""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from prism_cli.recipes.schema import Recipe, plain_message

_TAGGED = {"world": 1, "model": 1, "stages": 2}
"""How many parts of a path lead to settings whose class is chosen by `kind`."""


def step(annotation: Any, part: str, value: Any) -> tuple[list[str] | None, Any]:
    """Names known at a place of the recipe, and the type behind `part`.

    For a settings class the names are its fields; for a mapping of names, those that `value` holds, and any new one
    has the mapping's type. (None, None) where nothing can be below.
    """
    annotation = _plain(annotation, value)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        field = annotation.model_fields.get(part)
        return [*annotation.model_fields], field.annotation if field else None
    if typing.get_origin(annotation) in (dict, Mapping):
        return [*value] if isinstance(value, dict) else [], typing.get_args(annotation)[1]
    return None, None


def complaint(record: Any, data: dict[str, Any]) -> tuple[list[str], str]:
    """One of pydantic's error records as the field's path in the recipe, and what is wrong with it."""
    path = _in_recipe(record["loc"])
    message = plain_message(record)
    if record["type"] == "extra_forbidden":
        return path, message + meant(path[-1], _siblings(path, data))
    if record["type"] in ("union_tag_invalid", "union_tag_not_found"):
        return [*path, "kind"], f"must be one of {record['ctx'].get('expected_tags') or _kinds(path)}"
    where, colon, rest = message.partition(": ")
    if not path and colon and re.fullmatch(r"[\w.-]+", where):
        return where.split("."), rest  # a check of the whole recipe names the field itself
    return path, message


def meant(word: str, known: Iterable[str]) -> str:
    """A suggestion to append to a complaint about an unknown word; empty when nothing is close."""
    close = difflib.get_close_matches(word, [*known], n=1)
    return f", did you mean `{close[0]}`?" if close else ""


def _plain(annotation: Any, value: Any) -> Any:
    """The class that `value` belongs to: Annotated and Optional taken off, a union decided by `kind`."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _plain(typing.get_args(annotation)[0], value)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        members = [member for member in typing.get_args(annotation) if member is not type(None)]
        kind = value.get("kind") if isinstance(value, dict) else None
        chosen = [m for m in members if _kind_of(m) == kind] or members
        return _plain(chosen[0], value)
    return annotation


def _kind_of(settings: Any) -> str | None:
    """The value of `kind` that a settings class answers to, or None."""
    field = getattr(settings, "model_fields", {}).get("kind")
    return typing.get_args(field.annotation)[0] if field is not None else None


def _in_recipe(loc: tuple[int | str, ...]) -> list[str]:
    """The location as written in the file; pydantic adds the kind of each settings class to it."""
    path = [str(part) for part in loc]
    depth = _TAGGED.get(path[0], len(path)) if path else 0
    if len(path) > depth:
        del path[depth]
    return path


def _siblings(path: list[str], data: Any) -> list[str]:
    where: Any = Recipe
    for part in path[:-1]:
        where, data = step(where, part, data)[1], data.get(part) if isinstance(data, dict) else None
    return step(where, path[-1], data)[0] or []


def _kinds(path: list[str]) -> str:
    union: Any = Recipe.model_fields[path[0]].annotation
    union = typing.get_args(union)[1] if path[0] == "stages" else union
    union = typing.get_args(union)[0] if typing.get_origin(union) is typing.Annotated else union
    return ", ".join(f"'{_kind_of(member)}'" for member in typing.get_args(union))
