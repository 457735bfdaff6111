"""Random streams that depend on what is sampled, not on when or beside what.

Every draw in the engine comes from a generator keyed by the run's seed and the names of the thing drawn (step, prompt,
sample ...). So a resumed run repeats the uninterrupted one, and a response does not depend on its batch.
"""

from __future__ import annotations

import hashlib

import numpy as np


def derive(*parts: int | str) -> int:
    """A 63-bit seed from any sequence of integers and strings; different sequences give unrelated seeds."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(*parts: int | str) -> np.random.Generator:
    """An independent stream for these parts (Philox, counter based)."""
    return np.random.Generator(np.random.Philox(key=derive(*parts)))
