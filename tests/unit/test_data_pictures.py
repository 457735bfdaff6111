"""Pictures that are found again, and pictures that only look alike; questions that are found again."""

from __future__ import annotations

import io
import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont
from published import chart, encoded

from prism_cli.datasets.pictures import PictureIndex, difference, fingerprint, problem
from prism_cli.datasets.texts import RUN, TextIndex, digest, words

MANY = 30
Change = Callable[[Image.Image], bytes]


def strip(number: int) -> Image.Image:
    """Four printed digits in tiles of 32 pixels. Of 7 digits: a small 6 and a small 8 differ by three pixels."""
    image = Image.new("RGB", (128, 32), "white")
    pen = ImageDraw.Draw(image)
    for place, digit in enumerate(np.base_repr(number, 7).rjust(4, "0").replace("6", "7")):
        pen.text((32 * place + 8, 2), digit, fill="black", font=ImageFont.load_default(26))
    return image


def resized(image: Image.Image, filter_: Image.Resampling = Image.Resampling.BICUBIC) -> Image.Image:
    return image.resize((round(0.8 * image.width), round(0.8 * image.height)), filter_)


CHANGES: dict[str, Change] = {
    "as it is": encoded,
    "JPEG, quality 70": lambda image: encoded(image, "JPEG", quality=70),
    "resized to 80%": lambda image: encoded(resized(image)),
    "resized to 80% by areas": lambda image: encoded(resized(image, Image.Resampling.BOX)),
    "both": lambda image: encoded(resized(image), "JPEG", quality=70),
    "in grey": lambda image: encoded(image.convert("L")),
    "with a palette": lambda image: encoded(image.quantize()),
    "on a transparent ground": lambda image: encoded(_transparent(image)),
    "WebP": lambda image: encoded(image, "WEBP", quality=80),
}


def _transparent(image: Image.Image) -> Image.Image:
    clear = image.convert("RGBA")
    levels = np.asarray(clear).copy()
    levels[(levels[..., :3] == 255).all(-1)] = 0
    return Image.fromarray(levels)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("draw", [chart, strip])
def test_a_changed_picture_is_found_as_itself(draw: Callable[[int], Image.Image], change: str) -> None:
    index = PictureIndex()
    for number in range(MANY):
        index.add(fingerprint(encoded(draw(number))))
    found = [index.find(fingerprint(CHANGES[change](draw(number)))) for number in range(MANY)]
    assert found == [*range(MANY)]


@pytest.mark.parametrize("draw", [chart, strip])
def test_other_pictures_of_the_same_layout_are_not_found(draw: Callable[[int], Image.Image]) -> None:
    index = PictureIndex()
    for number in range(MANY):
        index.add(fingerprint(encoded(draw(number))))
    others = [index.find(fingerprint(encoded(draw(number)))) for number in range(MANY, 5 * MANY)]
    assert {*others} == {None}


def test_one_bar_that_differs_makes_another_chart() -> None:
    image = chart(3, (480, 360))
    ImageDraw.Draw(image).rectangle([100, 300, 140, 320], fill="white")
    other = chart(3, (480, 360))
    assert difference(fingerprint(encoded(image)).grey, fingerprint(encoded(other)).grey) > 14.5
    index = PictureIndex()
    index.add(fingerprint(encoded(other)))
    assert index.find(fingerprint(encoded(image))) is None


def test_pictures_that_show_nothing_are_like_no_other() -> None:
    index = PictureIndex()
    index.add(fingerprint(encoded(Image.new("RGB", (64, 64), "white"))))
    assert index.find(fingerprint(encoded(Image.new("RGB", (64, 64), "white")))) is None


def test_an_empty_index_finds_nothing() -> None:
    assert PictureIndex().find(fingerprint(encoded(chart(0)))) is None


def test_the_difference_is_symmetric_and_zero_for_itself() -> None:
    one, other = fingerprint(encoded(chart(1))).grey, fingerprint(encoded(chart(2, (320, 240)))).grey
    assert difference(one, other) == difference(other, one) > 0
    assert difference(one, one) == 0


def test_what_the_engines_would_see_differently_is_said() -> None:
    assert problem(encoded(chart(0))) is None
    assert problem(encoded(Image.new("RGB", (20, 100)))) == "has a side shorter than 28 pixels"
    assert problem(encoded(Image.new("RGB", (30, 9000)))) == "is more than 200 times as long as wide"
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    chart(0).save(stream, "JPEG", exif=exif)
    assert str(problem(stream.getvalue())).startswith("is to be shown rotated")
    with pytest.raises(OSError, match="cannot identify"):
        problem(b"no picture")


# Texts


def sentence(seed: int, count: int) -> str:
    draw = random.Random(seed)
    return " ".join("".join(draw.choices("abcdefgh", k=6)) for _ in range(count))


def test_a_question_is_found_inside_another_text() -> None:
    questions = [sentence(seed, 40) for seed in range(5)]
    index = TextIndex(questions)
    around = f"Please answer. {questions[3].upper()}!! Give reasons."
    assert index.find(words(around)) == 3
    assert index.find(words(" ".join(questions[2].split()[:32]))) == 2
    assert index.find(words(" ".join(questions[2].split()[:20]))) is None
    assert index.find(words(sentence(99, 60))) is None


def test_what_many_questions_share_does_not_count() -> None:
    instruction = sentence(7, 30)
    index = TextIndex([f"{instruction} {sentence(seed, 4)}" for seed in range(20)])
    assert index.find(words(f"{instruction} {sentence(77, 4)}")) is None
    assert index.short == 20


def test_a_question_that_is_held_out_several_times_is_still_found() -> None:
    index = TextIndex([sentence(1, 40)] * 10)
    assert index.find(words(sentence(1, 40))) == 0


def test_short_questions_are_counted_and_not_looked_for() -> None:
    index = TextIndex(["What is x?", sentence(0, RUN), sentence(0, 40)])
    assert index.short == 2
    assert index.find(words("What is x?")) is None


@given(st.text(), st.text())
def test_words_know_no_case_and_no_punctuation(left: str, right: str) -> None:
    assert words(f"{left}! {right}") == words(left) + words(right)
    assert words("Ｘ² ＝ ４!") == words("x2 4")


def test_parts_of_a_digest_stay_apart() -> None:
    assert digest("ab", "c") != digest("a", "bc")
    assert digest("\ud800") == digest("\ud800")
