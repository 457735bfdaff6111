"""MMMU validation: 900 college questions on one or several images, multiple choice or open.

From upstream (lmms-eval's `mmmu_val`): the data set, the text of the question, `eval_multi_choice`,
`parse_open_response` and `eval_open`, the official comparisons. Different from upstream:

- The prompt is the same for every backend; upstream has another one for the model name `qwen3_vl`. Options and open
  questions get a hint in `format`; `native` has upstream's default prompt.
- An image stands at every place where the text names it, in the text's order. Upstream puts the images in the order of
  their numbers into the places in the order of the text, and drops text where an image is named twice.
- An option must be named; upstream chooses at random when it finds none, and finds one in a capital before a space
  ("A plot" is A).
- Open answers: a reference that is a list written out is read as one. Upstream accepts a reference anywhere inside an
  answer; where that is all there is, the rule is `contains` and a judge may be asked.

Different from the paper's script: that one reads lmms-lab/MMMU, an earlier copy of the data, compares an open answer
letter by letter, and asks a judge, who can only raise, about all that is wrong.
"""

# Packages of the lmms_eval environment.
# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lmms_eval.tasks.mmmu import utils as upstream

from benchmarks.scoring import tasks
from benchmarks.scoring.answers import number
from benchmarks.scoring.choices import choose, plain
from benchmarks.scoring.extract import Kind, Style
from benchmarks.scoring.verdict import Verdict

OPEN_HINT = "The answer is a number, a word or a short phrase."

_MC_PROMPT = "Answer with the option's letter from the given choices directly."
_OPEN_PROMPT = "Answer the question using a single word or phrase."
_IMAGE = re.compile(r"<image (\d+)>")


def doc_to_text(doc: Mapping[str, Any], style: Style = "format") -> str:
    """Upstream's question with its options, images named in it; in `native` with upstream's instructions."""
    instructions = (_MC_PROMPT, _OPEN_PROMPT) if style == "native" else ("", "")
    return str(upstream.construct_prompt(doc, *instructions)).strip()


def doc_to_messages(doc: Mapping[str, Any], style: Style = "format") -> list[dict[str, Any]]:
    hint = tasks.CHOICE_HINT if _multiple(doc) else OPEN_HINT
    text = doc_to_text(doc, style) + (f"\n{hint}" if style == "format" else "")
    content: list[dict[str, Any]] = []
    for position, part in enumerate(_IMAGE.split(text)):  # text, image's number, text, ...
        if position % 2:
            content.append({"type": "image", "url": doc[f"image_{part}"].convert("RGB")})
        elif part.strip():
            content.append({"type": "text", "text": part.strip()})
    return tasks.with_system(style, content)


def process_results(doc: Mapping[str, Any], results: Sequence[str], style: Style = "format") -> dict[str, Any]:
    item = {"item_id": str(doc["id"]), "question": doc_to_text(doc), "reference": str(doc["answer"])}
    kind: Kind = "choice" if _multiple(doc) else "open"
    return tasks.scored(results, style, kind, lambda answer: _decide(doc, answer), item)


def _multiple(doc: Mapping[str, Any]) -> bool:
    return bool(doc["question_type"] == "multiple-choice")


def references(answer: str) -> list[str]:
    """The references of an open question: a list written out, or the one text."""
    try:
        several = ast.literal_eval(answer)
    except (ValueError, SyntaxError):
        return [answer]
    texts = isinstance(several, list) and several and all(isinstance(one, str) for one in several)
    return list(several) if texts else [answer]


def _decide(doc: Mapping[str, Any], answer: str) -> Verdict:
    if _multiple(doc):
        letter, rule = choose(answer, tasks.listed(doc["options"]))
        return Verdict(bool(upstream.eval_multi_choice(doc["answer"], letter)), rule)
    wanted = references(str(doc["answer"]))
    if plain(answer) in map(plain, wanted):
        return Verdict(True, "exact")
    right = bool(upstream.eval_open(wanted, upstream.parse_open_response(answer)))
    if number(answer) is not None and all(number(one) is not None for one in wanted):
        return Verdict(right, "number")
    return Verdict(right, "contains" if right else "open_unmatched")
