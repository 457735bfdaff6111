"""The table at the end of a run: every arm and stage on held-out items, and what may be concluded from it.

Reads the run's folder only: `manifest.json` for the arms, each stage's `DONE` for time and tokens, `eval/` for
scores. What has not run yet is shown as missing, so the same code prints a half-finished run.

    summary = summarize(Path("runs/digits"))
    summary.render(console)         80 columns
    summary.to_json()               the object that `prism train --json` ends with

Differences are paired over items and each interval stands alone (not corrected for their number). One run is one
training seed: an interval tells how far other items could move the result, nothing about other seeds (`prism compare`
takes several runs).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.scores import METRICS, Evaluation, read_evaluations, to_json
from benchmarks.statistics import Difference, paired_difference
from integrations.common.files import read_json
from integrations.errors import BadInput

if TYPE_CHECKING:
    from rich.console import Console
TREATED = "prism"
"""The arm that the others are compared with."""


@dataclass(frozen=True)
class Stage:
    """One stage of a run, finished or not."""

    name: str
    """E.g. `prism/align`, or `shared/sft` where several arms share it."""
    status: str
    """`done` or `missing`."""
    path: Path
    """Of the resulting model."""
    seconds: float
    """Wall time of training, over all attempts; 0 when missing."""
    generated_tokens: int
    """Tokens that the policy generated while training."""
    evaluations: Mapping[str, Evaluation]
    """By protocol; empty for a stage without a policy of its own (a discriminator)."""

    @property
    def group(self) -> str:
        """`shared` or the arm's name."""
        return self.name.split("/", 1)[0]

    @property
    def short(self) -> str:
        return self.name.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Comparison:
    """First minus second on the same items under one protocol, by metric."""

    first: str
    second: str
    """Names of arms (compared by their last stages) or of stages."""
    protocol: str
    differences: Mapping[str, Difference]


@dataclass(frozen=True)
class Summary:
    """What one run has shown."""

    run: str
    seed: int | None
    arms: Mapping[str, Sequence[str]]
    """Names of each arm's stages, in order."""
    stages: Mapping[str, Stage]
    comparisons: Sequence[Comparison]
    """The prism arm against each other arm whose last stage is evaluated."""
    warnings: Sequence[str]
    evaluation_seconds: float

    @property
    def protocols(self) -> list[str]:
        """Those with any score, T=1 first."""
        found = {p: e for stage in self.stages.values() for p, e in stage.evaluations.items()}
        return [protocol for protocol, _ in _main_first(found)]

    def stages_of(self, arm: str) -> list[Stage]:
        """The arm's stages in order, then those run for it beside its own chain."""
        beside = [s.name for s in self.stages.values() if s.group == arm and s.name not in self.arms[arm]]
        return [self.stages[name] for name in (*self.arms[arm], *beside)]

    def total(self, arm: str) -> tuple[int, float]:
        """Generated tokens and seconds of an arm, its shared stages included."""
        stages = [self.stages[name] for name in self.arms[arm]]
        return sum(s.generated_tokens for s in stages), sum(s.seconds for s in stages)

    def to_json(self) -> dict[str, Any]:
        """The run as one JSON object; numbers are null where undefined."""
        return {
            "run": self.run,
            "seed": self.seed,
            "arms": {arm: {stage.short: _stage_json(stage) for stage in self.stages_of(arm)} for arm in self.arms},
            "totals": {
                arm: dict(zip(("generated_tokens", "seconds"), self.total(arm), strict=True)) for arm in self.arms
            },
            "comparisons": [_comparison_json(comparison) for comparison in self.comparisons],
            "conclusions": [conclusion(comparison) for comparison in self.comparisons],
            "warnings": list(self.warnings),
        }

    def render(self, console: Console) -> None:
        """Print the tables, the differences and what follows from them; 80 columns are enough."""
        from benchmarks.tables import print_summary

        print_summary(self, console)


def summarize(run_dir: Path) -> Summary:
    """Read a run's folder.

    Raises:
        BadInput: the folder holds no run, or its manifest cannot be read.
    """
    manifest = read_json(run_dir / "manifest.json")
    if not isinstance(manifest, dict) or not isinstance(manifest.get("arms"), dict):
        raise BadInput(f"{run_dir} holds no run (no readable manifest.json)", "see `prism runs list`")
    arms = {arm: tuple(names) for arm, names in manifest["arms"].items()}
    planned = [name for names in arms.values() for name in names]
    found = read_evaluations(run_dir)
    stages = {
        name: _read_stage(run_dir, name, found)
        for name in dict.fromkeys([*planned, *sorted(stage for stage, _ in found if stage)])
    }
    return Summary(
        run=manifest.get("run", run_dir.name),
        seed=manifest.get("seed"),
        arms=arms,
        stages=stages,
        comparisons=_compare_arms(arms, stages),
        warnings=_lost_captions(arms, stages),
        evaluation_seconds=sum(
            float(e.facts.get("seconds", 0.0)) for stage in stages.values() for e in stage.evaluations.values()
        ),
    )


def conclusion(comparison: Comparison) -> str:
    """What a comparison of two arms shows about answers, in one sentence; a negative outcome is said as plainly."""
    answer = comparison.differences["answer"]
    first = comparison.first.upper() if comparison.first == TREATED else comparison.first
    if answer.better:
        verdict = f"{first} beat the {comparison.second} here"
    elif answer.worse:
        verdict = f"{first} did not beat the {comparison.second} here, it did worse"
    else:
        verdict = f"{first} did not beat the {comparison.second} here"
    detail = f"answers {points(answer)} points, p {_p(answer.p)}, n = {answer.n}"
    return f"{protocol_title(comparison.protocol)}: {verdict} ({detail})."


def _read_stage(run_dir: Path, name: str, found: Mapping[tuple[str, str], Mapping[str, Evaluation]]) -> Stage:
    """A stage with the evaluations of its present weights; those of an earlier result do not count."""
    record = _record(run_dir / name)
    return Stage(
        name=name,
        status="done" if record else "missing",
        path=run_dir / name / "model",
        seconds=float(record.get("seconds", 0.0)),
        generated_tokens=int(record.get("result", {}).get("generated_tokens", 0)),
        evaluations=found.get((name, record.get("hash", "")), {}),
    )


def _record(folder: Path) -> dict[str, Any]:
    value = read_json(folder / "DONE")
    return value if isinstance(value, dict) else {}


def _compare_arms(arms: Mapping[str, Sequence[str]], stages: Mapping[str, Stage]) -> list[Comparison]:
    if TREATED not in arms:
        return []
    last = {arm: stages[names[-1]].evaluations for arm, names in arms.items()}
    return [
        Comparison(TREATED, other, protocol, compare(ours, last[other][protocol]))
        for other in arms
        for protocol, ours in _main_first(last[TREATED])
        if other != TREATED and protocol in last[other]
    ]


def compare(first: Evaluation, second: Evaluation) -> dict[str, Difference]:
    """First minus second over the items that both were asked, by metric."""
    theirs = set(second.items["id"])
    asked = [item for item in first.items["id"] if item in theirs]
    return {
        metric: paired_difference([_column(first, metric, asked)], [_column(second, metric, asked)])
        for metric in METRICS
    }


def _column(evaluation: Evaluation, metric: str, asked: Sequence[str]) -> list[float]:
    by_id = dict(zip(evaluation.items["id"], evaluation.items[metric], strict=True))
    return [_score(by_id[item]) for item in asked]


def _score(value: bool | None) -> float:
    return math.nan if value is None else float(value)


def _lost_captions(arms: Mapping[str, Sequence[str]], stages: Mapping[str, Stage]) -> list[str]:
    """A warning for each stage whose captions are worse than its parent's while its answers are not.

    A reward on the answer alone does not hold the caption: a policy can learn to answer past it, and the answer rate
    hides that.
    """
    steps = {}
    for names in arms.values():
        evaluated = [stages[name] for name in names if stages[name].evaluations]
        steps.update({child.name: (parent, child) for parent, child in pairwise(evaluated)})
    warnings = []
    for parent, child in steps.values():
        for protocol, evaluation in _main_first(child.evaluations):
            if protocol not in parent.evaluations:
                continue
            found = compare(evaluation, parent.evaluations[protocol])
            if found["perception"].worse and not found["answer"].worse:
                warnings.append(
                    f"{child.name} reads pictures worse than {parent.name} while its answers are not worse "
                    f"({protocol_title(protocol)}: captions {points(found['perception'])} points, answers "
                    f"{points(found['answer'])}). It may have learned to answer past its captions."
                )
    return warnings


def _stage_json(stage: Stage) -> dict[str, Any]:
    return {
        "status": stage.status,
        "path": str(stage.path),
        "seconds": stage.seconds,
        "generated_tokens": stage.generated_tokens,
        "scores": {protocol: to_json(e.rates, e.n) for protocol, e in stage.evaluations.items()},
    }


def _comparison_json(comparison: Comparison) -> dict[str, Any]:
    differences = {
        metric: {"value": d.value, "ci": [d.low, d.high], "p": d.p, "n": d.n} if d.n else None
        for metric, d in comparison.differences.items()
    }
    return {
        "first": comparison.first,
        "second": comparison.second,
        "protocol": comparison.protocol,
        "differences": differences,
    }


def _main_first(evaluations: Mapping[str, Evaluation]) -> list[tuple[str, Evaluation]]:
    """T=1 before greedy: it is the protocol in which errors made at random show up."""
    return sorted(evaluations.items(), key=lambda item: (-float(item[1].facts["protocol"]["temperature"]), item[0]))


def protocol_title(protocol: str) -> str:
    return {"sample": "T=1"}.get(protocol, protocol)


def points(difference: Difference) -> str:
    """A difference in points with its interval, for people."""
    if not difference.n:
        return "-"
    return f"{100 * difference.value:+.1f} [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"
