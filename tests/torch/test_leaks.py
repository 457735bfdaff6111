"""Nothing but the content may tell a demonstration from a response: not the path, a terminator, padding or order.

Chance is the 99% interval of a fair coin over at least a thousand held-out pairs. The encoding of the paper's code,
where demonstrations end in another token than responses, stands beside as what must be found out.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Callable
from math import sqrt
from typing import Any

import numpy as np
import pytest
import torch

from integrations.alignment.data.prompts import Encoder, Prompt
from integrations.alignment.data.segments import Segments, Splitter
from integrations.alignment.discriminators.discriminator import Discriminator
from integrations.alignment.game import contest, losses
from integrations.alignment.rollouts.rollout import Generation
from integrations.alignment.training.players import Player
from integrations.alignment.training.world import World as Alone
from integrations.common.rows import Row
from tests.torch.conftest import response
from tests.torch.test_discriminator import EVERY_KIND, World, build, make_items

PAIRS = 1040
READINGS = [
    {"reasoning": "after_caption", "terminator": "end-of-turn"},
    {"reasoning": "alone", "terminator": "turn-end"},
]
EVERY_READING = pytest.mark.parametrize("reading", READINGS, ids=["one turn", "two turns"])
Write = Callable[[random.Random], str]
Encode = Callable[[Segments], Segments]


def chance(n: int) -> tuple[float, float]:
    """The 99% interval of a fair coin's share in n throws."""
    half = 2.576 * 0.5 / sqrt(n)
    return 0.5 - half, 0.5 + half


def teacher_text(rng: random.Random) -> str:
    a, b = rng.randint(1, 9), rng.randint(1, 9)
    return response(f"{a} {b}", f"{a}+{b}={a + b}", str(a + b))


def student_text(rng: random.Random) -> str:
    """Another style, longer, and wrong: different everywhere but at the ends of its segments."""
    a, b = rng.randint(1, 9), rng.randint(1, 9)
    return response(f"I see {a} and {b} here", f"so {a} plus {b} is {a * b + 30}", f"about {a * b + 30}")


def whole(segments: Segments) -> Segments:
    return segments


def last_tokens(segments: Segments) -> Segments:
    """Each segment's scored token alone. Read as two turns, it stands right after the prompt: its position is reset."""
    first, last = segments.last
    return Segments((segments.ids[first], segments.ids[last]), 1, segments.answer)


class Contest:
    """A discriminator that learns to tell two writers apart, on prompts without images."""

    def __init__(self, policy: Any, encoder: Encoder, rows: list[Row], **words: Any) -> None:
        self.discriminator: Discriminator = build(policy, encoder, **words)
        self.prompts = [encoder.encode(row) for row in rows if not row["images"]]
        self.rng = random.Random(0)
        self.player = Player(
            "discriminator",
            self.discriminator.named_parameters(),
            learning_rate=3e-3,
            weight_decay=0.01,
            warmup_steps=0,
            gradient_clip=1.0,
        )

    def batch(self, count: int, teacher: Callable[[], Segments], student: Callable[[], Segments]) -> contest.Batch:
        prompts: list[Prompt] = [self.rng.choice(self.prompts) for _ in range(count)]
        return contest.pair_up(prompts, [teacher() for _ in prompts], [[student()] for _ in prompts])

    def accuracy(self, steps: int, teacher: Callable[[], Segments], student: Callable[[], Segments]) -> np.ndarray:
        """(2,) pair accuracy of each role on fresh pairs, after training; ties count as a half."""
        objective = contest.Objective(regulariser=1e-3, balance=0.01, micro_prompts=16)
        for step in range(steps):
            contest.learn(self.discriminator, self.player, self.batch(16, teacher, student), objective, step, Alone())
        margins = [
            contest.judge(self.discriminator, self.batch(80, teacher, student), 80).margins_2R
            for _ in range(PAIRS // 80)
        ]
        joined = np.concatenate(margins, 1)
        assert joined.shape == (2, PAIRS)
        return np.array([losses.pair_accuracy(role).value for role in joined])


def written(write: Write, splitter: Splitter, encode: Encode, seed: int) -> Callable[[], Segments]:
    """A writer whose texts are split and encoded as given."""
    rng = random.Random(seed)

    def one() -> Segments:
        segments = splitter.split(write(rng))
        assert segments is not None
        return encode(segments)

    return one


def length_only(splitter: Splitter) -> float:
    """Accuracy of a judge that counts tokens alone and knows which side is longer on average."""
    rng = random.Random(5)
    sides = [
        np.array([len(found.ids) for _ in range(PAIRS) if (found := splitter.split(write(rng)))])
        for write in (teacher_text, student_text)
    ]
    teacher, student = sides
    sign = np.sign(student.mean() - teacher.mean())
    difference = sign * (student - teacher)
    return float((difference > 0).mean() + 0.5 * (difference == 0).mean())


@EVERY_READING
def test_the_last_token_tells_nothing(
    policy: Any, encoder: Encoder, world: World, reading: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Texts that differ everywhere else, one token each: trained on that alone, no role leaves chance."""
    splitter = Splitter(encoder.tokenizer, **reading)
    game = Contest(policy, encoder, world[1], score="head", reasoning="alone")
    sides = [written(write, splitter, last_tokens, seed) for seed, write in enumerate((teacher_text, student_text))]
    low, high = chance(PAIRS)
    found, by_length = game.accuracy(20, *sides), length_only(splitter)
    with capsys.disabled():
        print(f"\n  last token alone: {found.round(3)}; length alone: {by_length:.3f}; chance: {low:.3f} to {high:.3f}")
    assert ((low < found) & (found < high)).all()
    assert by_length > 0.9, "the two writers do differ, in length too"


@EVERY_READING
def test_a_terminator_of_one_side_alone_is_found_out(
    policy: Any, encoder: Encoder, world: World, reading: dict[str, str]
) -> None:
    """The paper's encoding: a demonstration's last token is padding. The test above would not let it pass."""
    splitter = Splitter(encoder.tokenizer, **reading)
    pad = encoder.tokenizer.convert_tokens_to_ids("<|endoftext|>")

    def padded(segments: Segments) -> Segments:
        return last_tokens(Segments((*segments.ids[:-1], pad), segments.perception, segments.answer))

    game = Contest(policy, encoder, world[1], score="head", reasoning="alone")
    teacher = written(teacher_text, splitter, padded, 0)
    student = written(student_text, splitter, last_tokens, 1)
    perception, reasoning = game.accuracy(20, teacher, student)
    low, high = chance(PAIRS)
    assert reasoning > 0.99
    assert low < perception < high, "its last token is the same on both sides here"


def test_whole_segments_of_two_writers_are_told_apart(policy: Any, encoder: Encoder, world: World) -> None:
    splitter = Splitter(encoder.tokenizer)
    game = Contest(policy, encoder, world[1], score="head")
    sides = [written(write, splitter, whole, seed) for seed, write in enumerate((teacher_text, student_text))]
    assert (game.accuracy(12, *sides) > chance(PAIRS)[1]).all()


@pytest.mark.parametrize("score", ["likelihood_ratio", "head"])
def test_teacher_against_teacher_stays_at_chance(policy: Any, encoder: Encoder, world: World, score: str) -> None:
    """Trained to tell two samples of one writer apart, it cannot, on texts it has not seen."""
    splitter = Splitter(encoder.tokenizer)
    game = Contest(policy, encoder, world[1], score=score)
    sides = [written(teacher_text, splitter, whole, seed) for seed in (0, 1)]
    found = game.accuracy(12, *sides)
    low, high = chance(PAIRS)
    assert ((low < found) & (found < high)).all()


def spelled(rng: random.Random, text: str, tokenizer: Any) -> list[int]:
    """Ids of the text in other tokens than the tokenizer would choose: cut at random places, each part for itself."""
    cuts = sorted({0, len(text), *(rng.randrange(len(text)) for _ in range(6))})
    parts = [text[a:b] for a, b in itertools.pairwise(cuts)]
    return [index for part in parts for index in tokenizer(part, add_special_tokens=False)["input_ids"]]


@pytest.mark.parametrize(
    ("score", "reading"), list(zip(["likelihood_ratio", "head"], READINGS, strict=True)), ids=["one turn", "two turns"]
)
def test_the_same_text_scores_the_same_as_demonstration_and_as_response(
    policy: Any, encoder: Encoder, world: World, score: str, reading: dict[str, str]
) -> None:
    """Bit for bit, over a thousand texts: one from a row, one from sampled tokens with white space of its own."""
    splitter, rng = Splitter(encoder.tokenizer, **reading), random.Random(3)
    discriminator = build(policy, encoder, score=score, **reading)
    prompts = [encoder.encode(row) for row in world[1][:8]]
    respelled = 0
    for _ in range(13):
        texts = [(teacher_text if rng.random() < 0.5 else student_text)(rng) for _ in range(80)]
        teachers = [splitter.split(text) for text in texts]
        ids = [spelled(rng, text.replace("\n", rng.choice(["", "\n", " \n\n"])) + "\n", encoder.tokenizer)
               for text in texts]  # fmt: skip
        sampled = [Generation([*one, splitter.vocabulary.end], splitter.vocabulary.text(one), True) for one in ids]
        ((*students,),) = contest.valid_segments([sampled], splitter)
        assert students == teachers
        respelled += sum(
            item is not None and tuple(one) != item.ids[: len(one)] for one, item in zip(ids, teachers, strict=True)
        )
        which = [index // 10 for index in range(80)]
        with torch.no_grad():
            scores = [discriminator.score(prompts, which, side) for side in (teachers, students)]
        assert torch.equal(*scores)
    assert respelled > 900


@EVERY_KIND
def test_scores_do_not_move_with_padding_batching_or_order(
    policy: Any, encoder: Encoder, world: World, words: dict[str, Any]
) -> None:
    discriminator = build(policy, encoder, **words)
    prompts, which, segments = make_items(encoder, world, words)
    together = discriminator.score(prompts, which, segments)
    alone = torch.cat(
        [discriminator.score([prompts[p]], [0], [item]) for p, item in zip(which, segments, strict=True)], 1
    )
    torch.testing.assert_close(together, alone, atol=3e-4, rtol=1e-5)
    order = [3, 0, 7, 5, 1, 6, 2, 4]
    shuffled = discriminator.score(
        prompts[::-1], [len(prompts) - 1 - which[r] for r in order], [segments[r] for r in order]
    )
    torch.testing.assert_close(shuffled, together[:, order], atol=3e-4, rtol=1e-5)


@EVERY_KIND
def test_a_blank_image_changes_the_scores_of_its_prompt_alone(
    policy: Any, encoder: Encoder, world: World, words: dict[str, Any]
) -> None:
    discriminator = build(policy, encoder, **words)
    prompts, which, segments = make_items(encoder, world, words)
    blank = [dataclasses.replace(prompt, patches=torch.zeros_like(prompt.patches)) for prompt in prompts]
    moved = (discriminator.score(prompts, which, segments) - discriminator.score(blank, which, segments)).abs()
    for r, index in enumerate(which):
        seen = len(prompts[index].grids) > 0 and words.get("inputs") != "text"
        assert (moved[:, r] > 1e-3).all() == seen
        assert (moved[:, r] < 3e-4).all() == (not seen)
