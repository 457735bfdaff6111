"""What is wrong with a row, field by field: what a stage refuses (`error`), and what a person should know (`note`).

`use` is what the rows are for: `sft` needs a response, `teacher` one with caption, reasoning and answer, `rlvr` a
reference answer, `test` both prompt and answer. None asks for no more than every pool has.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from integrations.common.response import parse
from integrations.common.rows import RESERVED
from prism_cli.datasets.reading import Item

USES = ("sft", "teacher", "rlvr", "test")
Problem = tuple[str, str, str]
"""Level (`error` or `note`), field, and what is wrong with it."""
_RESERVED = re.compile("|".join(map(re.escape, RESERVED)))
BLOCKS = ("caption", "think", "answer")


def problems(item: Item, folder: Path, use: str | None) -> Iterator[Problem]:
    """Everything that is wrong with a row.

    Args:
        folder: where the paths of its images start.
        use: one of `USES`, or None.
    """
    for name, wrong in item.problems:
        yield "error", name, wrong
    if not item.row:
        return
    yield from _texts(item.row, use)
    yield from _images(item, folder)


def _texts(row: dict[str, Any], use: str | None) -> Iterator[Problem]:
    for name in ("prompt", "system", "response", "answer"):
        value = row.get(name)
        if not isinstance(value, str):
            if value is not None and not (name == "answer" and isinstance(value, int | float)):
                yield "error", name, f"is {_kind(value)}, not text"
            continue
        for token in sorted({*_RESERVED.findall(value)}) if "<" in value else ():
            yield "error", name, f"contains {token}"
    if "prompt" in row and not str(row["prompt"] or "").strip():
        yield "error", "prompt", "is empty"
    needs_answer = use in ("rlvr", "test")
    if "answer" in row and needs_answer and not str(row["answer"] if row["answer"] is not None else "").strip():
        yield "error", "answer", "is empty"
    response = row.get("response")
    if use in ("sft", "teacher") and not str(response or "").strip():
        yield "error", "response", "is missing or empty"
    elif isinstance(response, str) and response and (wrong := incomplete(response)):
        yield "error" if use == "teacher" else "note", "response", wrong


def incomplete(response: str) -> str | None:
    """Which segments a demonstration lacks, or None where caption, reasoning and answer are whole."""
    if parse(response) is not None:
        return None
    for name in BLOCKS:
        start, end = response.count(f"<{name}>"), response.count(f"</{name}>")
        if (start, end) != (1, 1):
            what = "no" if not start + end else "an unfinished" if end < start == 1 else "more than one"
            return f"has {what} <{name}> block"
        if not response.partition(f"<{name}>")[2].partition(f"</{name}>")[0].strip():
            return f"has an empty <{name}> block"
    return "has the blocks in another order, or text outside them"


def _images(item: Item, folder: Path) -> Iterator[Problem]:
    images = item.row.get("images")
    if images is None:
        return
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        yield "error", "images", "is no list of paths"
        return
    for image in images:
        if image in item.embedded:
            continue
        if image.startswith("/") or ".." in image.split("/"):
            yield "error", "images", "names a file outside the pool's folder"
        elif not os.path.isfile(f"{folder}/{image}"):  # a Path for each of a million takes longer than the question
            yield "error", "images", "names a file that is missing"


def _kind(value: object) -> str:
    names = {bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)
