"""We-Math testmini: 525 problems of two or three steps, each asked whole and step by step, all multiple choice.

From upstream (lmms-eval's `wemath_testmini_reasoning`): the data set, the question, the image, and `relax_exact_match`,
the official comparison of letters. Different from upstream:

- `format` has the format prompt of this suite in place of upstream's own system prompt (think and answer, no caption),
  which `native` keeps.
- The answer must name an option; upstream's `parse_mcq` finds a letter in almost any text ("Cannot be determined" is C
  for it).
- No number is taken from the end of a response without <answer>, no format score is given.

Different from the paper's script: that one also has upstream's system prompt, unless it is told not to, and asks a
judge, who sees the whole response and can only raise, about all that is wrong.

`group_id` is the problem, `subset` the step within it (`2steps_1`, `2steps_2`, `2steps_multi`, `3steps_1`, ...), from
which `benchmarks/metrics.py` computes the strict and the loose score.
"""

# Packages of the lmms_eval environment.
# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lmms_eval.tasks._task_utils.reasoning_utils import relax_exact_match
from lmms_eval.tasks.wemath.reasoning import utils as upstream

from benchmarks.scoring import tasks
from benchmarks.scoring.choices import choose, letters
from benchmarks.scoring.extract import Style
from benchmarks.scoring.verdict import Verdict

_OPTION = re.compile(r"(?:^|[;\n])\s*([A-H])\s*[.:)]\s*([^;\n]*)")


def doc_to_text(doc: Mapping[str, Any], style: Style = "format") -> str:
    """Upstream's text: the question and the line of options."""
    return str(upstream.wemath_doc_to_text_cot(doc)).strip()


def doc_to_messages(doc: Mapping[str, Any], style: Style = "format") -> list[dict[str, Any]]:
    if style == "native":
        return list(upstream.wemath_doc_to_messages_cot(doc))
    return tasks.turns(style, doc_to_text(doc), upstream.wemath_doc_to_visual(doc), tasks.CHOICE_HINT)


def process_results(doc: Mapping[str, Any], results: Sequence[str], style: Style = "format") -> dict[str, Any]:
    step = str(doc["key"])
    problem = f"{step.partition('_')[0]}-{doc['ID']}"
    item = {
        "item_id": f"{problem}-{step.partition('_')[2]}",
        "group_id": problem,
        "subset": step,
        "question": doc_to_text(doc),
        "reference": str(doc["answer"]),
    }
    return tasks.scored(results, style, "choice", lambda answer: _decide(doc, answer), item)


def options_of(line: str) -> list[str]:
    """The options' texts in a line `A. text; B. text; ...`; [] where it is not of that form."""
    found = _OPTION.findall(line)
    in_order = [letter for letter, _ in found] == letters(len(found))
    return [text.strip() for _, text in found] if in_order else []


def _decide(doc: Mapping[str, Any], answer: str) -> Verdict:
    reference = str(doc["answer"]).strip()
    letter, rule = choose(answer, tasks.with_unknown(options_of(doc["option"]), reference))
    return Verdict(letter is not None and relax_exact_match(letter, reference) == 1.0, rule)
