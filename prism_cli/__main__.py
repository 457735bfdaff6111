"""The `prism` program: runs a command and turns what goes wrong into one message and an exit code.

    0 done    1 a stage failed    2 bad input    3 the run is in use    130 interrupted

With `--json` the message is the one JSON object on standard output, `{"error": ..., "fix": ...}`. `PRISM_DEBUG=1`
shows where an error came from; that of a defect is kept in a file.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence

from integrations.errors import BadInput, Interrupted, PrismError, StageFailed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (default: the process's own) and return the exit code."""
    words = [*(sys.argv[1:] if arguments is None else arguments)]
    as_json = "--json" in words
    try:
        return _run(words, as_json)
    except BaseException as error:
        if os.environ.get("PRISM_DEBUG"):
            traceback.print_exc()
        known = _known(error)
        if known is None:
            raise
        _show(known, as_json)
        return known.exit_code


def _run(words: list[str], as_json: bool) -> int:
    import typer

    from prism_cli.app import app

    try:
        # Not standalone: typer then leaves errors to us, for which `--json` needs one form.
        code = typer.main.get_command(app).main(words, prog_name="prism", standalone_mode=not as_json)
    except SystemExit as leaving:
        code = leaving.code
    return code if isinstance(code, int) else 0


def _known(error: BaseException) -> PrismError | None:
    """The error as one that has a message for people; None where Python's own handling is right."""
    if isinstance(error, PrismError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return Interrupted("interrupted", "the same command goes on from where it stopped")
    if hasattr(error, "format_message"):  # typer's usage errors; their class is not public in every version
        return BadInput(error.format_message(), "prism --help lists the commands and their options")
    if isinstance(error, OSError) and error.errno is not None:
        return _of_the_system(error)
    if not isinstance(error, Exception):
        return None
    return StageFailed(f"a defect in prism: {type(error).__name__}: {error}", _keep_traceback(error))


def _keep_traceback(error: BaseException) -> str:
    try:
        handle, name = tempfile.mkstemp(prefix="prism-error-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write("".join(traceback.format_exception(error)))
    except OSError:
        return "run it again with PRISM_DEBUG=1 and report what it prints"
    return f"report it with {name}, which says where it happened"


def _of_the_system(error: OSError) -> PrismError:
    where = f" ({error.filename})" if error.filename else ""
    problem = f"{error.strerror}{where}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StageFailed(problem, "free some space; the same command goes on from where it stopped")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return BadInput(problem, "make it writable, or choose another place with --runs-dir")
    return StageFailed(problem, "PRISM_DEBUG=1 shows where it came from")


def _show(error: PrismError, as_json: bool) -> None:
    try:
        if as_json:
            print(json.dumps({"error": error.problem, "fix": error.fix}, ensure_ascii=False))
        elif sys.stderr.isatty():
            _show_on_terminal(error)
        else:
            print(f"error: {error.problem}", *([f"next: {error.fix}"] if error.fix else []), sep="\n", file=sys.stderr)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads; let the exit flush in peace


def _show_on_terminal(error: PrismError) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, highlight=False)
    console.print(Text.assemble(("error: ", "bold red"), error.problem), soft_wrap=True)
    if error.fix:
        console.print(Text.assemble(("next: ", "bold"), error.fix), soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
