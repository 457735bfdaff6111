"""Where perception ends and reasoning begins, for demonstrations and responses alike.

A response `<caption>..</caption> <think>..</think> <answer>..</answer>` has two segments: perception, up to and with
the token that holds the end of `</caption>`, and reasoning, all the rest with the end of turn. Both sides go through
`Splitter.split`: text in, the same token ids, boundary and terminator out, whoever wrote it. White space outside the
blocks is replaced by one newline between caption and reasoning, so it cannot betray the author; white space inside a
block is the author's. Nothing is ever cut short.

Differs from the paper's code, which re-tokenises the demonstration's segments, ends them with a padding token, keeps
the response's own tokens and finds the boundary by decoding every prefix: there the last token alone tells who wrote
the segment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from integrations.common.response import parse

Role = Literal["perception", "reasoning"]
ROLES: tuple[Role, ...] = ("perception", "reasoning")
END_OF_TURN = "<|im_end|>"
CAPTION_END = b"</caption>"


@dataclass(frozen=True)
class Segments:
    """One response as the discriminator reads it."""

    ids: tuple[int, ...]
    """Token ids of both segments in order; the last one is the end of turn."""
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


class Splitter:
    """Text to segments; see the module's docstring.

    Args:
        tokenizer: a fast transformers tokenizer (offsets are needed).
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.vocabulary = Vocabulary(tokenizer)

    def split(self, text: str) -> Segments | None:
        """The response's segments, or None when it has not the three blocks or holds a special token's text."""
        response = parse(text)
        if response is None:
            return None
        perception = text[: response.perception_end].strip()
        canonical = f"{perception}\n{text[response.reasoning_start :].strip()}"
        encoded = self.tokenizer(canonical, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
        if self.vocabulary.special.intersection(ids):
            return None
        boundary = sum(start < len(perception) for start, _ in offsets)
        return Segments(ids=(*ids, self.vocabulary.end), perception=boundary, answer=response.answer)
