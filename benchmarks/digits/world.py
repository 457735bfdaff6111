"""The digits world without its pictures: questions, true answers, annotators with their errors, exact scoring.

A strip shows a few handwritten digits; a question about them needs reading (perception) and arithmetic (reasoning).
Responses have the paper's form: the caption names the digits, the think block computes, the answer answers, so both
abilities are measured exactly and apart. Two annotators demonstrate: the clean one is always right and keeps one
style; the public one makes random and systematic errors of both kinds and drifts in style. A wrong caption is
reasoned about faithfully, and a slip in the computation is carried to the answer, as people do.

Pure Python, so that every process can score.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from integrations.common.response import parse

KINDS = ("sum", "difference", "largest", "even", "order")
LETTERS = "ABCD"
LOOK_ALIKES = {
    0: (6, 8),
    1: (4, 7),
    2: (3, 7),
    3: (5, 8),
    4: (1, 9),
    5: (3, 6),
    6: (0, 5),
    7: (1, 9),
    8: (0, 3),
    9: (4, 7),
}
"""What a digit may be taken for at random."""
MISREADING = (7, 1)
"""The public annotator's consistent misreading: the first is read as the second."""
WRONG_RULE_DIGITS = 3
"""From this many digits on the public annotator loses the carry of every sum that reaches ten."""

PREFIXES = ("", "", "", "Look closely. ", "Here is a strip of handwritten digits. ")
PHRASINGS = {
    "sum": (
        "What is the sum of the digits?",
        "Add all digits.",
        "Add up every digit in the picture.",
    ),
    "difference": (
        "What is the largest digit minus the smallest?",
        "Largest minus smallest digit?",
        "Subtract the smallest digit in the picture from the largest.",
    ),
    "largest": (
        "What is the largest digit?",
        "Name the largest digit.",
        "Which of the digits in the picture is the largest?",
    ),
    "even": (
        "How many digits are even?",
        "Count the even digits.",
        "How many of the digits in the picture are even?",
    ),
    "order": (
        "What are the digits in increasing order?",
        "Sort the digits.",
        "Write the digits from the smallest to the largest.",
    ),
}
DRILL = "Work everything out."
READING = ("Which digits are shown?", "Read the digits.", "Read every digit in the picture from left to right.")

DRIFTED_CAPTIONS = ("I see {}", "digits: {}", "The picture shows {}.")
DRIFTED_THOUGHTS = ("well, {}", "so {} I think", "Let me see. {}")


@dataclass(frozen=True)
class Question:
    """One question about one strip."""

    kind: str
    """One of KINDS."""
    level: str
    """`easy` or `hard`, by the number of digits."""
    digits: tuple[int, ...]
    """What the strip really shows, left to right."""
    text: str
    """The user's turn."""
    options: tuple[str, ...] | None
    """Four values behind the letters A to D, or None for an open question."""

    @property
    def answer(self) -> str:
        """The reference answer: a value, or a letter where there are options."""
        right = conclude(self.kind, self.digits, self.options)
        assert right is not None, "the true value is always among the options"
        return right


@dataclass(frozen=True)
class Annotator:
    """How someone demonstrates; rates in 0..1 (see `DigitsWorld`). The default is the clean annotator."""

    perception_random: float = 0.0
    perception_systematic: float = 0.0
    reasoning_random: float = 0.0
    reasoning_systematic: float = 0.0
    drift: float = 0.0
    """Chance that this response leaves the clean style."""


CLEAN = Annotator()


@dataclass(frozen=True)
class Demonstration:
    """A response, and which errors were made in it: names of `Annotator`'s rates."""

    text: str
    mistakes: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Score:
    """Exact judgement of one response."""

    answer: bool
    """The answer is the reference answer. False where the form is not met."""
    perception: bool
    """The caption's digits are exactly the strip's. False where the form is not met."""
    reasoning: bool | None
    """The answer follows from the caption's own digits. None where that is undefined: the form is not met, the caption
    has no digits, or what follows from it is not among the options."""
    format: bool
    """The response has the paper's form."""


def value(kind: str, digits: Sequence[int]) -> str:
    """The true result for these digits."""
    if kind == "sum":
        return str(sum(digits))
    if kind == "difference":
        return str(max(digits) - min(digits))
    if kind == "largest":
        return str(max(digits))
    if kind == "even":
        return str(sum(digit % 2 == 0 for digit in digits))
    if kind == "order":
        return " ".join(map(str, sorted(digits)))
    raise ValueError(f"unknown kind of question: {kind}")


def conclude(kind: str, digits: Sequence[int], options: Sequence[str] | None) -> str | None:
    """The answer that follows from these digits; None where its value is not among the options."""
    result = value(kind, digits)
    if options is None:
        return result
    return LETTERS[list(options).index(result)] if result in options else None


def ask(rng: random.Random, digits: Sequence[int], level: str, choice_share: float) -> Question:
    """A question of a random kind about these digits; all but ordering are multiple choice at the given share."""
    kind = rng.choice(KINDS)
    text = rng.choice(PREFIXES) + rng.choice(PHRASINGS[kind])
    options = None
    if kind != "order" and rng.random() < choice_share:
        options = _options(rng, kind, digits)
        text += " " + ", ".join(f"{option} ({letter})" for letter, option in zip(LETTERS, options, strict=True))
    return Question(kind, level, tuple(digits), text, options)


def _options(rng: random.Random, kind: str, digits: Sequence[int]) -> tuple[str, ...]:
    """The true value among three wrong ones; results of the public annotator's habits come first, then near ones."""
    right = int(value(kind, digits))
    misread = [MISREADING[1] if digit == MISREADING[0] else digit for digit in digits]
    habits = [int(value(kind, misread))]
    if kind == "sum":
        habits.append(right % 10)
    near = [right + step for step in (-3, -2, -1, 1, 2, 3)]
    rng.shuffle(near)
    highest = 9 * len(digits) if kind == "sum" else 9
    wrong = list(dict.fromkeys(number for number in habits + near if 0 <= number <= highest and number != right))[:3]
    numbers = [right, *wrong]
    rng.shuffle(numbers)
    return tuple(map(str, numbers))


def demonstrate(question: Question, annotator: Annotator, rng: random.Random) -> Demonstration:
    """The annotator's response in the paper's form, with the errors it made."""
    digits, mistakes = _look(question.digits, annotator, rng)
    work, result = _compute(question, digits, annotator, rng, mistakes)
    answer = result
    if question.options is not None:
        answer = _nearest_letter(result, question.options)
        work += f" ({answer})"
    caption = " ".join(map(str, digits))
    if rng.random() < annotator.drift:
        caption = rng.choice(DRIFTED_CAPTIONS).format(caption)
        work = rng.choice(DRIFTED_THOUGHTS).format(work)
    text = f"<caption>{caption}</caption>\n<think>{work}</think>\n<answer>{answer}</answer>"
    return Demonstration(text, tuple(mistakes))


def plain_answer(question: Question) -> str:
    """A right answer without the paper's form: what the base model is taught."""
    mistakes: list[str] = []
    work, answer = _compute(question, question.digits, CLEAN, random.Random(0), mistakes)
    if question.options is not None:
        answer = _nearest_letter(answer, question.options)
        work += f" ({answer})"
    return f"{' '.join(map(str, question.digits))}: {work}: {answer}"


def drill(digits: Sequence[int]) -> str:
    """Every computation on these digits in one response: dense practice for the base model."""
    questions = [Question(kind, "", tuple(digits), "", None) for kind in KINDS]
    steps = [_compute(question, digits, CLEAN, random.Random(0), [])[0] for question in questions]
    return f"{' '.join(map(str, digits))}: {'; '.join(steps)}"


def _look(digits: Sequence[int], annotator: Annotator, rng: random.Random) -> tuple[list[int], list[str]]:
    """What the annotator reads, and the errors made in reading."""
    seen, mistakes = list(digits), []
    for place, digit in enumerate(digits):
        if digit == MISREADING[0] and rng.random() < annotator.perception_systematic:
            seen[place] = MISREADING[1]
            mistakes = ["perception_systematic"]
    if rng.random() < annotator.perception_random:
        place = rng.randrange(len(digits))
        seen[place] = rng.choice(LOOK_ALIKES[digits[place]])
        mistakes.append("perception_random")
    return seen, mistakes


def _compute(
    question: Question, digits: Sequence[int], annotator: Annotator, rng: random.Random, mistakes: list[str]
) -> tuple[str, str]:
    """The computation on the digits read, as written and its result; adds what went wrong to `mistakes`."""
    kind, low, high = question.kind, min(digits), max(digits)
    lose_carry = kind == "sum" and len(digits) >= WRONG_RULE_DIGITS and rng.random() < annotator.reasoning_systematic
    if lose_carry and sum(digits) >= 10:
        mistakes.append("reasoning_systematic")
    slip = rng.random() < annotator.reasoning_random
    if slip:
        mistakes.append("reasoning_random")
    if kind == "sum":
        return _add(digits, rng, slip, lose_carry)
    if kind == "difference":
        result = _off_by_one(high - low, rng) if slip else high - low
        return f"{high}-{low}={result}", str(result)
    if kind == "largest":
        result = rng.choice([digit for digit in range(10) if digit != high]) if slip else high
        return f"largest {result}", str(result)
    if kind == "even":
        even = [digit for digit in digits if digit % 2 == 0]
        result = _off_by_one(len(even), rng) if slip else len(even)
        return f"{' '.join(map(str, even)) or 'none'}: {result}", str(result)
    ordered = sorted(digits)
    if slip:
        ordered = _swap_unequal(ordered, rng)
    return "<".join(map(str, ordered)), " ".join(map(str, ordered))


def _add(digits: Sequence[int], rng: random.Random, slip: bool, lose_carry: bool) -> tuple[str, str]:
    """Running sums; a slip spoils one of them and is carried on, a lost carry leaves only the last digit of each."""
    wrong_step = rng.randrange(1, len(digits)) if slip else 0
    total, steps = digits[0], []
    for place, digit in enumerate(digits[1:], 1):
        after = (total + digit) % 10 if lose_carry else total + digit
        if place == wrong_step:
            after = _off_by_one(after, rng)
        steps.append(f"{total}+{digit}={after}")
        total = after
    return ", ".join(steps), str(total)


def _off_by_one(number: int, rng: random.Random) -> int:
    return number + rng.choice((-1, 1)) if number else 1


def _swap_unequal(ordered: list[int], rng: random.Random) -> list[int]:
    """Two unequal neighbours swapped; where all are equal the last one becomes another digit."""
    places = [place for place in range(len(ordered) - 1) if ordered[place] != ordered[place + 1]]
    if not places:
        return [*ordered[:-1], (ordered[-1] + 1) % 10]
    place = rng.choice(places)
    ordered[place], ordered[place + 1] = ordered[place + 1], ordered[place]
    return ordered


def _nearest_letter(result: str, options: Sequence[str]) -> str:
    """The letter of this value, or of the nearest option (the first of equally near ones)."""
    return LETTERS[min(range(len(options)), key=lambda place: abs(int(options[place]) - int(result)))]


def score(row: dict[str, Any], text: str) -> Score:
    """Judge a response to a row of the world (its `answer` and `task` are used)."""
    response = parse(text)
    if response is None:
        return Score(answer=False, perception=False, reasoning=None, format=False)
    task = row["task"]
    answer = " ".join(response.answer.split())
    seen = [int(digit) for digit in re.findall("[0-9]", response.caption)]
    follows = conclude(task["kind"], seen, task["options"]) if seen else None
    return Score(
        answer=answer == row["answer"],
        perception=seen == list(task["digits"]),
        reasoning=None if follows is None else answer == follows,
        format=True,
    )
