"""MathVista testmini: 1,000 questions on figures; options, integers, decimals or lists.

From upstream (lmms-eval's `mathvista`): the data set, the building of the question, `normalize_extracted_answer` and
`safe_equal`, the official comparison. Different from upstream:

- One generation per question. Upstream's `mathvista_testmini` is a group of three over the same questions, under three
  prompts (step by step, solution, format); `native` is the prompt of its member `mathvista_testmini_format`.
- In `format` the hint says what kind of answer is wanted, not that it be given "directly".
- Upstream asks an LLM to extract the answer from every response that is not a bare answer; here it is taken from
  <answer>, and nothing is asked.
- An answer that names no option is `choice_unmatched`; upstream takes the option at the smallest edit distance.
- Decimals: the data set holds `precision` as a float, and upstream's round(x, 1.0) raises and makes every such answer
  wrong; here the precision is made an integer, as the benchmark means it. A number with its unit or a thousands
  separator is no number for upstream: `number_unmatched`.

Different from the paper's script: that one reads the first <answer> anywhere, has upstream's nearest option, and asks a
judge, who sees the whole response and can only raise, about all that is wrong.
"""

# Packages of the lmms_eval environment.
# mypy: disable-error-code="import-not-found"

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.scoring import tasks
from benchmarks.scoring.answers import number
from benchmarks.scoring.choices import choose, letters, plain
from benchmarks.scoring.extract import Style
from benchmarks.scoring.verdict import Verdict

with tasks.no_judge():
    from lmms_eval.tasks.mathvista import utils as upstream

_PROMPTS = {"format": "direct", "native": "format-prompt"}
_HINTS = {"integer": "The answer is an integer.", "list": "The answer is a Python list, for example [1, 2, 3]."}


def doc_to_text(doc: Mapping[str, Any], style: Style = "format") -> str:
    """Upstream's question with its options; in `native` with upstream's hint."""
    return str(
        upstream.mathvista_doc_to_text(
            doc, {"shot": 0, "shot_type": _PROMPTS[style], "use_caption": False, "use_ocr": False}
        )
    )


def doc_to_messages(doc: Mapping[str, Any], style: Style = "format") -> list[dict[str, Any]]:
    return tasks.turns(style, doc_to_text(doc, style), upstream.mathvista_doc_to_visual(doc), _hint(doc))


def process_results(doc: Mapping[str, Any], results: Sequence[str], style: Style = "format") -> dict[str, Any]:
    multiple = doc["question_type"] == "multi_choice"
    item = {
        "item_id": str(doc["pid"]),
        "question": tasks.with_options(_with_unit(doc), doc["choices"] or []),
        "reference": str(doc["answer"]),
    }
    return tasks.scored(results, style, "choice" if multiple else "open", lambda answer: _decide(doc, answer), item)


def _with_unit(doc: Mapping[str, Any]) -> str:
    return f"{doc['question']} (Unit: {doc['unit']})" if doc["unit"] else str(doc["question"])


def _hint(doc: Mapping[str, Any]) -> str:
    if doc["question_type"] == "multi_choice":
        return tasks.CHOICE_HINT
    if doc["answer_type"] == "float" and doc["precision"]:
        places = int(doc["precision"])
        return f"The answer is a number with {places} decimal place{'s' if places > 1 else ''}."
    return _HINTS.get(doc["answer_type"], "")


def _decide(doc: Mapping[str, Any], answer: str) -> Verdict:
    evaluator = upstream.mathvista_evaluator
    given, rule = answer, "exact"
    if doc["question_type"] == "multi_choice":
        letter, rule = choose(answer, doc["choices"])
        if letter is None:
            return Verdict(False, rule)
        given = doc["choices"][letters(len(doc["choices"])).index(letter)]
        return Verdict(bool(evaluator.safe_equal(given, doc["answer"])), rule)
    if doc["answer_type"] in ("integer", "float"):
        value = number(answer)
        if value is None:
            return Verdict(False, "number_unmatched")
        given, rule = repr(value), "number"
    precision = int(doc["precision"] or 0)
    normal = evaluator.normalize_extracted_answer(
        given, doc["choices"], doc["question_type"], doc["answer_type"], precision
    )
    if evaluator.safe_equal(normal, doc["answer"]):
        return Verdict(True, rule)
    if rule == "exact":  # a list, or a text without options
        same = plain(answer).replace(" ", "") == plain(str(doc["answer"])).replace(" ", "")
        return Verdict(same, "exact" if same else "open_unmatched")
    return Verdict(False, rule)
