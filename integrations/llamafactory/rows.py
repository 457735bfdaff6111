"""Which rows of a pool can be trained on, and how LLaMA-Factory gets them.

LLaMA-Factory leaves out rows that it does not like with no more than a warning, cuts rows that are too long, and dies
late on a missing image, so every row is looked at before it sees any. No torch and no transformers: the structure is
checked in prism's own process (`integrations.common.rows.structural_problem`), images and lengths in the engine's
environment (`prepare`) with its tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from integrations.common.rows import Row, read_rows

DEMONSTRATION = ("prompt", "response")
"""Fields of a row that must hold text."""
SMALLEST_SIDE = 28
"""Images with a shorter side are enlarged by LLaMA-Factory before the model's own processor sees them."""


@dataclass(frozen=True)
class Given:
    """One row of the pools, with where it stands."""

    pool: str
    line: int
    row: Row

    @property
    def name(self) -> str:
        return f"{self.row['id']} ({self.pool}.jsonl, line {self.line})"


def given_rows(data_dir: Path, pools: Sequence[str]) -> Iterator[Given]:
    """The rows of all pools, one pool after the other.

    Raises:
        BadInput: a pool is missing or a line is no row.
    """
    for pool in pools:
        for line, row in enumerate(read_rows(data_dir / f"{pool}.jsonl"), 1):
            yield Given(pool, line, row)


def turn_texts(row: Row, counts: Sequence[int]) -> list[str]:
    """The row in Qwen's chat layout, cut where LLaMA-Factory cuts before tokenising: up to the response, then it.

    Args:
        row: a row without structural problem.
        counts: merged visual tokens of each image.
    """
    system = f"<|im_start|>system\n{row['system']}<|im_end|>\n" if row.get("system") else ""
    images = "".join(f"<|vision_start|>{'<|image_pad|>' * count}<|vision_end|>" for count in counts)
    source = f"{system}<|im_start|>user\n{images}{row['prompt']}<|im_end|>\n<|im_start|>assistant\n"
    return [source, f"{row['response']}<|im_end|>\n"]
