"""MathVision testmini: 304 competition problems, multiple choice or a short free answer.

From upstream (lmms-eval's `mathvision`): the data set, the images, and `find_math_answer` with `is_equal`, the official
comparison to two decimals. Different from upstream:

- In `format` the answer is wanted in <answer>; upstream's text (the prompt of `native`) wants \\boxed{} and, of
  options, the letter "directly".
- Upstream looks for the answer in the whole response by its ends and beginnings and by "is", which reads a response
  with caption and reasoning wrongly; here only the extracted answer is compared.
- An option may be named by its letter with or without its text ("B. 12" is wrong for upstream), by its own text, or by
  a formula equal to the right option's.
- `is_equal` knows no roots, and with the pinned parser no dollars: 2\\sqrt{3} and \\sqrt{12} are `open_unmatched`, of
  an option in dollars these are taken off.
- `is_equal` evaluates what it parsed as Python; here that happens in a child process with a time limit.

Different from the paper's script: that one asks a judge, who can only raise, about all that is wrong.
"""

# Packages of the lmms_eval environment.
# mypy: disable-error-code="import-not-found"

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lmms_eval.tasks.mathvision import utils as upstream

from benchmarks.scoring import tasks
from benchmarks.scoring.answers import free_answer
from benchmarks.scoring.choices import choose, letters
from benchmarks.scoring.extract import Kind, Style
from benchmarks.scoring.verdict import Verdict

_MC_PROMPT = "Answer the question with the option's letter from the given choices directly."


def doc_to_text(doc: Mapping[str, Any], style: Style = "format") -> str:
    """The question with its options; in `native` with upstream's instructions."""
    if style == "native":
        return str(upstream.mathvision_doc_to_text(doc, {"mc_prompt": _MC_PROMPT}))
    return tasks.with_options(doc["question"], doc["options"])


def doc_to_messages(doc: Mapping[str, Any], style: Style = "format") -> list[dict[str, Any]]:
    hint = tasks.CHOICE_HINT if doc["options"] else ""
    return tasks.turns(style, doc_to_text(doc, style), upstream.mathvision_doc_to_visual(doc), hint)


def process_results(doc: Mapping[str, Any], results: Sequence[str], style: Style = "format") -> dict[str, Any]:
    item = {
        "item_id": str(doc["id"]),
        "question": tasks.with_options(doc["question"], doc["options"]),
        "reference": str(doc["answer"]),
    }
    kind: Kind = "choice" if doc["options"] else "open"
    return tasks.scored(results, style, kind, lambda answer: _decide(doc, answer), item)


def _decide(doc: Mapping[str, Any], answer: str) -> Verdict:
    reference = str(doc["answer"]).strip()
    if not doc["options"]:
        return free_answer(reference, answer, "mathvision")
    letter, rule = choose(answer, doc["options"])
    if letter is not None:
        return Verdict(letter == reference, rule)
    right = doc["options"][letters(len(doc["options"])).index(reference)]
    value = free_answer(right, answer, "mathvision")
    return value if value.correct else Verdict(False, rule)
