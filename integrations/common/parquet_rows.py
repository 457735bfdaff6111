"""Pools in the published form: parquet with chat prompts and the images inside, as rows and files of images.

    counts = convert(Path("rl_training_data_filtered_2k.parquet"), Path("pools"), "rlvr")

Columns read, as the paper's data sets have them: `prompt` (chat turns, in the user's text one `<image>` per image or
none; images are shown before the text), `images` (bytes, a path beside the file, or a struct of either),
`reward_model.ground_truth` with other accepted answers in `reward_model.equivalent_answers`, or `answer`, and where
there are any `teacher_caption` with `teacher_cot`, or `teacher_response`, which become the demonstration. A file is
read in parts, never held whole.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from integrations.common.image_tokens import image_size, shape_problem
from integrations.common.response import parse
from integrations.common.rows import RESERVED, Row
from integrations.errors import BadInput

BATCH = 64
"""Rows held at once; their images are most of the memory."""
PLACEHOLDER = "<image>"
_KINDS = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpg", b"RIFF": "webp", b"GIF8": "gif", b"BM": "bmp"}
SHOWN = 5
_NO_ANSWER = "__EMPTY__"


def convert(source: Path, folder: Path, pool: str) -> dict[str, int]:
    """Write `<pool>.jsonl` and its images into a folder; whole or not at all.

    Returns:
        `rows`, and `demonstrations` among them.

    Raises:
        BadInput: the file is no parquet, lacks a column, or has rows that cannot be used; the first few are named.
    """
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{pool}.jsonl.partial"
    problems: list[str] = []
    rows = demonstrations = 0
    with partial.open("w", encoding="utf-8") as stream:
        for number, record in enumerate(_records(source)):
            row, images, problem = _row(record, number, source, pool)
            if problem:
                problems.append(f"row {number}: {problem}")
                continue
            for name, data in images.items():
                write_picture(folder / name, data)
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            rows, demonstrations = rows + 1, demonstrations + (row["response"] is not None)
    if problems or not rows:
        partial.unlink()
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        told = "; ".join(problems[:SHOWN]) + more if problems else "it has no rows"
        raise BadInput(f"{source}: {told}", "correct these rows, which are counted from 0, or take them out")
    partial.replace(folder / f"{pool}.jsonl")
    return {"rows": rows, "demonstrations": demonstrations}


def _records(source: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(source)
        names = set(table.schema_arrow.names)
        if "prompt" not in names or not names & {"reward_model", "answer"}:
            have = ", ".join(sorted(names)) or "none"
            raise BadInput(
                f"{source} lacks `prompt`, or `reward_model` and `answer` both (its columns: {have})",
                "give a parquet file with chat prompts and reference answers",
            )
        wanted = names & {
            *("id", "prompt", "images", "reward_model", "answer", "data_source"),
            *("teacher_caption", "teacher_cot", "teacher_response"),
        }
        for batch in table.iter_batches(BATCH, columns=sorted(wanted)):
            yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise BadInput(f"cannot read {source}: {str(error).splitlines()[0]}", "fetch the file again") from error


def _row(record: Mapping[str, Any], number: int, source: Path, pool: str) -> tuple[Row, dict[str, bytes], str]:
    """The record as a row, its images by the names the row has for them, and what is wrong with it, by column."""
    system, prompt, wrong = turns_of(record.get("prompt"))
    images, wrong_image = pictures_of(record.get("images") or [], source)
    answer, wrong_answer = answer_of(record)
    response = _demonstration(record)
    text = prompt.replace(PLACEHOLDER, "").strip()
    asked = prompt.count(PLACEHOLDER)
    if not wrong and asked not in (0, len(images)) and not wrong_image:
        wrong = f"`prompt` has {asked} times `{PLACEHOLDER}` for {len(images)} images"
    wrong = wrong or _wrong_text(system, text)
    if not wrong and (wrong_image := wrong_image or _wrong_picture(images)):
        wrong = f"`images`: {wrong_image}"
    wrong = wrong or wrong_answer
    if not wrong and response is not None and parse(response) is None:
        wrong = "`teacher_caption`, `teacher_cot`: the demonstration has not the blocks caption, think and answer"
    row = {
        "id": str(record.get("id") or f"{pool}-{number:06d}"),
        "images": [*images],
        "system": system,
        "prompt": text,
        "response": response,
        "answer": answer,
        "source": str(record.get("data_source") or pool),
    }
    return row, images, wrong


def turns_of(turns: Any) -> tuple[str | None, str, str]:
    """System text, user text and what is wrong with a prompt of chat turns; empty if nothing is."""
    if isinstance(turns, str):
        turns = [{"role": "user", "content": turns}]
    if not isinstance(turns, Sequence) or not all(isinstance(turn, Mapping) for turn in turns):
        return None, "", "`prompt` is no list of chat turns"
    texts = {str(turn.get("role")): turn.get("content") for turn in turns}
    if len(texts) != len(turns) or not {*texts} <= {"system", "user"} or "user" not in texts:
        return None, "", f"`prompt` has the turns {[str(turn.get('role')) for turn in turns]}, not one user turn"
    for role, text in texts.items():
        if not isinstance(text, str) and (role == "user" or text is not None):
            return None, "", f"`prompt`: the {role} turn's content is no text"
    return texts.get("system") or None, texts["user"], ""


def answer_of(record: Mapping[str, Any]) -> tuple[str, str]:
    """The reference answer, and what is wrong with it or nothing.

    Several accepted answers (`reward_model.equivalent_answers`) become one text that is a JSON list of texts, which is
    how the reward reads them. One that holds `__EMPTY__` is a place without an answer in the published files.
    """
    given = record.get("reward_model")
    if given is not None and not isinstance(given, Mapping):
        return "", "`reward_model` is no struct with `ground_truth`"
    given = given or {}
    truth = given.get("ground_truth")
    truth = record.get("answer") if truth is None or not str(truth).strip() else truth
    others = given.get("equivalent_answers") or []
    answers = [truth, *(others if isinstance(others, list) else [others])]
    if not all(isinstance(answer, str | int | float | None) for answer in answers):
        return "", "`reward_model`: an answer is neither text nor a number"
    texts = ["" if answer is None else str(answer).strip() for answer in answers]
    if not texts[0]:
        return "", "no reference answer in `reward_model.ground_truth` or `answer`"
    accepted = list(dict.fromkeys(text for text in texts if text and _NO_ANSWER not in text))
    return (json.dumps(accepted, ensure_ascii=False) if len(accepted) > 1 else texts[0]), ""


def _wrong_text(system: str | None, prompt: str) -> str:
    """What is wrong with a prompt's own words: none, or text that an engine would take for something else."""
    if not prompt:
        return "`prompt` has no text"
    found = next((text for text in RESERVED if text in prompt or text in (system or "")), None)
    return f"`prompt` contains {found}" if found else ""


def _wrong_picture(images: Mapping[str, bytes]) -> str:
    """Why one of a row's images cannot be used, as its header tells, or nothing."""
    for place, data in enumerate(images.values()):
        try:
            problem = shape_problem(*image_size(data))
        except BadInput as error:
            problem = f"cannot be read ({error.problem})"
        if problem:
            return f"image {place} {problem}"
    return ""


def pictures_of(images: Any, source: Path) -> tuple[dict[str, bytes], str]:
    """Bytes of a row's images by the names they get as files (of their content), and what is wrong, or nothing."""
    if not isinstance(images, list):
        return {}, "is no list"
    found: dict[str, bytes] = {}
    for place, image in enumerate(images):
        data = image.get("bytes") if isinstance(image, Mapping) else image
        path = image.get("path") if isinstance(image, Mapping) else image
        if not isinstance(data, bytes) and isinstance(path, str) and (source.parent / path).is_file():
            data = (source.parent / path).read_bytes()
        kind = next((kind for mark, kind in _KINDS.items() if isinstance(data, bytes) and data.startswith(mark)), None)
        if kind is None:
            return {}, f"image {place} is neither a picture's bytes nor a file beside the parquet file"
        assert isinstance(data, bytes)
        found[f"images/{hashlib.sha256(data).hexdigest()[:16]}.{kind}"] = data
    if len(found) != len(images):
        return {}, "the same image twice"
    return found, ""


def _demonstration(record: Mapping[str, Any]) -> str | None:
    caption, reasoning = record.get("teacher_caption"), record.get("teacher_cot")
    if caption and reasoning:
        return f"{str(caption).strip()}\n{str(reasoning).strip()}"
    return str(record["teacher_response"]).strip() if record.get("teacher_response") else None


def write_picture(path: Path, data: bytes) -> None:
    """Write an image that is named by its content, whole or not at all, unless it is there."""
    if not path.is_file() or path.stat().st_size != len(data):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        partial.write_bytes(data)
        partial.replace(path)
