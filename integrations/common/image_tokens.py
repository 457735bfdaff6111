"""How many visual tokens an image becomes, told from its size alone: no pixel is decoded, no model library loaded.

    policy = image_policy(Path("models/policy"))
    visual_tokens(*image_size(Path("images/3f2a.png")), policy)        # 640 x 480 pixels at 32 a token: 300

The rule is `smart_resize` of the Qwen2-VL image processor, which Qwen2.5-VL, Qwen3-VL and Qwen3.5 share (transformers,
`models/qwen2_vl/image_processing_qwen2_vl.py`, the same in all versions that the engines pin): sides become the nearest
multiples of a merged patch, the area is brought within bounds. `tests/torch/test_image_tokens.py` holds it to the real
processor. Pillow reads the sizes, from the header of a file or of its bytes.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from integrations.common.files import read_json
from integrations.errors import BadInput

LONGEST_SHAPE = 200
"""Images with a side more than this many times the other are refused by the processor."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""Kinds of image files that are read."""
_FAMILY = re.compile(r"Qwen\w*VLImageProcessor(Fast|Pil)?")


@dataclass(frozen=True)
class ImagePolicy:
    """What a model's image processor does to the size of an image. The defaults are the processor class's own.

    Args:
        patch_size: side in pixels of a patch.
        merge_size: side in patches of what becomes one token.
        min_pixels, max_pixels: bounds of the resized image's area; an image of few patches may miss them by rounding.
    """

    patch_size: int = 14
    merge_size: int = 2
    min_pixels: int = 56 * 56
    max_pixels: int = 28 * 28 * 1280

    @property
    def token_side(self) -> int:
        """Side in pixels of one visual token."""
        return self.patch_size * self.merge_size


def image_policy(model: Path) -> ImagePolicy:
    """The image policy of a model folder, read where transformers reads it.

    That is the `image_processor` part of `processor_config.json` if there is one, else `preprocessor_config.json`;
    `min_pixels` and `max_pixels` go before `size`.

    Raises:
        BadInput: neither file is there, or its numbers cannot be a policy.
    """
    path = model / "processor_config.json"
    whole = read_json(path)
    settings = whole.get("image_processor") if isinstance(whole, dict) else None
    if settings is None:
        path = model / "preprocessor_config.json"
        settings = read_json(path)
    if not isinstance(settings, dict):
        raise BadInput(
            f"{path} is missing or no JSON object", "give a model folder with its image processor's settings"
        )
    try:
        return policy_of(settings)
    except (BadInput, TypeError, ValueError, AttributeError) as error:
        raise BadInput(f"{path}: {error}", "take the file from the model's publisher") from None


def policy_of(settings: Mapping[str, Any]) -> ImagePolicy:
    """The image policy of an image processor's settings (the content of `preprocessor_config.json`).

    Raises:
        BadInput: another family's processor, sides or bounds that are not positive, or images are not to be resized.
    """
    default = ImagePolicy()
    kind = str(settings.get("image_processor_type") or "Qwen2VLImageProcessor")
    if not _FAMILY.fullmatch(kind):
        raise BadInput(f"{kind} resizes images by a rule of its own, not by Qwen2-VL's")
    size = settings.get("size") or {"shortest_edge": default.min_pixels, "longest_edge": default.max_pixels}
    bounds = [
        size.get(edge) if settings.get(name) is None else settings[name]
        for edge, name in (("shortest_edge", "min_pixels"), ("longest_edge", "max_pixels"))
    ]
    if None in bounds:
        raise BadInput("`size` has not both `shortest_edge` and `longest_edge`")
    if settings.get("do_resize") is False:
        raise BadInput("`do_resize` is false: only images that are whole patches could be read")
    sides = [settings.get("patch_size", default.patch_size), settings.get("merge_size", default.merge_size)]
    numbers = [int(number) for number in (*sides, *bounds)]
    if min(numbers) < 1:
        raise BadInput("patch_size, merge_size and the bounds of `size` must be positive")
    return ImagePolicy(*numbers)


def visual_tokens(width: int, height: int, policy: ImagePolicy) -> int:
    """Merged visual tokens of one image, without those that begin and end it.

    Args:
        width, height: pixels.

    Raises:
        BadInput: the processor refuses an image of this shape.
    """
    wide, tall = resized(width, height, policy)
    return (tall // policy.token_side) * (wide // policy.token_side)


def resized(width: int, height: int, policy: ImagePolicy) -> tuple[int, int]:
    """Width and height in pixels that the processor gives an image. Raises BadInput like `visual_tokens`."""
    if problem := shape_problem(width, height):
        raise BadInput(f"an image {problem}", "crop it or leave it out")
    side = policy.token_side
    tall, wide = round(height / side) * side, round(width / side) * side
    if tall * wide > policy.max_pixels:
        shrink = math.sqrt(height * width / policy.max_pixels)
        tall = max(side, math.floor(height / shrink / side) * side)
        wide = max(side, math.floor(width / shrink / side) * side)
    elif tall * wide < policy.min_pixels:
        grow = math.sqrt(policy.min_pixels / (height * width))
        tall = math.ceil(height * grow / side) * side
        wide = math.ceil(width * grow / side) * side
    return wide, tall


def shape_problem(width: int, height: int) -> str | None:
    """Why the processor refuses an image of this shape ("is ..."), or None.

    Args:
        width, height: pixels.
    """
    if min(width, height) < 1:
        return f"is {width} x {height} pixels"
    if max(width, height) > LONGEST_SHAPE * min(width, height):
        return f"is {width} x {height} pixels, more than {LONGEST_SHAPE} times as long as wide"
    return None


def image_size(image: Path | bytes) -> tuple[int, int]:
    """Width and height in pixels as stored, from the header of a file or of a file's bytes.

    Raises:
        BadInput: it cannot be read, or is none of `FORMATS`.
    """
    from PIL import Image

    try:
        with Image.open(image if isinstance(image, Path) else io.BytesIO(image), formats=FORMATS) as opened:
            return opened.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        what = str(image) if isinstance(image, Path) else f"an image of {len(image)} bytes"
        reason = "no picture of a known kind" if isinstance(error, OSError) and not error.errno else str(error)
        raise BadInput(f"cannot read {what}: {reason}", f"give images as one of {', '.join(FORMATS)}") from None
