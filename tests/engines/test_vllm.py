"""vLLM's own parser and model configuration, given what the adapter renders. Serving is in tests/campaign."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from engine_stage import World, run_inside

from integrations.contract import Machine
from integrations.vllm.adapter import serve_launch
from integrations.vllm.settings import VllmSettings
from prism_cli.engines.environments import Environment

pytestmark = pytest.mark.engine


def test_vllm_understands_every_option(small_world: World, vllm_cpu_env: Environment, tmp_path: Path) -> None:
    (small_world.model / "generation_config.json").read_text()  # there is one, and it must not leak in
    settings = VllmSettings(
        max_model_len=100_000, gpu_memory_share=0.5, max_images=3, max_image_pixels=65536, compiled=False, seed=7
    )
    protocol = {"temperature": 0.5, "top_p": 0.7, "top_k": 0, "max_new_tokens": 99}
    launch = serve_launch(
        small_world.model, protocol, machine=Machine(threads=1, gpus=2), ready=tmp_path / "ready.json", batch=32,
        port=8123, settings=settings,
    )  # fmt: skip
    out = tmp_path / "told.json"
    run_inside(vllm_cpu_env, "vllm_arguments.py", [out, *launch.argv[3:]], tmp_path)
    context = json.loads((small_world.model / "config.json").read_text())["text_config"]["max_position_embeddings"]
    assert json.loads(out.read_text()) == {
        "host": "127.0.0.1",
        "port": 8123,
        "served_model_name": "policy",
        "max_model_len": context,
        "dtype": "torch.bfloat16",
        "seed": 7,
        "defaults": {"temperature": 0.5, "top_p": 0.7, "top_k": 0, "max_tokens": 99},
        "images": 3,
        "videos": 0,
        "mm_processor_kwargs": {"images_kwargs": {"max_pixels": 65536}},
        "max_num_seqs": 32,
        "gpu_memory_utilization": 0.5,
        "data_parallel_size": 2,
        "enable_prefix_caching": True,
        "enforce_eager": True,
        "enable_log_requests": True,
    }
