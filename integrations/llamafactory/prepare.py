"""Look at every row and write the ones to train on in LLaMA-Factory's sharegpt form.

    python -m integrations.llamafactory.prepare --data-dir DATA --pool sft --pool teacher --model MODEL \\
        --max-length 512 --bad-rows refuse --workers 1 --out FOLDER

Runs in the engine's environment, for its tokenizer and image library, without loading torch or transformers. Writes
`train.parquet` (columns `messages` and `images`: typed, so that a pool which begins with text-only rows is not
mistaken for one without images), `dataset_info.json` and, last, `rows.json`:

    {"given": 9500, "kept": 9498, "tokens": 512031, "longest": 71, "dropped": [{"row": "sft-12 (...)", "why": "..."}]}

Ends with status 3 when rows are refused.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from tokenizers import Tokenizer

from integrations.common.files import write_json
from integrations.common.image_tokens import ImagePolicy, image_policy, shape_problem, visual_tokens
from integrations.common.rows import messages, structural_problem
from integrations.llamafactory.rows import (
    DEMONSTRATION,
    SMALLEST_SIDE,
    Given,
    given_rows,
    turn_texts,
)

DATASET_INFO = {
    "train": {
        "file_name": "train.parquet",
        "formatting": "sharegpt",
        "columns": {"messages": "messages", "images": "images"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "system_tag": "system",
        },
    }
}
SCHEMA = pa.schema(
    [
        ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ("images", pa.list_(pa.string())),
    ]
)
REFUSED = 3
_ROTATION = 0x0112
_CHUNK = 2000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--pool", action="append", required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--max-length", type=int, required=True)
    parser.add_argument("--bad-rows", choices=["refuse", "drop"], required=True)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "rows.json").unlink(missing_ok=True)
    look = partial(examine, data_dir=args.data_dir, model=args.model, max_length=args.max_length)
    rows = given_rows(args.data_dir, args.pool)
    if args.workers == 1:
        report = write_rows(rows, partial(map, look), args.out)
    else:
        with ProcessPoolExecutor(args.workers) as pool:
            report = write_rows(rows, partial(pool.map, look, chunksize=100), args.out)
    refused = bool(report["dropped"]) and args.bad_rows == "refuse"
    for row in report["dropped"]:
        print(f"{'refused' if refused else 'dropped'}: {row['row']}: {row['why']}")
    print(f"{report['kept']} of {report['given']} rows to train on, the longest of {report['longest']} tokens")
    write_json(args.out / "dataset_info.json", DATASET_INFO)
    write_json(args.out / "rows.json", report)
    return REFUSED if refused or not report["kept"] else 0


def write_rows(rows: Iterable[Given], look: Any, out: Path) -> dict[str, Any]:
    """Write the good rows to `out/train.parquet` in their order and report on all of them."""
    report: dict[str, Any] = {"given": 0, "kept": 0, "tokens": 0, "longest": 0, "dropped": []}
    rows = iter(rows)
    with pq.ParquetWriter(out / "train.parquet", SCHEMA) as writer:
        while chunk := list(islice(rows, _CHUNK)):
            kept = []
            for given, (length, why) in zip(chunk, look(chunk), strict=True):
                report["given"] += 1
                if why:
                    report["dropped"].append({"row": given.name, "why": why})
                    continue
                report["tokens"] += length
                report["longest"] = max(report["longest"], length)
                kept.append({"messages": messages(given.row, with_response=True), "images": given.row["images"]})
            writer.write_table(pa.Table.from_pylist(kept, schema=SCHEMA))
            report["kept"] += len(kept)
    return report


def examine(given: Given, data_dir: Path, model: Path, max_length: int) -> tuple[int, str | None]:
    """A row's length in tokens, and why it cannot be trained on or None.

    The length is exactly that of LLaMA-Factory's `input_ids`.
    """
    row = given.row
    if why := structural_problem(row, data_dir, DEMONSTRATION):
        return 0, why
    counts = []
    for image in row["images"]:
        size, why = look_at_image(data_dir / image)
        if why:
            return 0, f"image {image} {why}"
        counts.append(visual_tokens(*size, policy(model)))
    texts = turn_texts(row, counts)
    length = sum(len(tokenizer(model).encode(text, add_special_tokens=False).ids) for text in texts)
    if length > max_length:
        return length, f"{length} tokens, more than max_length {max_length}"
    return length, None


def look_at_image(path: Path) -> tuple[tuple[int, int], str | None]:
    """An image's width and height in pixels, and why the engines could not all see the same pixels, or None."""
    try:
        with Image.open(path) as image:
            image.load()
            width, height = image.size
            rotation = image.getexif().get(_ROTATION, 1)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return (0, 0), f"cannot be read: {error}"
    if min(width, height) < SMALLEST_SIDE:
        return (width, height), f"is {width} x {height} pixels, its short side must be at least {SMALLEST_SIDE}"
    if why := shape_problem(width, height):
        return (width, height), why
    if rotation != 1:
        return (width, height), "is to be shown rotated (EXIF), which engines treat differently; store it upright"
    return (width, height), None


@cache
def tokenizer(model: Path) -> Tokenizer:
    return Tokenizer.from_file(str(model / "tokenizer.json"))


@cache
def policy(model: Path) -> ImagePolicy:
    return image_policy(model)


if __name__ == "__main__":
    raise SystemExit(main())
