"""What vLLM is told. That it understands is tested with vLLM itself (tests/engines, tests/campaign)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from integrations.contract import Launch, Machine
from integrations.errors import BadInput
from integrations.vllm.adapter import serve_launch
from integrations.vllm.settings import VllmSettings

PAPER = {"temperature": 1.0, "top_p": 0.7, "top_k": 0, "max_new_tokens": 2048}
GPU = Machine(threads=4, gpus=1)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "a model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"text_config": {"max_position_embeddings": 262144}}))
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "generation_config.json").write_text(json.dumps({"temperature": 0.6, "top_k": 20}))
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    return folder


def launch_for(model: Path, machine: Machine = GPU, **changes: Any) -> Launch:
    protocol = changes.pop("protocol", PAPER)
    return serve_launch(model, protocol, machine=machine, ready=model.parent / "ready.json", **changes)


def options(launch: Launch) -> dict[str, str | bool]:
    assert launch.argv[:3] == ["python", "-m", "vllm.entrypoints.openai.api_server"]
    pairs = [option.removeprefix("--").partition("=") for option in launch.argv[3:]]
    return {name: value if equals else True for name, equals, value in pairs}


def test_the_protocol_is_the_servers_default_and_the_checkpoints_own_is_not(model: Path) -> None:
    told = options(launch_for(model))
    assert told["generation-config"] == "vllm"
    assert json.loads(str(told["override-generation-config"])) == PAPER
    greedy = options(launch_for(model, protocol={"temperature": 0.0, "top_p": 1.0, "top_k": 0}))
    assert json.loads(str(greedy["override-generation-config"]))["temperature"] == 0


def test_every_option(model: Path) -> None:
    launch = launch_for(model, batch=32, port=8123)
    told = options(launch)
    told.pop("override-generation-config")
    assert told == {
        "model": str(model), "served-model-name": "policy", "host": "127.0.0.1", "port": "8123", "dtype": "bfloat16",
        "max-model-len": "32768", "max-num-seqs": "32", "generation-config": "vllm", "seed": "0",
        "limit-mm-per-prompt": '{"image": 8, "video": 0}', "enable-prefix-caching": True, "enable-log-requests": True,
        "disable-uvicorn-access-log": True, "gpu-memory-utilization": "0.9",
    }  # fmt: skip
    assert json.loads((model.parent / "ready.json").read_text()) == {
        "host": "127.0.0.1", "port": 8123, "name": "policy",
    }  # fmt: skip
    assert (launch.engine, launch.packages) == ("vllm", ())
    assert launch.env["VLLM_NO_USAGE_STATS"] == "1"
    assert launch.env["OMP_NUM_THREADS"] == "4"


def test_settings_are_translated(model: Path) -> None:
    settings = VllmSettings(
        dtype="float32", max_model_len=4096, gpu_memory_share=0.5, max_images=2, min_image_pixels=1024,
        max_image_pixels=65536, prefix_caching=False, compiled=False, seed=7,
    )  # fmt: skip
    told = options(launch_for(model, Machine(threads=4, gpus=8), settings=settings, name="other"))
    expected = {
        "dtype": "float32", "max-model-len": "4096", "gpu-memory-utilization": "0.5", "no-enable-prefix-caching": True,
        "enforce-eager": True, "seed": "7", "data-parallel-size": "8", "served-model-name": "other",
        "mm-processor-kwargs": '{"images_kwargs": {"min_pixels": 1024, "max_pixels": 65536}}',
        "limit-mm-per-prompt": '{"image": 2, "video": 0}',
    }  # fmt: skip
    assert expected.items() <= told.items()
    assert "enable-prefix-caching" not in told


def test_the_context_is_never_longer_than_the_models(model: Path) -> None:
    (model / "config.json").write_text(json.dumps({"text_config": {"max_position_embeddings": 4096}}))
    assert options(launch_for(model))["max-model-len"] == "4096"
    (model / "config.json").write_text(json.dumps({"max_position_embeddings": 512}))
    assert options(launch_for(model))["max-model-len"] == "512"
    (model / "config.json").write_text("{}")
    assert options(launch_for(model))["max-model-len"] == "32768"


def test_a_free_port_is_chosen(model: Path) -> None:
    port = int(str(options(launch_for(model))["port"]))
    assert 1024 < port < 65536
    assert json.loads((model.parent / "ready.json").read_text())["port"] == port


def test_without_a_gpu_only_a_users_own_environment(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PRISM_ENV_VLLM", raising=False)
    with pytest.raises(BadInput, match="needs a GPU"):
        launch_for(model, Machine(threads=1))
    monkeypatch.setenv("PRISM_ENV_VLLM", "/some/where")
    launch = launch_for(model, Machine(threads=1))
    assert "gpu-memory-utilization" not in options(launch)
    assert launch.env["VLLM_CPU_KVCACHE_SPACE"] == "1"


def test_what_cannot_be_served_is_refused(model: Path) -> None:
    with pytest.raises(BadInput, match="no default for `seed`"):
        launch_for(model, protocol={**PAPER, "seed": 1})
    (model / "model.safetensors").unlink()
    with pytest.raises(BadInput, match="no model weights"):
        launch_for(model)


@pytest.mark.parametrize(
    "wrong",
    [
        {"dtype": "int8"},
        {"max_model_len": 0},
        {"gpu_memory_share": 1.0},
        {"gpu_memory_share": 0.0},
        {"max_images": -1},
        {"min_image_pixels": 4096, "max_image_pixels": 1024},
        {"max_image_pixels": 0},
        {"seed": -1},
        {"temperature": 1.0},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong)).split("_")[-1]):
        VllmSettings(**wrong)
