"""What every field of a recipe means, for people (comments in YAML) and for editors (a JSON schema)."""

from __future__ import annotations

import textwrap
from typing import Any

from pydantic import BaseModel

from prism_cli.recipes.schema import Recipe
from prism_cli.recipes.text import write_line

_WIDTH = 100


def documented(recipe: Recipe) -> str:
    """The resolved recipe as YAML that loads back to an equal one, each field's meaning as a comment above it."""
    return "\n".join(_model_lines(recipe, 0, {"extends", "profiles"})) + "\n"


def json_schema() -> dict[str, Any]:
    """JSON schema (2020-12) of a recipe file.

    It tells fields, types and ranges. Whether a recipe is complete, and whether its parts go together, depends on what
    it extends; `prism recipe validate` checks that.
    """
    full = Recipe.model_json_schema()
    schema = _partial(full)
    for named in ("stages", "arms"):  # null removes an inherited one
        things = schema["properties"][named]
        things["additionalProperties"] = {"anyOf": [things["additionalProperties"], {"type": "null"}]}
        things.pop("minProperties", None)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "anyOf": [{"required": ["extends"]}, {"required": full["required"]}],
    }


def _model_lines(model: BaseModel, indent: int, left_out: frozenset[str] | set[str] = frozenset()) -> list[str]:
    lines = []
    for name, field in type(model).model_fields.items():
        if name not in left_out:
            lines += _comment(field.description or "", indent) + _entry(name, getattr(model, name), indent)
    return lines


def _entry(key: str, value: Any, indent: int) -> list[str]:
    """`key: value`, nested settings and mappings below it."""
    head = f"{' ' * indent}{write_line(key)}:"
    if isinstance(value, BaseModel):
        return [head, *_model_lines(value, indent + 2)]
    if isinstance(value, dict) and value:
        return [head, *(line for inner, item in value.items() for line in _entry(inner, item, indent + 2))]
    return [f"{head} {write_line(value)}"]


def _comment(text: str, indent: int) -> list[str]:
    begin = f"{' ' * indent}# "
    return textwrap.wrap(" ".join(text.split()), _WIDTH, initial_indent=begin, subsequent_indent=begin)


def _partial(schema: Any) -> Any:
    """The schema with nothing required: what a recipe leaves out, the one it extends may give."""
    if isinstance(schema, list):
        return [_partial(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    renamed = {"anyOf" if key == "oneOf" else key: value for key, value in schema.items()}
    return {
        key: _partial(value)
        for key, value in renamed.items()
        if not (key == "required" and isinstance(value, list)) and not (key == "discriminator" and "mapping" in value)
    }
