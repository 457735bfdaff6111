"""Simulate comparisons whose truth is known: do 95% intervals hold it, and is a null rejected in 5% of cases at most?

    python tests/campaign/coverage.py [--repetitions 2000] [--resamples 1000] [--workers 2] [--only NAME]

Prints a row per case: the share of intervals that hold the truth, for single benchmarks and for the macro-average, and
under the null the share of comparisons in which any of the benchmarks is significant after Holm's correction, and in
which the macro-average is. Exits with 1 when a coverage lies outside 93-97%, or an error rate above 5%, by more than
chance explains. About ten minutes on two cores.

An item has a difficulty u, uniform in [0, 1], shared within a group; a checkpoint of accuracy a answers it rightly with
probability u^(1/a - 1), whose mean over items is a. On every second group a model meets a difficulty of its own, so
that models disagree about items beyond the noise of their responses. A checkpoint's accuracy is its model's plus the
influence of the training seed, a normal deviation. With five or more training seeds the truth is the difference of the
models' accuracies, with fewer that of the checkpoints at hand.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from benchmarks.compare.estimates import Estimate, difference_of
from benchmarks.compare.resampling import MANY_SEEDS, Layout, Series, average, holm, layout, resample


@dataclass(frozen=True)
class Case:
    """One way in which a comparison may be made."""

    name: str
    items: int = 300
    """In each benchmark."""
    group: int = 1
    """Largest group of items; sizes are uniform from 1."""
    samples: int = 1
    seeds: int = 1
    """Training seeds."""
    spread: float = 0.0
    """Standard deviation of a checkpoint's accuracy over training seeds."""
    tasks: int = 1
    """Tasks in a benchmark, which share groups where there are any."""
    benchmarks: int = 7


CASES = (
    Case("independent, 1 seed"),
    Case("independent, 100 items", items=100),
    Case("4 samples per item", samples=4),
    Case("groups of 1-5", group=5),
    Case("groups of 1-5, 2 tasks", group=5, tasks=2),
    Case("3 seeds, groups", group=5, seeds=3, spread=0.03),
    Case("5 seeds that do not matter", seeds=5),
    Case("5 seeds, small influence", seeds=5, spread=0.01),
    Case("5 seeds, groups", group=5, seeds=5, spread=0.03),
    Case("5 seeds, great influence", seeds=5, spread=0.08),
    Case("8 seeds, groups, 2 samples", group=5, seeds=8, spread=0.03, samples=2),
)
ACCURACIES = {False: (0.6, 0.5), True: (0.5, 0.5)}
"""Of the model and of the baseline, not under and under the null."""


@dataclass(frozen=True)
class Rates:
    """What the repetitions of a case gave, in [0, 1]."""

    benchmark: float
    """Share of intervals of single benchmarks that hold the truth."""
    macro: float
    family: float
    """Under the null: share of repetitions in which any benchmark is significant."""
    macro_errors: float
    intervals: int
    repetitions: int


def run(case: Case, repetitions: int, resamples: int, seed: int = 0) -> Rates:
    """Simulate a case.

    Args:
        repetitions: for the coverage, and as many again under the null.
    """
    held, macro_held, family, macro_errors = [], [], [], []
    for repetition in range(repetitions):
        for null in (False, True):
            random = np.random.default_rng([seed, repetition, null])
            estimates, truth = simulate(case, ACCURACIES[null], resamples, random)
            differences = [difference_of(estimate) for estimate in estimates]
            whole = average([estimate.statistic for estimate in estimates])
            if null:
                family.append(min(holm([d.p for d in differences])) < 0.05)
                macro_errors.append(whole.p_value() < 0.05)
            else:
                held += [d.low <= truth <= d.high for d in differences]
                low, high = whole.interval()
                macro_held.append(low <= truth <= high)
    rates = (float(np.mean(found)) for found in (held, macro_held, family, macro_errors))
    return Rates(*rates, len(held), repetitions)


def simulate(
    case: Case, accuracies: tuple[float, float], resamples: int, random: np.random.Generator
) -> tuple[list[Estimate], float]:
    """One comparison: an estimate per benchmark, and the true difference."""
    many = case.seeds >= MANY_SEEDS
    # Under a null that is conditional on the checkpoints these are equally good.
    moved = case.spread if many or accuracies[0] != accuracies[1] else 0.0
    checkpoints = np.array([[a + moved * random.standard_normal() for _ in range(case.seeds)] for a in accuracies])
    truth = accuracies[0] - accuracies[1] if many else float(checkpoints[0].mean() - checkpoints[1].mean())
    found = []
    for _ in range(case.benchmarks):
        groups = list(_groups(case, random))
        where = layout([[f"g{group}" for group in groups]] * case.tasks)
        series = Series(range(case.seeds), _values(case, where, checkpoints, random), True, case.samples * case.seeds)
        statistic = resample(where, {"difference": series}, resamples, random)["difference"]
        found.append(Estimate(where, series, statistic))
    return found, truth


def _groups(case: Case, random: np.random.Generator) -> Iterator[int]:
    """The group of each item of a task."""
    group = items = 0
    while items < case.items:
        size = min(int(random.integers(1, case.group + 1)), case.items - items)
        yield from [group] * size
        group, items = group + 1, items + size


def _values(case: Case, where: Layout, checkpoints: np.ndarray, random: np.random.Generator) -> list[np.ndarray]:
    """By task: [seeds, items] differences between the two models' shares of right responses."""
    shared = random.random(where.count)
    own = np.where(random.random((2, where.count)) < 0.5, shared, random.random((2, where.count)))
    values = []
    for clusters in where.clusters:
        shares = [_shares(own[model][clusters], checkpoints[model], case.samples, random) for model in (0, 1)]
        values.append(shares[0] - shares[1])
    return values


def _shares(difficulty: np.ndarray, accuracies: np.ndarray, samples: int, random: np.random.Generator) -> np.ndarray:
    """[seeds, items] share of right responses of one model's checkpoints."""
    chance = difficulty[None, :] ** (1 / accuracies[:, None] - 1)
    return random.binomial(samples, chance) / samples


def problems(rates: Rates, single: bool) -> list[str]:
    """What lies outside its bounds by more than 2.6 standard errors."""
    found = []
    kinds = {"macro": (rates.macro, rates.repetitions)}
    kinds |= {"benchmark": (rates.benchmark, rates.intervals)} if single else {}
    for name, (value, n) in kinds.items():
        slack = 2.6 * math.sqrt(0.95 * 0.05 / n)
        if not 0.93 - slack <= value <= 0.97 + slack:
            found.append(f"{name} coverage {value:.3f}")
    slack = 2.6 * math.sqrt(0.95 * 0.05 / rates.repetitions)
    for name, value in (("family-wise", rates.family), ("macro", rates.macro_errors)):
        if value > 0.05 + slack:
            found.append(f"{name} errors {value:.3f}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=2000)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", help="part of a case's name")
    options = parser.parse_args()
    cases = [case for case in CASES if (options.only or "") in case.name]
    print(f"{'case':<28} {'benchmark':>9} {'macro':>7} {'family':>7} {'macro':>7}")
    wrong: list[str] = []
    with ProcessPoolExecutor(options.workers) as pool:
        simulated = pool.map(partial(run, repetitions=options.repetitions, resamples=options.resamples), cases)
        for case, rates in zip(cases, simulated, strict=True):
            told: Sequence[float] = (rates.benchmark, rates.macro, rates.family, rates.macro_errors)
            print(f"{case.name:<28} {told[0]:9.3f} {told[1]:7.3f} {told[2]:7.3f} {told[3]:7.3f}", flush=True)
            wrong += [f"{case.name}: {problem}" for problem in problems(rates, single=True)]
    print("\n".join(wrong) or "all within bounds")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
