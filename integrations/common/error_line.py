"""How a process in an engine's environment tells prism of a foreseeable error: one marked line in its log."""

from __future__ import annotations

import json

from integrations.errors import PrismError

MARK = "PRISM-ERROR "
"""Starts the line; JSON with `problem` and `fix` follows."""


def tell(error: PrismError) -> int:
    """Write the error's line to standard output; returns the exit code to end with."""
    print(MARK + json.dumps({"problem": error.problem, "fix": error.fix}), flush=True)
    return error.exit_code


def told(log_tail: str) -> tuple[str, str] | None:
    """Problem and fix of the last error that a log tells of, or None."""
    for line in reversed(log_tail.splitlines()):
        if line.startswith(MARK):
            try:
                error = json.loads(line.removeprefix(MARK))
                return str(error["problem"]), str(error["fix"])
            except (ValueError, KeyError, TypeError):
                continue
    return None
