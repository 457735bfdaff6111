"""The host's side of vLLM as an inference server: the command that starts it.

vLLM's own options do everything: the evaluation's protocol becomes the server's default for whatever a request leaves
out, in place of the checkpoint's `generation_config.json`, and each request's final parameters are in the server's log.
One copy of the model runs on each GPU.

vLLM has no default for a request's seed, and cuts a request's `max_tokens` to the context without a word; so requests
should bring both, the latter within `VllmSettings.max_model_len`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from integrations.common.checkpoint import check_model_folder
from integrations.common.files import read_json, write_json
from integrations.common.serving import LOCALHOST, SERVED_NAME, free_port
from integrations.contract import Launch, Machine
from integrations.errors import BadInput
from integrations.vllm.settings import VllmSettings

PROTOCOL = ("temperature", "top_p", "top_k", "max_new_tokens")


def serve_launch(
    model: Path,
    protocol: Mapping[str, float | int],
    *,
    machine: Machine,
    ready: Path,
    log: Path | None = None,
    batch: int = 64,
    port: int = 0,
    name: str = SERVED_NAME,
    settings: VllmSettings | None = None,
) -> Launch:
    """The command that serves a checkpoint. Wait for it with `integrations.common.serving.wait_ready`.

    Args:
        model: Hugging Face folder.
        protocol: `temperature`, `top_p`, `top_k`, and if wanted `max_new_tokens`: what the server takes for whatever a
            request leaves out.
        machine: one copy of the model runs on each GPU; 0 GPUs needs an environment of the user's own.
        ready: written here, because vLLM is told its port.
        log: not used: vLLM logs requests among its other output.
        batch: most responses decoded together on one GPU.
        port: 0 is one that is free now.

    Raises:
        BadInput: no whole model in the folder, an unknown parameter in the protocol, or no GPU.
    """
    settings = settings or VllmSettings()
    check_model_folder(model)
    unknown = sorted(protocol.keys() - set(PROTOCOL))
    if unknown:
        raise BadInput(f"vLLM has no default for `{unknown[0]}`", f"the protocol may hold {', '.join(PROTOCOL)}")
    if not machine.gpus and "PRISM_ENV_VLLM" not in os.environ:
        raise BadInput(
            "vLLM needs a GPU, and this machine has none",
            "serve with transformers, or name an environment with a build of vLLM for CPUs in PRISM_ENV_VLLM",
        )
    port = port or free_port()
    write_json(ready, {"host": LOCALHOST, "port": port, "name": name})
    argv = ["python", "-m", "vllm.entrypoints.openai.api_server"]
    place = {"model": model, "served-model-name": name, "host": LOCALHOST, "port": port}
    for option, value in (place | _options(model, protocol, machine, batch, settings)).items():
        argv.append(f"--{option}" if value is True else f"--{option}={value}")
    return Launch("vllm", argv, _environment(machine), packages=(), what="serving")


def _options(
    model: Path, protocol: Mapping[str, float | int], machine: Machine, batch: int, settings: VllmSettings
) -> dict[str, Any]:
    """vLLM's options by name; True stands for an option without a value."""
    options: dict[str, Any] = {
        "dtype": settings.dtype,
        "max-model-len": _context(model, settings.max_model_len),
        "max-num-seqs": batch,
        "generation-config": "vllm",  # neutral defaults in place of the checkpoint's own
        "override-generation-config": json.dumps(dict(protocol)),
        "seed": settings.seed,
        "limit-mm-per-prompt": json.dumps({"image": settings.max_images, "video": 0}),
        "enable-prefix-caching" if settings.prefix_caching else "no-enable-prefix-caching": True,
        "enable-log-requests": True,
        "disable-uvicorn-access-log": True,
    }
    limits = {"min_pixels": settings.min_image_pixels, "max_pixels": settings.max_image_pixels}
    given = {limit: pixels for limit, pixels in limits.items() if pixels is not None}
    if given:
        options["mm-processor-kwargs"] = json.dumps({"images_kwargs": given})
    if machine.gpus:
        options["gpu-memory-utilization"] = settings.gpu_memory_share
    if machine.gpus > 1:
        options["data-parallel-size"] = machine.gpus
    if not settings.compiled:
        options["enforce-eager"] = True
    return options


def _context(model: Path, wanted: int) -> int:
    """The context to serve: vLLM refuses one that is longer than the model's."""
    config = read_json(model / "config.json") or {}
    own = (config.get("text_config") or config).get("max_position_embeddings")
    return min(wanted, own) if isinstance(own, int) else wanted


def _environment(machine: Machine) -> dict[str, str]:
    env = {"VLLM_NO_USAGE_STATS": "1", "VLLM_DO_NOT_TRACK": "1", "OMP_NUM_THREADS": str(machine.threads)}
    if not machine.gpus:
        # Without these the build for CPUs takes half of the memory for its cache and binds itself to every core.
        env |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    return env
