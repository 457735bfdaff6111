"""Are two formulas equal? Asked of a child process, because an answer is untrusted text.

Computer algebra can be made to run for ever by a short text (a tower of powers), and MathVision's official comparison
hands what it parsed to `eval`. So both run in one child process, kept alive between questions: it may not write files,
open connections or start programs, it has limits of memory and of processor time, and when it comes to its end over a
question, that counts as undecided and the next one gets a new child. Thread-safe; questions are answered one at a time.

    python -P maths.py     the child: one JSON question a line on stdin, one JSON answer a line on stdout

The child needs the lmms_eval environment. Its two ways to compare are those of the official scorers:

    mathvision    `find_math_answer` and `is_equal` of lmms-eval's MathVision task: to two decimals
    math_verify   math-verify, as lmms-eval's MathVerse and WeMath reasoning tasks compare
"""

# math-verify is a package of the lmms_eval environment.
# mypy: disable-error-code="import-not-found, import-untyped"

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import json
import os
import re
import resource
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

How = Literal["mathvision", "math_verify"]

LONGEST = 400
"""Characters above which a text is taken for prose: not compared."""
CPU_SECONDS = 5.0
"""Processor time for one question; not wall time, so that a busy machine changes no verdict."""
START_SECONDS = 300.0
SECONDS = 120.0
"""Wall time in which the child must have started, and in which it must have answered whatever happens to it."""
MEMORY = 4 << 30
"""The child's address space in bytes."""

_FORBIDDEN = ("__", "\\variable")
"""What could smuggle a Python expression through the LaTeX parser into `eval`."""
_BLOCKED = (
    *("subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.kill", "ctypes.", "socket.", "shutil."),
    *("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.chmod", "os.truncate"),
)
"""Audit events, by their beginning, that the child refuses."""
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_SIGNS = {"π": "\\pi ", "−": "-", "×": "\\times ", "·": "\\cdot ", "÷": "/", "²": "^2", "³": "^3", "∞": "\\infty "}
_FUNCTION = re.compile(r"(?<![\\A-Za-z])(sin|cos|tan|cot|log|ln|exp|pi)(?![A-Za-z])")
_ROOT = re.compile(r"(?:√|(?<![\\A-Za-z])sqrt)\s*(?:\(([^()]*)\)|(\d+(?:\.\d+)?|[A-Za-z]))")
_TEXT = re.compile(r"\\(?:text|mathrm|mbox)\s*\{[^{}]*\}")
_WORDS = re.compile(r"(?<![A-Za-z\\])[A-Za-z]{2,}(?![A-Za-z{(])(?:\^\d|[²³])?")


def as_latex(text: str) -> str:
    """A formula as LaTeX without dollars: signs as commands, and words and units left out."""
    latex = _FUNCTION.sub(r"\\\1 ", _TEXT.sub(" ", text))
    latex = _WORDS.sub(" ", _ROOT.sub(lambda m: f"\\sqrt{{{m.group(1) or m.group(2)}}}", latex))
    for sign, command in _SIGNS.items():
        latex = latex.replace(sign, command)
    return latex.replace("$", " ").strip()


class Maths:
    """The child process, started at the first question.

    Args:
        command: that starts it.
    """

    def __init__(self, command: Sequence[str] = (sys.executable, "-P", str(Path(__file__).resolve()))) -> None:
        self._command = command
        self._lock = threading.Lock()
        self._child: subprocess.Popen[str] | None = None

    def equal(self, how: How, reference: str, answer: str, seconds: float = SECONDS) -> bool | None:
        """Whether an answer equals a reference; None when that could not be decided (too long, no formula, no end).

        Raises:
            RuntimeError: the child does not start, e.g. outside the lmms_eval environment.
        """
        if max(len(reference), len(answer)) > LONGEST or any(word in answer for word in _FORBIDDEN):
            return None
        with self._lock:
            child = self._started()
            said = self._ask(child, {"how": how, "reference": reference, "answer": answer}, seconds)
            if said is None:
                self._end()
            return None if said is None else said.get("equal")

    def close(self) -> None:
        """End the child; a later question starts a new one."""
        with self._lock:
            self._end()

    def _started(self) -> subprocess.Popen[str]:
        if self._child is None or self._child.poll() is not None:
            pipe = subprocess.PIPE
            self._child = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
            if self._ask(self._child, {"how": "hello"}, START_SECONDS) is None:
                self._end()
                raise RuntimeError(
                    "the process that compares formulas does not start; is this the lmms_eval environment?"
                )
        return self._child

    @staticmethod
    def _ask(child: subprocess.Popen[str], question: dict[str, str], seconds: float) -> dict[str, Any] | None:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(json.dumps(question) + "\n")
            child.stdin.flush()
            if not select.select([child.stdout], [], [], seconds)[0]:
                return None
            line = child.stdout.readline()
            return json.loads(line) if line else None
        except (OSError, ValueError):
            return None

    def _end(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            for stream in (self._child.stdin, self._child.stdout):
                with contextlib.suppress(OSError):
                    stream.close()  # type: ignore[union-attr]
            self._child = None


MATHS = Maths()
"""The one that tasks share."""
atexit.register(MATHS.close)


def _official_mathvision() -> ModuleType:
    """MathVision's comparison, from the installed lmms-eval: the file alone, not the package that indexes all tasks."""
    package = importlib.util.find_spec("lmms_eval")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("lmms_eval")
    path = Path(package.origin).parent / "tasks" / "mathvision" / "eval_utils.py"
    spec = importlib.util.spec_from_file_location("mathvision_eval_utils", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _comparisons() -> dict[str, Callable[[str, str], bool]]:
    """The ways to compare, by name, each (reference, answer) -> equal."""
    from math_verify import parse, verify

    official = _official_mathvision()

    def mathvision(reference: str, answer: str) -> bool:
        return bool(official.is_equal(reference, official.find_math_answer(answer)))

    def math_verify(reference: str, answer: str) -> bool:
        # Without dollars the parser picks out what it understands: of 2\\sqrt{2} it takes the first 2.
        gold, given = (parse(f"${as_latex(text)}$", parsing_timeout=None) for text in (reference, answer))
        return bool(gold) and bool(given) and verify(gold, given, timeout_seconds=None)

    return {"mathvision": mathvision, "math_verify": math_verify}


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """Audit hook: nothing but reading and computing."""
    if (event == "open" and arguments[2] & _WRITING) or event.startswith(_BLOCKED):
        raise PermissionError(f"{event} is not allowed here")


def main() -> None:
    """Answer questions until stdin ends."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not stand between the answers
    comparisons = _comparisons()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    sys.addaudithook(_refuse)
    for line in sys.stdin:
        question = json.loads(line)
        said: dict[str, Any] = {"equal": None}
        if question["how"] in comparisons:
            signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)  # its signal ends the process, whatever it is in
            try:
                said["equal"] = bool(comparisons[question["how"]](question["reference"], question["answer"]))
            except BaseException as error:  # SystemExit too: nothing that an answer holds may end the child
                said["error"] = type(error).__name__
            signal.setitimer(signal.ITIMER_PROF, 0)
        channel.write(json.dumps(said) + "\n")
        channel.flush()


if __name__ == "__main__":
    main()
