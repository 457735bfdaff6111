"""`mode: prism | paper`: one word that changes the defaults of every repair at once, and nothing that is given.

Each repair of the method is a field of its own, so an ablation is one line: `mode: paper` for the paper's code as it
is, or `mode: paper` and `credit: per_role` for all of it but one. Figures of scale (rates, batch, steps) are no
repairs and keep their defaults in both modes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from integrations.presets import PresetSettings

Mode = Literal["prism", "paper"]


class ModeSettings(PresetSettings):
    """Settings with a field `mode`; a subclass declares it (`mode: Mode = "prism"`) and fills `PAPER`."""

    PRESET: ClassVar[str] = "mode"
    PAPER: ClassVar[Mapping[str, Any]] = {}
    """Defaults with `mode: paper`, where they differ."""

    @classmethod
    def preset(cls, data: Mapping[str, Any]) -> Mapping[str, Any]:
        return cls.PAPER if data.get("mode") == "paper" else {}
