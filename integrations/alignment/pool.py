"""The teacher pool: demonstrations as segments, prompts held out, and which prompts each step takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from integrations.alignment import negatives
from integrations.alignment.rollout import Generation
from integrations.alignment.seeds import derive, generator
from integrations.alignment.segments import Segments, Splitter
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
