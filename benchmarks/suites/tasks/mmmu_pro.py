"""MMMU-Pro: 1,730 questions with ten options, once with text and images, once as one picture of question and options.

From upstream (lmms-eval's `mmmu_pro_standard` and `mmmu_pro_vision`): the data sets, the text, the images, and
`eval_multi_choice`, the official comparison. The suite reports each and their mean. `group_id` is the question,
which both settings share. Different from upstream:

- The prompt is the same for every backend; upstream has others for the model names `qwen3_vl` and `penguinvl`.
- In `format` the hint asks for the option's letter, not for it "directly".
- An option must be named; upstream chooses at random when it finds none in the standard setting, reads "- A plot" as A,
  and in the vision setting takes the whole response for the answer, so that only a bare letter is ever right.

Different from the paper's script: that one adds the options as text in the vision setting, where the benchmark wants
them read from the picture, and asks a judge, who can only raise, about all that is wrong.
"""

# Packages of the lmms_eval environment.
# mypy: disable-error-code="import-not-found"

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lmms_eval.tasks.mmmu_pro import utils as upstream

from benchmarks.scoring import tasks
from benchmarks.scoring.choices import choose
from benchmarks.scoring.extract import Style
from benchmarks.scoring.verdict import Verdict

IN_THE_IMAGE = "The question and its options are in the image."

_MC_PROMPT = "Answer with the option letter from the given choices directly."


def doc_to_text(doc: Mapping[str, Any], style: Style = "format") -> str:
    """Upstream's question with its options, where the document has one as text; in `native` with its instruction."""
    instruction = _MC_PROMPT if style == "native" else ""
    if "question" in doc:
        return str(upstream.construct_prompt(doc, instruction)).strip()
    return instruction or IN_THE_IMAGE


def doc_to_messages(doc: Mapping[str, Any], style: Style = "format") -> list[dict[str, Any]]:
    return tasks.turns(style, doc_to_text(doc, style), upstream.mmmu_pro_doc_to_visual(doc), tasks.CHOICE_HINT)


def process_results(doc: Mapping[str, Any], results: Sequence[str], style: Style = "format") -> dict[str, Any]:
    options = tasks.listed(doc["options"])
    item = {
        "item_id": str(doc["id"]),
        "group_id": str(doc["id"]),
        "question": tasks.with_options(doc.get("question", IN_THE_IMAGE), options),
        "reference": str(doc["answer"]),
    }

    def decide(answer: str) -> Verdict:
        letter, rule = choose(answer, options)
        return Verdict(bool(upstream.eval_multi_choice(doc["answer"], letter)), rule)

    return tasks.scored(results, style, "choice", decide, item)
