"""A stage's pools as the parquet file that verl reads, every row looked at on the way.

verl leaves out rows that it cannot process with no more than a line in its log, and loses responses to a damaged image
in the middle of training, so rows are looked at before anything is launched: their fields, the header and shape of each
image, and whether the reward can ever find the reference answer. Lengths need the tokenizer: `longest` only bounds
them, and where that is not enough they are counted in verl's environment (`integrations.verl.check_prompts`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from integrations.common.files import write_json
from integrations.common.image_tokens import (
    ImagePolicy,
    image_policy,
    image_size,
    resized,
    shape_problem,
    visual_tokens,
)
from integrations.common.rows import Row, messages, read_rows, structural_problem
from integrations.contract import StageContext
from integrations.errors import BadInput
from integrations.verl.reward import decide
from integrations.verl.reward.match import accepted
from integrations.verl.settings import RlvrSettings

PROMPTS = "prompts.parquet"
LOOKED_AT = "prompts.json"
"""Beside it: what `Survey` holds."""
AROUND = 64
"""At least as many tokens as the chat layout and the ends of an image add to a prompt."""
BATCH = 64
"""Rows held at once; their images are most of the memory."""
_FORMULA = re.compile(r"[\\{}$^]")


@dataclass
class Survey:
    """What was seen in a stage's pools."""

    prompts: int = 0
    longest: int = 0
    """No prompt has more tokens than this, those of images included."""
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    """Id and answer of rows whose reference the reward does not find equal to itself: no response could earn it."""
    as_text: list[tuple[str, str]] = field(default_factory=list)
    """Id and answer of rows whose reference looks like a formula and is none the reward can read: only the same text
    earns it."""


def survey(ctx: StageContext) -> Survey:
    """Look at every row of a stage's pools.

    Raises:
        BadInput: a row cannot be used, naming file, line, row and field; a pool cannot be read.
    """
    seen = Survey()
    policy = row_policy(ctx)
    for where, row in _rows(ctx):
        _look(seen, where, row, ctx.data_dir, policy)
    return seen


def write_prompts(ctx: StageContext) -> Survey:
    """The pools as the parquet file verl reads, and beside it as JSON what was seen in them, as `survey` sees it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    seen = Survey()
    policy = row_policy(ctx)
    schema = _schema()
    records: list[dict[str, Any]] = []
    with pq.ParquetWriter(ctx.attempt_dir / PROMPTS, schema) as writer:
        for where, row in _rows(ctx):
            _look(seen, where, row, ctx.data_dir, policy)
            records.append(_record(row, seen.prompts - 1, ctx.data_dir, policy))
            if len(records) == BATCH:
                writer.write_table(pa.Table.from_pylist(records, schema))
                records = []
        writer.write_table(pa.Table.from_pylist(records, schema))
    write_json(ctx.attempt_dir / LOOKED_AT, vars(seen))
    return seen


def row_policy(ctx: StageContext) -> ImagePolicy:
    """The image policy that rows carry: the policy's own, with a smaller limit where the settings have one.

    verl resizes images before the processor does, with limits of its own unless the row says otherwise.
    """
    settings: RlvrSettings = ctx.settings
    own = image_policy(ctx.policy)
    if settings.max_image_pixels is None:
        return own
    largest = max(own.min_pixels, min(own.max_pixels, settings.max_image_pixels))
    return ImagePolicy(own.patch_size, own.merge_size, own.min_pixels, largest)


def _rows(ctx: StageContext) -> Iterator[tuple[str, Row]]:
    """Rows of all pools, each with where it stands."""
    settings: RlvrSettings = ctx.settings
    for pool in settings.data:
        path = ctx.data_dir / f"{pool}.jsonl"
        for line, row in enumerate(read_rows(path), 1):
            yield f"{path}, line {line}, row `{row['id']}`", row


def _look(seen: Survey, where: str, row: Row, data_dir: Path, policy: ImagePolicy) -> None:
    if why := structural_problem(row, data_dir) or _answer_problem(row["answer"]):
        raise BadInput(f"{where}: {why}", "correct the row or take it out")
    counts = [_tokens(where, data_dir / image, policy) for image in row["images"]]
    text = len(row["prompt"].encode()) + len((row.get("system") or "").encode())
    seen.prompts += 1
    seen.longest = max(seen.longest, text + sum(counts) + 2 * len(counts) + AROUND)
    answer = str(row["answer"])
    verdicts = [decide(one, one) for one in accepted(answer)]
    if not all(verdict.correct for verdict in verdicts):
        seen.unreadable.append((str(row["id"]), answer))
    elif any(verdict.type == "text" for verdict in verdicts) and _FORMULA.search(answer):
        seen.as_text.append((str(row["id"]), answer))


def _answer_problem(answer: Any) -> str | None:
    if isinstance(answer, list):
        return "`answer` is a list; write several accepted answers as one text that is a JSON list of texts"
    if isinstance(answer, bool) or not isinstance(answer, str | int | float | None):
        return "`answer` is neither text nor a number"
    return None if str("" if answer is None else answer).strip() else "`answer` is empty"


def _tokens(where: str, image: Path, policy: ImagePolicy) -> int:
    """Visual tokens of an image that every engine sees alike."""
    try:
        width, height = image_size(image)
    except BadInput as error:
        raise BadInput(f"{where}: {error.problem}", error.fix) from None
    if problem := shape_problem(width, height) or size_problem(width, height, policy):
        raise BadInput(f"{where}: image {image} {problem}", "crop the image or take the row out")
    return visual_tokens(width, height, policy)


def size_problem(width: int, height: int, policy: ImagePolicy) -> str | None:
    """Why verl would give an image of this size another number of tokens than other engines do ("is ..."), or None.

    verl has images resized by qwen_vl_utils before the processor resizes them. The two rules differ for sides of less
    than half a token, which the first makes a whole one at once, and for images so long that the area is within bounds
    only when the short side is less than a token, where the first ends with nothing.
    """
    side = policy.token_side
    tall, wide = (max(side, round(length / side) * side) for length in (height, width))
    if tall * wide > policy.max_pixels:
        shrink = math.sqrt(height * width / policy.max_pixels)
        tall, wide = (math.floor(length / shrink / side) * side for length in (height, width))
    elif tall * wide < policy.min_pixels:
        grow = math.sqrt(policy.min_pixels / (height * width))
        tall, wide = (math.ceil(length * grow / side) * side for length in (height, width))
    once = resized(width, height, policy)
    if (wide, tall) == once == resized(*once, policy):
        return None
    return (
        f"is {width} x {height} pixels, too narrow for tokens of {side} x {side} pixels of which at most "
        f"{policy.max_pixels // side**2} make an image: verl would resize it to another shape than other engines"
    )


def _record(row: Row, index: int, data_dir: Path, policy: ImagePolicy) -> dict[str, Any]:
    limits = {"min_pixels": policy.min_pixels, "max_pixels": policy.max_pixels}
    return {
        "data_source": str(row.get("source") or "prism"),
        "prompt": messages(row),
        "images": [{"bytes": (data_dir / image).read_bytes(), **limits} for image in row["images"]],
        "reward_model": {"style": "rule", "ground_truth": str(row["answer"])},
        "extra_info": {"index": index, "id": str(row["id"]), "question": row["prompt"]},
    }


def _schema() -> Any:
    import pyarrow as pa

    image = pa.struct([("bytes", pa.binary()), ("min_pixels", pa.int64()), ("max_pixels", pa.int64())])
    turn = pa.struct([("role", pa.string()), ("content", pa.string())])
    return pa.schema(
        [
            ("data_source", pa.string()),
            ("prompt", pa.list_(turn)),
            ("images", pa.list_(image)),
            ("reward_model", pa.struct([("style", pa.string()), ("ground_truth", pa.string())])),
            ("extra_info", pa.struct([("index", pa.int64()), ("id", pa.string()), ("question", pa.string())])),
        ]
    )


def named(rows: Sequence[Sequence[str]], shown: int = 3) -> str:
    """The first few rows of a list in a `Survey`, for people."""
    told = "; ".join(f"row `{name}`: {answer[:60]!r}" for name, answer in rows[:shown])
    return told + (f"; and {len(rows) - shown} more" if len(rows) > shown else "")


def notes_on(seen: Mapping[str, Any], kept: int, left_out: Sequence[str]) -> list[str]:
    """What people should know of a finished stage's prompts.

    Args:
        seen: the fields of its `Survey`.
        kept: prompts that verl trained on.
        left_out: ids of the others.
    """
    given, notes = seen["prompts"], []
    if kept < given:
        names = f", e.g. {', '.join(left_out[:3])}" if left_out else ""
        notes.append(f"{given - kept} of {given} prompts are longer than max_prompt_length and were left out{names}")
    if seen["unreadable"]:
        notes.append(f"{len(seen['unreadable'])} reference answers can never be met: {named(seen['unreadable'])}")
    if seen["as_text"]:
        notes.append(
            f"{len(seen['as_text'])} reference answers look like formulas but cannot be read as such, only the same "
            f"text earns the reward: {named(seen['as_text'])}"
        )
    return notes
