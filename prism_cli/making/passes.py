"""How often a policy answers each prompt right, and the prompts that are worth training on.

A prompt that is always or never answered right gives a group of equal rewards, and no gradient. The paper keeps prompts
with a pass rate between 0.2 and 0.8 among 16 samples at temperature 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from integrations.common.rows import Row
from integrations.verl.reward import judge_response
from prism_cli.making.asking import Answer, Request

PASS_RATES, KEPT = "pass_rates.jsonl", "kept.jsonl"


@dataclass(frozen=True)
class Rate:
    """One prompt."""

    id: str
    passes: int
    samples: int
    formed: int
    """Samples of the paper's form; one without it passes in no case."""

    @property
    def rate(self) -> float:
        return self.passes / self.samples

    def to_json(self) -> dict[str, Any]:
        return {"id": self.id, "passes": self.passes, "samples": self.samples, "formed": self.formed, "rate": self.rate}


def rates(
    requests: Sequence[Request], answers: Mapping[str, Answer], tick: Callable[[int], None] = lambda done: None
) -> list[Rate]:
    """Pass rates by prompt, in the order of their first request.

    Args:
        tick: given the number of answers judged.
    """
    passes: Counter[str] = Counter()
    samples: Counter[str] = Counter()
    formed: Counter[str] = Counter()
    for done, request in enumerate(requests, 1):
        form, verdict = judge_response(answers[request.key].text, request.row["answer"])
        name = request.row["id"]
        samples[name] += 1
        formed[name] += form
        passes[name] += form and verdict.correct
        tick(done)
    return [Rate(name, passes[name], samples[name], formed[name]) for name in samples]


def keep(rows: Sequence[Row], found: Sequence[Rate], low: float, high: float) -> list[Row]:
    """Rows whose rate is in [low, high]."""
    kept = {rate.id for rate in found if low <= rate.rate <= high}
    return [row for row in rows if row["id"] in kept]


def counts(found: Sequence[Rate], low: float, high: float) -> dict[str, int]:
    """Prompts below, within and above the bounds, and those at the very ends."""
    return {
        "too hard": sum(rate.rate < low for rate in found),
        "kept": sum(low <= rate.rate <= high for rate in found),
        "too easy": sum(rate.rate > high for rate in found),
        "never right": sum(rate.passes == 0 for rate in found),
        "always right": sum(rate.passes == rate.samples for rate in found),
    }


def spread(found: Sequence[Rate], bins: int = 10) -> list[int]:
    """Prompts by pass rate in equal parts of [0, 1]; a rate of 1 belongs to the last."""
    counted = Counter(min(bins - 1, int(rate.rate * bins)) for rate in found)
    return [counted[index] for index in range(bins)]
