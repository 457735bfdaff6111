"""Pairs for a discriminator's warm-up: a teacher's and a policy's response to one prompt, side by side.

    {"id": "t-7-0", "image": "images/7.png", "images": ["images/7.png"], "question": "...",
     "teacher_caption": "<caption>..</caption>", "teacher_cot": "<think>..</answer>",
     "student_caption": "<caption>..</caption>", "student_cot": "<think>..</answer>"}

The published form, with `images` beside `image` for prompts that have several. A caption is the block with its tags;
reasoning begins at `<think>` and ends at the end of the response, on both sides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from integrations.common.response import parse
from integrations.common.rows import Row
from integrations.errors import BadInput
from prism_cli.making.asking import Answer, Request

PAIRS = "pairs.jsonl"


def teachers(rows: Sequence[Row]) -> list[Row]:
    """The rows, each with a whole demonstration.

    Raises:
        BadInput: one has none; it is named.
    """
    for row in rows:
        if not isinstance(row.get("response"), str) or parse(row["response"]) is None:
            raise BadInput(
                f"row `{row['id']}` has no demonstration with caption, thought and answer", "give a pool of a teacher"
            )
    return list(rows)


def make(requests: Sequence[Request], answers: Mapping[str, Answer]) -> tuple[list[dict[str, Any]], Counter[str]]:
    """One pair for each sample of the form, and what was left out by reason.

    Args:
        requests: samples of rows with demonstrations.
    """
    found, left_out = [], Counter[str]()
    for request in requests:
        answer, row = answers[request.key], request.row
        student, teacher = _segments(answer.text), _segments(row["response"])
        assert teacher is not None, "see `teachers`"
        if answer.cut or student is None:
            left_out["cut at its longest length" if answer.cut else "not of the form"] += 1
            continue
        if student == teacher:
            left_out["the teacher's own words"] += 1
            continue
        pictures = {"image": row["images"][0] if row["images"] else None, "images": row["images"]}
        said = dict(
            zip(("teacher_caption", "teacher_cot", "student_caption", "student_cot"), (*teacher, *student), strict=True)
        )
        found.append({"id": f"{row['id']}-{request.sample}", **pictures, "question": row["prompt"], **said})
    return found, left_out


def _segments(text: str) -> tuple[str, str] | None:
    """Caption and reasoning with their tags."""
    response = parse(text)
    if response is None:
        return None
    return text[: response.perception_end].strip(), text[response.reasoning_start :].strip()
