"""What is looked at in verl's environment before it starts: images to their last pixel, and prompts' lengths."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from integrations.common.image_tokens import ImagePolicy
from integrations.errors import BadInput
from integrations.verl import check_prompts
from integrations.verl.prompts import size_problem


def picture_of(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def picture() -> bytes:
    return picture_of(Image.effect_noise((64, 64), 50))


def config(folder: Path, images: list[bytes], limit: int = 100, prompts: int = 2) -> dict[str, Any]:
    """A rendered configuration, as far as it is read, with one prompt of an image each."""
    rows = [
        {
            "prompt": [{"role": "user", "content": "<image>Hm?"}],
            "images": [{"bytes": data, "min_pixels": 1024, "max_pixels": 9216}],
            "extra_info": {"id": f"r{number}"},
        }
        for number, data in enumerate(images)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "prompts.parquet")
    data = {
        "train_files": str(folder / "prompts.parquet"),
        "filter_overlong_prompts": True,
        "max_prompt_length": limit,
        "train_batch_size": prompts,
    }
    return {"data": data, "actor_rollout_ref": {"model": {"path": str(folder)}}}


@pytest.fixture
def lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts of 0, 10, 20... tokens, so that no tokenizer is needed; its count is held to verl's in tests/engines."""
    number = {f"r{number}": 10 * number for number in range(1000)}

    def length(row: Mapping[str, Any]) -> int:
        assert row["images"][0]["size"] == (64, 64)
        return number[row["extra_info"]["id"]]

    monkeypatch.setattr(check_prompts, "counter", lambda model: length)


@pytest.mark.usefixtures("lengths")
def test_prompts_that_are_too_long_are_told_before_the_start(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    check_prompts.check(config(tmp_path, [picture()] * 200, limit=1930))
    assert json.loads((tmp_path / "checked.json").read_text()) == {
        "prompts": 200,
        "longest": 1990,
        "over": [{"id": f"r{number}", "tokens": 10 * number} for number in range(194, 200)],
        "transparent": [],
    }
    assert capsys.readouterr().out == (
        "6 of 200 prompts are longer than max_prompt_length (1930), "
        "row `r194` with 1940; row `r195` with 1950; row `r196` with 1960 and 3 more; verl omits them\n"
    )


@pytest.mark.usefixtures("lengths")
@pytest.mark.parametrize(("limit", "prompts", "kept"), [(89, 2, 9), (150, 17, 16)])
def test_too_few_prompts_that_fit_are_refused(tmp_path: Path, limit: int, prompts: int, kept: int) -> None:
    with pytest.raises(BadInput, match=f"which leaves {kept} for steps of {prompts}") as error:
        check_prompts.check(config(tmp_path, [picture()] * 20, limit, prompts))
    assert error.value.fix == "raise max_prompt_length (the longest has 190), or set a smaller max_image_pixels"


@pytest.mark.usefixtures("lengths")
def test_all_prompts_may_be_of_the_greatest_length(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    check_prompts.check(config(tmp_path, [picture()] * 3, limit=20))
    assert capsys.readouterr().out == ""


def test_images_with_transparent_parts_are_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    clear, whole = (picture_of(Image.new("RGBA", (64, 64), (0, 0, 0, alpha))) for alpha in (254, 255))
    given = config(tmp_path, [whole, clear, picture(), clear])
    given["data"]["filter_overlong_prompts"] = False
    check_prompts.check(given)
    assert json.loads((tmp_path / "checked.json").read_text())["transparent"] == ["r1", "r3"]
    assert "2 of 4 prompts have images with transparent parts, row `r1`; row `r3`;" in capsys.readouterr().out


def test_an_image_cut_short_is_named(tmp_path: Path) -> None:
    given = config(tmp_path, [picture(), picture()[:-600], picture()])
    given["data"]["filter_overlong_prompts"] = False
    with pytest.raises(BadInput, match=r"1 of 3 prompts have an image that cannot be decoded: row `r1`: .*truncated"):
        check_prompts.check(given)
    assert not (tmp_path / "checked.json").exists()


@pytest.mark.parametrize(
    ("width", "height", "bad"),
    [(32, 32, False), (500, 333, False), (17, 200, False), (16, 200, True), (6400, 32, True), (300, 31, False)],
)
def test_sizes_that_verl_would_change_in_another_way(width: int, height: int, bad: bool) -> None:
    assert bool(size_problem(width, height, ImagePolicy(16, 2, 1024, 9216))) is bad
