"""How the policy is sampled, in both stages."""

from __future__ import annotations

from integrations.alignment.settings.kinds import Count, Positive
from integrations.contract import Settings


class RolloutSettings(Settings):
    """How the policy is sampled."""

    temperature: Positive = 1.0
    """Sampling temperature. The policy gradient is exact only at 1, where samples come from the policy itself."""

    max_new_tokens: Count = 96
    """Longest response in tokens, the end of turn included. Longer ones count as truncated, and so as invalid."""

    batch_size: Count = 64
    """Most sequences decoded together. Changes speed and memory only: each sample has its own random stream."""
