"""A plan for people: a table of stages, the terms of the fullest phase of each, and what to do."""

from __future__ import annotations

from collections.abc import Sequence

from prism_cli.planning.assumptions import GIB
from prism_cli.planning.gpus import Gpus
from prism_cli.planning.terms import Phase, StagePlan
from prism_cli.ui.tables import print_table

SMALLEST = 0.05
"""Smaller terms, in GiB, are not shown."""


def print_plan(stages: Sequence[StagePlan], gpus: Gpus, every_phase: bool = False) -> None:
    """Print a plan.

    Args:
        every_phase: the terms of every phase, not only of the fullest.
    """
    title = f"On {gpus}, {gpus.card.gib:g} GiB each" if gpus.per_node else "On the processor, without a GPU"
    rows = [_row(stage) for stage in stages]
    print_table(["stage", "GPU GiB", "host GiB", "disk GiB", "hours", "fits"], rows, title, numbers=(1, 2, 3, 4))
    terms: dict[tuple[str, str], list[str]] = {}
    for stage in stages:
        for phase in stage.phases if every_phase else (_fullest(stage),):
            terms.setdefault((phase.name, _terms(phase, stage.limit_gib > 0)), []).append(stage.stage)
    shown = [[f"{', '.join(names)}: {phase}", text] for (phase, text), names in terms.items() if text]
    print_table(["where most is needed" if not every_phase else "phase", "GiB"], shown)
    for stage in stages:
        for line in complaints(stage):
            print(line)


def _fullest(stage: StagePlan) -> Phase:
    return stage.peak if stage.limit_gib else max(stage.phases, key=lambda phase: phase.host_gib)


def _terms(phase: Phase, on_gpu: bool) -> str:
    """The phase's terms, the largest first."""
    terms = sorted((phase.gpu if on_gpu else phase.host).items(), key=lambda term: -term[1])
    return ", ".join(f"{name} {value / GIB:.1f}" for name, value in terms if value >= SMALLEST * GIB)


def _row(stage: StagePlan) -> list[object]:
    gpu = f"{stage.peak.gpu_gib:.1f}" if stage.limit_gib else "-"
    hours = f"{stage.hours:.1f}" if stage.hours else "-"
    verdict = "yes" if stage.fits else "no"
    return [stage.stage, gpu, f"{stage.host_gib:.0f}", f"{stage.disk_gib:.0f}", hours, verdict]


def complaints(stage: StagePlan) -> list[str]:
    """Why a stage cannot run as it is, each with what helps."""
    found = [f"{stage.stage}: {problem}" for problem in stage.problems]
    if not stage.fits_memory:
        need = f"{stage.peak.gpu_gib:.1f} GiB in {stage.peak.name}, and a GPU has {stage.limit_gib:g}"
        found.append(f"{stage.stage}: {need}; {remedy(stage)}")
    return found


def remedy(stage: StagePlan) -> str:
    """What makes a stage fit that does not."""
    if not stage.knobs:
        return "no setting makes it fit: take more or larger GPUs"
    name = stage.stage.rsplit("/", 1)[-1]
    return "it fits with " + " ".join(f"--set {name}.{knob}" for knob in stage.knobs)
