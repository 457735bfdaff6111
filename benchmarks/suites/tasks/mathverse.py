"""MathVerse testmini: 788 problems of plane and solid geometry and functions, each in five versions that move the
information from the text into the figure.

From upstream (lmms-eval's `mathverse`): the data set and the images. Different from upstream:

- Upstream sends every response whole to an LLM judge, and counts a failing judge as wrong. Here rules decide what they
  can: an option's letter or text (the options are read out of the question), the reference's own text, equal numbers,
  and math-verify, the comparison of upstream's reasoning variant of this task. The rest is `open_unmatched`, for a
  judge to decide from question, reference and answer alone.
- Upstream's reasoning variant takes any reference with a capital from A to H for multiple choice, and a reference that
  is nine tenths of an answer for the answer; neither is done here.
- In `format` the question stands alone; upstream's `query_wo` (the prompt of `native`) wants it answered "directly".

Different from the paper's script: that one judges whole responses, caption and reasoning included.

`subset` is the problem version, `group_id` the problem that the versions share.
"""

# Packages of the lmms_eval environment.
# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.scoring import tasks
from benchmarks.scoring.answers import free_answer
from benchmarks.scoring.choices import choose, letters
from benchmarks.scoring.extract import Style
from benchmarks.scoring.verdict import Verdict

with tasks.no_judge():
    from lmms_eval.tasks.mathverse import utils as upstream

IN_THE_IMAGE = "The question is in the image."

_OPTION = re.compile(r"^\s*\(?([A-H])\s*[:.)]\s*(.*\S)\s*$", re.MULTILINE)


def doc_to_text(doc: Mapping[str, Any], style: Style = "format") -> str:
    """The question as the problem version gives it; in `native` upstream's query."""
    if style == "native":
        return str(upstream.mathverse_doc_to_text(doc, {"shot_type": "format-prompt", "query_type": "query_wo"}))
    return str(doc["question"]).strip() or IN_THE_IMAGE


def doc_to_messages(doc: Mapping[str, Any], style: Style = "format") -> list[dict[str, Any]]:
    hint = tasks.CHOICE_HINT if doc["question_type"] == "multi-choice" else ""
    return tasks.turns(style, doc_to_text(doc, style), upstream.mathverse_doc_to_visual(doc), hint)


def process_results(doc: Mapping[str, Any], results: Sequence[str], style: Style = "format") -> dict[str, Any]:
    multiple = doc["question_type"] == "multi-choice"
    item = {
        "item_id": str(doc["sample_index"]),
        "group_id": str(doc["problem_index"]),
        "subset": str(doc["problem_version"]),
        "question": str(doc["question_for_eval"]),
        "reference": str(doc["answer"]),
    }
    return tasks.scored(results, style, "choice" if multiple else "open", lambda answer: _decide(doc, answer), item)


def options_of(question: str) -> list[str]:
    """The options' texts in a question that lists them as `A:text`, one a line; [] without a list."""
    found = _OPTION.findall(question.rpartition("Choices:")[2])
    in_order = [letter for letter, _ in found] == letters(len(found))
    return [text for _, text in found] if in_order else []


def _decide(doc: Mapping[str, Any], answer: str) -> Verdict:
    reference = str(doc["answer"]).strip()
    if doc["question_type"] != "multi-choice":
        return free_answer(reference, answer, "math_verify")
    letter, rule = choose(answer, tasks.with_unknown(options_of(doc["question_for_eval"]), reference))
    return Verdict(letter == reference, rule)
