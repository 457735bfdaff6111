"""How many tokens every row of a pool is: its prompt, its images and its response.

    python -m integrations.llamafactory.lengths --file data/prism/sft.jsonl --model MODEL --out lengths.npy

Runs in the engine's environment, for its tokenizer, without loading torch or transformers; rows stream, images are not
decoded. Writes an array of uint32, (rows, 4): tokens of the prompt with system turn and chat layout, of the images, of
the response, and the pixels of the largest image. Rows that cannot be counted (no text, an image that cannot be read)
are zeros. Prints `rows N` after every chunk.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from integrations.common.image_tokens import ImagePolicy, image_size, visual_tokens
from integrations.common.rows import Row
from integrations.errors import BadInput
from integrations.llamafactory.prepare import policy, tokenizer
from integrations.llamafactory.rows import turn_texts

CHUNK = 1000
COLUMNS = ("prompt", "images", "response", "pixels")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    found = []
    rows = _rows(args.file)
    done = 0
    while chunk := list(islice(rows, CHUNK)):
        found.append(lengths(chunk, args.file.parent, args.model))
        done += len(chunk)
        print(f"rows {done}", flush=True)
    np.save(args.out, np.concatenate(found) if found else np.zeros((0, len(COLUMNS)), np.uint32))
    return 0


def _rows(path: Path) -> Iterator[Row | None]:
    """A line that is no row is None: `prism data check` tells what is wrong with it."""
    with path.open("rb") as stream:
        for line in stream:
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            yield row if isinstance(row, dict) else None


def lengths(rows: Sequence[Row | None], folder: Path, model: Path) -> np.ndarray[Any, np.dtype[np.uint32]]:
    """(rows, 4): as the module has it.

    Args:
        folder: where the paths of images start.
        model: folder with tokenizer.json and the image processor's settings.
    """
    counted: np.ndarray[Any, np.dtype[np.uint32]] = np.zeros((len(rows), len(COLUMNS)), np.uint32)
    places, texts = [], []
    for place, row in enumerate(rows):
        images = None if row is None else _images(row, folder, policy(model))
        if row is None or images is None or not isinstance(row.get("prompt"), str):
            continue
        counted[place, 1] = sum(tokens for tokens, _ in images)
        counted[place, 3] = max((pixels for _, pixels in images), default=0)
        # An image's tokens are counted by its size; its text here has only what begins and ends it.
        source, response = turn_texts({**row, "response": row.get("response") or ""}, [0] * len(images))
        places.append(place)
        texts += [source, response if row.get("response") else ""]
    encoded = tokenizer(model).encode_batch_fast(texts, add_special_tokens=False) if texts else []
    for index, place in enumerate(places):
        counted[place, [0, 2]] = len(encoded[2 * index]), len(encoded[2 * index + 1])
    return counted


def _images(row: Row, folder: Path, images: ImagePolicy) -> list[tuple[int, int]] | None:
    """Tokens and pixels of each image, None where one cannot be counted."""
    names = row.get("images")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    try:
        return [_image(folder / name, images) for name in names]
    except BadInput:
        return None


@lru_cache(maxsize=100_000)
def _image(path: Path, images: ImagePolicy) -> tuple[int, int]:
    width, height = image_size(path)
    return visual_tokens(width, height, images), width * height


if __name__ == "__main__":
    raise SystemExit(main())
