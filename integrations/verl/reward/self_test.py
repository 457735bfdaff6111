"""Known verdicts, asked before a run: a matcher that cannot tell right from wrong must not train anything.

    python -m integrations.verl.reward.self_test      exit code 1, with what went wrong, when one verdict differs

The stage runs it in verl's environment before the first step. It also starts a process for computer algebra, so that a
missing math-verify is found here and not as thousands of undecided answers.
"""

from __future__ import annotations

import sys

from integrations.verl.reward import judge_response
from integrations.verl.reward.match import decide

GOLDEN: tuple[tuple[str, str, bool], ...] = (
    ("7", "7", True),
    ("8", "7", False),
    ("(B)", "B", True),
    ("A or B", "B", False),
    ("1,000", "1000", True),
    ("50%", "0.5", True),
    ("50%", "50", False),
    ("100 cm", "1 m", True),
    ("5 kg", "5 lb", False),
    ("5", "5 kg", True),
    ("5厘米", "5 cm", True),
    ("0.3333", "1/3", False),
    ("3.14", "\\pi", False),
    ("(1,2)", "(1, 2)", True),
    ("(2, 1)", "(1, 2)", False),
    ("{2, 1}", "{1, 2}", True),
    ("[0, 1)", "[0, 1]", False),
    ("15:30", "3:30 PM", True),
    ("yes.", "Yes", True),
    ("x^2 + 2x + 1", "(x+1)^2", True),
    ("2\\sqrt{3}", "\\sqrt{12}", True),
    ("\\sin^2 x + \\cos^2 x", "1", True),
    ("2\\sqrt{3}", "3\\sqrt{2}", False),
)
"""Answer, reference, and whether it is right. The last but one can only be decided by computer algebra."""

_FORM = "<caption>c</caption><think>t</think><answer>{}</answer>"
OUTSIDE = ("7", "<answer>7</answer>", _FORM.format("7") * 2, _FORM.format("8</answer><answer>7"))
"""Responses whose right answer does not stand in the form."""


def self_test() -> list[str]:
    """What went wrong, one line each; empty when every verdict is as it must be."""
    problems = []
    for answer, reference, expected in GOLDEN:
        verdict = decide(answer, reference)
        if verdict.error:
            problems.append(f"`{answer}` against `{reference}`: no verdict ({verdict.error})")
        elif verdict.correct != expected:
            problems.append(f"`{answer}` against `{reference}`: {verdict.correct} by the rule {verdict.rule}")
    if not judge_response(_FORM.format("7"), "7")[1].correct:
        problems.append("a right answer in the form earns nothing")
    problems += [f"an answer outside the form is accepted: {text}" for text in OUTSIDE if judge_response(text, "7")[0]]
    return problems


def main() -> int:
    """Print what is wrong; the exit code says whether anything is."""
    problems = self_test()
    for problem in problems:
        print(f"Reward self-test: {problem}")
    if not problems:
        print(f"Reward self-test: {len(GOLDEN) + len(OUTSIDE) + 1} verdicts as expected")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
