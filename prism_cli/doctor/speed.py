"""What measured speeds mean for a plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prism_cli.planning.gpus import Card

TRAINING = 0.5
"""Share of the speed of large matrix products alone that a training step reaches, attention and memory traffic
included: published training runs at 0.35 of a GPU's peak are on GPUs whose products reach about 0.7 of it."""


def assume(speed: Mapping[str, Any], card: Card) -> dict[str, float]:
    """Assumptions of `prism plan` that these speeds replace, by name; empty where there is no GPU.

    Args:
        speed: what `integrations.alignment.machine_speed` measured.
        card: what the GPU should reach.
    """
    if not card.teraflops:
        return {}
    training = round(TRAINING * speed["matmul_tflops"] / card.teraflops, 2)
    return {
        "bandwidth_utilisation": round(speed["memory_gb_s"] / 1000 / card.bandwidth, 2),
        "sft_utilisation": training,
        "align_utilisation": training,
    }
