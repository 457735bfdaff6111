"""Splitting responses: one function, the same outcome whoever wrote the text."""

from __future__ import annotations

import random
from typing import Any

import pytest

from integrations.alignment.segments import END_OF_TURN, Splitter, Vocabulary
from tests.torch.conftest import response


@pytest.fixture(scope="module")
def splitter(processor: Any) -> Splitter:
    return Splitter(processor.tokenizer)


def random_text(rng: random.Random) -> str:
    letters = "abc 0123456789+=<>.\n\té漢🙂"
    return "".join(rng.choice(letters) for _ in range(rng.randint(1, 40))).strip() or "x"


def test_segments_hold_the_whole_text(splitter: Splitter, processor: Any) -> None:
    rng = random.Random(0)
    for _ in range(300):
        text = response(random_text(rng), random_text(rng), random_text(rng))
        segments = splitter.split(text)
        if segments is None:  # a random text may spell a tag
            continue
        perception, reasoning = segments.ids[: segments.perception], segments.ids[segments.perception : -1]
        assert splitter.vocabulary.text(segments.ids) == text
        assert splitter.vocabulary.text(perception).rstrip("\n").endswith("</caption>")
        assert splitter.vocabulary.text(reasoning).lstrip("\n").startswith("<think>")
        assert segments.ids[-1] == processor.tokenizer.convert_tokens_to_ids(END_OF_TURN)
        assert segments.last == (segments.perception - 1, len(segments.ids) - 1)


def test_white_space_between_blocks_cannot_tell_who_wrote(splitter: Splitter) -> None:
    one = splitter.split("<caption>3 4</caption>\n<think>3+4=7</think>\n<answer>7</answer>")
    two = splitter.split("  <caption>3 4</caption> \n\n <think>3+4=7</think>\n<answer>7</answer>\n")
    none = splitter.split("<caption>3 4</caption><think>3+4=7</think>\n<answer>7</answer>")
    assert one == two == none
    assert one is not None
    assert one.answer == "7"


def test_a_response_as_sampled_splits_as_its_text_does(splitter: Splitter, processor: Any) -> None:
    """A policy may spell the same text in other tokens; the discriminator must not see the difference."""
    text = response("3 4", "3+4=7", "7")
    whole = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    letters = [index for part in text for index in processor.tokenizer(part, add_special_tokens=False)["input_ids"]]
    assert whole != letters
    assert splitter.split(splitter.vocabulary.text(letters)) == splitter.split(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<caption>3</caption>",
        "<caption></caption>\n<think>a</think>\n<answer>1</answer>",
        "<caption>3</caption>\n<think>a</think>\n<answer>1</answer> and more",
        "<caption>3</caption>\n<think>a</think>\n<think>b</think>\n<answer>1</answer>",
        "<caption>3<|im_end|></caption>\n<think>a</think>\n<answer>1</answer>",
        "<caption>3<|image_pad|></caption>\n<think>a</think>\n<answer>1</answer>",
    ],
)
def test_other_forms_and_special_tokens_are_refused(splitter: Splitter, text: str) -> None:
    assert splitter.split(text) is None


def test_vocabulary_decodes_as_the_tokenizer_does(processor: Any) -> None:
    vocabulary, rng = Vocabulary(processor.tokenizer), random.Random(1)
    for _ in range(200):
        text = random_text(rng)
        ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert vocabulary.text(ids) == text
    halves = processor.tokenizer("漢", add_special_tokens=False)["input_ids"][:1]
    assert vocabulary.text(halves) == processor.tokenizer.decode(halves) == "�"


def test_sampled_tokens_are_credited_by_where_they_begin(processor: Any, splitter: Splitter) -> None:
    text = response("漢 4", "3+4=7", "7")
    ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    boundary = splitter.vocabulary.perception_tokens(ids)
    assert splitter.vocabulary.text(ids[:boundary]).startswith("<caption>漢 4</caption>")
    assert "<" not in splitter.vocabulary.text(ids[:boundary]).split("</caption>")[1]
    segments = splitter.split(text)
    assert segments is not None
    assert boundary == segments.perception
    assert splitter.vocabulary.perception_tokens(ids[: boundary - 2]) == 0


def test_time_grows_linearly(splitter: Splitter, monkeypatch: pytest.MonkeyPatch) -> None:
    """One tokenizer call whatever the length: nothing decodes prefixes."""
    calls = []
    tokenizer = splitter.tokenizer
    monkeypatch.setattr(splitter, "tokenizer", lambda *args, **kw: calls.append(1) or tokenizer(*args, **kw))
    splitter.split(response("3 4 " * 2000, "a" * 5000, "7"))
    assert len(calls) == 1
