"""Items of a run's own pool (`prism_pool.yaml`): the rows' own prompts, and answers compared by rules alone.

The answer is read from <answer> as for the benchmarks. RLVR's reward demands the whole response form and compares
plain text (`integrations.verl.reward`); here a formula may be written in another way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.scoring import tasks
from benchmarks.scoring.answers import free_answer
from benchmarks.scoring.verdict import Verdict
from integrations.verl.reward.match import accepted


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, dict[str, Any]]:
    item = {"item_id": doc["id"], "question": doc["prompt"], "reference": doc["answer"]}
    return tasks.scored(results, "format", "open", lambda answer: _any_of(accepted(doc["answer"]), answer), item)


def _any_of(references: Sequence[str], answer: str) -> Verdict:
    """The verdict of the first accepted answer that is met, or else of the first."""
    verdicts = [free_answer(reference, answer, "math_verify") for reference in references]
    return next((verdict for verdict in verdicts if verdict.correct), verdicts[0])
