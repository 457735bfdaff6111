"""The device layer of verl for a machine without an accelerator.

Loaded in every process of verl through `VERL_USE_EXTERNAL_MODULES`, chosen by `VERL_PLATFORM=cpu`. Placement groups
ask for one logical `GPU` per training process, which the launcher grants (`ray_init.num_gpus`): no device is behind it.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from verl.plugin.platform import PlatformBase, PlatformRegistry


class _Stream:
    """Work on a CPU is done when the call returns, so there is nothing to wait for."""

    def wait_stream(self, stream: object) -> None:
        pass

    def synchronize(self) -> None:
        pass


def _nothing(*args: object, **kwargs: object) -> None:
    pass


def _zero(*args: object, **kwargs: object) -> int:
    return 0


def _device_module() -> types.ModuleType:
    """What verl calls on `torch.cuda`, for a device without memory, streams or random state of its own."""
    module = types.ModuleType("verl_cpu_device")
    answers: dict[str, Any] = {
        "is_available": lambda: False,
        "device_count": lambda: 1,
        "current_device": lambda: "cpu",
        "get_device_name": lambda *args, **kwargs: "CPU",
        "mem_get_info": lambda *args, **kwargs: (0, 0),
        "get_rng_state": lambda *args, **kwargs: torch.get_rng_state(),
        "set_rng_state": lambda state, *args, **kwargs: torch.set_rng_state(state),
        "Stream": _Stream,
        "current_stream": lambda *args, **kwargs: _Stream(),
    }
    for name in ("memory_allocated", "memory_reserved", "max_memory_allocated", "max_memory_reserved"):
        answers[name] = _zero
    for name in ("empty_cache", "synchronize", "ipc_collect", "set_device", "reset_peak_memory_stats", "manual_seed"):
        answers[name] = _nothing
    for name, answer in answers.items():
        setattr(module, name, answer)
    return module


@PlatformRegistry.register(platform="cpu")
class CpuPlatform(PlatformBase):
    """`cpu` in verl's platform registry; method for method what `PlatformBase` asks for."""

    device_name = "cpu"
    vendor_name = "cpu"
    device_module = _device_module()

    def is_available(self) -> bool:
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        return False  # never chosen by detection, only by VERL_PLATFORM

    def current_device(self) -> Any:
        return "cpu"

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None:
        pass

    def synchronize(self, device_index: int | None = None) -> None:
        pass

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        pass

    def empty_cache(self) -> None:
        pass

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        return (None, None)

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def profiler_start(self) -> None:
        pass

    def profiler_stop(self) -> None:
        pass

    def ray_resource_name(self) -> str:
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return []

    def is_ipc_supported(self) -> bool:
        return False

    def cudart(self) -> Any:
        return None
