"""Several runs of one recipe that differ in the training seed, as one result.

A training seed changes the SFT and RLVR data drawn and every random choice of training, and results move with it by
more than the items explain. So each score is shown as the mean over runs with the lowest and the highest run beside
it; differences are averaged item by item over the runs, with an interval over items and every run's own difference
beside it. With the handful of runs that fit a budget no interval over seeds is worth printing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.scores import METRICS
from benchmarks.statistics import Difference
from benchmarks.summary import TREATED, Summary, compare_runs, points, protocol_title, summarize
from integrations.common.files import read_json
from integrations.errors import BadInput

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class SeedComparison:
    """The prism arm minus another under one protocol, over all runs."""

    second: str
    protocol: str
    differences: Mapping[str, Difference]
    """By metric: averaged over runs, interval over items."""
    of_runs: Mapping[str, Sequence[float]]
    """By metric: each run's own difference, in the order of the runs."""


@dataclass(frozen=True)
class SeedSummary:
    """What several runs of one recipe have shown."""

    runs: Sequence[Summary]
    comparisons: Sequence[SeedComparison]

    @property
    def seeds(self) -> list[int | None]:
        return [run.seed for run in self.runs]

    @property
    def stage_names(self) -> list[str]:
        """Stages of the arms, each once, in order."""
        return list(dict.fromkeys(name for names in self.runs[0].arms.values() for name in names))

    def rates(self, stage: str, protocol: str, metric: str) -> list[float]:
        """One score of one stage in every run that has it, in [0, 1]."""
        found = [run.stages[stage].evaluations.get(protocol) for run in self.runs]
        return [e.rates[metric].value for e in found if e is not None and e.rates[metric].n]

    def to_json(self) -> dict[str, Any]:
        """All runs as one JSON object."""
        protocols = self.runs[0].protocols
        return {
            "runs": [run.run for run in self.runs],
            "seeds": self.seeds,
            "arms": {
                arm: {name.rsplit("/", 1)[-1]: self._stage_json(name, protocols) for name in names}
                for arm, names in self.runs[0].arms.items()
            },
            "comparisons": [_comparison_json(comparison) for comparison in self.comparisons],
            "conclusions": [conclusion(comparison) for comparison in self.comparisons],
            "warnings": warnings(self),
        }

    def _stage_json(self, stage: str, protocols: Sequence[str]) -> dict[str, Any]:
        found = {p: {metric: self.rates(stage, p, metric) for metric in METRICS} for p in protocols}
        return {
            "scores": {
                protocol: {
                    metric: {"mean": sum(rates) / len(rates), "runs": rates} if rates else None
                    for metric, rates in by_metric.items()
                }
                for protocol, by_metric in found.items()
            }
        }

    def render(self, console: Console) -> None:
        """Print the tables and what follows from them; 80 columns are enough."""
        from benchmarks.tables import print_seeds

        print_seeds(self, console)


def summarize_many(run_dirs: Sequence[Path]) -> SeedSummary:
    """Read the folders of several runs of one recipe.

    Raises:
        BadInput: a folder holds no run, the runs are of different recipes, or two have the same seed.
    """
    runs = [summarize(folder) for folder in run_dirs]
    first = runs[0]
    recipes = [_recipe_hash(folder) for folder in run_dirs]
    for run, recipe in zip(runs, recipes, strict=True):
        if recipe != recipes[0] or {**run.arms} != {**first.arms}:
            raise BadInput(
                f"the runs `{first.run}` and `{run.run}` were made from different recipes",
                "average runs of one recipe that differ in their seed only",
            )
    for index, run in enumerate(runs):
        if run.seed in [other.seed for other in runs[:index]]:
            raise BadInput(f"two of the runs have the seed {run.seed}", "give each run once, one for each seed")
    return SeedSummary(runs, _compare(runs))


def conclusion(comparison: SeedComparison) -> str:
    """What several runs show about answers, in one sentence."""
    answer, runs = comparison.differences["answer"], comparison.of_runs["answer"]
    ahead = sum(value > 0 for value in runs)
    verdict = f"{'beat' if answer.better else 'did not beat'} the {comparison.second} here"
    if answer.better and ahead < len(runs):
        verdict += " on average, though not in every run"
    elif answer.worse:
        verdict += ", it did worse"
    detail = f"answers {points(answer)} points, ahead in {ahead} of {len(runs)} runs"
    return f"{protocol_title(comparison.protocol)}: over {len(runs)} seeds {TREATED.upper()} {verdict} ({detail})."


def warnings(found: SeedSummary) -> list[str]:
    """Every run's own warnings, with its name."""
    return [f"{run.run}: {warning}" for run in found.runs for warning in run.warnings]


def _recipe_hash(folder: Path) -> Any:
    manifest = read_json(folder / "manifest.json") or {}
    return manifest.get("recipe", {}).get("hash")


def _compare(runs: Sequence[Summary]) -> list[SeedComparison]:
    """The prism arm against each other arm, where every run has both."""
    by_run = [{(c.second, c.protocol): c.differences for c in run.comparisons} for run in runs]
    shared = [key for key in by_run[0] if all(key in found for found in by_run)]
    result = []
    for second, protocol in shared:
        last = [tuple(run.stages[run.arms[arm][-1]].evaluations[protocol] for arm in (TREATED, second)) for run in runs]
        result.append(
            SeedComparison(
                second=second,
                protocol=protocol,
                differences=compare_runs([(ours, theirs) for ours, theirs in last]),
                of_runs={m: [found[second, protocol][m].value for found in by_run] for m in METRICS},
            )
        )
    return result


def _comparison_json(comparison: SeedComparison) -> dict[str, Any]:
    return {
        "first": TREATED,
        "second": comparison.second,
        "protocol": comparison.protocol,
        "differences": {
            metric: {"value": d.value, "ci": [d.low, d.high], "n": d.n, "runs": list(comparison.of_runs[metric])}
            if d.n
            else None
            for metric, d in comparison.differences.items()
        },
    }
