"""Number formats and memory of the trained models, in both stages."""

from __future__ import annotations

from integrations.contract import Settings


class PrecisionSettings(Settings):
    """What the trained weights, their optimizer and the activations are kept in."""

    freeze_vision: bool = False
    """Keep the vision tower's weights as they are."""
