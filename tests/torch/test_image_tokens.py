"""Visual tokens from an image's size are the real processor's, over a thousand images and over shapes it refuses."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import Qwen2VLImageProcessor, Qwen3VLProcessor

from benchmarks.digits.build_model import image_settings
from integrations.common.image_tokens import policy_of, visual_tokens
from integrations.errors import BadInput

QWEN3_VL = {"size": {"shortest_edge": 65536, "longest_edge": 16777216}, "patch_size": 16, "merge_size": 2}
"""Of `preprocessor_config.json` as Qwen/Qwen3-VL-4B-Instruct, -8B and their kin publish it."""
SETTINGS = {"digits": image_settings(9), "qwen3-vl": QWEN3_VL}


def processor(settings: dict[str, Any]) -> Qwen3VLProcessor:
    kept = {key: settings[key] for key in ("size", "patch_size", "merge_size")}
    whole = Qwen3VLProcessor.__new__(Qwen3VLProcessor)  # its count needs no tokenizer
    whole.image_processor = Qwen2VLImageProcessor(**kept)
    return whole


def sizes(count: int, longest: int) -> list[tuple[int, int]]:
    """Widths and heights, as often narrow as square; some more than 200 times as long as wide."""
    rng = random.Random(0)
    return [tuple(round(longest ** rng.uniform(0, 1)) for _ in range(2)) for _ in range(count)]  # type: ignore[misc]


@pytest.mark.parametrize("name", SETTINGS)
def test_a_thousand_images_give_as_many_tokens_as_in_the_processor(name: str) -> None:
    images = Qwen2VLImageProcessor(**{key: SETTINGS[name][key] for key in ("size", "patch_size", "merge_size")})
    policy = policy_of(SETTINGS[name])
    done = 0
    for width, height in sizes(1200, 700):
        if max(width, height) > 200 * min(width, height) or done == 1000:
            continue
        grid = images(Image.fromarray(np.zeros((height, width, 3), np.uint8)), return_tensors="np")["image_grid_thw"]
        assert visual_tokens(width, height, policy) == grid.prod() // policy.merge_size**2, (width, height)
        done += 1
    assert done == 1000


@pytest.mark.parametrize("name", SETTINGS)
def test_what_the_processor_refuses_is_refused(name: str) -> None:
    real, policy = processor(SETTINGS[name]), policy_of(SETTINGS[name])
    refused = 0
    for width, height in [(6400, 32), (6401, 32), (32, 6400), (32, 6401), *sizes(5000, 20000)]:
        try:
            (expected,) = real._get_num_multimodal_tokens(image_sizes=[(height, width)]).num_image_tokens
        except ValueError:
            refused += 1
            with pytest.raises(BadInput, match="more than 200 times as long as wide"):
                visual_tokens(width, height, policy)
        else:
            assert visual_tokens(width, height, policy) == expected, (width, height)
    assert 100 < refused < 4000
