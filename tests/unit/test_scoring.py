"""Finding answers in responses, options in answers, and deciding, as far as that needs no computer algebra."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.scoring import answers
from benchmarks.scoring.choices import choose, letters
from benchmarks.scoring.extract import extract
from benchmarks.scoring.maths import Maths
from benchmarks.scoring.tasks import listed, scored, share_correct, turns, with_options
from benchmarks.scoring.verdict import JUDGEABLE, RULES, Verdict

ROOT = Path(__file__).resolve().parents[2]
FORM = "<caption>c</caption>\n<think>t</think>\n<answer>{}</answer>"
OPTIONS = ["12 cm", "15 cm", "vitamin C", "Points A, B and C"]


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (FORM.format("B"), "B"),
        ("<answer>B</answer>", "B"),
        ("Well. <answer> B </answer> Good.", "B"),
        ("<think>maybe <answer>A</answer></think><answer>B</answer>", "B"),
        ("<think>maybe <answer>A</answer></think>", None),
        ("<answer>A</answer><answer>A</answer>", "A"),
        ("<answer>A</answer><answer>B</answer>", None),
        ("<answer></answer>", None),
        ("<answer>  </answer>", None),
        ("<answer>B", None),
        ("<think>it is B, so <answer>B", None),
        ("The answer is B", None),
        ("B", None),
        ("", None),
        ("<ANSWER>B</ANSWER>", None),
    ],
)
def test_the_answer_is_what_the_answer_block_after_the_reasoning_holds(response: str, answer: str | None) -> None:
    assert extract(response).answer == answer


@pytest.mark.parametrize(
    ("response", "kind", "answer"),
    [
        (FORM.format("B"), "choice", "B"),
        ("<answer>B", "choice", None),
        ("So \\boxed{\\frac{1}{2}}, not \\boxed{3}", "open", "3"),
        ("\\boxed{\\frac{1}{2}}", "open", "\\frac{1}{2}"),
        ("\\boxed{unclosed", "choice", "\\boxed{unclosed"),
        ("First A.\nThe answer is 3.5 cm. I am sure.", "open", "3.5 cm"),
        ("The answer is A.\nNo, the answer is: **B**.", "choice", "B"),
        ("Answer: C", "choice", "C"),
        ("12", "open", "12"),
        ("I looked at both.\nThe left one is larger.\n(B)", "choice", "B"),
        ("I looked at both.\nThe left one is larger.\n(B)", "open", None),
        ("Yes, because the line\nis longer than the other.", "yes_no", "Yes"),
        ("It depends on the line,\nyes or no.", "yes_no", None),
        ("<think>The answer is A</think>\nB", "choice", "B"),
        ("x" * 200, "open", None),
    ],
)
def test_native_responses_are_read_by_rules_and_otherwise_not(response: str, kind: str, answer: str | None) -> None:
    assert extract(response, "native", kind).answer == answer  # type: ignore[arg-type]


def test_caption_and_reasoning_are_kept_whatever_the_form() -> None:
    assert extract(FORM.format("B")).well_formed
    loose = extract("<caption>seen</caption> and <think>thought</think>")
    assert (loose.caption, loose.reasoning, loose.answer, loose.well_formed) == ("seen", "thought", None, False)


@pytest.mark.parametrize(
    "answer", ["B", "b", "(B)", "B.", "B)", "[B]", "B. 15 cm", "(B) 15 cm", "B: 15 cm", "Option B"]
)
@pytest.mark.parametrize("wrapped", ["{}", "**{}**", "\\boxed{{{}}}", "$\\text{{{}}}$", "\\({}\\)", '"{}"', " {} "])
def test_letters_are_recognised(answer: str, wrapped: str) -> None:
    assert choose(wrapped.format(answer), OPTIONS) == ("B", "letter")


@pytest.mark.parametrize(
    ("answer", "letter"),
    [("15 cm", "B"), ("15 CM.", "B"), (" vitamin  c", "C"), ("Points A, B and C", "D"), ("D. Points A, B and C", "D")],
)
def test_the_text_of_an_option_is_that_option(answer: str, letter: str) -> None:
    assert choose(answer, OPTIONS)[0] == letter


@pytest.mark.parametrize(
    "answer",
    ["A plot", "Cannot say", "A or B", "A, B", "(A) or (B)", "A. 12 and B. 15", "E", "15", "", "AB", "I think A"],
)
def test_nothing_is_guessed(answer: str) -> None:
    assert choose(answer, OPTIONS) == (None, "choice_unmatched")


def test_a_small_letter_that_is_an_options_text_means_that_text() -> None:
    assert choose("c", ["c", "a", "b"]) == ("A", "option_text")
    assert choose("C", ["c", "a", "b"]) == ("C", "letter")


@given(st.text(), st.lists(st.text(), max_size=10), st.sampled_from(["format", "native"]))
def test_no_text_breaks_the_reading(text: str, options: list[str], style: str) -> None:
    extract(text, style, "choice")  # type: ignore[arg-type]
    letter, rule = choose(text, options)
    assert rule in RULES
    assert letter is None or letter in letters(len(options))


@given(st.sampled_from("ABCD"), st.lists(st.sampled_from(["one", "two", "three", "four"]), min_size=4, max_size=4))
def test_a_capital_in_the_form_is_always_that_letter(letter: str, options: list[str]) -> None:
    assert choose(extract(FORM.format(letter)).answer or "", options) == (letter, "letter")


@pytest.mark.parametrize(
    ("text", "value"),
    [("12", 12), ("1,000", 1000), ("-3.5", -3.5), ("−2", -2), (".5", 0.5), ("$12$", 12), ("1e3", 1000), ("7.", 7)],
)
def test_numbers(text: str, value: float) -> None:
    assert answers.number(text) == value


@pytest.mark.parametrize("text", ["12 cm", "1,00", "1/2", "", "twelve", "1.2.3", "0x10", "inf", "nan"])
def test_what_is_more_than_a_number_is_none(text: str) -> None:
    assert answers.number(text) is None


class Algebra:
    """Stands in for the process that compares formulas."""

    def __init__(self, said: bool | None) -> None:
        self.said = said
        self.asked: list[tuple[str, str]] = []

    def equal(self, how: str, reference: str, answer: str) -> bool | None:
        self.asked.append((reference, answer))
        return self.said


@pytest.mark.parametrize(
    ("reference", "answer", "said", "verdict"),
    [
        ("2x", " 2X.", None, Verdict(True, "exact")),
        ("60^\\circ", "60°", None, Verdict(True, "exact")),
        ("1000", "1,000", None, Verdict(True, "number")),
        ("10", "12", True, Verdict(False, "number")),
        ("14.1", "14.14", False, Verdict(False, "open_unmatched")),
        ("0.333", "0.3333", True, Verdict(True, "number")),
        ("5 kg", "5 lb", True, Verdict(False, "open_unmatched")),
        ("5 kg", "5", True, Verdict(True, "formula_with_words")),
        ("5 kg", "5 g", True, Verdict(False, "open_unmatched")),
        ("12 s", "12 m", True, Verdict(False, "open_unmatched")),
        ("12 cm²", "12 \\text{cm}^{2}", None, Verdict(True, "number")),
        ("12 cm²", "12 cm", True, Verdict(False, "open_unmatched")),
        ("5厘米", "5米", True, Verdict(False, "open_unmatched")),
        ("7", "not 7", True, Verdict(False, "open_unmatched")),
        ("7", "about 7", True, Verdict(True, "formula_with_words")),
        ("2.5", "2.5 million", True, Verdict(False, "open_unmatched")),
        ("2024-01-05", "2024-05-01", True, Verdict(False, "open_unmatched")),
        ("25%", "25-30%", True, Verdict(False, "open_unmatched")),
        ("(1) 5 (2) 7", "(1) 7 (2) 5", True, Verdict(False, "open_unmatched")),
        ("3, 5", "5, 3", True, Verdict(True, "formula_out_of_order")),
        ("5", "5\u200b6", True, Verdict(False, "open_unmatched")),
        ("12.5", "１２．５", None, Verdict(True, "exact")),
        ("x+1", "1+x", True, Verdict(True, "formula")),
        ("x+1", "1-x", False, Verdict(False, "open_unmatched")),
        ("x+1", "9^{9^{9}}", None, Verdict(False, "open_unmatched")),
    ],
)
def test_free_answers(
    monkeypatch: pytest.MonkeyPatch, reference: str, answer: str, said: bool | None, verdict: Verdict
) -> None:
    monkeypatch.setattr(answers, "MATHS", Algebra(said))
    assert answers.free_answer(reference, answer, "math_verify") == verdict


def test_only_uncertain_rules_go_to_a_judge() -> None:
    assert set(RULES) > JUDGEABLE
    assert not JUDGEABLE & {"unparseable", "letter", "option_text", "yes_no", "number", "exact", "formula"}


def test_a_response_without_an_answer_is_wrong_and_nobody_is_asked() -> None:
    def never(answer: str) -> Verdict:
        raise AssertionError(answer)

    found = scored([""], "format", "open", never, {"item_id": "1"})["prism"]
    assert (found["item_id"], found["answer"], found["correct"], found["rule"]) == ("1", None, False, "unparseable")


def test_prompts_differ_by_style_alone() -> None:
    system, user = turns("format", "What?", ["image"], "A hint.")
    assert system["role"] == "system"
    assert [part["type"] for part in user["content"]] == ["image", "text"]
    assert user["content"][-1]["text"] == "What?\nA hint."
    [only] = turns("native", "What?", ["image"], "A hint.")
    assert only["content"][-1]["text"] == "What?"


def test_options_are_read_from_both_ways_to_publish_them() -> None:
    assert listed("['a', 'b']") == listed(["a", "b"]) == ["a", "b"]
    assert with_options("Which?", ["a", "b"]) == "Which?\nA. a\nB. b"


def test_share_correct() -> None:
    assert share_correct([{"correct": True}, {"correct": False}]) == 0.5
    assert share_correct([]) == 0.0


FORBIDDEN = """
import os, socket, subprocess, sys
from benchmarks.scoring import maths
sys.addaudithook(maths._refuse)
open(os.devnull).read()
for act in (
    lambda: open(sys.argv[1], "w"),
    lambda: os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY),
    lambda: os.system("true"),
    lambda: subprocess.run(["true"]),
    lambda: socket.create_connection(("127.0.0.1", 9), 1),
    lambda: os.remove(sys.argv[0]),
    lambda: os.kill(os.getpid(), 0),
):
    try:
        act()
    except PermissionError as error:
        assert "is not allowed here" in str(error)
    else:
        raise SystemExit("nothing was refused")
"""


def test_the_process_that_compares_formulas_can_only_read_and_compute(tmp_path: Path) -> None:
    (tmp_path / "act.py").write_text(FORBIDDEN)
    written = tmp_path / "written"
    command = [sys.executable, str(tmp_path / "act.py"), str(written)]
    done = subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not written.exists()


def test_a_comparison_that_does_not_end_is_undecided_and_the_next_one_is_answered(tmp_path: Path) -> None:
    child = tmp_path / "child.py"
    child.write_text(
        "import json, sys, time\n"
        "for line in sys.stdin:\n"
        "    if 'slow' in line: time.sleep(60)\n"
        "    print(json.dumps({'equal': True}), flush=True)\n"
    )
    maths = Maths([sys.executable, str(child)])
    assert maths.equal("math_verify", "1", "slow", seconds=0.2) is None
    assert maths.equal("math_verify", "1", "quick") is True
    assert maths.equal("math_verify", "1", "1 " * 300) is None
    assert maths.equal("mathvision", "1", "\\variable{quit()}") is None
    maths.close()


def test_without_its_packages_the_comparison_says_so(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="lmms_eval environment"):
        Maths([sys.executable, "-c", "raise SystemExit(1)"]).equal("math_verify", "1", "2")
