"""The processes that train one model together, each with whole groups of its own.

A step's prompts are dealt out, each process samples, scores and learns on its share, and what belongs to the whole
step (counts, scores, measures) is gathered, so that every process knows the same figures. `open_world` finds the
processes by the environment that torchrun gives each of them; without it there is one.

Every process must make the same calls here and of `sharding.run` in the same order, whatever its share holds; what
it does in between is its own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")

TIMEOUT = timedelta(minutes=30)
"""Longest wait for another process. One that ends takes the others with it at once (torchrun sees to that), so this
bounds only the time that one may sample longer than another."""


class World:
    """One process alone."""

    rank = 0
    size = 1

    @property
    def first(self) -> bool:
        """Whether this process writes what there is once: progress, checkpoints, the result."""
        return self.rank == 0

    def mine(self, items: Sequence[T]) -> list[T]:
        """This process's share, a run of neighbours; the shares in the order of ranks make up the whole."""
        start, stop = (len(items) * rank // self.size for rank in (self.rank, self.rank + 1))
        return list(items[start:stop])

    def gather(self, value: T) -> list[T]:
        """Every process's value, in the order of ranks."""
        return [value]

    def sum(self, value: float) -> float:
        """The sum over all processes, the same to the last bit in each."""
        return float(sum(self.gather(value)))

    def total(self, value: torch.Tensor) -> torch.Tensor:
        """The sum over all processes, without gradient; the same shape everywhere."""
        return value.detach()

    def wait(self) -> None:
        """Until all processes have come here."""

    def speaks(self, exit_code: int) -> bool:
        """Whether this process is the first to end in an error, and so the one that tells the user."""
        return True

    def failed(self) -> int | None:
        """Exit code of another process that has told its error; None where there is none."""
        return None

    def close(self) -> None:
        """Leave the others in order, at the end."""


class Processes(World):
    """This process among several, each of which opens it."""

    def __init__(self, device: str, store: dist.Store, rank: int, size: int) -> None:
        self.rank, self.size, self.store = rank, size, store
        # Objects and counts go through gloo on every machine, only tensors on GPUs through NCCL.
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)

    def gather(self, value: T) -> list[T]:
        values: list[T] = [value] * self.size
        dist.all_gather_object(values, value)
        return values

    def total(self, value: torch.Tensor) -> torch.Tensor:
        summed = value.detach().clone()
        dist.all_reduce(summed)
        return summed

    def wait(self) -> None:
        self.gather(None)

    def speaks(self, exit_code: int) -> bool:
        try:
            if self.store.add("prism/errors", 1) > 1:
                return False
            self.store.set("prism/error", str(exit_code))
        except RuntimeError:  # the store went down with torchrun: better twice than never
            return True
        return True

    def failed(self) -> int | None:
        try:
            return int(self.store.get("prism/error")) if self.store.check(["prism/error"]) else None
        except RuntimeError:  # the store went down with torchrun
            return None

    def close(self) -> None:
        if "vllm" not in sys.modules:  # which has groups of its own beside this one, and ends all of them itself
            dist.destroy_process_group()


def open_world(device: str) -> World:
    """The world that torchrun's variables (RANK, WORLD_SIZE, LOCAL_RANK ...) describe.

    Args:
        device: `cuda` gives each process the GPU of its local rank.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return World()
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    store, rank, size = next(dist.rendezvous("env://", timeout=TIMEOUT))
    return Processes(device, store, rank, size)
