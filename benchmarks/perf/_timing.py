"""What every measurement shares: taking turns, medians and ratios, and the result as JSON."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from integrations.common.files import write_json

Times = dict[str, list[float]]
"""Seconds of every round, by side."""


@dataclass(frozen=True)
class Options:
    """What the user may choose."""

    rounds: int | None
    """How often each side runs; None: the measurement's own choice."""
    digits: dict[str, Any]
    """`world` and `model`: settings of a digits world and its model, for measurements that need one."""
    work: Path
    """An empty folder to work in."""
    size: str | None = None
    """Dimensions to measure at, where a measurement has several."""


def take_turns(sides: Mapping[str, Callable[[], object]], rounds: int, warm: bool = False) -> Times:
    """Run every side once unmeasured (unless `warm`: each has run before), then all in turns for `rounds` rounds."""
    for run in () if warm else sides.values():
        run()
    times: Times = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            started = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - started)
    return times


def result(times: Times, ratios: Mapping[str, tuple[str, str]], **facts: Any) -> dict[str, Any]:
    """A measurement's result.

    Args:
        times: of every side.
        ratios: label to (numerator, denominator), both names of sides; the median of the rounds' own ratios is kept.
        facts: what was run, and numbers that show that both sides did the same work.
    """
    return {
        "seconds": {name: median(seconds) for name, seconds in times.items()},
        "range": {name: [min(seconds), max(seconds)] for name, seconds in times.items()},
        "ratios": {
            label: median(a / b for a, b in zip(times[top], times[bottom], strict=True))
            for label, (top, bottom) in ratios.items()
        },
        "rounds": len(next(iter(times.values()))),
        "facts": facts,
    }


def main(measure: Callable[[Options], dict[str, Any]]) -> None:
    """Run a measurement as a program: options in, a JSON file out."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--digits", type=Path, required=True)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--size")
    given = parser.parse_args()
    options = Options(given.rounds, json.loads(given.digits.read_text(encoding="utf-8")), given.work, given.size)
    write_json(given.out, measure(options))
