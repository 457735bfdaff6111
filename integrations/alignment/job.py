"""What the adapter asks for, as the process in the alignment environment reads it.

The settings were validated on the host; here they are a plain namespace with the same field names, so that this
environment needs no pydantic and no field is declared twice.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from integrations.alignment.rollouts.rollout import Sampling

if TYPE_CHECKING:
    from integrations.alignment.settings import RolloutSettings


@dataclass(frozen=True)
class Job:
    """One stage."""

    settings: Any
    """Fields of `DiscriminatorSettings` or `AlignSettings`; `kind` tells which."""
    policy: Path
    """The dense checkpoint that the stage starts from."""
    discriminator: Path | None
    """For align: the discriminator stage's result."""
    upcycle_from: Path
    """For the discriminator: the dense checkpoint that becomes the experts."""
    init_from: Path | None
    """For the discriminator: the folder of one to start from instead."""
    base_model: Path
    """Where processor, tokenizer and chat template come from."""
    data_dir: Path
    checkpoint_dir: Path
    progress_file: Path
    result_dir: Path
    """Written last and whole: weights and `result.json`."""
    steps: int
    seed: int
    threads: int
    device: str

    @property
    def sampling(self) -> Sampling:
        rollout: RolloutSettings = self.settings.rollout
        return Sampling(rollout.temperature, 1.0, rollout.max_new_tokens)


def read_job(path: Path) -> Job:
    """The job from the adapter's JSON file."""
    content = json.loads(path.read_text(encoding="utf-8"), object_hook=lambda item: SimpleNamespace(**item))
    values = vars(content)
    for name, kind in Job.__annotations__.items():
        if kind in ("Path", "Path | None") and values[name] is not None:
            values[name] = Path(values[name])
    return Job(**values)
