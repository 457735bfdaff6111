"""`prism reward check` as a user meets it: the figures, the disagreements, and files that are not what they must be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PAIRS = Path(__file__).resolve().parents[1] / "data" / "reward_pairs.jsonl"
LABELLED = [
    {"type": "number", "prediction": "7", "reference": "7", "expected": True},
    {"type": "number", "prediction": "8", "reference": "7", "expected": False},
    {"type": "unit", "prediction": "[bold]5\x1b[31m\u202e kg", "reference": "5 lb", "expected": True, "note": "no"},
    {"type": "unit", "prediction": "100 cm", "reference": ["2 m", "1 m"], "expected": False},
    {"type": "unit", "prediction": None, "reference": 5, "expected": False},
]


def prism(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the program in a pipe 80 columns wide."""
    clean = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "GITHUB_ACTIONS")}
    return subprocess.run(
        [sys.executable, "-m", "prism_cli", "reward", *map(str, words)],
        env={**clean, "COLUMNS": "80", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    path = tmp_path / "labelled.jsonl"
    path.write_text("\n".join(map(json.dumps, LABELLED)) + "\n\n", encoding="utf-8")
    return path


def test_one_json_object_and_nothing_else(labelled: Path) -> None:
    shown = prism("check", labelled, "--json")
    assert (shown.returncode, shown.stderr) == (0, "")
    told = json.loads(shown.stdout)
    assert (told["answers"], told["errors"], told["precision"], told["recall"]) == (5, 0, 0.5, 0.5)
    assert told["by_type"]["number"] == {"answers": 2, "errors": 0, "precision": 1.0, "recall": 1.0}
    assert told["by_type"]["unit"] == {"answers": 3, "errors": 0, "precision": 0.0, "recall": 0.0}
    missed, wrong = told["disagreements"]
    assert (missed["expected"], missed["said"], missed["note"]) == (True, False, "no")
    assert (wrong["reference"], wrong["said"], wrong["rule"]) == (["2 m", "1 m"], True, "unit")


def test_people_see_a_table_and_no_terminal_is_steered(labelled: Path) -> None:
    shown = prism("check", labelled)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "2 disagreements" in shown.stdout
    assert "[bold]5" in shown.stdout
    assert not set("\x1b\u202e") & set(shown.stdout)
    assert max(map(len, shown.stdout.splitlines())) <= 80


def test_the_projects_own_answers() -> None:
    told = json.loads(prism("check", PAIRS, "--json").stdout)
    assert told["answers"] >= 400
    assert min(told["precision"], told["recall"]) >= 0.99


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "holds no answers"),
        ("{", "line 1: not JSON"),
        ('{"prediction": "7", "expected": true}', "`reference` is missing"),
        ('{"prediction": "7", "reference": "7"}', "`expected` is neither true nor false"),
        ('{"prediction": "7", "reference": "7", "expected": "yes"}', "`expected` is neither true nor false"),
        ('{"prediction": "7", "reference": [], "expected": true}', "`reference` is empty"),
    ],
)
def test_a_file_that_is_not_what_it_must_be(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(text, encoding="utf-8")
    shown = prism("check", path)
    assert shown.returncode == 2
    assert problem in " ".join(shown.stderr.split())
    assert "Traceback" not in shown.stderr


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    shown = prism("check", tmp_path / "none.jsonl")
    assert (shown.returncode, "cannot be read" in shown.stderr) == (2, True)


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    """A folder of runs, in one of which a judge differed from the rules about an answer with an escape sequence."""
    stage = tmp_path / "runs" / "mine" / "prism" / "rlvr"
    (stage / "judge").mkdir(parents=True)
    (stage / "attempt-1").mkdir()
    (tmp_path / "runs" / "mine" / "recipe.yaml").write_text("name: mine\n")
    (tmp_path / "runs" / "mine" / "manifest.json").write_text("{}")
    differ = {"question": "?", "reference": "50%", "answer": "0.5 \x1b[31m", "rules": "correct", "rule": "number"}
    (stage / "judge" / "reviews.jsonl").write_text(2 * f"\n{json.dumps({**differ, 'judge': 'wrong'})}\n")
    line = {"step": 1, "data": {"prism/judged": 4.0, "prism/agreed": 3.0}}
    (stage / "attempt-1" / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    return tmp_path / "runs"


def test_differences_with_the_judge_are_listed(judged: Path) -> None:
    shown = prism("review", "--run", "mine", "--runs-dir", judged)
    assert shown.returncode == 0, shown.stderr
    assert "rules and judge agree on 75.0% of 4 answers" in " ".join(shown.stdout.split())
    assert "\x1b" not in shown.stdout
    told = json.loads(prism("review", "--run", "mine", "--runs-dir", judged, "--json").stdout)
    (stage,) = told["stages"]
    assert (stage["stage"], stage["judged"], stage["agreed"], len(stage["differ"])) == ("prism/rlvr", 4, 3, 1)


def test_a_run_without_a_judge_has_nothing_to_review(judged: Path) -> None:
    shown = prism("review", "--run", "mine", "--stage", "baseline/rlvr", "--runs-dir", judged)
    assert shown.returncode == 2
    assert "was rewarded by a judge" in " ".join(shown.stderr.split())
