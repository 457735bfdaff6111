"""Errors a user may see. Each says what is wrong, where, and what to do next; none is shown with a traceback."""

from __future__ import annotations

EXIT_OK = 0
EXIT_STAGE_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_LOCKED = 3
EXIT_INTERRUPTED = 130


class PrismError(Exception):
    """Root of every error that prism reports in one message.

    Args:
        problem: what is wrong, one sentence, naming the file and field where there is one.
        fix: what the user can do next, one sentence or a command.
    """

    exit_code = EXIT_STAGE_FAILED

    def __init__(self, problem: str, fix: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.fix = fix


class BadInput(PrismError):
    """The user's input cannot be run: a recipe, an option, a missing parent, a folder that is not writable."""

    exit_code = EXIT_BAD_INPUT


class StageFailed(PrismError):
    """An engine died, or its result did not pass the stage's own checks."""

    exit_code = EXIT_STAGE_FAILED


class RunLocked(PrismError):
    """Another process is working on the same run."""

    exit_code = EXIT_LOCKED


class Interrupted(PrismError):
    """The user asked to stop; the run can be resumed."""

    exit_code = EXIT_INTERRUPTED
