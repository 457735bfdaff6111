"""The verifiable reward: form, exact match, and what it must not reward."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from integrations.verl.reward import compute_score


def response(answer: str) -> str:
    return f"<caption>3 4</caption><think>3 + 4 = 7</think><answer>{answer}</answer>"


def test_a_right_answer_in_the_form_earns_all() -> None:
    assert compute_score("digits", response("7"), "7") == {"score": 1.0, "accuracy": 1.0, "format": 1.0, "error": 0.0}


def test_a_wrong_answer_in_the_form_earns_the_forms_share() -> None:
    assert compute_score("digits", response("8"), "7") == {"score": 0.2, "accuracy": 0.0, "format": 1.0, "error": 0.0}


@pytest.mark.parametrize(
    "text",
    [
        "7",
        "<answer>7</answer>",
        "<think>7</think><answer>7</answer>",
        "<caption></caption><think>7</think><answer>7</answer>",
        response("7") + " 7",
        response("7") + response("7"),
        response("8</answer><answer>7"),
        response("7")[: -len("</answer>")],
        "",
    ],
)
def test_a_right_answer_outside_the_form_earns_nothing(text: str) -> None:
    assert compute_score("digits", text, "7") == {"score": 0.0, "accuracy": 0.0, "format": 0.0, "error": 0.0}


def test_the_shares_are_the_callers() -> None:
    shares = {"accuracy_weight": 0.5, "format_weight": 0.5}
    assert compute_score("digits", response("8"), "7", **shares)["score"] == 0.5
    assert compute_score("digits", response("7"), "7", {"index": 3, "id": "x"}, **shares)["score"] == 1.0


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        (" 7 ", "7"),
        ("7.", "7"),
        ("7.0", "7"),
        ("+7", "7"),
        ("007", "7"),
        ("-0", "0"),
        ("-3.50", "-3.5"),
        ("b", "B"),
        ("B.", "B"),
        ("1  3\n4", "1 3 4"),
        ("0.50", "0.5"),
    ],
)
def test_differences_without_meaning_do_not_count(answer: str, reference: str) -> None:
    assert compute_score("digits", response(answer), reference)["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("7", "-7"),
        ("7", "70"),
        ("0.5", "5"),
        ("1 34", "1 3 4"),
        ("A", "B"),
        ("1.5", "15"),
        ("3.05", "3.5"),
        ("x7", "7"),
    ],
)
def test_differences_with_meaning_count(answer: str, reference: str) -> None:
    assert compute_score("digits", response(answer), reference)["accuracy"] == 0.0


@given(st.integers(-(10**12), 10**12), st.integers(-(10**12), 10**12))
def test_two_numbers_are_equal_when_they_are(left: int, right: int) -> None:
    assert compute_score("", response(str(left)), f"{right}.0")["accuracy"] == float(left == right)


@given(st.text(max_size=80), st.text(max_size=20))
def test_any_text_gets_a_finite_reward(text: str, reference: str) -> None:
    parts = compute_score("digits", text, reference)
    assert parts["score"] == 0.8 * parts["accuracy"] + 0.2 * parts["format"]
    assert parts["accuracy"] <= parts["format"] <= 1.0


def exact_match(answer: str, reference: str) -> bool:
    """The rule of the first reward: equal texts, but for case, spaces, a full stop, `+3`, `3.0`, `012`."""

    def normalised(text: str) -> str:
        text = re.sub(r"\s+", " ", text.strip()).casefold().rstrip(".").strip()
        return str(Fraction(text)) if re.fullmatch(r"[+-]?\d+(?:\.\d+)?", text) else text

    return normalised(answer) == normalised(reference)


NUMBERS = st.integers(-60, 120).map(str)
DIGITS = st.lists(st.integers(0, 9), min_size=2, max_size=6).map(lambda digits: " ".join(map(str, digits)))
LETTERS = st.sampled_from("ABCD")
FORMS = st.sampled_from(["{}", " {}", "{}.", "{} .", "\n{}\n"])
NUMBER_FORMS = st.sampled_from(["{}", "+{}", "0{}", "{}.0", "00{}.00"])


@settings(max_examples=2000, deadline=None)
@given(st.one_of(NUMBERS, DIGITS, LETTERS), st.one_of(NUMBERS, DIGITS, LETTERS), FORMS, NUMBER_FORMS, st.booleans())
def test_on_the_digits_world_verdicts_are_those_of_exact_match(
    answer: str, reference: str, form: str, number_form: str, same: bool
) -> None:
    given_answer = reference if same else answer
    given_answer = form.format(number_form.format(given_answer) if given_answer.isdigit() else given_answer)
    expected = exact_match(given_answer, reference)
    assert compute_score("digits", response(given_answer), reference)["accuracy"] == float(expected)


@pytest.mark.parametrize("reference", ["7", "1 3 4", "B"])
@pytest.mark.parametrize(
    "answer", ["7 7", "1 3", "1 4 3", "1 3 4 4", "134", "AB", "A B", "C", "1, 3, 4", "3 1 4", "70"]
)
def test_on_the_digits_world_wrong_answers_stay_wrong(answer: str, reference: str) -> None:
    assert not exact_match(answer, reference)
    assert compute_score("digits", response(answer), reference)["accuracy"] == 0.0
