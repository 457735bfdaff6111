"""Pairs that differ in content only: valid segments, the intended role alone changed, the same for the same seed."""

from __future__ import annotations

from typing import Any

import pytest

from integrations.alignment.data.negatives import Editor, restate, restated, says_the_same, wording
from integrations.alignment.data.segments import Splitter
from integrations.common.response import parse
from tests.torch.conftest import response

DEMONSTRATION = response("3 7 1", "3+7=10, 10+1=11", "11")
ROWS = [
    {"id": f"row-{index}", "response": response(f"{index} {index + 1}", f"{index}+{index + 1}={2 * index + 1}", answer)}
    for index, answer in enumerate(["1", "3", "5", "7", "9", "11"])
]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            response("I see 3 1 1", "well, 3+1=4, 4+1=5", "5"),
            response("I see 3 7 1", "well, 3+7=10, 10+1=11", "11"),
        ),
        (DEMONSTRATION, DEMONSTRATION),
        (response("I see 3 1", "well, 3+1=4", "4"), None),  # another number of numbers
        (response("3 1 and 1", "3+1=4, 4+1=5", "5"), None),  # grouped otherwise
        (response("three", "3+1=4, 4+1=5", "5"), None),
        ("no blocks", None),
    ],
)
def test_the_demonstrations_content_in_the_responses_words(said: str, expected: str | None) -> None:
    assert restate(DEMONSTRATION, said) == expected


def test_a_letter_is_taken_over_in_the_reasoning_too() -> None:
    wanted = response("3 2 1 8", "2 8: 2 (A)", "A")
    assert restate(wanted, response("3 2 7 8", "so 2 3: 3 (C) I think", "C")) == response(
        "3 2 1 8", "so 2 8: 2 (A) I think", "A"
    )


def test_texts_without_numbers_are_restated_only_where_they_agree() -> None:
    wanted = response("A red circle.", "it is round", "round")
    assert restate(wanted, response("a red  circle", "It is round!", "square")) == response(
        "a red  circle", "It is round!", "round"
    )
    assert restate(wanted, response("a blue circle", "it is round", "round")) is None


def test_which_response_lends_its_words_is_drawn_by_the_key() -> None:
    given = [response(f"{'so ' * index}1 1 1", "1+1=2, 2+1=3", "3") for index in range(1, 6)]
    drawn = {key: restated(DEMONSTRATION, given, 0, key) for key in range(20)}
    assert drawn == {key: restated(DEMONSTRATION, given, 0, key) for key in range(20)}
    assert len(set(drawn.values())) == 5
    assert all(text and says_the_same(parse(text).caption, "3 7 1") for text in drawn.values())
    assert restated(DEMONSTRATION, ["no blocks", given[2]], 0, 1) == restate(DEMONSTRATION, given[2])
    assert restated(DEMONSTRATION, [], 0, 1) is None


def test_an_error_is_put_in_the_intended_role_only(processor: Any) -> None:
    editor, splitter = Editor.of(ROWS), Splitter(processor.tokenizer)
    for row in ROWS:
        whole, text = parse(row["response"]), splitter.split(row["response"])
        assert whole is not None
        assert text is not None
        seen = editor.edit(row["response"], "perception", 0, row["id"])
        concluded = editor.edit(row["response"], "reasoning", 0, row["id"])
        assert seen is not None
        assert concluded is not None
        caption, conclusion = parse(seen), parse(concluded)
        assert caption is not None
        assert conclusion is not None
        assert (caption.think, caption.answer) == (whole.think, whole.answer)
        assert not says_the_same(caption.caption, whole.caption)
        assert wording(caption.caption) == wording(whole.caption)
        assert conclusion.caption == whole.caption
        assert conclusion.answer != whole.answer
        assert conclusion.think.endswith(f"={conclusion.answer}"), "the error is carried to the answer"
        for spoilt in (seen, concluded):
            segments = splitter.split(spoilt)
            assert segments is not None
        assert splitter.split(concluded).ids[: text.perception] == text.ids[: text.perception]  # type: ignore[union-attr]
        assert seen == editor.edit(row["response"], "perception", 0, row["id"])
    drawn = {editor.edit(ROWS[0]["response"], "reasoning", seed, "row-0") for seed in range(30)}
    assert len(drawn) == 5


def test_nothing_is_put_in_where_the_pool_has_nothing_else() -> None:
    editor = Editor.of(ROWS[:1])
    assert editor.edit(ROWS[0]["response"], "perception", 0) is None
    assert editor.edit(ROWS[0]["response"], "reasoning", 0) is None


def test_words_are_spoilt_where_there_are_no_numbers() -> None:
    said = {"red": "yes", "blue": "no"}
    texts = [response(f"a {colour} circle", "it is round", answer) for colour, answer in said.items()]
    editor = Editor.of([{"response": text} for text in texts])
    assert editor.edit(texts[0], "perception", 0) == response("a blue circle", "it is round", "yes")
    assert editor.edit(response("a red circle", "so yes", "yes"), "reasoning", 0) is None  # no other of three letters


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("3 7 1", "I see 3 7 1.", True),
        ("3 7 1", "3 1 7", False),
        ("3 71", "37 1", False),
        ("A red circle", "a  RED circle!", True),
        ("a red circle", "a blue circle", False),
        ("2.5 cm", "2.5", True),
        ("2.5 cm", "25", False),
    ],
)
def test_two_texts_say_the_same(one: str, other: str, same: bool) -> None:
    assert says_the_same(one, other) is same
