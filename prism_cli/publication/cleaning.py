"""A recipe as it may be published: what it asked for, not where and by whom it was run."""

from __future__ import annotations

import re
from typing import Any

PRIVATE = ("machine",)
"""Parts of a recipe that concern the machine only."""
LOCAL = ("path", "url", "endpoint", "address", "host", "ray_address", "token", "api_key", "key_file")
"""Fields that name a place of the machine or the network."""
_PATH = re.compile(r"(?:file://|~|[A-Za-z]:[\\/]|\\\\|\.{1,2}/|/)(?:[^\s\"'`,;:=|<>(){}\[\]\\/]*[\\/])+(?=[^\\/]*)")
_ADDRESS = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s\"'`,;]+|\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b", re.IGNORECASE)
_WHOLE = re.compile(r"(?:file://|~|[A-Za-z]:[\\/]|\\\\|/)")
PLACE = "(local)"


def published(recipe: dict[str, Any]) -> dict[str, Any]:
    """A resolved recipe without machine use, folders and addresses; `(local)` stands where one was."""
    kept = {name: value for name, value in recipe.items() if name not in PRIVATE}
    cleaned = clean(kept)
    assert isinstance(cleaned, dict)
    return cleaned


def changes(fields: list[str]) -> list[str]:
    """`field=value` of the command line, without those of the machine and with places taken out."""
    kept = [field for field in fields if field.split("=", 1)[0].split(".")[0] not in PRIVATE]
    return [_change(field) for field in kept]


def clean(value: Any, name: str = "") -> Any:
    """JSON of any form with every local place in it replaced."""
    if isinstance(value, dict):
        return {str(key): clean(item, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean(item, name) for item in value]
    if not isinstance(value, str):
        return value
    return PLACE if name in LOCAL else text(value)


def text(value: str) -> str:
    """A string in which folders before a file's name, and addresses of servers, are taken out.

    A string that begins as a path does is taken for one, spaces included.
    """
    if _WHOLE.match(value):
        return f"{PLACE}/{value.replace(chr(92), '/').rstrip('/').rsplit('/', 1)[-1]}"
    return _PATH.sub(f"{PLACE}/", _ADDRESS.sub(PLACE, value))


def _change(field: str) -> str:
    name, found, value = field.partition("=")
    if not found:
        return text(field)
    return f"{text(name)}={PLACE if name.rsplit('.', 1)[-1] in LOCAL else text(value)}"
