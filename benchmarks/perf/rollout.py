"""Sampling a group of responses per prompt: prompts read once each, against transformers' `generate`.

Both sides sample 8 responses of 32 tokens to each of 8 prompts in one batch of 64 (the end of turn is forbidden, so
that both generate the same number of tokens; dropping finished responses early is not measured). `generate` repeats
each prompt with its image for every response; prompts are encoded beforehand on both sides.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import Qwen3VLForConditionalGeneration

from benchmarks.perf._digits import machine, prepare, synchronize
from benchmarks.perf._timing import Options, main, result, take_turns
from integrations.alignment.data.prompts import Encoder
from integrations.alignment.rollouts.rollout import Rollouts, Sampling
from integrations.common.rows import Row

ENGINE = "alignment"
ROUNDS = 10
PROMPTS, GROUP, TOKENS = 8, 8, 32


def measure(options: Options) -> dict[str, Any]:
    model, encoder, rows, checkpoint = prepare(options, PROMPTS)
    rollouts = Rollouts(model, encoder)
    rollouts.banned[rollouts.vocabulary.end] = True
    plain = Qwen3VLForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).to(rollouts.banned.device)
    plain.eval()
    inputs = _inputs(encoder, rows).to(rollouts.banned.device)
    forbidden = rollouts.banned.nonzero()[:, 0].tolist()

    def shared() -> int:
        groups = rollouts.sample(rows, GROUP, Sampling(1.0, 1.0, TOKENS), range(PROMPTS), PROMPTS * GROUP)
        synchronize()
        return sum(len(item.token_ids) for group in groups for item in group)

    def generate() -> int:
        found = plain.generate(
            **inputs,
            do_sample=True,
            temperature=1.0,
            top_p=1.0,
            top_k=0,
            num_return_sequences=GROUP,
            max_new_tokens=TOKENS,
            suppress_tokens=forbidden,
        )
        synchronize()
        return found[:, inputs["input_ids"].shape[1] :].numel()

    tokens = {"prompts shared": shared(), "transformers generate": generate()}
    times = take_turns({"prompts shared": shared, "transformers generate": generate}, options.rounds or ROUNDS)
    ratios = {"transformers generate / prompts shared": ("transformers generate", "prompts shared")}
    return result(times, ratios, tokens=tokens, **machine())


def _inputs(encoder: Encoder, rows: list[Row]) -> Any:
    from PIL import Image

    pictures = [[Image.open(encoder.data_dir / path).convert("RGB") for path in row["images"]] for row in rows]
    texts = [encoder.text(encoder.turns(row)) for row in rows]
    encoder.tokenizer.padding_side = "left"
    return encoder.processor(text=texts, images=pictures, padding=True, return_tensors="pt")


if __name__ == "__main__":
    main(measure)
