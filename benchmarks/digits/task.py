"""The digits world as a task of lmms-eval (`benchmarks/suites/tasks/prism_digits.yaml`).

Documents are a pool's rows with their images' bytes, as the harness hands them over; messages are those that the
policies were trained on, and `world.score` judges.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from benchmarks.digits.world import score
from integrations.common.response import parse

SMOKE_ITEMS = 12
"""Items of the smoke suite."""


def to_messages(doc: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The user's turn, images before the text; a system turn only where the row has one. There is one style."""
    images = [{"type": "image", "url": Image.open(io.BytesIO(image["bytes"]))} for image in doc["images"]]
    turns = [{"role": "system", "content": [{"type": "text", "text": doc["system"]}]}] if doc["system"] else []
    return [*turns, {"role": "user", "content": [*images, {"type": "text", "text": doc["prompt"]}]}]


def to_text(doc: Mapping[str, Any]) -> str:
    return str(doc["prompt"])


def to_target(doc: Mapping[str, Any]) -> str:
    return str(doc["answer"])


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The verdict on one response; `logic` is whether the answer follows from the response's own caption."""
    task = json.loads(doc["task"])
    response = parse(results[0])
    verdict = score({"answer": doc["answer"], "task": task}, results[0])
    said = {"caption": response.caption, "reasoning": response.think, "answer": response.answer} if response else {}
    return {
        "prism": {
            "item_id": doc["id"],
            "subset": task["kind"],
            "question": doc["prompt"],
            "reference": doc["answer"],
            **said,
            "correct": verdict.answer,
            "rule": "exact" if response else "unparseable",
            "format": verdict.format,
            "perception": verdict.perception,
            "logic": verdict.reasoning,
        }
    }


def share_correct(verdicts: Sequence[Mapping[str, Any]]) -> float:
    """lmms-eval's own total of the task, in 0..1."""
    return sum(verdict["correct"] for verdict in verdicts) / len(verdicts)


def first_few(docs: Any) -> Any:
    """The smoke suite's items (a `datasets.Dataset`)."""
    return docs.select(range(min(SMOKE_ITEMS, len(docs))))
