"""The policy's gradient over groups of responses: prompts read once each, against one by one and plain padding.

8 prompts with 8 responses of 24 to 40 tokens each. `one by one` runs every prompt with every response alone; `padded`
runs all 64 in one batch, each with its own copy of the prompt and image. All sides leave the same gradient, which is
checked here before anything is timed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.perf._digits import machine, prepare, synchronize
from benchmarks.perf._timing import Options, main, result, take_turns
from integrations.alignment.model import banned_tokens
from integrations.alignment.policy import response_log_probs

ENGINE = "alignment"
ROUNDS = 7
PROMPTS, GROUP, SHORTEST, LONGEST = 8, 8, 24, 40
TOLERANCE = 1e-4
"""Largest difference between two sides' gradients, relative to their norm, that counts as rounding in fp32."""


def measure(options: Options) -> dict[str, Any]:
    model, encoder, rows, _ = prepare(options, PROMPTS)
    banned = banned_tokens(encoder.tokenizer, model.lm_head.out_features).to(model.lm_head.weight.device)
    prompts = [encoder.encode(row) for row in rows]
    which = [index for index in range(PROMPTS) for _ in range(GROUP)]
    responses = _responses(banned, len(which))

    def backward(some_prompts: list[Any], some_which: list[int], some: list[list[int]]) -> None:
        log_probs, _, _ = response_log_probs(model, some_prompts, some_which, some, banned)
        log_probs.sum().backward()

    def shared() -> None:
        backward(prompts, which, responses)

    def padded() -> None:
        backward([prompts[index] for index in which], [*range(len(which))], responses)

    def one_by_one() -> None:
        for index, response in zip(which, responses, strict=True):
            backward([prompts[index]], [0], [response])

    sides = {"prompts shared": shared, "padded": padded, "one by one": one_by_one}
    sides = {name: _from_zero(model, side) for name, side in sides.items()}
    differences = _gradient_differences(model, sides)
    times = take_turns(sides, options.rounds or ROUNDS)
    ratios = {f"{name} / prompts shared": (name, "prompts shared") for name in ("one by one", "padded")}
    lengths = {"prompt": [len(prompt.ids) for prompt in prompts], "responses": len(responses)}
    return result(times, ratios, gradient_differences=differences, **lengths, **machine())


def _responses(banned: torch.Tensor, count: int) -> list[list[int]]:
    random = np.random.default_rng(0)
    allowed = (~banned).nonzero()[:, 0].cpu().numpy()
    lengths = random.integers(SHORTEST, LONGEST + 1, count)
    return [random.choice(allowed, length).tolist() for length in lengths]


def _from_zero(model: Any, side: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        model.zero_grad(set_to_none=True)
        side()
        synchronize()

    return run


def _gradient_differences(model: Any, sides: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Each side's gradient against the first side's, relative to its norm."""
    gradients = {}
    for name, run in sides.items():
        run()
        gradients[name] = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    first, *others = gradients
    found = {name: float((gradients[name] - gradients[first]).norm() / gradients[first].norm()) for name in others}
    assert max(found.values()) < TOLERANCE, f"the sides compute different gradients: {found}"
    return found


if __name__ == "__main__":
    main(measure)
