"""What the doctor has to say of one thing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

Level = Literal["ok", "note", "warning", "error"]
LEVELS: tuple[Level, ...] = ("ok", "note", "warning", "error")
"""`note`: good to know. `warning`: some runs will suffer. `error`: nothing will run until it is mended."""


@dataclass(frozen=True)
class Diagnosis:
    """One thing that was looked at."""

    subject: str
    """What was looked at, one or two words; stable, for scripts."""
    level: Level
    found: str
    """One sentence, with the figures."""
    fix: str = ""
    """What to do; empty where there is nothing to do."""

    def to_json(self) -> dict[str, str]:
        return asdict(self)
