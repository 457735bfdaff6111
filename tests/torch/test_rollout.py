"""Sampling: equal to transformers' own generation, the same in any batch, and never a media token."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Qwen3VLForConditionalGeneration

from integrations.alignment.data.prompts import Encoder
from integrations.alignment.data.seeds import derive
from integrations.alignment.forward.batching import Tails, continue_prompts, read_prompts, repeat
from integrations.alignment.forward.model import banned_tokens
from integrations.alignment.forward.policy import response_log_probs
from integrations.alignment.rollouts.rollout import Rollouts, Sampling, choose, generate
from integrations.common.rows import Row

World = tuple[Path, list[Row]]


def hf_inputs(processor: Any, encoder: Encoder, row: Row) -> Any:
    images = [Image.open(encoder.data_dir / path) for path in row["images"]]
    return processor(text=[encoder.text(encoder.turns(row))], images=images or None, return_tensors="pt")


def test_prompts_equal_the_processors_own(processor: Any, encoder: Encoder, world: World, policy: Any) -> None:
    for row in world[1][:6]:
        prompt, inputs = encoder.encode(row), hf_inputs(processor, encoder, row)
        assert prompt.ids.tolist() == inputs["input_ids"][0].tolist()
        if row["images"]:
            torch.testing.assert_close(prompt.patches, inputs["pixel_values"])
        positions, _ = policy.model.get_rope_index(
            inputs["input_ids"],
            mm_token_type_ids=(inputs["input_ids"] == encoder.image_id).int(),
            image_grid_thw=inputs.get("image_grid_thw"),
        )
        assert np.array_equal(prompt.positions, positions[:, 0].numpy())


def test_only_the_latest_prompts_are_kept(processor: Any, world: World) -> None:
    rows = [row for row in world[1] if row["images"]][:6]
    size = max(Encoder(processor, world[0]).encode(row).patches.nbytes for row in rows)
    encoder = Encoder(processor, world[0], keep_bytes=2 * size)
    first = encoder.encode(rows[0])
    assert encoder.encode(rows[0]) is first
    for row in rows[1:]:
        encoder.encode(row)
    again = encoder.encode(rows[0])
    assert again is not first
    assert torch.equal(again.patches, first.patches)
    assert sum(prompt.patches.nbytes for prompt in encoder._prompts.values()) == encoder._kept_bytes <= 2 * size


def test_greedy_equals_transformers_generate(
    checkpoint: Path, processor: Any, policy: Any, encoder: Encoder, world: World
) -> None:
    plain = Qwen3VLForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
    banned = banned_tokens(processor.tokenizer, plain.lm_head.out_features).nonzero()[:, 0].tolist()
    rows = world[1][:6]
    ours = generate(policy, processor, rows, world[0], temperature=0, max_new_tokens=12, seeds=[0] * 6, batch_size=4)
    for row, [generation] in zip(rows, ours, strict=True):
        inputs = hf_inputs(processor, encoder, row)
        theirs = plain.generate(**inputs, max_new_tokens=12, do_sample=False, suppress_tokens=banned)
        assert generation.token_ids == theirs[0, inputs["input_ids"].shape[1] :].tolist()


def test_samples_do_not_depend_on_batch_or_order(policy: Any, processor: Any, world: World) -> None:
    def seed(row: Row, sample: int) -> int:
        return derive("test", row["id"], sample)

    rows = world[1][:6]
    options: dict[str, Any] = {"samples": 3, "max_new_tokens": 16, "seeds": seed}
    together = generate(policy, processor, rows, world[0], batch_size=64, **options)
    alone = [generate(policy, processor, [row], world[0], batch_size=3, **options)[0] for row in rows]
    backwards = generate(policy, processor, rows[::-1], world[0], batch_size=6, **options)[::-1]
    assert together == alone == backwards
    assert len({tuple(sample.token_ids) for sample in together[0]}) == 3


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.0), Sampling(0.7, top_p=0.8, top_k=50)])
def test_log_probs_are_the_trainers(sampling: Sampling, policy: Any, encoder: Encoder, world: World) -> None:
    """Whatever the sampling, they are the policy's own: at temperature 1 over the tokens that may be sampled."""
    rows, rollouts = world[1][:6], Rollouts(policy, encoder)
    rollouts.banned[12 : rollouts.vocabulary.end] = True  # so that the end of turn is among few, and lengths are ragged
    sampling = replace(sampling, max_new_tokens=16)
    groups = rollouts.sample(rows, 3, sampling, range(6), 64)
    responses = [item for group in groups for item in group]
    which = [index for index in range(6) for _ in range(3)]
    prompts = [encoder.encode(row) for row in rows]
    with torch.no_grad():
        expected, _, mask = response_log_probs(
            policy, prompts, which, [item.token_ids for item in responses], rollouts.banned
        )
    told = [item.log_probs for item in responses]
    assert [len(values or ()) for values in told] == mask.sum(1).tolist()
    torch.testing.assert_close(
        torch.tensor([value for values in told for value in values or ()]), expected[mask], atol=1e-5, rtol=0
    )
    assert len({len(item.token_ids) for item in responses}) > 2 or sampling.temperature == 0


def test_samples_follow_the_models_distribution() -> None:
    logits = torch.tensor([[0.0, 1.0, -1.0, 2.0, -torch.inf]]).expand(20000, -1)
    uniforms = torch.from_numpy(np.random.default_rng(0).random(20000))
    counts = torch.bincount(choose(logits, uniforms, Sampling(0.7)), minlength=5) / 20000
    torch.testing.assert_close(counts, (logits[0] / 0.7).softmax(-1), atol=0.015, rtol=0)
    nucleus = choose(logits, uniforms, Sampling(1.0, top_p=0.6))
    assert set(nucleus.tolist()) == {3}


def test_top_k_comes_before_top_p() -> None:
    logits = torch.tensor([[0.0, 1.0, -1.0, 2.0, 0.5]]).expand(20000, -1)
    uniforms = torch.from_numpy(np.random.default_rng(0).random(20000))
    most_likely = torch.tensor([[3, 1]])
    counts = torch.bincount(choose(logits, uniforms, Sampling(0.8, top_k=2)), minlength=5) / 20000
    expected = (logits[0, most_likely[0]] / 0.8).softmax(-1)
    torch.testing.assert_close(counts[most_likely[0]], expected, atol=0.015, rtol=0)
    assert counts[most_likely[0]].sum() == 1
    # Of the two that are left the first has 73% of the mass, of all five 55%.
    assert set(choose(logits, uniforms, Sampling(1.0, top_p=0.7, top_k=2)).tolist()) == {3}
    assert set(choose(logits, uniforms, Sampling(1.0, top_p=0.7)).tolist()) == {3, 1}
    assert set(choose(logits, uniforms, Sampling(1.0, top_k=9)).tolist()) == {0, 1, 2, 3, 4}


def test_media_and_padding_tokens_are_never_sampled(policy: Any, processor: Any, world: World) -> None:
    with torch.no_grad():
        policy.model.language_model.embed_tokens.weight[processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")] *= (
            50
        )
    banned = banned_tokens(processor.tokenizer, policy.lm_head.out_features)
    groups = generate(policy, processor, world[1][:4], world[0], samples=4, max_new_tokens=20, seeds=[1, 2, 3, 4])
    assert not any(banned[token] for group in groups for sample in group for token in sample.token_ids)
    assert banned[len(processor.tokenizer) :].all()


def test_shared_prompt_equals_each_sequence_alone(policy: Any, encoder: Encoder, world: World) -> None:
    """Values and gradients, float64: prompts with 0, 1 and 2 images, several ragged continuations each."""
    policy.double()
    prompts = [encoder.encode(row) for row in world[1][:5]]
    rng = np.random.default_rng(1)
    which = [0, 0, 1, 1, 1, 2, 3, 4, 4]
    tails = [rng.integers(0, 256, int(rng.integers(1, 9))).tolist() for _ in which]
    weights = [torch.from_numpy(rng.standard_normal((len(tail), 32))) for tail in tails]

    state = repeat(read_prompts(policy, prompts), torch.tensor(which))
    hidden = continue_prompts(policy, state, Tails.pack(tails))
    sum((hidden[r, : len(tails[r])] * weights[r]).sum() for r in range(len(which))).backward()
    shared = {name: value.grad.clone() for name, value in policy.named_parameters() if value.grad is not None}

    policy.zero_grad()
    for r, index in enumerate(which):
        prompt = prompts[index]
        ids = torch.from_numpy(np.concatenate([prompt.ids, tails[r]]))[None]
        vision = {"pixel_values": prompt.patches.double(), "image_grid_thw": prompt.grids} if len(prompt.grids) else {}
        alone = policy.model(
            input_ids=ids, mm_token_type_ids=(ids == encoder.image_id).int(), use_cache=False, **vision
        ).last_hidden_state[0, len(prompt.ids) :]
        torch.testing.assert_close(hidden[r, : len(tails[r])], alone, atol=1e-10, rtol=1e-10)
        (alone * weights[r]).sum().backward()
    for name, value in policy.named_parameters():
        if value.grad is not None:
            error = (shared[name] - value.grad).norm() / value.grad.norm().clamp_min(1e-12)
            assert error < 1e-6, name  # transformers' RMS norm computes in fp32 whatever the model's type
