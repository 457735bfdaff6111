"""Settings of the digits world: what is refused, and what the calibration relies on."""

import pytest
from pydantic import ValidationError

from benchmarks.digits.settings import POOLS, DigitsWorld, TinyModel


def test_defaults_are_valid_and_name_their_pools():
    assert DigitsWorld().pools == POOLS
    assert {"base", "sft", "teacher", "rlvr", "validation", "test"} == set(POOLS)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"easy_digits": (3, 2)}, "easy_digits"),
        ({"easy_digits": (1, 2)}, "easy_digits"),
        ({"hard_digits": (3, 10)}, "hard_digits"),
        ({"easy_digits": (2, 3), "hard_digits": (3, 4)}, "hard_digits"),
        ({"validation_scans": 900, "test_scans": 800}, "test_scans"),
        ({"perception_random": 1.2}, "perception_random"),
        ({"sft_public": 0}, "sft_public"),
        ({"sft_pubic": 10}, "sft_pubic"),
    ],
)
def test_contradictions_in_the_world_are_refused(changes, names):
    with pytest.raises(ValidationError, match=names):
        DigitsWorld(**changes)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"heads": 3}, "kv_heads"),
        ({"vision_hidden_size": 100, "vision_heads": 4}, "vision_hidden_size"),
        ({"vocab_size": 500}, "vocab_size"),
        ({"head_dim": 16}, "head_dim"),
    ],
)
def test_contradictions_in_the_model_are_refused(changes, names):
    with pytest.raises(ValidationError, match=names):
        TinyModel(**changes)


@pytest.mark.parametrize("settings", [DigitsWorld, TinyModel])
def test_every_field_is_documented(settings):
    assert all(field.description for field in settings.model_fields.values())


def test_settings_survive_json():
    for settings in (DigitsWorld(world_seed=3), TinyModel(seed=4)):
        assert type(settings).model_validate_json(settings.model_dump_json()) == settings
