"""HallusionBench, the part with images: 951 questions of yes or no on figures and edited copies of them.

From upstream (lmms-eval's `hallusion_bench_image`): the data set, the question and the image. aAcc, qAcc and fAcc are
computed from the verdicts in `benchmarks/metrics.py` as upstream's `get_eval_all`, `get_eval_pair_all` and
`get_eval_fig` do. Different from upstream:

- Upstream asks an LLM whether each whole response contradicts the reference, and takes three failed calls for
  "unclear", which is wrong. Every question of this part is one of yes or no, so here a clear yes or no decides, and
  anything else is `yes_no_unmatched`, for a judge. (Upstream's own rule, unused there, takes any "yes" for yes.)
- In `format` a hint asks for yes or no; upstream's prompt, that of `native`, is the question alone.
- Verdicts are kept with their response; upstream keeps them in a file that a second model would take over.

Different from the paper's script: that one keeps upstream's judge for what the rule calls wrong.

`item_id` is category/subcategory/set/figure/question, `group_id` the figure: the same without the question.
"""

# Packages of the lmms_eval environment.
# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lmms_eval.tasks.hallusion_bench import evaluate_hb as upstream

from benchmarks.scoring import tasks
from benchmarks.scoring.choices import unwrap
from benchmarks.scoring.extract import Style
from benchmarks.scoring.verdict import Verdict

HINT = "The answer is yes or no."

_WORDS = {"yes": "1", "no": "0", "true": "1", "false": "0"}
_FIRST = re.compile(r"(yes|no|true|false)\b(?!\s*(?:or|/)\s*(?:yes|no|true|false)\b)", re.IGNORECASE)


def doc_to_text(doc: Mapping[str, Any], style: Style = "format") -> str:
    """Upstream's text: the question."""
    return str(upstream.hb_doc_to_text(doc))


def doc_to_messages(doc: Mapping[str, Any], style: Style = "format") -> list[dict[str, Any]]:
    return tasks.turns(style, doc_to_text(doc), [doc["image"].convert("RGB")], HINT)


def process_results(doc: Mapping[str, Any], results: Sequence[str], style: Style = "format") -> dict[str, Any]:
    figure = "/".join(str(doc[name]) for name in ("category", "subcategory", "set_id", "figure_id"))
    item = {
        "item_id": f"{figure}/{doc['question_id']}",
        "group_id": figure,
        "subset": str(doc["category"]),
        "question": doc_to_text(doc),
        "reference": "yes" if str(doc["gt_answer"]) == "1" else "no",
    }
    return tasks.scored(results, style, "yes_no", lambda answer: _decide(doc, answer), item)


def _decide(doc: Mapping[str, Any], answer: str) -> Verdict:
    said = _FIRST.match(unwrap(answer))
    if said is None:
        return Verdict(False, "yes_no_unmatched")
    return Verdict(_WORDS[said.group(1).lower()] == str(doc["gt_answer"]), "yes_no")
