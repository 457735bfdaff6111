"""Pairs that differ in content and not in style: what the discriminator learns right from wrong on.

A demonstration and a response differ first of all in style, and a discriminator that is trained on such pairs learns
style: it ranks a policy's own responses, which are all in one style, hardly better than chance. Two remedies:

  - `restate` gives the demonstration's content in the words of one of the prompt's responses. Such a demonstration is
    what the responses are compared with, so that what is left to tell them apart is what they say. No reference answer
    is used, only the demonstration.
  - `edit` spoils a demonstration in one place of one role. Nothing is trained on these; the held-out check asks
    whether the discriminator prefers the whole demonstration, which can be asked of any pool.

Content means numbers here, and the answer. Words are left alone where a text has numbers: which of them are style
cannot be known. Text without numbers is not restated but where its form agrees anyway, and is edited by words.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from integrations.alignment.data.seeds import generator
from integrations.alignment.data.segments import Role
from integrations.common.response import Response, parse
from integrations.common.rows import Row

NUMBER = re.compile(r"\d+(?:\.\d+)?")
WORD = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+")


def compose(caption: str, think: str, answer: str) -> str:
    """A response in the paper's form."""
    return f"<caption>{caption}</caption>\n<think>{think}</think>\n<answer>{answer}</answer>"


def plain(text: str) -> str:
    """The text without case, white space and punctuation at its ends or repeated."""
    return " ".join(re.findall(r"[^\W_]+(?:[.,]\d+)*|[-+*/=<>^%]", text.casefold()))


def says_the_same(one: str, other: str) -> bool:
    """Whether two texts of one role state the same: equal but for case, spacing and punctuation, or the same numbers
    in the same order where both have numbers."""
    numbers = NUMBER.findall(one)
    return plain(one) == plain(other) or (bool(numbers) and numbers == NUMBER.findall(other))


def wording(text: str) -> str:
    """The text's style: its words, with every number replaced by 0."""
    return plain(NUMBER.sub("0", text))


def restate(demonstration: str, response: str) -> str | None:
    """The demonstration's content in the response's words.

    Numbers of caption and reasoning are taken over place by place, so both texts must group them alike: as many runs
    of numbers with words in between, each as long. The answer is the demonstration's, in the reasoning too.

    Returns:
        A response in the paper's form, or None where this cannot be done.
    """
    wanted, said = parse(demonstration), parse(response)
    if wanted is None or said is None:
        return None
    caption = _transplant(wanted.caption, said.caption)
    think = _transplant(wanted.think, _replace(said.think, said.answer, wanted.answer))
    if caption is None or think is None:
        return None
    return compose(caption, think, wanted.answer)


def _transplant(content: str, words: str) -> str | None:
    """`words` with the numbers of `content`; None where they do not correspond."""
    if _runs(content) != _runs(words) or (not NUMBER.search(content) and plain(content) != plain(words)):
        return None
    numbers = iter(NUMBER.findall(content))
    return NUMBER.sub(lambda _: next(numbers), words)


def _runs(text: str) -> list[int]:
    """Lengths of the runs of numbers between words."""
    runs = [0]
    for word in WORD.findall(text):
        if NUMBER.fullmatch(word):
            runs[-1] += 1
        elif runs[-1]:
            runs.append(0)
    return [run for run in runs if run]


def _replace(text: str, old: str, new: str) -> str:
    """`text` with its last `old` replaced, a word by itself; numbers stay, for they are taken over by place."""
    found = [] if NUMBER.search(old) else list(re.finditer(rf"(?<!\w){re.escape(old)}(?!\w)", text))
    return text[: found[-1].start()] + new + text[found[-1].end() :] if found else text


def restated(demonstration: str, responses: Iterable[str], *key: int | str) -> str | None:
    """The demonstration in the words of one of the responses, drawn by `key`; None where none of them will do."""
    given = list(responses)
    for index in generator(*key, "words").permutation(len(given)):
        found = restate(demonstration, given[index])
        if found is not None:
            return found
    return None


@dataclass(frozen=True)
class Editor:
    """Spoils demonstrations with what a pool says elsewhere.

    `after` holds, by role and what stands before a word, the words seen there in the pool; `answers` the pool's
    answers by their form (digits and letters).
    """

    after: Mapping[tuple[Role, str, bool], Sequence[str]]
    answers: Mapping[str, Sequence[str]]

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Editor:
        """Read a pool whose rows all have the three blocks."""
        after: dict[tuple[Role, str, bool], list[str]] = defaultdict(list)
        answers: dict[str, list[str]] = defaultdict(list)
        for row in rows:
            response = _parsed(row["response"])
            for before, word, _ in _places(response.caption):
                after["perception", before, _is_number(word)].append(word)
            answers[_form(response.answer)].append(response.answer)
        return cls(after, answers)

    def edit(self, text: str, role: Role, *key: int | str) -> str | None:
        """The demonstration with one error of a role, drawn by `key`; None where there is nothing to put in its place.

        Perception: one number of the caption (a word where it has none) becomes another that the pool has after the
        same words; reasoning and answer stay. Reasoning: its conclusion becomes another answer of the same form;
        the caption stays.
        """
        response, rng = _parsed(text), generator(*key, "edit", role)
        if role == "perception":
            caption = self._other_word(response.caption, rng)
            return None if caption is None else compose(caption, response.think, response.answer)
        others = [answer for answer in self.answers.get(_form(response.answer), ()) if answer != response.answer]
        if not others:
            return None
        answer = others[rng.integers(len(others))]
        head, found, tail = response.think.rpartition(response.answer)
        think = head + answer + tail if found else response.think
        return compose(response.caption, think, answer)

    def _other_word(self, text: str, rng: np.random.Generator) -> str | None:
        places = _places(text)
        places = [place for place in places if _is_number(place[1])] or places
        for index in rng.permutation(len(places)):
            before, word, (start, end) = places[index]
            others = [other for other in self.after.get(("perception", before, _is_number(word)), ()) if other != word]
            if others:
                return text[:start] + others[rng.integers(len(others))] + text[end:]
        return None


def _places(text: str) -> list[tuple[str, str, tuple[int, int]]]:
    """Each word with what stands before it (from the previous word on, numbers as 0) and where it is."""
    found, previous, end = [], "", 0
    for match in WORD.finditer(text):
        found.append((previous + text[end : match.start()], match.group(), match.span()))
        previous, end = "0" if _is_number(match.group()) else match.group().casefold(), match.end()
    return found


def _is_number(word: str) -> bool:
    return NUMBER.fullmatch(word) is not None


def _form(answer: str) -> str:
    """What kind of answer it is: letters as a, numbers as 0."""
    return re.sub(r"[^\W\d_]", "a", NUMBER.sub("0", answer))


def _parsed(text: str) -> Response:
    response = parse(text)
    if response is None:
        raise ValueError("a demonstration of the pool has the three blocks")
    return response
