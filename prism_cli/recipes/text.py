"""The YAML that recipes are written in: narrower than the standard's first version, and without its surprises.

Only `true` and `false` are booleans, `1e-5` is a number, dates and times are text, a key may occur once, anchors are
refused. What is written here reads back equal.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from integrations.errors import BadInput

LARGEST = 1_000_000
"""Bytes; a recipe is a page or two, so more is some other file."""


class NotYaml(ValueError):
    """The text is not YAML as recipes use it.

    Args:
        reason: what is wrong.
        place: `line L, column C`, or empty where it is not known.
    """

    def __init__(self, reason: str, place: str = "") -> None:
        super().__init__(f"{place}: {reason}" if place else reason)
        self.reason = reason
        self.place = place


def parse(text: str) -> Any:
    """The value that a text holds.

    Raises:
        NotYaml: with the reason and, mostly, the place.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise NotYaml(f"{error.problem or error.context}", place) from error
    except RecursionError as error:
        raise NotYaml("nested too deeply") from error
    except (yaml.YAMLError, ValueError) as error:
        raise NotYaml(f"not YAML ({' '.join(str(error).split())})") from error


def write(value: Any) -> str:
    """A value as YAML over many lines, lists of plain values on one."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110, default_flow_style=False)


def write_line(value: Any) -> str:
    """A value as YAML on one line."""
    text = yaml.dump(
        value, Dumper=_LineDumper, sort_keys=False, allow_unicode=True, width=10**9, default_flow_style=True
    )
    return text.removesuffix("...\n").strip()


def read_file(path: Path, name: str, fix: str) -> str:
    """A recipe file's text.

    Args:
        path: the file.
        name: what to call it in a message.
        fix: what to do when there is no such file.

    Raises:
        BadInput: the file cannot be read, or is no recipe by its size or encoding.
    """
    try:
        if path.is_dir():
            raise BadInput(f"{name} is a folder, not a recipe", "name the YAML file in it")
        if path.exists() and not path.is_file():
            raise BadInput(f"{name} is not a file", "name a YAML file")
        size = path.stat().st_size
        if size > LARGEST:
            raise BadInput(f"{name} is larger than any recipe ({size} bytes)", "check the file's name")
        raw = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise BadInput(f"cannot read the recipe {name}: {reason}", fix) from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        problem = f"{name} is not text (byte {error.start} is not UTF-8)"
        raise BadInput(problem, "save it as UTF-8 YAML") from error


class _Loader(yaml.SafeLoader):
    """Refuses what is safe but misread."""

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


class _LineDumper(yaml.SafeDumper):
    """Writes what `_Loader` reads back."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> Any:
        # Written plain, some of Unicode's line breaks would be read back as spaces; in double quotes they are escaped.
        style = None if data.isprintable() or data.isascii() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


class _Dumper(_LineDumper):
    """The same over many lines."""

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


_LineDumper.add_representer(str, _LineDumper.represent_str)
_narrow(_Loader)
_narrow(_LineDumper)
_narrow(_Dumper)
