"""The prompt as the discriminator sees it, where that differs from what the policy was asked.

`positions: text` counts every token up by one on all three axes, as the paper's code does for the discriminator: it
hands over the text row of the positions alone, so an image's rows and columns are lost. The default keeps the true
multimodal positions. `inputs: text` leaves the images out, the text-only discriminator of the paper's ablation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from integrations.alignment.data.prompts import Prompt
from integrations.alignment.discriminators.description import Description


def seen_by(description: Description, config: Any, prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts as the description's `inputs` and `positions` ask.

    Args:
        config: the backbone's, for the ids of image tokens.
    """
    seen = list(prompts)
    if description.inputs == "text":
        marks = [config.vision_start_token_id, config.image_token_id, config.vision_end_token_id]
        seen = [_without_images(prompt, marks) for prompt in seen]
    if description.positions == "text":
        seen = [replace(prompt, positions=_counting_up(len(prompt.ids))) for prompt in seen]
    return seen


def _counting_up(length: int) -> np.ndarray:
    """(3, length) int64, 0, 1, 2, ... on each axis."""
    return np.broadcast_to(np.arange(length, dtype=np.int64), (3, length))


def _without_images(prompt: Prompt, marks: Sequence[int]) -> Prompt:
    ids = prompt.ids[~np.isin(prompt.ids, marks)]
    return replace(
        prompt,
        ids=ids,
        positions=_counting_up(len(ids)),
        patches=torch.zeros((0, 0)),
        grids=torch.zeros((0, 3), dtype=torch.int64),
    )
