"""Settings in which one field, such as `mode` or `algorithm`, brings defaults for others.

What is given goes before what the field brings, wherever it is given: in a recipe, in an arm's changes, on the command
line. A recipe written out in full means the same as the short one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import ModelWrapValidatorHandler, model_validator

from integrations.contract import Settings


class PresetSettings(Settings):
    """A subclass names its field in `PRESET` and says in `preset` what it brings."""

    PRESET: ClassVar[str]

    @classmethod
    def preset(cls, data: Mapping[str, Any]) -> Mapping[str, Any]:
        """Defaults under the given fields. Plain values only, no nested settings."""
        return {}

    @model_validator(mode="wrap")
    @classmethod
    def _defaults_of_the_preset(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(data, Mapping):
            return handler(data)
        filled = {name: value for name, value in cls.preset(data).items() if name not in data}
        settings = handler({**data, **filled})
        # Nobody gave these: where the field is changed later, its other value brings its own.
        settings.model_fields_set.difference_update(filled)
        return settings
