"""SFT by adapters in the real LLaMA-Factory: what comes out is a plain checkpoint with the adapters in its weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from engine_stage import FINE_TUNING, World, run_stage, stage_context

from integrations.common.checkpoint import read_tensors
from integrations.llamafactory import memory
from integrations.llamafactory.adapter import SftAdapter
from integrations.llamafactory.settings import SftLora
from prism_cli.engines.environments import Environment

pytestmark = pytest.mark.engine


def test_adapters_end_up_in_the_weights(small_world: World, llamafactory_env: Environment, tmp_path: Path) -> None:
    changes = {"steps": 4, "lora": SftLora(rank=8, alpha=16), "checkpoint_every": 4}
    ctx = stage_context(tmp_path / "the stage", small_world, FINE_TUNING.model_copy(update=changes))
    run_stage(SftAdapter(), ctx, llamafactory_env)
    assert SftAdapter().finish(ctx).step == 4
    before, after = read_tensors(small_world.model), read_tensors(ctx.model_dir)
    assert before.keys() == after.keys()
    changed = {name for name in before if not np.array_equal(before[name].read(), after[name].read())}
    matrices = {name for name in before if ".language_model.layers." in name and "proj.weight" in name}
    assert changed == matrices
    assert not memory.merged(ctx).exists()
