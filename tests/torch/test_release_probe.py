"""A released model or discriminator is loaded and asked, and what is wrong with it is named."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from integrations.alignment import release_probe
from integrations.alignment.data.prompts import Encoder
from integrations.alignment.discriminators import storage
from integrations.alignment.names import DESCRIPTION
from tests.torch.test_discriminator import EVERY_KIND
from tests.torch.test_inspection import saved


def test_a_model_gives_the_response_the_log_probability_that_its_logits_say(checkpoint: Path, policy: Any) -> None:
    told = release_probe.answer(checkpoint)
    assert told["problems"] == {"weights": [], "processor": [], "canary": []}
    processor, _, inputs = release_probe._inputs(checkpoint)
    model = release_probe.load(checkpoint)
    response = processor.tokenizer(release_probe.RESPONSE + "<|im_end|>", add_special_tokens=False)["input_ids"]
    total, ids = 0.0, inputs["input_ids"]
    pictures = {name: inputs[name] for name in ("pixel_values", "image_grid_thw")}
    with torch.inference_mode():
        for token in response:  # one token after another, as a reader would work it out
            kinds = (ids == model.config.image_token_id).int()
            logits = model(input_ids=ids, mm_token_type_ids=kinds, **pictures).logits[0, -1]
            total += float(logits.double().log_softmax(-1)[token])
            ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
    canary = told["canary"]
    assert canary["tokens"] == len(response)
    assert canary["log_probability"] == pytest.approx(total, abs=1e-3)
    assert (canary["dtype"], canary["tolerance"]) == ("float32", 5e-3)


@EVERY_KIND
def test_every_kind_of_discriminator_is_loaded_by_its_own_loader(
    checkpoint: Path, policy: Any, encoder: Encoder, tmp_path: Path, words: dict[str, Any]
) -> None:
    saved(tmp_path / "d", checkpoint, policy, encoder, **words)
    told = release_probe.answer(tmp_path / "d")
    assert told["problems"] == {"weights": [], "processor": [], "canary": []}
    assert math.isfinite(told["canary"]["log_probability"])


def test_a_discriminator_without_its_heads_or_with_a_bad_description_is_named(
    checkpoint: Path, policy: Any, encoder: Encoder, tmp_path: Path
) -> None:
    saved(tmp_path / "d", checkpoint, policy, encoder, score="head")
    shutil.copytree(tmp_path / "d", tmp_path / "e")
    (tmp_path / "d" / storage.HEADS).unlink()
    description = json.loads((tmp_path / "e" / DESCRIPTION).read_text())
    (tmp_path / "e" / DESCRIPTION).write_text(json.dumps(description | {"score": "guess"}))
    for folder, says in ((tmp_path / "d", "is missing or not the heads"), (tmp_path / "e", "")):
        told = release_probe.answer(folder)
        assert says in told["problems"]["weights"][0]
        assert told["canary"] == {}


def test_the_picture_is_the_same_on_every_machine() -> None:
    picture = release_probe.picture()
    assert picture.size == (96, 64)
    assert [picture.getpixel(place) for place in ((0, 0), (95, 63), (32, 0))] == [
        (40, 60, 200),
        (200, 123, 105),
        (200, 60, 168),
    ]
