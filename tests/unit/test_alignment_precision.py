"""Number formats of the alignment engine as its adapter sees them: what is refused, and frozen weights compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from integrations.alignment.adapter import AlignAdapter, DiscriminatorAdapter
from integrations.alignment.settings import AlignSettings, DiscriminatorSettings
from integrations.alignment.settings.precision import LoraSettings, PrecisionSettings
from integrations.common.checkpoint import check_frozen
from integrations.errors import StageFailed
from tests.unit.test_alignment_adapter import context, leave_result

NARROW = {"compute": "bf16", "masters": "none"}
TOWER, TEXT = "model.visual.blocks.0.weight", "model.language_model.norm.weight"


@pytest.mark.parametrize(
    ("kind", "fields", "says"),
    [
        (AlignSettings, {"precision": NARROW, "learning_rate": 1e-6}, "learning_rate is 1e-06 .* above 0.0005"),
        (
            AlignSettings,
            {"precision": NARROW, "learning_rate": 1e-3, "discriminator_learning_rate": 1e-6},
            "discriminator_learning_rate is 1e-06",
        ),
        (DiscriminatorSettings, {"precision": NARROW, "learning_rate": 1e-6}, "set `precision.masters: split`"),
        (DiscriminatorSettings, {"precision": {"lora": {}}}, "lora is for the policy"),
        (AlignSettings, {"precision": {"masters": "none"}}, "needs `compute: bf16`"),
        (AlignSettings, {"precision": {"moments": "4bit"}}, "moments"),
        (AlignSettings, {"precision": {"lora": {"targets": ["embed_tokens"]}}}, "targets"),
        (AlignSettings, {"precision": {"lora": {"rank": 0}}}, "rank"),
    ],
)
def test_what_cannot_work_is_refused(kind: Any, fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        kind(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"precision": {"compute": "bf16"}, "learning_rate": 1e-6, "discriminator_learning_rate": 1e-6},
        {"precision": NARROW, "learning_rate": 1e-3, "discriminator_learning_rate": 1e-3},
        {"precision": NARROW | {"lora": {}}, "learning_rate": 1e-6, "discriminator_learning_rate": 1e-3},
        {"precision": NARROW | {"discriminator_lora": {}}, "learning_rate": 1e-3, "discriminator_learning_rate": 1e-6},
    ],
)
def test_what_can_work_is_not(fields: dict[str, Any]) -> None:
    AlignSettings(**fields)


def test_every_field_is_documented() -> None:
    for kind in (PrecisionSettings, LoraSettings):
        assert not [name for name, field in kind.model_fields.items() if not field.description]


def write(folder: Path, dtype: str, tensors: dict[str, np.ndarray]) -> Path:
    """A model's weights; BF16 are the upper halves of the numbers."""
    folder.mkdir(exist_ok=True)
    header, data = {}, b""
    for name, value in tensors.items():
        bits: np.ndarray = value.astype(np.float32).view(np.uint32)
        raw = ((bits >> 16).astype(np.uint16) if dtype == "BF16" else bits).tobytes()
        header[name] = {"dtype": dtype, "shape": list(value.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    head = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + data)
    return folder


def test_frozen_weights_are_compared_number_by_number(tmp_path: Path) -> None:
    exact, text = np.array([1.0, -0.5, 3.0]), np.array([7.0])
    source = write(tmp_path / "source", "BF16", {"visual.blocks.0.weight": exact, TEXT: text})
    same = write(tmp_path / "same", "F32", {TOWER: exact, TEXT: text + 1})
    check_frozen(same, source, "visual.")
    check_frozen(
        write(tmp_path / "narrow", "BF16", {TOWER: exact}), write(tmp_path / "wide", "F32", {TOWER: exact}), "visual."
    )
    for name, other in (("moved", np.nextafter(exact.astype(np.float32), np.float32(9))), ("cut", exact[:2])):
        with pytest.raises(StageFailed, match=f"`{TOWER}` was to stay frozen"):
            check_frozen(write(tmp_path / name, "F32", {TOWER: other, TEXT: text}), source, "visual.")
    with pytest.raises(StageFailed, match="no tensor named"):
        check_frozen(write(tmp_path / "none", "F32", {TEXT: text}), source, "visual.")


@pytest.mark.parametrize("adapter", [AlignAdapter(), DiscriminatorAdapter()])
@pytest.mark.parametrize("freeze", [True, False])
@pytest.mark.parametrize("moved", [0.0, 2.0**-20])
def test_a_vision_tower_that_moved_is_refused_where_it_was_frozen(
    adapter: Any, freeze: bool, moved: float, tmp_path: Path
) -> None:
    kind = AlignSettings if isinstance(adapter, AlignAdapter) else DiscriminatorSettings
    ctx = context(tmp_path, kind(precision=PrecisionSettings(freeze_vision=freeze)), steps=20)
    write(ctx.policy, "F32", {TOWER: np.ones(3), TEXT: np.ones(1)})
    leave_result(ctx)
    write(ctx.checkpoint_dir / "result", "F32", {TOWER: np.ones(3) + moved, TEXT: np.zeros(1) + 2})
    if freeze and moved:
        with pytest.raises(StageFailed, match="was to stay frozen and changed"):
            adapter.finish(ctx)
        assert not ctx.model_dir.exists()
    else:
        adapter.finish(ctx)
        assert (ctx.model_dir / "model.safetensors").is_file()
