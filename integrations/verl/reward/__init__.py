"""The verifiable reward of RLVR, the function verl calls for every response.

    reward = accuracy_weight * accuracy + format_weight * format          (0.8 and 0.2 in the paper)

`format` is 1 when the response has the form `<caption>..</caption><think>..</think><answer>..</answer>` and nothing
else; `accuracy` is 1 when, inside that form, the answer is the reference. An answer outside the form counts as wrong:
the paper's reward has no credit for an answer that cannot be found.

    match.py     whether an answer is the reference: verdicts.md has the principles
    kinds.py     every kind of answer a reference can be read as; many.py those of several parts, equations.py equations
    sentences.py clean.py     what never matters: words around an answer; case, spaces, full-width forms, emphasis
    choice.py yes_no.py texts.py clock.py regions.py chemistry.py comparison.py parts.py     readers of the kinds
    names.py numerals.py     words that everyone knows by other names, numbers in uncommon dress
    quantity.py compare.py units.py words.py     numbers with units or nouns, read and compared
    tokens.py, expression.py, evaluate.py     formulas, read and computed
    algebra.py   whether two formulas are equal; math-verify proves it, in processes of its own
    self_test.py, check.py        answers with known verdicts

Needs only the standard library, but for algebra.py's child processes, which need math-verify. verl loads it as
`pkg://integrations.verl.reward`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from integrations.common.response import parse
from integrations.verl.reward.match import decide
from integrations.verl.reward.verdict import Verdict

__all__ = ["Verdict", "compute_score", "decide", "judge_response"]

MOST_CHARACTERS = 1 << 18
"""A response longer than this has no form: none that fits a model's context is."""


def judge_response(response: str, reference: str | Sequence[str]) -> tuple[bool, Verdict]:
    """Whether a response has the form, and the verdict on its answer."""
    parsed = parse(response) if len(response) <= MOST_CHARACTERS else None
    if parsed is None:
        return False, Verdict(False, "no_form", "any")
    return True, decide(parsed.answer, reference)


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str | Sequence[str],
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
        ground_truth: the row's reference answer, or several accepted ones.
        extra_info: the row's `extra_info`; not used, part of verl's call.
        accuracy_weight, format_weight: the two shares.

    Returns:
        `score` (what the policy is trained on), its parts `accuracy` and `format`, and `error`: 1.0 when no verdict
        could be reached (then `accuracy` is 0.0, but the answer was not found wrong). Each part is 0.0 or 1.0.
    """
    well_formed, verdict = judge_response(solution_str, ground_truth)
    if verdict.error:  # into the log, where whoever looks for the cause of many errors finds the pairs
        print(f"Reward undecided: {solution_str[-200:]!r} against {ground_truth!r}: {verdict.error}", flush=True)
    score = accuracy_weight * verdict.correct + format_weight * well_formed
    return {
        "score": score,
        "accuracy": float(verdict.correct),
        "format": float(well_formed),
        "error": float(bool(verdict.error)),
    }
