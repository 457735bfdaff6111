"""What a plan is made of: terms of memory, phases of a stage, stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prism_cli.planning.assumptions import GIB


@dataclass(frozen=True)
class Phase:
    """One part of a stage's step, or of its course."""

    name: str
    gpu: Mapping[str, float]
    """Bytes by term on the fullest GPU, at this phase's peak."""
    host: Mapping[str, float] = field(default_factory=dict)
    """Bytes by term in one node's main memory."""
    seconds: float = 0.0
    """Of the whole stage."""
    tokens: float = 0.0
    """Read or generated in the whole stage."""

    @property
    def gpu_gib(self) -> float:
        return sum(self.gpu.values()) / GIB

    @property
    def host_gib(self) -> float:
        return sum(self.host.values()) / GIB

    def to_json(self) -> dict[str, Any]:
        return {
            "phase": self.name,
            "gpu_gib": round(self.gpu_gib, 2),
            "host_gib": round(self.host_gib, 2),
            "hours": round(self.seconds / 3600, 2),
            "tokens": round(self.tokens),
            "gpu_terms": _rounded(self.gpu),
            "host_terms": _rounded(self.host),
        }


@dataclass(frozen=True)
class StagePlan:
    """A stage with all that it needs."""

    stage: str
    """The node's name, e.g. `prism/align`."""
    kind: str
    steps: int
    phases: tuple[Phase, ...]
    disk: Mapping[str, float]
    """Bytes by term, at their most."""
    limit_gib: float
    """Memory of one GPU; 0 where there is none and main memory is the limit."""
    command: str = ""
    problems: tuple[str, ...] = ()
    """Why it cannot run whatever its memory."""
    knobs: tuple[str, ...] = ()
    """`KEY=VALUE` for `--set` that together make it fit; empty where it fits or nothing would."""

    @property
    def peak(self) -> Phase:
        """The phase that needs most of a GPU."""
        return max(self.phases, key=lambda phase: phase.gpu_gib)

    @property
    def host_gib(self) -> float:
        return max(phase.host_gib for phase in self.phases)

    @property
    def disk_gib(self) -> float:
        return sum(self.disk.values()) / GIB

    @property
    def hours(self) -> float:
        return sum(phase.seconds for phase in self.phases) / 3600

    @property
    def fits_memory(self) -> bool:
        return self.limit_gib == 0 or self.peak.gpu_gib <= self.limit_gib

    @property
    def fits(self) -> bool:
        return self.fits_memory and not self.problems

    def to_json(self) -> dict[str, Any]:
        return {
            "stage": self.stage,
            "kind": self.kind,
            "steps": self.steps,
            "peak_gpu_gib": round(self.peak.gpu_gib, 2),
            "peak_phase": self.peak.name,
            "gpu_gib": self.limit_gib,
            "host_gib": round(self.host_gib, 2),
            "hours": round(self.hours, 2),
            "disk_gib": round(self.disk_gib, 2),
            "fits": self.fits,
            "problems": list(self.problems),
            "knobs": list(self.knobs),
            "terms": [phase.to_json() for phase in self.phases],
            "disk_terms": _rounded(self.disk),
            "command": self.command,
        }


def _rounded(terms: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value / GIB, 3) for name, value in terms.items() if value}
