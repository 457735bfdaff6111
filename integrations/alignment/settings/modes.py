"""`mode: prism | paper`: one word that changes the defaults of every repair at once, and nothing that is given.

Each repair of the method is a field of its own, so an ablation is one line: `mode: paper` for the paper's code as it
is, or `mode: paper` and `credit: per_role` for all of it but one. Figures of scale (rates, batch, steps) are no
repairs and keep their defaults in both modes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import ModelWrapValidatorHandler, model_validator

from integrations.contract import Settings

Mode = Literal["prism", "paper"]


class ModeSettings(Settings):
    """Settings with a field `mode`; a subclass declares it (`mode: Mode = "prism"`) and fills `PAPER`."""

    PAPER: ClassVar[Mapping[str, Any]] = {}
    """Defaults with `mode: paper`, where they differ. Plain values only, no nested settings."""

    @model_validator(mode="wrap")
    @classmethod
    def _defaults_of_the_mode(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(data, Mapping) or data.get("mode") != "paper":
            return handler(data)
        filled = {name: value for name, value in cls.PAPER.items() if name not in data}
        settings = handler({**data, **filled})
        # Nobody gave these: an arm that goes back to `prism` gets that mode's own.
        settings.model_fields_set.difference_update(filled)
        return settings
