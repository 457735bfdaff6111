"""The verifiable reward of RLVR, the function verl calls for every response.

    reward = accuracy_weight * accuracy + format_weight * format          (0.8 and 0.2 in the paper)

`format` is 1 when the response has the form `<caption>..</caption><think>..</think><answer>..</answer>` and nothing
else; `accuracy` is 1 when, inside that form, the answer equals the reference after light normalisation. An answer
outside the form counts as wrong: the paper's reward has no credit for an answer that cannot be found.

Needs only the standard library, so that it runs in any environment. verl loads it as `pkg://integrations.verl.reward`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from integrations.common.response import parse

_SPACE = re.compile(r"\s+")
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")


def normalise(answer: str) -> str:
    """An answer without differences that mean nothing: case, spaces, a final full stop, `+3`, `3.0`, `012`."""
    text = _SPACE.sub(" ", answer.strip()).casefold().rstrip(".").strip()
    if _NUMBER.fullmatch(text) is None:
        return text
    whole, _, fraction = text.lstrip("+-").partition(".")
    number = (whole.lstrip("0") or "0") + ("." + fraction.rstrip("0") if fraction.rstrip("0") else "")
    return f"-{number}" if text.startswith("-") and number != "0" else number


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: Mapping[str, Any] | None = None,
    *,
    accuracy_weight: float = 0.8,
    format_weight: float = 0.2,
    **unused: Any,
) -> dict[str, float]:
    """Reward of one response, in [0, 1] when the weights add up to 1.

    Args:
        data_source: the row's `source`; not used, part of verl's call.
        solution_str: the decoded response without special tokens.
        ground_truth: the row's reference answer.
        extra_info: the row's `extra_info`; not used, part of verl's call.
        accuracy_weight, format_weight: the two shares.

    Returns:
        `score` (what the policy is trained on) and its parts `accuracy` and `format`, each 0.0 or 1.0.
    """
    response = parse(solution_str)
    well_formed = float(response is not None)
    right = float(response is not None and normalise(response.answer) == normalise(str(ground_truth)))
    return {"score": accuracy_weight * right + format_weight * well_formed, "accuracy": right, "format": well_formed}
