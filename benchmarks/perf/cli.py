"""`prism --help` against the help of a typer program that does nothing.

Both start a fresh Python process. What prism adds to typer is what its users wait for at every command.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.perf._timing import Options, main, result, take_turns

ENGINE = None
ROUNDS = 15
EMPTY = """\
import typer

app = typer.Typer()


@app.command()
def nothing() -> None:
    '''Do nothing.'''


app()
"""


def measure(options: Options) -> dict[str, Any]:
    program = options.work / "empty.py"
    program.write_text(EMPTY, encoding="utf-8")
    sides = {
        "prism --help": partial(_run, ["-m", "prism_cli", "--help"]),
        "empty typer program --help": partial(_run, [str(program), "--help"]),
        "python, nothing else": partial(_run, ["-c", ""]),
    }
    times = take_turns(sides, options.rounds or ROUNDS)
    prism, empty, _ = sides
    return result(times, {"prism / empty typer program": (prism, empty)}, python=sys.version.split()[0])


def _run(arguments: list[str]) -> None:
    root = Path(__file__).resolve().parents[2]
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env=env)


if __name__ == "__main__":
    main(measure)
