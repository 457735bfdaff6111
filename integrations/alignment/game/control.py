"""What keeps the game between two bad ends, and which of its states is the result: pure functions and a small state.

A discriminator that always wins only says "not the demonstration" and ranks nothing; one at chance rewards noise.
So its learning rate is scaled to hold its pair accuracy in a band. The paper has no such control: there the game ends
with 98.8% of pairs told apart, and the last state is the result.

A held-out check (see `heldout`) is a dictionary of measures; every function here accepts one that lacks some.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import sqrt
from typing import Any

from integrations.alignment.data.segments import ROLES

Check = Mapping[str, float]

DECAY = 0.8
"""Memory of the running pair accuracy: five steps or so."""
SLOWER, FASTER = 0.8, 1.25
SLOWEST, FASTEST = 1 / 32, 2.0
CHANCE = 1.96
"""Standard errors by which a share must have fallen to count as fallen."""
DOUBT = 1.0
"""Standard errors by which it may be lower at the best check: a high win rate is also what a policy reaches that has
found how to please a judge of style."""
FALLING = ("answer", "caption", "valid")
"""Shares of held-out responses that must not fall."""


def next_scale(scale: float, accuracy: float, low: float, high: float) -> float:
    """The factor on the discriminator's learning rate for the next step.

    Args:
        scale: of this step.
        accuracy: running pair accuracy, 0 to 1.
        low, high: the band's ends. Inside, the factor returns to 1; outside it goes on towards its end.
    """
    if accuracy > high:
        return max(scale * SLOWER, SLOWEST)
    if accuracy < low:
        return min(scale * FASTER, FASTEST)
    return min(scale * FASTER, 1.0) if scale < 1 else max(scale * SLOWER, 1.0)


def win_rate(check: Check) -> float:
    """How often the policy's response beats the demonstration: 1 - pair accuracy, mean of both roles; 0 unknown."""
    return 1 - sum(check.get(f"held_out_pair_accuracy_{role}", 1.0) for role in ROLES) / len(ROLES)


def indistinguishable(check: Check) -> bool:
    """The 95% interval of the pair accuracy holds one half, for both roles."""
    return all(
        check.get(f"held_out_pair_accuracy_{role}_low", 1.0)
        <= 0.5
        <= check.get(f"held_out_pair_accuracy_{role}_high", 0.0)
        for role in ROLES
    )


def fallen(first: Check, now: Check, prompts: int, errors: float = CHANCE) -> list[str]:
    """Shares (`FALLING`) that are lower than at the first check by more than so many standard errors.

    Args:
        prompts: held-out prompts. Counted once, however many responses each has: those of one prompt are alike.
    """
    found = []
    for name in FALLING:
        before, after = (check.get(f"held_out_{name}") for check in (first, now))
        if before is None or after is None:
            continue
        error = sqrt((before * (1 - before) + after * (1 - after)) / max(prompts, 1))
        if before - after > max(errors * error, 1e-9):
            found.append(name)
    return found


def gates(check: Check, min_separation: float) -> tuple[bool, bool]:
    """Whether perception and reasoning are gated: the check separates right from wrong less often than asked.

    A check without wrong (or without right) responses cannot tell, and closes nothing.
    """
    perception, reasoning = (check.get(f"held_out_right_over_wrong_{role}", 1.0) < min_separation for role in ROLES)
    return perception, reasoning


def reason_to_stop(stop_when: str, first: Check, now: Check, prompts: int) -> str:
    """Why the game ends at this check, in words; empty: it goes on."""
    if stop_when in ("falling", "either") and (names := fallen(first, now, prompts)):
        told = (f"{name} {first[f'held_out_{name}']:.0%} -> {now[f'held_out_{name}']:.0%}" for name in names)
        return f"falling on held-out prompts: {', '.join(told)}"
    if stop_when in ("indistinguishable", "either") and indistinguishable(now):
        return "held-out responses and demonstrations can no longer be told apart"
    return ""


@dataclass
class Control:
    """What the game remembers of itself; a checkpoint keeps it whole."""

    wins: float = 0.0
    """Running number of pairs that the demonstration wins, both roles together."""
    pairs: float = 0.0
    """Running number of pairs with a winner: segments that say the same in the same words are no test of a judge."""
    scale: float = 1.0
    """Factor on the discriminator's learning rate."""
    first: dict[str, float] = field(default_factory=dict)
    """The check of the starting policy."""
    last: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    best_step: int | None = None
    stopped: str = ""
    """Why the game ended before its last step; empty: it did not."""
    totals: dict[str, float] = field(default_factory=dict)
    """Sums over all steps (see `metrics.counts`)."""

    @property
    def accuracy(self) -> float | None:
        """Running share of the decided pairs that the demonstration wins; None before the first."""
        return self.wins / self.pairs if self.pairs else None

    def observe(self, wins: int, pairs: int, low: float, high: float) -> None:
        """Take in one step's decided pairs (`losses.decided`); a step without any changes nothing."""
        if not pairs:
            return
        self.wins, self.pairs = DECAY * self.wins + wins, DECAY * self.pairs + pairs
        self.scale = next_scale(self.scale, self.wins / self.pairs, low, high)

    def count(self, numbers: Mapping[str, float]) -> None:
        """Add to the totals."""
        for name, number in numbers.items():
            self.totals[name] = self.totals.get(name, 0.0) + number

    def check(self, step: int, check: Check, settings: Any, prompts: int) -> bool:
        """Take in a held-out check; whether it is the best so far.

        Args:
            step: 0 for the starting policy, which is never the best: choosing it would mean no alignment at all.
            settings: `AlignSettings`.
            prompts: held-out prompts.
        """
        self.last = dict(check)
        if step == 0:
            self.first = dict(check)
            return False
        self.stopped = reason_to_stop(settings.stop_when, self.first, check, prompts)
        valid = check.get("held_out_valid", 0.0)
        eligible = (
            not any(gates(check, settings.min_separation))
            and not fallen(self.first, check, prompts, DOUBT)
            and valid >= settings.min_valid_share * self.first.get("held_out_valid", 0.0)
        )
        if not eligible or (self.best_step is not None and win_rate(check) < win_rate(self.best)):
            return False
        self.best, self.best_step = dict(check), step
        return True

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return asdict(self)
