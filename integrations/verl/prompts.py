"""A stage's pools as the parquet file that verl reads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from integrations.common.rows import Row, messages, read_rows
from integrations.contract import StageContext
from integrations.verl.reward import decide
from integrations.verl.settings import RlvrSettings

PROMPTS = "prompts.parquet"


def rows_of(ctx: StageContext) -> Iterator[tuple[str, Row]]:
    settings: RlvrSettings = ctx.settings
    for pool in settings.data:
        for row in read_rows(ctx.data_dir / f"{pool}.jsonl"):
            yield pool, row


def unreadable_references(ctx: StageContext) -> list[tuple[str, str]]:
    """Id and answer of rows whose reference the reward does not find equal to itself: no response could earn it."""
    answers = [(str(row["id"]), str(row["answer"])) for _, row in rows_of(ctx)]
    readable = {answer: decide(answer, answer).correct for answer in {answer for _, answer in answers}}
    return [(name, answer) for name, answer in answers if not readable[answer]]


def write_prompts(ctx: StageContext) -> int:
    """The pools as the parquet file verl reads. Returns an upper bound of the longest prompt, in tokens."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    smallest, largest, token_side = _image_limits(ctx)
    records = []
    longest = 0
    for index, (_, row) in enumerate(rows_of(ctx)):
        images = [
            {"bytes": (ctx.data_dir / image).read_bytes(), "min_pixels": smallest, "max_pixels": largest}
            for image in row["images"]
        ]
        records.append(
            {
                "data_source": str(row.get("source") or "prism"),
                "prompt": messages(row),
                "images": images,
                "reward_model": {"style": "rule", "ground_truth": str(row["answer"])},
                "extra_info": {"index": index, "id": str(row["id"]), "question": row["prompt"]},
            }
        )
        text = len(row["prompt"].encode()) + len((row.get("system") or "").encode())
        longest = max(longest, text + len(images) * (largest // token_side**2 + 2) + 64)
    image = pa.struct([("bytes", pa.binary()), ("min_pixels", pa.int64()), ("max_pixels", pa.int64())])
    turn = pa.struct([("role", pa.string()), ("content", pa.string())])
    schema = pa.schema(
        [
            ("data_source", pa.string()),
            ("prompt", pa.list_(turn)),
            ("images", pa.list_(image)),
            ("reward_model", pa.struct([("style", pa.string()), ("ground_truth", pa.string())])),
            ("extra_info", pa.struct([("index", pa.int64()), ("id", pa.string()), ("question", pa.string())])),
        ]
    )
    pq.write_table(pa.Table.from_pylist(records, schema), ctx.attempt_dir / PROMPTS)
    return longest


def _image_limits(ctx: StageContext) -> tuple[int, int, int]:
    """Fewest and most pixels of an image, and the side in pixels of one visual token, as the policy's processor has it.

    verl resizes images before the processor does, with limits of its own unless the row says otherwise.
    """
    settings: RlvrSettings = ctx.settings
    image: dict[str, Any] = {}
    for name, key in (("preprocessor_config.json", None), ("processor_config.json", "image_processor")):
        path = ctx.policy / name
        if path.is_file():
            value = json.loads(path.read_text(encoding="utf-8"))
            image = value if key is None else value.get(key, {})
            break
    size = image.get("size") or {}
    side = int(image.get("patch_size", 16)) * int(image.get("merge_size", 2))
    smallest = int(size.get("shortest_edge") or image.get("min_pixels") or side**2)
    largest = int(size.get("longest_edge") or image.get("max_pixels") or settings.max_image_pixels)
    return smallest, max(smallest, min(largest, settings.max_image_pixels)), side
