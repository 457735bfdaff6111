"""What the matcher says of one answer."""

from __future__ import annotations

from dataclasses import dataclass

MOST_ERRORS = 0.02
"""Largest share of answers that may get no verdict."""
A_HANDFUL = 2


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


@dataclass
class Errors:
    """Answers without a verdict among those judged so far; tells when they are too many for the rewards to be trusted.

    A handful is allowed whatever its share is: a first step may hold only a few answers.
    """

    judged: int = 0
    errors: int = 0

    def add(self, judged: int, errors: int) -> None:
        """Count more answers."""
        self.judged += judged
        self.errors += errors

    @property
    def too_many(self) -> bool:
        """More than a handful, and more than the share allowed."""
        return self.errors > max(A_HANDFUL, MOST_ERRORS * self.judged)


class Undecided(Exception):
    """Computer algebra gave no answer. Counted apart from wrong answers, never as one."""
