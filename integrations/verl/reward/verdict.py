"""What the matcher says of one answer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """Whether an answer is right, which rule decided, and what kind of answer the reference is."""

    correct: bool
    rule: str
    """A short name, e.g. `same_text`, `number`, `unit`, `two_answers` (see verdicts.md)."""
    type: str
    """Kind of the reference, e.g. `choice`, `number`, `set`."""
    error: str = ""
    """Not empty when nothing could be decided (a time-out, a dead process); `correct` is then False."""


class Undecided(Exception):
    """Computer algebra gave no answer. Counted apart from wrong answers, never as one."""
