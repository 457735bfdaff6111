"""From scores to advantages: pure functions over arrays.

Legend: G groups (prompts), N responses per group; arrays are float64 (G, N) unless said otherwise.

Differences from the paper's code, each for a reason and each an option (see `AlignSettings`):
  - scores are normalised over a group's valid responses alone. There, invalid ones get the lowest score minus one
    and shrink everybody else's spread, so one invalid response in sixteen halves the signal of the other fifteen;
  - the format term is bounded, sums to zero within the group and is added afterwards. There it is a plain
    subtraction, which pushes groups of invalid responses only;
  - a group whose scores hardly differ gives nothing. Dividing by its deviation would make a full-size gradient of
    rounding noise.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

SMALLEST_SPREAD = 1e-4
"""Scores that differ less are equal to rounding, whatever the margin is."""

NO_GATE = (False, False)


@dataclass(frozen=True)
class Rule:
    """How scores become advantages; the fields of `AlignSettings` with these names."""

    alpha: float = 0.5
    format_penalty: float = 1.0
    invalid: str = "apart"
    normalise: str = "per_role"
    score_clip: float = 0.0


@dataclass(frozen=True)
class Advantages:
    """What each response earned, by role. With `invalid: apart` every array sums to zero over each group."""

    perception_GN: np.ndarray
    reasoning_GN: np.ndarray
    format_GN: np.ndarray
    without_signal: int = 0
    """Number of (group, role) pairs left out because their scores hardly differ."""
    all_invalid: int = 0
    """Number of groups without a valid response."""
    spreads: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    """Per role, the standard deviation of the scores in each group with two or more valid responses."""

    @property
    def empty(self) -> bool:
        """No response has any advantage, so there is nothing to learn from."""
        return not (self.perception_GN.any() or self.reasoning_GN.any() or self.format_GN.any())


def deviations(scores_GN: np.ndarray, valid_GN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Differences from the group's mean (0 where not valid) and standard deviations (G, 1), over valid responses.

    The deviation is that of the N, not N - 1, and 0 in groups without a valid response.
    """
    count = np.maximum(valid_GN.sum(1, keepdims=True), 1)
    scores = np.where(valid_GN, scores_GN, 0.0)
    centred = np.where(valid_GN, scores - scores.sum(1, keepdims=True) / count, 0.0)
    return centred, np.sqrt((centred**2).sum(1, keepdims=True) / count)


def group_normalise(scores_GN: np.ndarray, valid_GN: np.ndarray, floor: float) -> tuple[np.ndarray, np.ndarray]:
    """Scores minus the group's mean, over its standard deviation, over valid responses only.

    Args:
        scores_GN: any value where not valid.
        valid_GN: bool.
        floor: smallest standard deviation that counts as a signal.

    Returns:
        Normalised scores, 0 at invalid responses and in groups without signal; and (G,) bool, True where there is one.
    """
    centred, deviation = deviations(scores_GN, valid_GN)
    signal = (valid_GN.sum(1, keepdims=True) > 1) & (deviation >= max(floor, SMALLEST_SPREAD))
    return np.where(signal, centred / np.where(signal, deviation, 1.0), 0.0), signal[:, 0]


def normalise_with_lowest(scores_GN: np.ndarray, valid_GN: np.ndarray, floor: float) -> tuple[np.ndarray, np.ndarray]:
    """The paper's code: invalid responses take the group's lowest valid score minus one, then all are normalised.

    The deviation is that of N - 1 there. Groups without a valid response, and those whose valid scores hardly differ
    while none is invalid, give 0. Arguments and results as in `group_normalise`.
    """
    lowest = np.where(valid_GN, scores_GN, np.inf).min(1, keepdims=True)
    some_valid = np.isfinite(lowest)
    scores = np.where(valid_GN, scores_GN, np.where(some_valid, lowest, 1.0) - 1)
    centred, deviation = deviations(scores, np.ones_like(valid_GN))
    deviation = deviation * np.sqrt(scores.shape[1] / (scores.shape[1] - 1))
    signal = some_valid & (deviation >= max(floor, SMALLEST_SPREAD))
    return np.where(signal, centred / np.where(signal, deviation, 1.0), 0.0), signal[:, 0]


def format_term(valid_GN: np.ndarray, penalty: float) -> np.ndarray:
    """Minus `penalty` for each invalid response, shared out so that the group sums to zero.

    Lies in [-penalty, penalty]; 0 in groups that are all valid or all invalid.
    """
    invalid: np.ndarray = (~valid_GN).astype(np.float64)
    return -penalty * (invalid - invalid.mean(1, keepdims=True))


def advantages(
    scores_2GN: np.ndarray,
    valid_GN: np.ndarray,
    rule: Rule,
    *,
    floors: tuple[float, float] = (0.0, 0.0),
    gated: tuple[bool, bool] = NO_GATE,
) -> Advantages:
    """Advantages of one batch of groups.

    Args:
        scores_2GN: the discriminator's scores of perception and reasoning; any value where not valid.
        valid_GN: bool, responses of the right form that ended by themselves.
        floors: smallest spread that counts as a signal, perception's and reasoning's.
        gated: roles that give no advantage; they are not counted as without signal.
    """
    if rule.score_clip:
        scores_2GN = scores_2GN.clip(-rule.score_clip, rule.score_clip)
    spreads = tuple(deviations(scores, valid_GN)[1][valid_GN.sum(1) > 1, 0].tolist() for scores in scores_2GN)
    if rule.normalise == "mixed":
        kept = np.where(np.asarray(gated)[:, None, None], 0.0, scores_2GN)
        mixed = rule.alpha * kept[0] + (1 - rule.alpha) * kept[1]
        floor = rule.alpha * floors[0] + (1 - rule.alpha) * floors[1]
        scores_2GN, floors = np.stack([mixed, mixed]), (floor, floor)
    normalise = normalise_with_lowest if rule.invalid == "lowest" else group_normalise
    some_valid = valid_GN.any(1)
    found, without_signal = [], 0
    for scores, floor, closed in zip(scores_2GN, floors, gated, strict=True):
        values, signal = normalise(scores, valid_GN, floor)
        closed = all(gated) if rule.normalise == "mixed" else closed
        found.append(np.zeros_like(values) if closed else values)
        without_signal += 0 if closed else int((some_valid & ~signal).sum())
    lost = -rule.format_penalty * (~valid_GN).astype(np.float64)
    return Advantages(
        perception_GN=found[0],
        reasoning_GN=found[1],
        format_GN=lost if rule.invalid == "lowest" else format_term(valid_GN, rule.format_penalty),
        without_signal=without_signal,
        all_invalid=int((~some_valid).sum()),
        spreads=(spreads[0], spreads[1]),
    )


def token_weights(
    perception: float, reasoning: float, form: float, *, tokens: int, boundary: int, alpha: float, credit: str
) -> np.ndarray:
    """Advantage of each token of one response.

    Args:
        perception, reasoning, form: the response's advantages.
        tokens: length of the response.
        boundary: number of its tokens in the perception segment.
        alpha: weight of perception.
        credit: `per_role` or `mixed`, see `AlignSettings.credit`.

    Returns:
        (tokens,) float64.
    """
    if credit == "mixed":
        return np.full(tokens, alpha * perception + (1 - alpha) * reasoning + form)
    in_perception = np.arange(tokens) < boundary
    return np.where(in_perception, 2 * alpha * perception, 2 * (1 - alpha) * reasoning) + form


Margins = tuple[float | None, float | None]


class RunningMargin:
    """Exponential mean of the margin between demonstrations and responses, one per role; None before the first."""

    DECAY = 0.9

    def __init__(self, value: Margins = (None, None)) -> None:
        self.value = value

    def update(self, margins: Margins) -> None:
        """Take in one step's mean margins; None leaves that role's as it is."""
        perception, reasoning = (
            old if new is None else new if old is None else self.DECAY * old + (1 - self.DECAY) * new
            for old, new in zip(self.value, margins, strict=True)
        )
        self.value = perception, reasoning

    def floors(self, share: float) -> tuple[float, float]:
        """Smallest spread per role that counts as a signal: a share of the margin, 0 where the margin is negative."""
        perception, reasoning = (share * max(value or 0.0, 0.0) for value in self.value)
        return perception, reasoning
