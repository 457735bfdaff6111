"""The command line's face, frozen: which commands and options there are. A change here is a change for users.

After a wanted change: `python tests/cli/test_help.py > tests/cli/options.txt`, and read the difference.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from integrations.errors import BadInput, Interrupted, RunLocked, StageFailed
from prism_cli import __main__ as program
from prism_cli import app as frame

FROZEN = Path(__file__).with_name("options.txt")
HELP = """\
 Usage: prism [OPTIONS] COMMAND [ARGS]...

 Post-train a vision-language model with SFT, PRISM alignment and RLVR, and
 measure what each stage is worth.

╭─ Options ────────────────────────────────────────────────────────────────────╮
│ --version                   <bool>  Show the version and leave.              │
│ --install-completion        <bool>  Install completion for the current       │
│                                     shell.                                   │
│ --show-completion           <bool>  Show completion for the current shell,   │
│                                     to copy it or customize the              │
│                                     installation.                            │
│ --help                      <bool>  Show this message and exit.              │
╰──────────────────────────────────────────────────────────────────────────────╯
╭─ Train and compare ──────────────────────────────────────────────────────────╮
│ train    Train every stage of a recipe, on GPUs or on a laptop's CPU.        │
│ eval     Ask checkpoints a suite of benchmarks and compare them with the     │
│          baseline.                                                           │
│ compare  Compare models on the same items with a baseline: differences,      │
│          intervals, tests.                                                   │
│ report   Write one HTML file: results, curves, cost, provenance, every       │
│          response.                                                           │
│ plan     Say what each stage of a recipe needs: memory, time, disk, and what │
│          makes it fit.                                                       │
│ release  Publish checked models with their cards on the Hugging Face Hub,    │
│          and verify what is there.                                           │
╰──────────────────────────────────────────────────────────────────────────────╯
╭─ Look at what there is ──────────────────────────────────────────────────────╮
│ recipe   List, show and check recipes.                                       │
│ runs     List, show and remove runs.                                         │
│ reward   See how the reward judges answers.                                  │
│ align    See what the discriminator reads and rewards.                       │
╰──────────────────────────────────────────────────────────────────────────────╯
╭─ Set up ─────────────────────────────────────────────────────────────────────╮
│ doctor   Say whether this machine will carry a run, before the first hour.   │
│ data     Fetch, make, check and count data.                                  │
│ env      List, build, check and remove the engines' environments.            │
│ judge    Start a judge, or check one with golden items.                      │
│ bench    Measure how fast a part of prism is.                                │
╰──────────────────────────────────────────────────────────────────────────────╯

 Start with prism train: it runs all stages on a small world of handwritten
 digits, on a CPU.
"""


def prism(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the program as a user does, in a pipe 80 columns wide."""
    clean = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "GITHUB_ACTIONS", "PRISM_DEBUG")}
    return subprocess.run(
        [sys.executable, "-m", "prism_cli", *words],
        env={**clean, "COLUMNS": "80", "TERMINAL_WIDTH": "80", "NO_COLOR": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def text(output: str) -> str:
    """Output without the spaces that only fill lines."""
    return "\n".join(line.rstrip() for line in output.strip("\n").splitlines()).strip("\n") + "\n"


def all_commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    yield path, command
    for name, sub in getattr(command, "commands", {}).items():
        yield from all_commands(sub, f"{path} {name}")


def options() -> str:
    """One line per command with its arguments and options."""
    found = []
    for name in frame.COMMANDS:
        for path, command in all_commands(frame.real_command(name), name):
            words = [opt for param in command.params for opt in (*param.opts, *param.secondary_opts)]
            found.append(" ".join([f"{path}:", *sorted(words)]).rstrip())
    return "\n".join(found) + "\n"


def test_help_is_frozen() -> None:
    shown = prism("--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert text(" " + shown.stdout.strip()) == HELP


def test_options_are_frozen() -> None:
    assert options() == FROZEN.read_text(encoding="utf-8")


def test_the_line_in_the_list_is_the_commands_own() -> None:
    for name, lazy in frame.COMMANDS.items():
        help_text = frame.real_command(name).help
        assert help_text.strip().splitlines()[0] == lazy.help, name


def test_every_option_and_command_says_what_it_does() -> None:
    for name in frame.COMMANDS:
        for path, command in all_commands(frame.real_command(name), name):
            assert command.help, path
            assert [param.name for param in command.params if not getattr(param, "help", None)] == [], path


@pytest.mark.parametrize("words", [["--help"], ["recipe", "--help"], ["train", "--help"], ["--version"]])
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    script = (
        "import sys; from prism_cli.__main__ import main; main(sys.argv[1:]);"
        "heavy = {'yaml', 'pandas', 'numpy', 'pyarrow', 'huggingface_hub', 'filelock', 'integrations.contract'};"
        "print('LOADED', sorted(heavy & {*sys.modules}))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, text=True, timeout=120, check=True
    )
    assert shown.stdout.splitlines()[-1] == "LOADED []"


def test_the_version_is_the_packages() -> None:
    from importlib.metadata import version

    assert prism("--version").stdout == f"prism {version('prism-suite')}\n"


def test_usage_errors_exit_with_2_and_suggest() -> None:
    wrong = prism("trian")
    assert wrong.returncode == 2
    assert "Did you mean 'train'?" in wrong.stderr
    assert wrong.stdout == ""
    as_json = prism("recipe", "list", "--json", "--lots")
    assert as_json.returncode == 2
    assert json.loads(as_json.stdout)["error"] == "No such option: --lots"
    assert as_json.stderr == ""


def test_no_command_shows_the_help() -> None:
    shown = prism()
    assert shown.returncode == 2
    assert "Train every stage of a recipe" in shown.stdout + shown.stderr


# What goes wrong in a command


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Put a command in place of `bench` that ends with an error."""

    def bench(json_: bool = typer.Option(False, "--json")) -> None:
        """Fails."""
        raise error

    monkeypatch.setattr(sys.modules[__name__], "bench", bench, raising=False)
    monkeypatch.setitem(frame.COMMANDS, "bench", frame.Lazy(__name__, "bench", "Fails.", frame.SET_UP))


@pytest.mark.parametrize(
    ("error", "code", "problem", "fix"),
    [
        (BadInput("no such stage [b]x[/b]", "use another"), 2, "no such stage [b]x[/b]", "use another"),
        (StageFailed("it died", "look at the log"), 1, "it died", "look at the log"),
        (RunLocked("in use", "wait"), 3, "in use", "wait"),
        (Interrupted("stopped", "run it again"), 130, "stopped", "run it again"),
        (KeyboardInterrupt(), 130, "interrupted", "the same command goes on from where it stopped"),
        (typer.Abort(), 130, "interrupted", "the same command goes on from where it stopped"),
        (OSError(28, "No space left on device", "/runs/x"), 1, "No space left on device (/runs/x)", "free some space"),
        (PermissionError(13, "Permission denied", "/runs"), 2, "Permission denied (/runs)", "make it writable"),
        (OSError(30, "Read-only file system", "/runs"), 2, "Read-only file system (/runs)", "make it writable"),
    ],
)
def test_each_error_is_one_message_and_a_documented_code(
    error: BaseException,
    code: int,
    problem: str,
    fix: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    failing(monkeypatch, error)
    assert program.main(["bench", "--json"]) == code
    out, err = capsys.readouterr()
    answer = json.loads(out)
    assert (answer["error"], err) == (problem, "")
    assert answer["fix"].startswith(fix)
    assert program.main(["bench"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[0] == f"error: {problem}"
    assert err.splitlines()[1].startswith(f"next: {fix}")
    assert len(err.splitlines()) == 2


def test_a_terminal_gets_the_same_words_and_no_markup(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(monkeypatch, BadInput("no field `x[0]` in [bold]" + " word" * 30, "try [link=y]this"))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    assert program.main(["bench"]) == 2
    shown = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().err)
    assert shown == "error: no field `x[0]` in [bold]" + " word" * 30 + "\nnext: try [link=y]this\n"


def test_a_defect_is_one_message_with_its_origin_in_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("PRISM_DEBUG", raising=False)
    failing(monkeypatch, ZeroDivisionError("division by zero"))
    assert program.main(["bench"]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first == "error: a defect in prism: ZeroDivisionError: division by zero"
    (kept,) = tmp_path.glob("prism-error-*.txt")
    assert second == f"next: report it with {kept}, which says where it happened"
    assert "Traceback" in kept.read_text()


def test_debug_shows_where_an_error_came_from(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PRISM_DEBUG", "1")
    failing(monkeypatch, BadInput("wrong", "right"))
    assert program.main(["bench"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_reader_that_goes_away_leaves_no_traceback() -> None:
    shell = f'"{sys.executable}" -m prism_cli recipe schema | head -1'
    shown = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=120, check=True)
    assert (shown.stdout, shown.stderr) == ("{\n", "")


if __name__ == "__main__":
    sys.stdout.write(options())
