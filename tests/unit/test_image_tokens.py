"""Visual tokens from an image's size, and sizes from headers. tests/torch/test_image_tokens.py asks the processor."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from integrations.common.image_tokens import ImagePolicy, image_policy, image_size, policy_of, visual_tokens
from integrations.errors import BadInput

STRIPS = ImagePolicy(patch_size=16, merge_size=2, min_pixels=1024, max_pixels=9 * 1024)


@pytest.mark.parametrize(
    ("width", "height", "tokens"),
    [(32, 32, 1), (64, 32, 2), (288, 32, 9), (288, 64, 6), (40, 40, 1), (33, 28, 1), (500, 333, 6), (6400, 32, 42)],
)
def test_visual_tokens_by_image_size(width: int, height: int, tokens: int) -> None:
    assert visual_tokens(width, height, STRIPS) == tokens


def test_small_images_are_enlarged_to_the_least_area() -> None:
    assert visual_tokens(32, 32, ImagePolicy(16, 2, 4096, 9 * 1024)) == 4


@pytest.mark.parametrize(("width", "height"), [(6401, 32), (1, 201), (0, 5)])
def test_shapes_that_the_processor_refuses_are_refused(width: int, height: int) -> None:
    with pytest.raises(BadInput, match=f"is {width} x {height} pixels"):
        visual_tokens(width, height, STRIPS)


SIZES = {"shortest_edge": 1024, "longest_edge": 9216}


@pytest.mark.parametrize(
    ("settings", "policy"),
    [
        (
            {"size": SIZES, "patch_size": 16, "merge_size": 2, "image_processor_type": "Qwen2VLImageProcessorFast"},
            STRIPS,
        ),
        ({"min_pixels": 3136, "max_pixels": 12845056}, ImagePolicy(14, 2, 3136, 12845056)),
        ({"size": SIZES, "max_pixels": 4096}, ImagePolicy(14, 2, 1024, 4096)),
        ({}, ImagePolicy(14, 2, 3136, 1003520)),
    ],
)
def test_a_policy_is_read_as_transformers_reads_it(settings: dict[str, Any], policy: ImagePolicy) -> None:
    assert policy_of(settings) == policy


def test_the_whole_processors_file_goes_first(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": SIZES, "patch_size": 16}))
    (tmp_path / "processor_config.json").write_text(json.dumps({"processor_class": "Qwen3VLProcessor"}))
    assert image_policy(tmp_path) == STRIPS
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": {"size": SIZES, "patch_size": 8}}))
    assert image_policy(tmp_path).token_side == 16


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("no json", "is missing or no JSON object"),
        ("[]", "is missing or no JSON object"),
        ('{"size": {"height": 224, "width": 224}}', "has not both"),
        ('{"size": 224}', "has no attribute"),
        ('{"patch_size": 0}', "must be positive"),
        ('{"min_pixels": "few"}', "few"),
        ('{"do_resize": false}', "`do_resize` is false"),
        (
            '{"image_processor_type": "SiglipImageProcessor"}',
            "SiglipImageProcessor resizes images by a rule of its own",
        ),
    ],
)
def test_settings_that_are_no_policy_are_refused_by_file(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises(BadInput, match=r"preprocessor_config\.json") as error:
        image_policy(tmp_path)
    assert says in error.value.problem


def encoded(kind: str, size: tuple[int, int] = (700, 400)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (200, 10, 30)).save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_a_size_is_read_from_the_header_alone(tmp_path: Path, kind: str) -> None:
    data = encoded(kind)
    (tmp_path / "image").write_bytes(data)
    assert image_size(tmp_path / "image") == image_size(data) == (700, 400)
    if kind in ("PNG", "JPEG", "GIF"):  # of which the pixels come last
        assert image_size(data[: len(data) * 4 // 5]) == (700, 400)


@pytest.mark.parametrize("data", [b"", b"text", encoded("PNG")[:20], encoded("TIFF")])
def test_what_is_no_picture_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "image").write_bytes(data)
    with pytest.raises(BadInput, match=r"cannot read .*/image: no picture of a known kind"):
        image_size(tmp_path / "image")
    with pytest.raises(BadInput, match=f"cannot read an image of {len(data)} bytes"):
        image_size(data)
    with pytest.raises(BadInput, match="No such file"):
        image_size(tmp_path / "none")
