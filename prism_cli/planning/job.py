"""What a stage's planner is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prism_cli.planning.assumptions import GIB, Assumptions
from prism_cli.planning.gpus import Gpus
from prism_cli.planning.models import Dimensions


@dataclass(frozen=True)
class Job:
    """A stage to plan."""

    settings: Any
    """The stage's own part of the recipe."""
    steps: int
    model: Dimensions
    """The policy."""
    gpus: Gpus
    assumed: Assumptions
    judge: Dimensions | None = None
    """The discriminator, where the stage has one."""
    scoring: Any = None
    """The settings of the stage that trained the discriminator."""

    @property
    def device(self) -> str:
        return "cuda" if self.gpus.per_node else "cpu"

    def beside(self, dynamic: float) -> dict[str, float]:
        """What every phase on a GPU has besides its own terms; `dynamic` bytes of those come and go."""
        if self.device == "cpu":
            return {}
        assumed = self.assumed
        return {"CUDA context": assumed.context_gib * GIB, "fragmentation": assumed.fragmentation * dynamic}

    def compute_seconds(self, operations: float, utilisation: float, gpus: int | None = None) -> float:
        """Time for so many operations on all GPUs; 0 where there is none, for then it is not known."""
        speed = (gpus or self.gpus.total) * self.gpus.card.teraflops * 1e12 * utilisation
        return operations / speed if speed else 0.0

    def decoding_seconds(self, responses: float, cache_width: int = 2) -> float:
        """Time in which one GPU generates so many responses side by side, by what it must read from memory.

        Each token step reads all weights once and each response's keys and values; a batch lasts as long as its
        longest response, whose last part is decoded almost alone.
        """
        assumed, model, card = self.assumed, self.model, self.gpus.card
        if not card.bandwidth:
            return 0.0
        weights = 2.0 * model.active
        context = assumed.prompt_tokens + assumed.response_tokens / 2
        caches = responses * context * model.kv_per_token * cache_width
        moved = assumed.response_tokens * (weights + caches)
        moved += (assumed.tail - 1) * assumed.response_tokens * weights
        return moved / (card.bandwidth * 1e12 * assumed.bandwidth_utilisation)


def vision_patches(model: Dimensions, image_tokens: float) -> float:
    """Patches behind so many tokens."""
    return image_tokens * model.vision.merge**2
