"""The processes that train one model together, each with whole groups of its own.

A step's prompts are dealt out, each process samples, scores and learns on its share, and what belongs to the whole
step (counts, scores, measures) is gathered, so that every process knows the same figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch

T = TypeVar("T")


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
        """The sum over all processes."""
        return float(sum(self.gather(value)))

    def total(self, value: torch.Tensor) -> torch.Tensor:
        """The sum over all processes, without gradient; the same shape everywhere."""
        return value.detach()
