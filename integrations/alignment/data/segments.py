"""Where perception ends and reasoning begins, for demonstrations and responses alike.

A response `<caption>..</caption> <think>..</think> <answer>..</answer>` has two segments: perception, up to and with
the token that holds the end of `</caption>`, and reasoning, all the rest with its terminator. Both sides go through
`Splitter.split`: text in, the same token ids, boundary and terminator out, whoever wrote it. White space outside the
blocks is replaced by one newline between them, so it cannot betray the author; white space inside a block is the
author's. A response's own tokens are not used: a policy may spell a text in tokens that the tokenizer
would not choose, and those would betray it too. Time is linear in the text's length: one pass of the tokenizer, whose
offsets give the boundary.

Differs from the paper's code, which re-tokenises the demonstration's segments, cuts them at 512 tokens, ends them
with a padding token, keeps the response's own tokens and finds the boundary by decoding every prefix, in quadratic
time: there the last token alone tells who wrote the segment. Cutting is an option here (`teacher_tokens`); a
terminator of one side alone is not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from integrations.common.response import Response, parse

Role = Literal["perception", "reasoning"]
ROLES: tuple[Role, ...] = ("perception", "reasoning")
END_OF_TURN = "<|im_end|>"
CAPTION_END = b"</caption>"
BETWEEN = re.compile(r"</think>\s*<answer>")
Offsets = list[tuple[int, int]]
"""First character and end of each token."""


@dataclass(frozen=True)
class Segments:
    """One response as the discriminator reads it."""

    ids: tuple[int, ...]
    """Token ids of both segments in order, terminators included."""
    perception: int
    """Number of tokens in the perception segment: `ids[:perception]`. Reasoning is `ids[perception:]`."""
    answer: str
    """Content of the answer block."""

    @property
    def last(self) -> tuple[int, int]:
        """Positions of the two segments' last tokens, where a head reads its score."""
        return self.perception - 1, len(self.ids) - 1


def byte_alphabet() -> dict[str, int]:
    """Byte-level BPE's printable stand-ins: character -> byte (the mapping of GPT-2's vocabulary)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + index): byte for index, byte in enumerate(others)}


class Vocabulary:
    """The bytes each token stands for, so that text and boundaries are found in one pass over the ids.

    Args:
        tokenizer: a transformers tokenizer with a byte-level BPE vocabulary (Qwen's).
    """

    def __init__(self, tokenizer: Any) -> None:
        alphabet = byte_alphabet()
        added = tokenizer.added_tokens_decoder
        self.end: int = tokenizer.convert_tokens_to_ids(END_OF_TURN)
        if self.end is None or self.end not in added:
            raise ValueError(f"the tokenizer has no {END_OF_TURN} token")
        self.special = {index for index, token in added.items() if token.special}
        self.pieces: list[bytes] = [b""] * len(tokenizer)
        for token, index in tokenizer.get_vocab().items():
            self.pieces[index] = token.encode() if index in added else bytes(alphabet[character] for character in token)

    def text_bytes(self, ids: Sequence[int]) -> bytes:
        """The response's bytes, without its end of turn. Ids outside the vocabulary raise IndexError."""
        return b"".join(self.pieces[index] for index in ids if index != self.end)

    def text(self, ids: Sequence[int]) -> str:
        """The response's text, without its end of turn; bytes that are not UTF-8 become U+FFFD."""
        return self.text_bytes(ids).decode("utf-8", errors="replace")

    def perception_tokens(self, ids: Sequence[int]) -> int:
        """Number of leading tokens that begin before the end of the first `</caption>`; 0 when there is none.

        Meant for sampled ids, whose own boundaries decide which tokens are credited with which segment.
        """
        end = self.text_bytes(ids).find(CAPTION_END)
        if end < 0:
            return 0
        position, limit = 0, end + len(CAPTION_END)
        for count, index in enumerate(ids):
            if position >= limit:
                return count
            position += len(self.pieces[index])
        return len(ids)


@dataclass(frozen=True)
class Piece:
    """One segment without its terminator."""

    text: str
    """From its first token's first character to its last token's end."""
    ids: list[int]
    offsets: Offsets
    """Into `text`. Tokens that share a character, as pieces of one of several bytes, have the same ones."""


class Splitter:
    """Text to segments; see the module's docstring.

    Args:
        tokenizer: a fast transformers tokenizer (offsets are needed).
        reasoning: `after_caption` for a response that is read as one sequence, `alone` for two, each with a
            terminator of its own, as the paper's code reads them.
        terminator: `end-of-turn` ends a sequence with `<|im_end|>`; `turn-end` closes the turn as the chat template
            does, with a newline after it, as in the paper's warm-up.
    """

    def __init__(self, tokenizer: Any, reasoning: str = "after_caption", terminator: str = "end-of-turn") -> None:
        self.tokenizer = tokenizer
        self.vocabulary = Vocabulary(tokenizer)
        self.alone = reasoning == "alone"
        newline = tokenizer("\n", add_special_tokens=False)["input_ids"] if terminator == "turn-end" else []
        self.terminator: tuple[int, ...] = (self.vocabulary.end, *newline)

    def split(self, text: str, limit: int | None = None) -> Segments | None:
        """The response's segments, or None when it has not the three blocks or holds a special token's text.

        Args:
            limit: tokens that are kept of each segment, terminators apart; None: all.
        """
        response = parse(text)
        pieces = None if response is None else self._pieces(text, response)
        if response is None or pieces is None:
            return None
        perception, reasoning = (piece.ids[:limit] for piece in pieces)
        if self.alone:
            perception = [*perception, *self.terminator]
        return Segments((*perception, *reasoning, *self.terminator), len(perception), response.answer)

    def pieces(self, text: str) -> tuple[Piece, Piece] | None:
        """Perception and reasoning without terminators; None where `split` gives None."""
        response = parse(text)
        return None if response is None else self._pieces(text, response)

    def _pieces(self, text: str, response: Response) -> tuple[Piece, Piece] | None:
        perception = text[: response.perception_end].strip()
        reasoning = BETWEEN.sub("</think>\n<answer>", text[response.reasoning_start :].strip())
        if self.alone:
            both = self._piece(perception), self._piece(reasoning)
        else:
            whole = self._piece(f"{perception}\n{reasoning}")
            boundary = sum(start < len(perception) for start, _ in whole.offsets)
            both = _part(whole, 0, boundary), _part(whole, boundary, len(whole.ids))
        return None if any(self.vocabulary.special.intersection(piece.ids) for piece in both) else both

    def _piece(self, text: str) -> Piece:
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return Piece(text, encoded["input_ids"], encoded["offset_mapping"])


def _part(whole: Piece, begin: int, end: int) -> Piece:
    offsets = whole.offsets[begin:end]
    first, last = offsets[0][0], offsets[-1][1]
    return Piece(whole.text[first:last], whole.ids[begin:end], [(a - first, b - first) for a, b in offsets])
