"""verl's FSDP2 engine on device `cpu`, and the gloo process group it runs in.

verl asks torch for the backend `cpu:gloo,<device>:<backend>`, which for device `cpu` names `cpu` twice and is refused.
It skips the call when a process group exists, so the group is made first: when `external_lib` is imported in a training
worker, after Ray has told the worker its rank. Sharding over one process is a copy, so results are plain AdamW's.
"""

from __future__ import annotations

import os
from typing import Any

import torch.distributed
from verl.workers.engine import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead


def join_gloo_group() -> None:
    """Make the default process group of a training worker; does nothing in any other process."""
    is_training_worker = os.environ.get("WG_BACKEND") == "ray" and "RANK" in os.environ
    if is_training_worker and not torch.distributed.is_initialized():
        torch.distributed.init_process_group(
            "gloo",
            rank=int(os.environ["RANK"]),
            world_size=int(os.environ["WORLD_SIZE"]),
            init_method=os.environ.get("DIST_INIT_METHOD"),
        )


@EngineRegistry.register(model_type="language_model", backend=["fsdp2"], device=["cpu"])
class CpuEngine(FSDPEngineWithLMHead):
    """FSDP2 without CPU offload: a reference model is on the CPU already, and pinned memory needs a CUDA driver."""

    def _build_fsdp_module(self, module: Any) -> Any:
        forward_only = self.engine_config.forward_only
        self.engine_config.forward_only = False
        try:
            return super()._build_fsdp_module(module)
        finally:
            self.engine_config.forward_only = forward_only


join_gloo_group()
