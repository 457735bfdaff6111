"""A data file of any form that prism knows, as rows one by one; nothing is held whole.

    rows        a pool: JSON lines as in `integrations.common.rows`
    chat        the published alignment and RLVR sets: parquet with chat prompts and the images inside
    sharegpt    the published SFT sets: `messages` or `conversations`, as JSON, JSON lines or parquet
    pairs       the published warm-up pairs: JSON lines with a teacher's and a student's caption and reasoning

An item keeps what is wrong with the form as sentences, so that a reader can count and show it and go on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from integrations.common.parquet_rows import PLACEHOLDER, answer_of, pictures_of, turns_of
from integrations.common.response import parse
from integrations.common.rows import REQUIRED, Row
from integrations.errors import BadInput

BATCH = 256
"""Rows of a parquet file held at once."""
FORMS = ("rows", "chat", "sharegpt", "pairs")
_ROLES = {"system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
_KNOWN = (
    *("id", "images", "image", "prompt", "messages", "conversations", "system", "answer", "solution", "source"),
    *("data_source", "reward_model", "teacher_caption", "teacher_cot", "teacher_response"),
)
"""Columns that are read of a parquet file."""


@dataclass
class Item:
    """One row as it was found."""

    number: int
    """From 1: the line, or the place in the file."""
    row: Row
    """As in `integrations.common.rows`; fields that could not be read are missing."""
    problems: list[tuple[str, str]] = field(default_factory=list)
    """Field, and what is wrong with it."""
    embedded: dict[str, bytes] = field(default_factory=dict)
    """Images that the file itself holds, by the names that the row has for them."""


def items(path: Path) -> Iterator[Item]:
    """The rows of a file in their order.

    Raises:
        BadInput: the file cannot be read, or is of no known form.
    """
    if path.suffix == ".parquet":
        return _of_records(_parquet_records(path), path)
    if path.suffix == ".json":
        return _of_records(_json_records(path), path)
    return _lines(path)


def form_of(record: Mapping[str, Any]) -> str | None:
    """The form that a record's fields show, None if it is none that is known."""
    if "messages" in record or "conversations" in record:
        return "sharegpt"
    if "student_caption" in record or "student_cot" in record or "student_response" in record:
        return "pairs"
    if not isinstance(record.get("prompt"), list) and {"id", "images"} & {*record}:
        return "rows"  # also where the first row lacks one of a pool's fields: the rest is to be looked at
    return "chat" if "prompt" in record else None


def _lines(path: Path) -> Iterator[Item]:
    """Of JSON lines. A line that is no JSON object is an item with a problem."""
    form = None
    try:
        stream = path.open("rb")
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}", "check the file's name") from error
    with stream:
        for number, line in enumerate(stream, 1):
            try:
                record = json.loads(line)
            except ValueError as error:
                reason = str(error).partition(":")[0].lower()
                yield Item(number, {}, [("line", f"is not JSON ({reason})")])
                continue
            if not isinstance(record, dict):
                yield Item(number, {}, [("line", "is no JSON object")])
                continue
            form = form or _form(record, path)
            yield item_of(record, number, form, path)


def _of_records(records: Iterator[dict[str, Any]], path: Path) -> Iterator[Item]:
    form = None
    for number, record in enumerate(records, 1):
        form = form or _form(record, path)
        yield item_of(record, number, form, path)


def _form(record: Mapping[str, Any], path: Path) -> str:
    form = form_of(record)
    if form is None:
        have = ", ".join(sorted(map(str, record))) or "none"
        raise BadInput(
            f"{path} is of no form that prism reads (its fields: {have})",
            "give rows with `images`, `prompt`, `answer`; chat turns in `prompt` or `messages`; or warm-up pairs",
        )
    return form


def _parquet_records(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path)
        columns = [name for name in table.schema_arrow.names if name in _KNOWN]
        if not columns:
            _form(dict.fromkeys(table.schema_arrow.names), path)
        for batch in table.iter_batches(BATCH, columns=columns):
            yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise BadInput(f"cannot read {path}: {str(error).splitlines()[0]}", "fetch the file again") from error


def _json_records(path: Path) -> Iterator[dict[str, Any]]:
    """Of one JSON list, the form that LLaMA-Factory's users have; held whole, as JSON can only be read whole."""
    try:
        records = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot read {path}: {error}", "give a JSON list of objects, or JSON lines") from error
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise BadInput(f"{path} holds no list of JSON objects", "give a JSON list of objects, or JSON lines")
    yield from records


def item_of(record: dict[str, Any], number: int, form: str, path: Path) -> Item:
    """A record of a known form as a row.

    Args:
        number: the row's place in its file, from 1.
        form: one of `FORMS`.
        path: the file it comes from, for images that lie beside it.
    """
    if form == "rows":
        missing = [(key, "is missing") for key in REQUIRED if key not in record]
        return Item(number, record, missing)
    if form == "pairs":
        return _pair(record, number)
    return _chat(record, number, path) if form == "chat" else _sharegpt(record, number, path)


def _chat(record: dict[str, Any], number: int, path: Path) -> Item:
    item = Item(number, {"id": str(record.get("id") or f"{path.stem}-{number - 1:06d}")})
    system, prompt, wrong = turns_of(record.get("prompt"))
    if wrong:
        item.problems.append(("prompt", wrong.removeprefix("`prompt` ")))
    caption, reasoning = record.get("teacher_caption"), record.get("teacher_cot")
    response = f"{caption}\n{reasoning}" if caption and reasoning else record.get("teacher_response")
    if bool(caption) != bool(reasoning):
        item.problems.append(("teacher_cot" if caption else "teacher_caption", "is missing or empty"))
    answer, wrong = answer_of(record)
    if wrong and not wrong.startswith("no "):  # what is missing, the schema says of the row
        item.problems.append(("reward_model", wrong))
    item.row |= {"system": system, "prompt": prompt, "response": response, "answer": answer}
    item.row["source"] = str(record.get("data_source") or path.stem)
    _take_images(item, record.get("images") or [], path)
    return item


def _sharegpt(record: dict[str, Any], number: int, path: Path) -> Item:
    name = "messages" if "messages" in record else "conversations"
    item = Item(number, {"id": str(record.get("id") or f"{path.stem}-{number - 1:06d}")})
    turns = record.get(name)
    texts: dict[str, str] = {"system": str(record.get("system") or "")}
    roles = []
    for turn in turns if isinstance(turns, list) else []:
        given = turn if isinstance(turn, Mapping) else {}
        role = _ROLES.get(str(given.get("role") or given.get("from")))
        text = given.get("content") if "content" in given else given.get("value")
        roles.append(str(role))
        texts[str(role)] = text if isinstance(text, str) else ""
    if [role for role in roles if role != "system"] != ["user", "assistant"]:
        item.problems.append((name, f"has the turns {', '.join(roles) or 'none'}, not one question and one response"))
    response = texts.get("assistant", "")
    parsed = parse(response)
    answer = record.get("answer") or record.get("solution") or (parsed.answer if parsed else "")
    prompt = texts.get("user", "")
    item.row |= {"system": texts["system"] or None, "prompt": prompt, "response": response, "answer": str(answer)}
    item.row["source"] = str(record.get("source") or record.get("data_source") or path.stem)
    images = record.get("images") or record.get("image") or []
    _take_images(item, images if isinstance(images, list) else [images], path)
    return item


def _take_images(item: Item, images: list[Any], path: Path) -> None:
    """The item's images and the prompt without their placeholders, one for each image."""
    named = [image for image in images if isinstance(image, str)]
    if images and len(named) == len(images):
        item.row["images"] = named
    else:
        item.embedded, wrong = pictures_of(images, path)
        item.row["images"] = [*item.embedded]
        if wrong:
            item.problems.append(("images", wrong))
    asked = item.row["prompt"].count(PLACEHOLDER)
    if asked not in (0, len(images)):
        item.problems.append(("prompt", f"has {asked} times `{PLACEHOLDER}` for {len(images)} images"))
    item.row["prompt"] = item.row["prompt"].replace(PLACEHOLDER, "").strip()


def _pair(record: dict[str, Any], number: int) -> Item:
    """A warm-up pair: the teacher's side as the demonstration, the student's checked like it."""
    item = Item(number, {"id": str(record.get("id") or f"pair-{number:06d}"), "answer": "", "source": "pairs"})
    question = record.get("question") or record.get("prompt")
    item.row["prompt"] = str(question or "").replace(PLACEHOLDER, "").strip()
    item.row["images"] = [record["image"]] if record.get("image") else []
    for side in ("teacher", "student"):
        missing = [key for key in (f"{side}_caption", f"{side}_cot") if not record.get(key)]
        item.problems += [(key, "is missing or empty") for key in missing]
        caption = str(record.get(f"{side}_caption") or "").strip()
        caption = caption if caption.startswith("<caption>") else f"<caption>{caption}</caption>"
        whole = f"{caption}\n{str(record.get(f'{side}_cot') or '').strip()}"
        if side == "teacher":
            item.row["response"] = None if missing else whole
        elif not missing and parse(whole) is None:
            item.problems.append((f"{side}_cot", "has not the blocks think and answer"))
    return item
