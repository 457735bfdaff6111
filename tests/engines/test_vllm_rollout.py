"""vLLM as the rollout engine, in its build for CPUs: the policy's weights arrive, and the samples are its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from engine_stage import World, run_inside

from integrations.alignment.settings import RolloutSettings
from integrations.common.files import read_json
from prism_cli.engines.environments import Environment

pytestmark = pytest.mark.engine

ROLLOUT = RolloutSettings(engine="vllm", max_new_tokens=96, max_images=2)


def test_vllm_samples_the_policy_as_it_is_now(small_world: World, vllm_cpu_env: Environment, tmp_path: Path) -> None:
    (tmp_path / "rollout.json").write_text(json.dumps(ROLLOUT.model_dump(mode="json")))
    out = tmp_path / "seen.json"
    arguments = [out, small_world.model, small_world.data / "teacher.jsonl", tmp_path / "rollout.json"]
    run_inside(vllm_cpu_env, "vllm_takes_over.py", arguments, tmp_path)
    seen = read_json(out)
    assert seen is not None
    # Pictures that repeat from one takeover to the next are in each: old vision outputs would show.
    assert len(seen["gaps"]) == 4
    assert max(*seen["gaps"], seen["greedy_gap"]) < 1e-5
    assert max(seen["canary"]) < 1e-5
    assert seen["warm"] is None, "at another temperature vLLM tells the log-probabilities of another distribution"
    assert seen["again"]
    assert seen["alone"]
    assert seen["distinct"] == [4] * 8
    for step in range(2):
        assert "has not the policy's weights" in seen[f"stale {step}"]
        assert seen[f"moved {step}"]
    assert "language_model.model.layers.0.self_attn.o_proj.weight" in seen["left out"]
    assert "`new`" in seen["unknown"]
    assert "has not the policy's weights" in seen["corrupt"]
    assert seen["banned"] == 0
    assert "more than the rollout engine's 512" in seen["too long"]
    assert seen["too many"] == "three has 3 images"
