"""Rows of a data pool: one JSON object a line, the same for every stage and engine.

{"id": "sft-000012",
 "images": ["images/3f2a.png"],      paths relative to the pool's folder, in the order shown; before the text
 "system": null,                     or the system turn's text
 "prompt": "What is the sum ...",    the user turn's text, without image placeholders
 "response": "<caption>...",         the demonstration; null in prompt-only pools
 "answer": "12",                     the reference answer; several accepted ones are a JSON list within this text
 "source": "public",                 where the row comes from
 "task": {...}}                      what the pool's own scorer needs (for digits see benchmarks.digits.world)
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from integrations.errors import BadInput

Row = dict[str, Any]
REQUIRED = ("id", "images", "prompt", "answer")
RESERVED = (
    *("<image>", "<video>", "<audio>"),
    *(
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<|vision_start|>",
        "<|vision_end|>",
        "<|image_pad|>",
        "<|video_pad|>",
    ),
)
"""Text that an engine or the tokenizer would take for something else than text."""


def read_rows(path: Path) -> Iterator[Row]:
    """Rows of one pool in file order.

    Raises:
        BadInput: the file is missing, or a line is not a JSON object with the fields above.
    """
    try:
        stream = path.open(encoding="utf-8")
    except OSError as error:
        raise BadInput(f"cannot read the data pool {path}: {error.strerror}", "check the recipe's data") from error
    with stream:
        for number, line in enumerate(stream, 1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise BadInput(f"{path}, line {number}: not JSON ({error})", "write one JSON object a line") from error
            missing = [key for key in REQUIRED if not isinstance(row, dict) or key not in row]
            if missing:
                raise BadInput(f"{path}, line {number}: no field `{missing[0]}`", f"give every row {REQUIRED}")
            yield row


def structural_problem(row: Row, data_dir: Path, texts: Sequence[str] = ("prompt",)) -> str | None:
    """Why no engine could use a row, as far as its fields tell, naming the field; or None.

    Args:
        data_dir: the pool's folder.
        texts: fields that must hold text.
    """
    for field in texts:
        if not isinstance(row.get(field), str) or not row[field].strip():
            return f"`{field}` is missing or empty"
    if not isinstance(row.get("system"), str | None):
        return "`system` is neither text nor null"
    for field in ("system", *texts):
        for text in RESERVED:
            if text in (row.get(field) or ""):
                return f"`{field}` contains {text}"
    images = row["images"]
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        return "`images` is no list of paths"
    for image in images:
        if not (data_dir / image).is_file():
            return f"image {image} is missing"
    return None


def messages(row: Row, with_response: bool = False) -> list[dict[str, str]]:
    """The row as chat turns with one `<image>` per image before the prompt (LLaMA-Factory's and verl's form)."""
    turns = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    turns.append({"role": "user", "content": "<image>" * len(row["images"]) + row["prompt"]})
    if with_response:
        turns.append({"role": "assistant", "content": row["response"]})
    return turns
