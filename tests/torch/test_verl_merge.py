"""Adapters put into the weights of a checkpoint under peft's names."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from integrations.verl import merge

NAME = "model.language_model.layers.0.mlp.up_proj"


def test_the_plain_models_tensors_come_out_with_the_adapters_in_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    base, first, second = torch.randn(6, 4), torch.randn(2, 4), torch.randn(6, 2)
    norm = torch.randn(4, dtype=torch.bfloat16)
    (tmp_path / "saved").mkdir()
    shards = [
        {f"base_model.model.{NAME}.base_layer.weight": base, "base_model.model.model.norm.weight": norm},
        {
            f"base_model.model.{NAME}.lora_A.default.weight": first,
            f"base_model.model.{NAME}.lora_B.default.weight": second,
        },
    ]
    for number, shard in enumerate(shards):
        save_file(shard, tmp_path / "saved" / f"model-{number}.safetensors")
    words = ["merge", "--folder", str(tmp_path / "saved"), "--scale", "0.5", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setattr(merge, "PER_FILE", 1)
    assert merge.main() == 0
    found: dict[str, torch.Tensor] = {}
    for path in (tmp_path / "out").glob("*.safetensors"):
        found |= load_file(path)
    assert found.keys() == {f"{NAME}.weight", "model.norm.weight"}
    torch.testing.assert_close(found[f"{NAME}.weight"], base + 0.5 * second @ first)
    assert torch.equal(found["model.norm.weight"], norm)
