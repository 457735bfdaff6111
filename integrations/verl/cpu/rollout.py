"""Rollout `transformers_cpu` for verl: one generation server in a Ray actor beside the training worker.

verl imports this module (`actor_rollout_ref.model.external_lib`) in every process that reads the model's configuration.
It registers the server's launcher and the side in the training worker that pushes weights; in a training worker it
also brings in the CPU engine.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import ray
import ray.util.scheduling_strategies
import torch
from verl.workers.rollout.base import _ROLLOUT_REGISTRY, BaseRollout
from verl.workers.rollout.replica import RolloutReplica, RolloutReplicaRegistry
from verl.workers.rollout.utils import ensure_async_iterator

from integrations.verl.cpu.server import GenerationServer

NAME = "transformers_cpu"


def _server_name(rank: int) -> str:
    return f"{NAME}_{rank}"


class CpuReplica(RolloutReplica):
    """Launches the generation server on the node of its training worker."""

    async def launch_servers(self) -> None:
        node = await self.workers[0].__ray_call__.remote(lambda worker: ray.get_runtime_context().get_node_id())
        options = self.config.custom or {}
        server = (
            ray.remote(GenerationServer)
            .options(
                name=_server_name(self.replica_rank),
                num_cpus=0,
                max_concurrency=self.max_concurrency,
                scheduling_strategy=ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False),
            )
            .remote(
                model_path=str(self.model_config.path),
                batch_size=int(options["batch_size"]),
                rows=int(options["rows"]),
                response_length=self.config.response_length,
                seed=self.config.seed,
                threads=int(options["threads"]),
            )
        )
        await server.ready.remote()
        self.servers = [server]
        self._server_handle = server
        self._server_address = _server_name(self.replica_rank)


class CpuWeightPusher(BaseRollout):
    """In the training worker: sends the policy's weights to the server after each step."""

    def __init__(self, config: Any, model_config: Any, device_mesh: Any, replica_rank: int = -1, **unused: Any) -> None:
        super().__init__(config, model_config, device_mesh)
        self.replica_rank = int(os.environ["RANK"]) if replica_rank == -1 else replica_rank

    async def update_weights(
        self,
        weights: Iterator[tuple[str, torch.Tensor]] | AsyncIterator[tuple[str, torch.Tensor]],
        global_steps: int | None = None,
        **unused: Any,
    ) -> None:
        """Send all weights as float32 and wait until the server has them."""
        named = {
            name: tensor.detach().to("cpu", torch.float32).contiguous()
            async for name, tensor in ensure_async_iterator(weights)
        }
        await ray.get_actor(_server_name(self.replica_rank)).load_weights.remote(named, global_steps)

    async def resume(self, tags: list[str]) -> None:
        """Nothing was released."""

    async def release(self) -> None:
        """Nothing to release: the server's memory is not the trainer's."""


RolloutReplicaRegistry.register(NAME, lambda: CpuReplica)
_ROLLOUT_REGISTRY[(NAME, "async")] = f"{__name__}.{CpuWeightPusher.__name__}"  # no public call: a recorded exception

if os.environ.get("WG_BACKEND") == "ray" and "RANK" in os.environ:
    import integrations.verl.cpu.engine  # noqa: F401  (registers the engine and joins the process group)
