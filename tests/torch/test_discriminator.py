"""The discriminator: equal to the dense model without noise, and blind to everything but the text and the image."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from integrations.alignment.data.prompts import Encoder, Prompt
from integrations.alignment.data.segments import Segments, Splitter
from integrations.alignment.data.views import seen_by
from integrations.alignment.discriminators.description import Description
from integrations.alignment.discriminators.discriminator import Discriminator, new_heads
from integrations.alignment.discriminators.storage import HEADS, load, save
from integrations.alignment.discriminators.upcycle import copy_dense, upcycle
from integrations.alignment.forward.model import banned_tokens
from integrations.alignment.names import DESCRIPTION
from integrations.common.rows import Row
from integrations.errors import BadInput

World = tuple[Path, list[Row]]
Items = tuple[list[Prompt], list[int], list[Segments]]


GROWTH = {"experts": 4, "top_k": 2, "noise": 0.05, "router_std": 0.5, "seed": 0}


def build(policy: Any, encoder: Encoder, **options: Any) -> Discriminator:
    """A discriminator with noisy experts; options of `upcycle` or of the description."""
    growth = GROWTH | {name: options.pop(name) for name in GROWTH.keys() & options.keys()}
    words = {"reference": "reference", "tokenizer": "tokenizer", "held_out": 16} | options
    if options.get("architecture") == "dense":
        backbone = copy_dense(policy)
        words |= {"experts": 1, "top_k": 1, "routing": "free"}
    else:
        backbone = upcycle(policy, **growth)
        words |= {"experts": growth["experts"], "top_k": growth["top_k"]}
    description = Description(**words)
    banned = banned_tokens(encoder.tokenizer, policy.lm_head.out_features)
    width = backbone.config.text_config.hidden_size
    heads = new_heads(width, 0, description.heads) if description.score == "head" else None
    reference = policy if description.score == "likelihood_ratio" else None
    return Discriminator(backbone, description, banned, reference=reference, heads=heads)


PAPER = {
    "score": "head",
    "heads": "shared",
    "positions": "text",
    "reasoning": "alone",
    "terminator": "turn-end",
    "routing": "free",
}
KINDS: dict[str, dict[str, Any]] = {
    "default": {},
    "heads": {"score": "head"},
    "paper": PAPER,
    "two turns": {"reasoning": "alone"},
    "dense": {"architecture": "dense", "score": "head"},
    "text only": {"inputs": "text"},
}
EVERY_KIND = pytest.mark.parametrize("words", KINDS.values(), ids=KINDS.keys())


def make_items(encoder: Encoder, world: World, words: dict[str, Any] | None = None) -> Items:
    """Five prompts with 0 to 2 images, and ragged responses to each, split as the description's words say."""
    reading = {name: value for name, value in (words or {}).items() if name in ("reasoning", "terminator")}
    rows, splitter = world[1][:5], Splitter(encoder.tokenizer, **reading)
    which = [0, 1, 1, 2, 3, 4, 4, 4]
    texts = [world[1][7 + r]["response"].replace("<think>", "<think>" + "so " * r) for r in range(len(which))]
    segments = [splitter.split(text) for text in texts]
    return [encoder.encode(row) for row in rows], which, [item for item in segments if item is not None]


@pytest.fixture
def items(encoder: Encoder, world: World) -> Items:
    return make_items(encoder, world)


@pytest.mark.parametrize("reasoning", ["after_caption", "alone"])
@pytest.mark.parametrize("score", ["likelihood_ratio", "head"])
@pytest.mark.parametrize(
    ("routing", "experts", "top_k"), [("roles", 4, 2), ("free", 4, 2), ("roles", 3, 1), ("roles", 5, 3)]
)
def test_upcycled_without_noise_equals_the_dense_model(
    policy: Any, encoder: Encoder, world: World, routing: str, experts: int, top_k: int, score: str, reasoning: str
) -> None:
    """Under every routing, whether the score is read by a head or summed up from likelihoods."""
    words = {"score": score, "reasoning": reasoning}
    items = make_items(encoder, world, words)
    dense = build(policy, encoder, architecture="dense", **words).score(*items).detach()
    words |= {"routing": routing, "experts": experts, "top_k": top_k}
    plain = build(policy, encoder, noise=0.0, **words)
    torch.testing.assert_close(plain.score(*items).detach(), dense, atol=3e-4, rtol=1e-5)
    if score == "likelihood_ratio":
        assert dense.abs().max() < 3e-4
    noisy = build(policy, encoder, noise=0.05, **words)
    assert (noisy.score(*items).detach() - dense).abs().max() > 1e-2


def test_any_dense_model_is_upcycled(policy: Any, encoder: Encoder, items: Items) -> None:
    """An output layer of its own and weights in bfloat16; the copies are told apart in fp32."""
    policy.lm_head.weight = torch.nn.Parameter(policy.lm_head.weight.detach() + 0.01)
    policy.config.tie_word_embeddings = policy.config.text_config.tie_word_embeddings = False
    policy.bfloat16()
    grown = upcycle(policy, experts=4, top_k=2, noise=1e-4, router_std=0.02, seed=0)
    experts = grown.model.language_model.layers[0].mlp.experts
    assert all(value.dtype == torch.float32 for value in grown.parameters())
    assert torch.equal(grown.lm_head.weight, policy.lm_head.weight.float())
    for copies, weight in (
        (experts.down_proj, policy.model.language_model.layers[0].mlp.down_proj.weight.float()),
        (experts.gate_up_proj[:, : len(experts.gate_up_proj[0]) // 2],
         policy.model.language_model.layers[0].mlp.gate_proj.weight.float()),
    ):  # fmt: skip
        share = (copies - weight).std() / weight.std()
        assert 0.5e-4 < share < 2e-4
    assert (experts.down_proj[0] != experts.down_proj[1]).float().mean() > 0.9


def test_noise_grows_with_the_weight(policy: Any) -> None:
    """A matrix ten times as large gets ten times the noise."""
    small = upcycle(policy, **GROWTH)
    with torch.no_grad():
        for layer in policy.model.language_model.layers:
            layer.mlp.down_proj.weight.mul_(10)
    large = upcycle(policy, **GROWTH)
    for one, other in zip(small.model.language_model.layers, large.model.language_model.layers, strict=True):
        torch.testing.assert_close(10 * one.mlp.experts.down_proj, other.mlp.experts.down_proj)


@EVERY_KIND
def test_a_segment_is_read_where_it_ends_and_alone_where_that_is_asked(
    policy: Any, encoder: Encoder, world: World, words: dict[str, Any]
) -> None:
    """Changing the caption moves the score of reasoning exactly where reasoning is read after it."""
    discriminator = build(policy, encoder, **words)
    prompts, which, segments = make_items(encoder, world, words)
    other = segments[-1:] + segments[:-1]
    swapped = [
        Segments(b.ids[: b.perception] + a.ids[a.perception :], b.perception, a.answer)
        for a, b in zip(segments, other, strict=True)
    ]
    own, mixed = discriminator.score(prompts, which, segments), discriminator.score(prompts, which, swapped)
    moved = (own - mixed).abs()
    assert (moved[0] > 1e-3).any()
    assert bool((moved[1] > 1e-3).any()) == (words.get("reasoning") != "alone")


def test_a_text_only_discriminator_sees_no_image_and_the_words_around_it(
    policy: Any, encoder: Encoder, world: World
) -> None:
    prompts, which, segments = make_items(encoder, world)
    view = seen_by(Description(inputs="text", reference="", tokenizer="", held_out=0), policy.config, prompts)
    marks = [encoder.tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in
             ("vision_start", "image_pad", "vision_end")]  # fmt: skip
    for row, prompt, bare in zip(world[1], prompts, view, strict=False):
        without = encoder.tokenizer(
            encoder.text(encoder.turns(row)).replace("<|vision_start|><|image_pad|><|vision_end|>", ""),
            add_special_tokens=False,
        )["input_ids"]
        assert bare.ids.tolist() == without == [index for index in prompt.ids if index not in marks]
        assert (bare.positions == range(len(without))).all()
    discriminator = build(policy, encoder, inputs="text")
    blank = [dataclasses.replace(prompt, patches=torch.zeros_like(prompt.patches)) for prompt in prompts]
    assert torch.equal(discriminator.score(prompts, which, segments), discriminator.score(blank, which, segments))


def test_text_positions_lose_where_things_are(policy: Any, encoder: Encoder, world: World) -> None:
    prompts = [encoder.encode(row) for row in world[1][:3]]
    (none, one, two) = seen_by(Description(positions="text", reference="", tokenizer="", held_out=0), None, prompts)
    for prompt in (none, one, two):
        assert (prompt.positions == range(len(prompt.ids))).all()
    assert (none.positions == prompts[0].positions).all()
    assert (two.positions != prompts[2].positions).any()
    assert one.patches is prompts[1].patches


def test_each_role_keeps_to_its_experts(policy: Any, encoder: Encoder, items: Items) -> None:
    discriminator = build(policy, encoder)
    discriminator.evidence(*items)
    assigned = discriminator.routing.assigned_LKE
    prompt, perception, reasoning = assigned.unbind(1)
    assert (perception[:, 3] == 0).all()
    assert (reasoning[:, 0] == 0).all()
    assert (prompt.sum(0) > 0).all()
    prompts, _, segments = items
    counts = [
        sum(len(item.ids) for item in prompts),
        sum(item.perception for item in segments),
        sum(len(item.ids) - item.perception for item in segments),
    ]
    assert assigned.sum(-1).tolist() == [[2.0 * count for count in counts]] * 3


def test_perception_does_not_see_the_reasoning_that_follows(policy: Any, encoder: Encoder, items: Items) -> None:
    discriminator = build(policy, encoder)
    prompts, which, segments = items
    other = segments[::-1]
    swapped = [
        Segments(a.ids[: a.perception] + b.ids[b.perception :], a.perception, b.answer)
        for a, b in zip(segments, other, strict=True)
    ]
    own, mixed = discriminator.score(prompts, which, segments), discriminator.score(prompts, which, swapped)
    torch.testing.assert_close(own[0], mixed[0], atol=3e-4, rtol=1e-5)
    assert (own[1] - mixed[1]).abs().max() > 1e-2


@EVERY_KIND
def test_saved_and_loaded_scores_the_same(
    policy: Any, encoder: Encoder, world: World, tmp_path: Path, words: dict[str, Any]
) -> None:
    discriminator, items = build(policy, encoder, **words), make_items(encoder, world, words)
    save(discriminator, tmp_path)
    loaded = load(tmp_path, discriminator.banned_V, reference=policy, device="cpu")
    assert loaded.description == discriminator.description
    assert torch.equal(loaded.score(*items), discriminator.score(*items))
    kind = "qwen3_vl" if words.get("architecture") == "dense" else "qwen3_vl_moe"
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == kind
    assert (tmp_path / HEADS).exists() == (discriminator.description.score == "head")


def test_the_loader_refuses_a_missing_part(policy: Any, encoder: Encoder, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    discriminator = build(policy, encoder, score="head")
    save(discriminator, whole)

    def refused(name: str, change: Any) -> str:
        folder = tmp_path / name
        shutil.copytree(whole, folder)
        change(folder)
        with pytest.raises(BadInput) as caught:
            load(folder, discriminator.banned_V, reference=policy, device="cpu")
        return caught.value.problem

    assert DESCRIPTION in refused("no-description", lambda folder: (folder / DESCRIPTION).unlink())
    assert HEADS in refused("no-heads", lambda folder: (folder / HEADS).unlink())

    def rewrite(folder: Path, **change: Any) -> None:
        content = json.loads((folder / DESCRIPTION).read_text())
        content.update(change)
        (folder / DESCRIPTION).write_text(json.dumps({k: v for k, v in content.items() if v != "left out"}))

    assert "format 3" in refused("newer", lambda folder: rewrite(folder, format=3))
    assert "`routing`" in refused("less", lambda folder: rewrite(folder, routing="left out"))
    assert "`positions` is 'odd'" in refused("odd", lambda folder: rewrite(folder, positions="odd"))
    assert "not the heads" in refused("others", lambda folder: rewrite(folder, heads="shared"))
    assert "model_type" in refused("dense", lambda folder: rewrite(folder, architecture="dense"))

    def drop_a_router(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        weights = load_file(folder / "model.safetensors")
        del weights["model.language_model.layers.1.mlp.gate.weight"]
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    assert "mlp.gate.weight" in refused("no-router", drop_a_router)


@pytest.mark.parametrize(("score", "missing"), [("likelihood_ratio", "reference"), ("head", "heads")])
def test_a_discriminator_needs_what_its_score_needs(policy: Any, encoder: Encoder, score: str, missing: str) -> None:
    good = build(policy, encoder, score=score)
    with pytest.raises(ValueError, match=missing):
        Discriminator(good.backbone, good.description, good.banned_V)
