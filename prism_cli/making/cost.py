"""What asking a server costs, as far as it can be told before, and as it is spent."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

CHARACTERS_PER_TOKEN = 4
"""Of English text; other languages have more tokens. Only for the estimate before anything was asked."""
TOKENS_PER_IMAGE = 1300
"""Of a picture of a megapixel, as several services count it. Only for that estimate."""


@dataclass(frozen=True)
class Prices:
    """In any currency, per million tokens."""

    prompt: float = 0.0
    completion: float = 0.0

    def of(self, prompt_tokens: float, completion_tokens: float) -> float:
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6

    def __bool__(self) -> bool:
        return bool(self.prompt or self.completion)


@dataclass
class Meter:
    """Tokens as the server counts them, and what they cost. Safe from several threads."""

    prices: Prices
    most: float | None = None
    """Spent in all before asking stops; None: no bound."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    answers: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, prompt_tokens: int, completion_tokens: int) -> None:
        with self._lock:
            self.prompt_tokens += prompt_tokens
            self.completion_tokens += completion_tokens
            self.answers += 1

    @property
    def spent(self) -> float:
        return self.prices.of(self.prompt_tokens, self.completion_tokens)

    @property
    def exhausted(self) -> bool:
        return self.most is not None and self.spent >= self.most

    def to_come(self, requests: int) -> float | None:
        """What as many more answers will cost if they are like those so far; None before there are any."""
        return self.spent / self.answers * requests if self.answers else None

    def to_json(self) -> dict[str, float | int]:
        return {
            "answers": self.answers,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "cost": round(self.spent, 6),
        }


def estimate(prices: Prices, characters: int, images: int, requests: int, max_tokens: int) -> tuple[float, float]:
    """What a number of requests may cost before any was asked.

    Args:
        characters: of all requests' texts together.
        images: of all requests together.
        max_tokens: longest answer.

    Returns:
        With answers of a quarter of that length, and at most.
    """
    prompt = characters / CHARACTERS_PER_TOKEN + images * TOKENS_PER_IMAGE
    return prices.of(prompt, requests * max_tokens / 4), prices.of(prompt, requests * max_tokens)
