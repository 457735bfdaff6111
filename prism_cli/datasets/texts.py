"""Is this the same text: normalised words, 64-bit hashes of them, and questions found again inside other ones.

A question is found by runs of `RUN` words (as GPT-3's contamination study has it: arXiv 2005.14165, appendix C). Runs
that several questions share are their data set's instructions and say nothing, so they are left out; a question with
fewer than `LEAST` runs of its own cannot be told from chance by its text, and only its picture can show it.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

RUN = 13
"""Words in a run."""
COMMON = 3
"""A run in more than so many different questions is boilerplate."""
LEAST = 8
"""Fewest runs of its own (20 words) that a question needs: templates with other numbers share a few."""
SHARE = 0.5
"""The share of a question's runs that must be found."""
_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """Its words in lower case, without punctuation, in one spelling of every character (NFKC)."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return _WORD.findall(text.lower())


def digest(*parts: str) -> int:
    """64 bits of the parts, which stay apart from each other."""
    joined = "\0".join(parts).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(joined, digest_size=8).digest(), "big")


def _runs(found: list[str]) -> set[int]:
    return {hash(tuple(found[start : start + RUN])) for start in range(len(found) - RUN + 1)}


class TextIndex:
    """Questions that others are looked up among. Hashes are Python's own: an index lives and dies with its process."""

    def __init__(self, texts: Iterable[str]) -> None:
        shared: Counter[int] = Counter()
        seen: dict[int, int] = {}
        runs: list[set[int]] = []
        self.short = 0
        """Questions with too few runs of their own."""
        for place, text in enumerate(texts):
            found = words(text)
            own = _runs(found)
            if seen.setdefault(hash(tuple(found)), place) == place:
                shared.update(own)
            runs.append(own)
        self._places: dict[int, list[int]] = {}
        self._sizes: list[int] = []
        for place, own in enumerate(runs):
            telling = {run for run in own if shared[run] <= COMMON}
            self._sizes.append(len(telling))
            self.short += len(telling) < LEAST
            for run in telling if len(telling) >= LEAST else ():
                self._places.setdefault(run, []).append(place)

    def find(self, found: list[str]) -> int | None:
        """The place of a question of which at least `SHARE` stands in these words, or None."""
        if len(found) < RUN:
            return None
        hits: Counter[int] = Counter()
        for run in _runs(found):
            if run in self._places:
                hits.update(self._places[run])
        best = max(hits.items(), key=lambda item: (item[1] / self._sizes[item[0]], -item[0]), default=None)
        return best[0] if best is not None and best[1] >= SHARE * self._sizes[best[0]] else None
