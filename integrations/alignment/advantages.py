"""From scores to advantages: pure functions over arrays.

Legend: G groups (prompts), N responses per group; arrays are float64 (G, N) unless said otherwise.

Differences from the paper's code, each for a reason:
  - scores are normalised over a group's valid responses alone. There, invalid ones got the lowest score minus one
    and shrank everybody else's spread, so one invalid response in sixteen halved the signal of the other fifteen;
  - the format term is bounded, sums to zero within the group and is added afterwards. There it was a plain
    subtraction, which pushed groups of invalid responses only;
  - a group whose scores hardly differ gives nothing. Dividing by its deviation would make a full-size gradient of
    rounding noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SMALLEST_SPREAD = 1e-4
"""Scores that differ less are equal to rounding, whatever the margin is."""


@dataclass(frozen=True)
class Advantages:
    """What each response earned, by role. Every array sums to zero over each group."""

    perception_GN: np.ndarray
    reasoning_GN: np.ndarray
    format_GN: np.ndarray
    without_signal: int
    """Number of (group, role) pairs left out because their scores hardly differ."""
    all_invalid: int
    """Number of groups without a valid response."""

    @property
    def empty(self) -> bool:
        """No response has any advantage, so there is nothing to learn from."""
        return not (self.perception_GN.any() or self.reasoning_GN.any() or self.format_GN.any())


def group_normalise(scores_GN: np.ndarray, valid_GN: np.ndarray, floor: float) -> tuple[np.ndarray, np.ndarray]:
    """Scores minus the group's mean, over its standard deviation, over valid responses only.

    Args:
        scores_GN: any value where not valid.
        valid_GN: bool.
        floor: smallest standard deviation (of the N, not N - 1) that counts as a signal.

    Returns:
        Normalised scores, 0 at invalid responses and in groups without signal; and (G,) bool, True where there is one.
    """
    count = valid_GN.sum(1, keepdims=True)
    scores = np.where(valid_GN, scores_GN, 0.0)
    mean = scores.sum(1, keepdims=True) / np.maximum(count, 1)
    deviation = np.sqrt((np.where(valid_GN, scores - mean, 0.0) ** 2).sum(1, keepdims=True) / np.maximum(count, 1))
    signal = (count > 1) & (deviation >= max(floor, SMALLEST_SPREAD))
    normalised = (scores - mean) / np.where(signal, deviation, 1.0)
    return np.where(valid_GN & signal, normalised, 0.0), signal[:, 0]


def format_term(valid_GN: np.ndarray, penalty: float) -> np.ndarray:
    """Minus `penalty` for each invalid response, shared out so that the group sums to zero.

    Lies in [-penalty, penalty]; 0 in groups that are all valid or all invalid.
    """
    invalid: np.ndarray = (~valid_GN).astype(np.float64)
    return -penalty * (invalid - invalid.mean(1, keepdims=True))


def advantages(
    perception_GN: np.ndarray,
    reasoning_GN: np.ndarray,
    valid_GN: np.ndarray,
    *,
    floors: tuple[float, float],
    penalty: float,
) -> Advantages:
    """Advantages of one batch of groups.

    Args:
        perception_GN, reasoning_GN: the discriminator's scores of the two segments.
        valid_GN: bool, responses of the right form that ended by themselves.
        floors: smallest spread that counts as a signal, perception's and reasoning's.
        penalty: `format_penalty`.
    """
    perception, seen = group_normalise(perception_GN, valid_GN, floors[0])
    reasoning, reasoned = group_normalise(reasoning_GN, valid_GN, floors[1])
    some_valid = valid_GN.any(1)
    return Advantages(
        perception_GN=perception,
        reasoning_GN=reasoning,
        format_GN=format_term(valid_GN, penalty),
        without_signal=int((some_valid & ~seen).sum() + (some_valid & ~reasoned).sum()),
        all_invalid=int((~some_valid).sum()),
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


class RunningMargin:
    """Exponential mean of the margin between demonstrations and responses, one per role."""

    DECAY = 0.9

    def __init__(self, value: tuple[float, float] | None = None) -> None:
        self.value = value

    def update(self, margins: tuple[float, float]) -> None:
        """Take in one step's mean margins."""
        if self.value is None:
            self.value = margins
        else:
            perception, reasoning = (
                self.DECAY * old + (1 - self.DECAY) * new for old, new in zip(self.value, margins, strict=True)
            )
            self.value = perception, reasoning

    def floors(self, share: float) -> tuple[float, float]:
        """Smallest spread per role that counts as a signal: a share of the margin, 0 where the margin is negative."""
        perception, reasoning = self.value or (0.0, 0.0)
        return share * max(perception, 0.0), share * max(reasoning, 0.0)
