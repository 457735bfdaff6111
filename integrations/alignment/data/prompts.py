"""Rows of a pool as model inputs: chat template, image patches and the true multimodal positions.

A prompt is encoded once for its whole group of responses, and kept while there is room.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from integrations.common.rows import Row
from integrations.errors import BadInput


@dataclass(frozen=True)
class Prompt:
    """One prompt. Legend: P tokens, N image patches before merging, I images."""

    id: str
    ids: np.ndarray
    """(P,) int64 token ids, each image's placeholder repeated once per merged patch."""
    positions: np.ndarray
    """(3, P) int64 temporal, height and width positions (Qwen3-VL's multimodal rotary embedding)."""
    patches: torch.Tensor
    """(N, patch size) float32 pixels."""
    grids: torch.Tensor
    """(I, 3) int64 patches in time, height and width."""
    answer: str
    """The reference answer; used only to measure, never to train."""


def rope_positions(is_image: np.ndarray, grids: Sequence[Sequence[int]], merge: int) -> np.ndarray:
    """Positions of text and image tokens, as Qwen3-VL defines them.

    Text counts up on all three axes. An image's tokens share the temporal position where it begins; height and width
    count its merged rows and columns from there; the text goes on after the larger of the two.

    Args:
        is_image: (P,) bool, True at image placeholders.
        grids: per image its patches in (time, height, width); time is 1 for images.
        merge: patches merged per side into one token.

    Returns:
        (3, P) int64.
    """
    positions: np.ndarray = np.empty((3, len(is_image)), np.int64)
    index, current, images = 0, 0, iter(grids)
    while index < len(is_image):
        if not is_image[index]:
            positions[:, index] = current
            index, current = index + 1, current + 1
            continue
        frames, rows, columns = (int(side) for side in next(images))
        rows, columns = rows // merge, columns // merge
        count = frames * rows * columns
        positions[:, index : index + count] = np.indices((frames, rows, columns)).reshape(3, count) + current
        index, current = index + count, current + max(rows, columns)
    return positions


class Encoder:
    """Rows to prompts; the latest ones are kept for the next time.

    Args:
        processor: the checkpoint's transformers processor.
        data_dir: folder that the rows' image paths are relative to.
        keep_bytes: pixels kept in memory.
    """

    def __init__(self, processor: Any, data_dir: Path, keep_bytes: int = 2**30) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.data_dir = data_dir
        self.merge: int = processor.image_processor.merge_size
        self.image_token: str = processor.image_token
        self.image_id: int = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
        self.keep_bytes = keep_bytes
        self._prompts: dict[str, Prompt] = {}
        self._kept_bytes = 0

    def image(self, path: str) -> Image.Image:
        """A picture of the pool, in RGB.

        Raises:
            BadInput: the file is missing or is not an image.
        """
        try:
            with Image.open(self.data_dir / path) as opened:
                return opened.convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what damage is called
            raise BadInput(f"cannot read the image {self.data_dir / path}: {error}", "rebuild the data") from error

    def patches(self, picture: Image.Image) -> tuple[torch.Tensor, torch.Tensor]:
        """An RGB picture's patches (N, patch size) float32 and grid (1, 3) int64."""
        features = self.processor.image_processor(images=[picture], return_tensors="pt")
        return features["pixel_values"].float(), features["image_grid_thw"]

    def turns(self, row: Row) -> list[dict[str, Any]]:
        """The row as turns of the chat template, images before the text."""
        parts = [{"type": "image"} for _ in row["images"]] + [{"type": "text", "text": row["prompt"]}]
        system: list[dict[str, Any]] = [{"role": "system", "content": row["system"]}] if row.get("system") else []
        return [*system, {"role": "user", "content": parts}]

    def text(self, turns: Sequence[dict[str, Any]]) -> str:
        """Turns in the chat template, ready for the response, one placeholder per image."""
        return self.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)

    def encode(self, row: Row) -> Prompt:
        """The row as a prompt.

        Raises:
            BadInput: an image cannot be read, or the prompt's own text holds an image placeholder.
        """

        def make() -> Prompt:
            pictures = [self.image(path) for path in row["images"]]
            return self._encode(str(row["id"]), self.turns(row), pictures, str(row["answer"]))

        return self._kept(str(row["id"]), make)

    def length(self, row: Row, sizes: Sequence[tuple[int, int]]) -> int:
        """Tokens of the row's prompt, from its images' sizes alone.

        Args:
            sizes: width and height of each image in pixels.

        Raises:
            BadInput: an image has a shape that the model cannot take, or as for `encode`.
        """
        try:
            counts = [
                self.processor.image_processor.get_number_of_image_patches(height, width, {}) // self.merge**2
                for width, height in sizes
            ]
        except ValueError as error:
            raise BadInput(f"{row['id']}: an image cannot be used: {error}", "leave the row out") from error
        return len(self._ids(str(row["id"]), self.turns(row), counts))

    def encode_turns(self, name: str, turns: Sequence[dict[str, Any]], pictures: Sequence[Image.Image]) -> Prompt:
        """A conversation as a prompt.

        Args:
            name: the prompt's `id`; different conversations need different names.
            turns: as the chat template takes them, with one {"type": "image"} for each picture.
            pictures: RGB, in the turns' order.

        Raises:
            BadInput: a turn's own text holds an image placeholder.
        """
        return self._kept(name, lambda: self._encode(name, turns, pictures, ""))

    def _kept(self, name: str, make: Callable[[], Prompt]) -> Prompt:
        prompt = self._prompts.pop(name, None)
        if prompt is None:
            prompt = make()
            self._kept_bytes += prompt.patches.nbytes
        self._prompts[name] = prompt  # last in the dictionary's order: the latest used
        while self._kept_bytes > self.keep_bytes and len(self._prompts) > 1:
            oldest = self._prompts.pop(next(iter(self._prompts)))
            self._kept_bytes -= oldest.patches.nbytes
        return prompt

    def _ids(self, name: str, turns: Sequence[dict[str, Any]], counts: Sequence[int]) -> np.ndarray:
        """(P,) int64 token ids, each image's placeholder repeated once per merged patch (`counts`)."""
        pieces = self.text(turns).split(self.image_token)
        if len(pieces) != len(counts) + 1:
            raise BadInput(
                f"{name}: {len(pieces) - 1} image placeholders for {len(counts)} images",
                "give each image one place and keep the placeholder's text out of the prompt",
            )
        text = pieces[0] + "".join(
            self.image_token * count + piece for count, piece in zip(counts, pieces[1:], strict=True)
        )
        return np.asarray(self.tokenizer(text, add_special_tokens=False)["input_ids"], np.int64)

    def _encode(
        self, name: str, turns: Sequence[dict[str, Any]], pictures: Sequence[Image.Image], answer: str
    ) -> Prompt:
        images = [self.patches(picture) for picture in pictures]
        grids = torch.cat([grid for _, grid in images]) if images else torch.zeros((0, 3), dtype=torch.int64)
        ids = self._ids(name, turns, [int(grid.prod()) // self.merge**2 for grid in grids])
        empty = torch.zeros((0, 0))
        return Prompt(
            id=name,
            ids=ids,
            positions=rope_positions(ids == self.image_id, grids.tolist(), self.merge),
            patches=torch.cat([patches for patches, _ in images]) if images else empty,
            grids=grids,
            answer=answer,
        )
