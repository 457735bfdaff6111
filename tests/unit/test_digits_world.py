"""The digits world's questions, annotators and scoring, without pictures."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.digits.world import (
    CLEAN,
    KINDS,
    LETTERS,
    LOOK_ALIKES,
    Annotator,
    Question,
    ask,
    conclude,
    demonstrate,
    drill,
    plain_answer,
    score,
    value,
)

PUBLIC = Annotator(0.3, 0.9, 0.3, 0.9, 0.5)
digit_strips = st.lists(st.integers(0, 9), min_size=2, max_size=6)
seeds = st.integers(0, 2**32)


def row_of(question):
    task = {"kind": question.kind, "level": question.level, "digits": list(question.digits), "options": None}
    if question.options is not None:
        task["options"] = list(question.options)
    return {"answer": question.answer, "task": task}


def row(kind, digits, options=None):
    return row_of(Question(kind, "easy", tuple(digits), "?", options))


@pytest.mark.parametrize(
    ("kind", "digits", "expected"),
    [
        ("sum", (7, 9, 3), "19"),
        ("difference", (3, 9, 7), "6"),
        ("difference", (4, 4), "0"),
        ("largest", (0, 8, 3), "8"),
        ("even", (0, 1, 2), "2"),
        ("even", (1, 3), "0"),
        ("order", (7, 0, 7, 3), "0 3 7 7"),
    ],
)
def test_true_values(kind, digits, expected):
    assert value(kind, digits) == expected


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="product"):
        value("product", (1, 2))


@given(digit_strips, seeds)
def test_the_clean_annotator_is_always_right(digits, seed):
    question = ask(random.Random(seed), digits, "easy", 0.5)
    shown = demonstrate(question, CLEAN, random.Random(seed))
    judged = score(row_of(question), shown.text)
    assert shown.mistakes == ()
    assert (judged.answer, judged.perception, judged.reasoning, judged.format) == (True, True, True, True)


@given(digit_strips, seeds)
def test_the_public_annotator_is_wrong_where_it_says_so(digits, seed):
    question = ask(random.Random(seed), digits, "easy", 0.3)
    shown = demonstrate(question, PUBLIC, random.Random(seed))
    judged = score(row_of(question), shown.text)
    of_reasoning = [mistake for mistake in shown.mistakes if mistake.startswith("reasoning")]
    assert judged.format
    assert judged.perception == (not any(mistake.startswith("perception") for mistake in shown.mistakes))
    if not of_reasoning and judged.reasoning is not None:
        assert judged.reasoning
    if len(of_reasoning) == 1 and question.options is None:
        assert judged.reasoning is False
    if not shown.mistakes:
        assert judged.answer


@given(digit_strips, seeds)
def test_options_hold_the_true_value_once(digits, seed):
    question = ask(random.Random(seed), digits, "easy", 1.0)
    if question.kind == "order":
        assert question.options is None
        return
    assert len(set(question.options)) == len(LETTERS)
    assert question.options[LETTERS.index(question.answer)] == value(question.kind, digits)
    assert all(
        f"{option} ({letter})" in question.text for option, letter in zip(question.options, LETTERS, strict=True)
    )


def test_typical_mistakes_are_among_the_options():
    for seed in range(200):
        question = ask(random.Random(seed), (7, 2, 5), "hard", 1.0)
        if question.kind == "sum":
            assert {str(1 + 2 + 5), "4"} <= set(question.options)
        if question.kind == "difference":
            assert str(5 - 1) in question.options


def test_systematic_errors_hit_what_they_should_and_nothing_else():
    habits = Annotator(perception_systematic=1.0, reasoning_systematic=1.0)
    for kind in KINDS:
        shown = demonstrate(Question(kind, "hard", (7, 2, 8, 3), "?", None), habits, random.Random(0))
        assert "<caption>1 2 8 3</caption>" in shown.text
        assert ("reasoning_systematic" in shown.mistakes) == (kind == "sum")
        if kind == "sum":
            assert "<think>1+2=3, 3+8=1, 1+3=4</think>\n<answer>4</answer>" in shown.text
    for digits in ((9, 4), (2, 4, 3)):
        right = demonstrate(Question("sum", "easy", digits, "?", None), habits, random.Random(0))
        assert right.mistakes == (), "two digits keep their carry, and where there is none it cannot be lost"
        assert f"<answer>{sum(digits)}</answer>" in right.text


def test_random_errors_come_at_their_rates():
    annotator = Annotator(perception_random=0.2, reasoning_random=0.1)
    rng = random.Random(5)
    shown = [demonstrate(ask(rng, (3, 8, 2), "hard", 0.25), annotator, rng) for _ in range(4000)]
    for name, rate in (("perception_random", 0.2), ("reasoning_random", 0.1)):
        assert abs(sum(name in one.mistakes for one in shown) / len(shown) - rate) < 0.025


def test_no_digit_looks_like_itself():
    assert all(digit not in others for digit, others in LOOK_ALIKES.items())
    assert set(LOOK_ALIKES) == set(range(10))


def test_drifted_style_keeps_the_form_and_the_digits():
    question = Question("sum", "hard", (2, 5, 8), "?", None)
    texts = {demonstrate(question, Annotator(drift=1.0), random.Random(seed)).text for seed in range(40)}
    assert len(texts) > 5
    for text in texts:
        assert score(row_of(question), text).answer
        assert score(row_of(question), text).perception
        assert text != demonstrate(question, CLEAN, random.Random(0)).text


@given(digit_strips, seeds)
def test_plain_answers_are_right_and_lack_the_form(digits, seed):
    question = ask(random.Random(seed), digits, "easy", 0.5)
    text = plain_answer(question)
    assert text.split(": ")[-1] == question.answer
    assert text.startswith(" ".join(map(str, digits)) + ": ")
    assert not score(row_of(question), text).format


def test_drills_do_every_computation_right():
    assert drill((7, 0, 2)) == "7 0 2: 7+0=7, 7+2=9; 7-0=7; largest 7; 0 2: 2; 0<2<7"
    assert drill((3, 9)) == "3 9: 3+9=12; 9-3=6; largest 9; none: 0; 3<9"


FORM = "<caption>{}</caption>\n<think>{}</think>\n<answer>{}</answer>"


@pytest.mark.parametrize(
    ("kind", "digits", "options", "text", "expected"),
    [
        ("sum", (7, 9), None, FORM.format("7 9", "7+9=16", "16"), (True, True, True, True)),
        ("sum", (7, 9), None, FORM.format("1 9", "1+9=10", "10"), (False, False, True, True)),
        ("sum", (7, 9), None, FORM.format("1 9", "1+9=10", "16"), (True, False, False, True)),
        ("sum", (7, 9), None, FORM.format("7 9", "7+9=15", "15"), (False, True, False, True)),
        ("sum", (7, 9), None, FORM.format("I see 7 and 9.", "x", " 16\n"), (True, True, True, True)),
        ("sum", (7, 9), None, FORM.format("9 7", "9+7=16", "16"), (True, False, True, True)),
        ("sum", (7, 9), None, FORM.format("two digits", "7+9=16", "16"), (True, False, None, True)),
        ("order", (7, 0), None, FORM.format("7 0", "0<7", "0  7"), (True, True, True, True)),
        ("order", (7, 0), None, FORM.format("7 0", "0<7", "07"), (False, True, False, True)),
        ("sum", (7, 9), None, "16", (False, False, None, False)),
        ("sum", (7, 9), None, FORM.format("7 9", "7+9=16", "16") + " 16", (False, False, None, False)),
        ("sum", (7, 9), None, FORM.format("7 9", "", "16"), (False, False, None, False)),
        ("sum", (7, 2), ("3", "9", "8", "7"), FORM.format("1 2", "1+2=3 (A)", "A"), (False, False, True, True)),
        ("sum", (7, 2), ("3", "9", "8", "7"), FORM.format("7 2", "7+2=9 (B)", "B"), (True, True, True, True)),
        ("sum", (7, 2), ("3", "9", "8", "7"), FORM.format("7 2", "7+2=9", "9"), (False, True, False, True)),
        ("sum", (7, 2), ("3", "9", "8", "7"), FORM.format("9 2", "9+2=11 (B)", "B"), (True, False, None, True)),
    ],
)
def test_scoring_is_exact(kind, digits, options, text, expected):
    judged = score(row(kind, digits, options), text)
    assert (judged.answer, judged.perception, judged.reasoning, judged.format) == expected


@given(digit_strips, st.text(alphabet="<>/captionhikswer 0123456789ABCD\n", max_size=80))
def test_any_text_can_be_scored(digits, text):
    judged = score(row("largest", digits), text)
    assert judged.format or (not judged.answer and not judged.perception and judged.reasoning is None)


@given(digit_strips, st.sampled_from(KINDS))
def test_what_follows_is_none_when_not_among_the_options(digits, kind):
    assert conclude(kind, digits, None) == value(kind, digits)
    assert conclude(kind, digits, ("100", "101", "102", "103")) is None
