"""The teacher pool: demonstrations as segments, prompts held out, and which prompts each step takes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from integrations.alignment.data import negatives
from integrations.alignment.data.seeds import derive, generator
from integrations.alignment.data.segments import Segments, Splitter
from integrations.alignment.rollouts.rollout import Generation
from integrations.common.rows import Row, read_rows
from integrations.errors import BadInput


@dataclass(frozen=True)
class TeacherPool:
    """Rows with a usable demonstration."""

    train: list[Row]
    held_out: list[Row]
    demonstrations: dict[str, Segments]
    """By row id."""
    dropped: dict[str, str] = field(default_factory=dict)
    """Rows left out, by id, and why."""

    def pick(self, step: int, count: int, *key: int | str) -> list[Row]:
        """The training rows of one step: every row once per epoch, each epoch in its own order."""
        chosen = []
        for index in range(step * count, (step + 1) * count):
            epoch, place = divmod(index, len(self.train))
            order = generator(*key, "order", epoch).permutation(len(self.train))
            chosen.append(self.train[order[place]])
        return chosen

    @cached_property
    def editor(self) -> negatives.Editor:
        """Spoils the pool's demonstrations."""
        return negatives.Editor.of([*self.train, *self.held_out])

    def teachers(
        self,
        rows: Sequence[Row],
        groups: Sequence[Sequence[Generation]],
        splitter: Splitter,
        wording: str,
        *key: int | str,
    ) -> tuple[list[Segments], int]:
        """What the rows' responses are compared with, and how many of these are restated.

        Args:
            groups: the responses to each row.
            wording: `demonstration`: as it stands; `response`: in the words of one of the row's responses, drawn by
                `key`, or as it stands where none of them will do (`negatives.restate`).
        """
        found, restated = [], 0
        for row, group in zip(rows, groups, strict=True):
            texts = [item.text for item in group if item.finished] if wording == "response" else []
            text = negatives.restated(row["response"], texts, *key, row["id"])
            own = None if text is None else splitter.split(text)
            restated += own is not None
            found.append(self.demonstrations[row["id"]] if own is None else own)
        return found, restated


def read_pool(path: Path, held_out: int, splitter: Splitter, teacher_tokens: int | None = None) -> TeacherPool:
    """Read a pool and set `held_out` prompts apart, by a hash of the row's id and nothing else.

    Args:
        teacher_tokens: tokens kept of each segment of a demonstration; None: all.

    Raises:
        BadInput: the file cannot be read, ids repeat, or too few demonstrations are usable.
    """
    demonstrations: dict[str, Segments] = {}
    rows: list[Row] = []
    dropped: dict[str, str] = {}
    for row in read_rows(path):
        segments = splitter.split(row.get("response") or "", teacher_tokens)
        if segments is None:
            dropped[str(row["id"])] = "its demonstration has not the three blocks, or one of them is empty"
            continue
        if row["id"] in demonstrations:
            raise BadInput(f"{path}: the id {row['id']!r} occurs twice", "give every row an id of its own")
        demonstrations[row["id"]] = segments
        rows.append(row)
    if len(rows) < 2 * held_out:
        raise BadInput(
            f"{path} has {len(rows)} demonstrations with the three blocks, too few to hold {held_out} out",
            "lower `held_out` or add demonstrations",
        )
    rows.sort(key=lambda row: derive("held_out", row["id"]))
    return TeacherPool(rows[held_out:], rows[:held_out], demonstrations, dropped)


def read_pairs(path: Path, splitter: Splitter) -> TeacherPool:
    """Pairs that were made elsewhere, one JSON object a line, in the layout of the authors' published ones.

    `id`, `image` (relative to the file), `question`, `teacher_caption`, `teacher_cot`, `student_caption`,
    `student_cot`; a caption is the `<caption>` block or its content, the rest runs from `<think>` to `</answer>`.
    `prompt` stands for `question`, and `system` is taken where there is one. Lines without a field, or with a side
    that has not the three blocks, are left out and named.

    Returns:
        The pairs as rows of a pool, none held out; each row's `student` is the response that goes with it.

    Raises:
        BadInput: the file cannot be read, a line is not JSON, or no line is usable.
    """
    rows: list[Row] = []
    demonstrations: dict[str, Segments] = {}
    dropped: dict[str, str] = {}
    for number, line in enumerate(_lines(path), 1):
        row = _pair(line, path.parent, f"{path.name}:{number}")
        teacher = splitter.split(row["response"])
        if teacher is None or splitter.split(row["student"]) is None:
            dropped[row["id"]] = "a field is missing, or a side has not the three blocks"
            continue
        demonstrations[row["id"]] = teacher
        rows.append(row)
    if not rows:
        raise BadInput(f"{path} has no usable pair", "give every line the fields of the published warm-up pairs")
    return TeacherPool(rows, [], demonstrations, dropped)


def _lines(path: Path) -> list[dict[str, object]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read the pairs {path}: {error}", "check the discriminator's `pairs`") from error
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            value = json.loads(line)
        except ValueError as error:
            raise BadInput(f"{path}, line {number}: not JSON ({error})", "write one JSON object a line") from error
        found.append(value if isinstance(value, dict) else {})
    return found


def _pair(line: dict[str, object], folder: Path, name: str) -> Row:
    """A line as a row of a pool with a `student`; a missing text is empty."""

    def text(*names: str) -> str:
        return next((str(line[key]).strip() for key in names if line.get(key)), "")

    def whole(side: str) -> str:
        caption = text(f"{side}_caption")
        caption = caption if caption.startswith("<caption>") else f"<caption>{caption}</caption>"
        return f"{caption}\n{text(f'{side}_cot')}"

    image = text("image")
    question = text("question", "prompt").replace("<image>", "").strip()
    return {
        "id": name,
        "images": [str((folder / image).resolve())] if image else [],
        "system": line.get("system"),
        "prompt": question,
        "response": whole("teacher") if question else "",
        "student": whole("student"),
        "answer": "",
    }
