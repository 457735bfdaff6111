"""What a check has to say."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a release.

    A finding never quotes a secret that it found: the place is named, the value is not.
    """

    check: str
    """Id of the check, e.g. `pickle`; stable, for scripts."""
    severity: Literal["error", "warning"]
    """An error stops the release; a warning is shown, and stands in the receipt."""
    path: str
    """File in the folder, with the place inside it where that helps (`config.json: _name_or_path`); empty for the
    folder as a whole."""
    problem: str
    """One sentence."""
    fix: str
    """One sentence: what to do."""

    def to_json(self) -> dict[str, str]:
        return asdict(self)
