"""Splitting responses: one function, the same outcome whoever wrote the text."""

from __future__ import annotations

import random
import sys
from typing import Any

import pytest

from integrations.alignment.data.segments import END_OF_TURN, Splitter, Vocabulary
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
    three = splitter.split("<caption>3 4</caption><think>3+4=7</think> \n\n<answer>7</answer>")
    assert one == two == none == three
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
    """Ten times the text is ten times the work, counted in lines of Python run and characters given to the tokenizer:
    nothing decodes prefixes."""
    tokenizer, given = splitter.tokenizer, [0]

    def counting(text: str, **options: Any) -> Any:
        given[0] += len(text)
        return tokenizer(text, **options)

    monkeypatch.setattr(splitter, "tokenizer", counting)

    def work(times: int) -> tuple[int, int]:
        text = response("3 4 é " * 50 * times, "a+b " * 100 * times, "7")
        lines, given[0] = [0], 0

        def trace(frame: Any, event: str, _: Any) -> Any:
            lines[0] += event == "line"
            return trace

        sys.settrace(trace)
        try:
            segments = splitter.split(text)
            assert segments is not None
            splitter.vocabulary.perception_tokens(segments.ids)
        finally:
            sys.settrace(None)
        assert splitter.vocabulary.text(segments.ids) == text
        return lines[0], given[0]

    (lines, characters), (more_lines, more_characters) = work(4), work(40)
    assert 8 < more_lines / lines < 10.5
    assert 9 < more_characters / characters < 10.5
    assert more_characters < 2 * len(response("3 4 é " * 2000, "a+b " * 4000, "7"))


def test_two_turns_hold_each_segment_for_itself(processor: Any, splitter: Splitter) -> None:
    """As the paper's warm-up reads: each segment is a turn, closed as the chat template closes one."""
    alone = Splitter(processor.tokenizer, "alone", "turn-end")
    text = response("3 4", "3+4=7", "7")
    segments, joined = alone.split(text), splitter.split(text)
    assert segments is not None
    assert joined is not None

    def ids(text: str) -> tuple[int, ...]:
        return tuple(processor.tokenizer(text, add_special_tokens=False)["input_ids"])

    assert segments.ids[: segments.perception] == ids("<caption>3 4</caption><|im_end|>\n")
    assert segments.ids[segments.perception :] == ids("<think>3+4=7</think>\n<answer>7</answer><|im_end|>\n")
    assert [segments.ids[place] for place in segments.last] == [ids("\n")[0]] * 2
    closed = Splitter(processor.tokenizer, terminator="turn-end").split(text)
    assert closed is not None
    assert closed.ids == (*joined.ids, *ids("\n"))
    assert closed.perception == joined.perception
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "<caption>3 4</caption>"}]
    template = processor.apply_chat_template(turns, tokenize=False)
    assert ids(template)[-len(segments.ids[: segments.perception]) :] == segments.ids[: segments.perception]


@pytest.mark.parametrize(("reasoning", "terminator"), [("after_caption", "end-of-turn"), ("alone", "turn-end")])
def test_a_limit_keeps_the_beginning_of_each_segment_and_the_terminators(
    processor: Any, reasoning: str, terminator: str
) -> None:
    splitter = Splitter(processor.tokenizer, reasoning, terminator)
    text = response("3 4 " * 9, "3+4=7 " * 9, "7")
    whole, cut = splitter.split(text), splitter.split(text, 8)
    assert whole is not None
    assert cut is not None
    end = splitter.terminator
    first = end if reasoning == "alone" else ()
    assert cut.ids[: cut.perception] == (*whole.ids[:8], *first)
    assert cut.ids[cut.perception :] == (*whole.ids[whole.perception : whole.perception + 8], *end)
    assert splitter.split(text, 10_000) == whole


def test_pieces_say_where_each_token_lies(processor: Any, splitter: Splitter) -> None:
    text = response("漢 4", "3+4=7", "7")
    for reading in (splitter, Splitter(processor.tokenizer, "alone")):
        pieces, segments = reading.pieces(text), reading.split(text)
        assert pieces is not None
        assert segments is not None
        assert pieces[0].text.strip() == "<caption>漢 4</caption>"
        assert pieces[1].text.strip() == "<think>3+4=7</think>\n<answer>7</answer>"
        for piece in pieces:
            assert piece.offsets[0][0] == 0
            assert piece.offsets[-1][1] == len(piece.text)
            for index, (start, end) in zip(piece.ids, piece.offsets, strict=True):
                shown = splitter.vocabulary.pieces[index].decode(errors="replace")
                assert shown == piece.text[start:end] or "\ufffd" in shown
        assert tuple(pieces[0].ids) == segments.ids[: len(pieces[0].ids)]
