"""The discriminator: equal to the dense model without noise, and blind to everything but the text and the image."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from integrations.alignment import contest, losses
from integrations.alignment.description import Description
from integrations.alignment.discriminator import Discriminator, new_heads
from integrations.alignment.model import banned_tokens
from integrations.alignment.names import DESCRIPTION
from integrations.alignment.players import Player
from integrations.alignment.prompts import Encoder, Prompt
from integrations.alignment.segments import Segments, Splitter
from integrations.alignment.storage import HEADS, load, save
from integrations.alignment.upcycle import copy_dense, upcycle
from integrations.alignment.world import World as Alone
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


@pytest.fixture
def items(encoder: Encoder, world: World) -> Items:
    """Five prompts with 0 to 2 images, and ragged responses to each."""
    rows, splitter = world[1][:5], Splitter(encoder.tokenizer)
    which = [0, 1, 1, 2, 3, 4, 4, 4]
    texts = [world[1][7 + r]["response"].replace("<think>", "<think>" + "so " * r) for r in range(len(which))]
    segments = [splitter.split(text) for text in texts]
    return [encoder.encode(row) for row in rows], which, [item for item in segments if item is not None]


@pytest.mark.parametrize("routing", ["roles", "free"])
@pytest.mark.parametrize(("experts", "top_k"), [(4, 2), (3, 1), (5, 3)])
def test_upcycled_without_noise_equals_the_dense_model(
    policy: Any, encoder: Encoder, items: Items, routing: str, experts: int, top_k: int
) -> None:
    plain = build(policy, encoder, routing=routing, noise=0.0, experts=experts, top_k=top_k)
    own, reference = plain.evidence(*items), plain.baseline(*items)
    torch.testing.assert_close(own.detach(), reference, atol=2e-4, rtol=1e-6)
    noisy = build(policy, encoder, routing=routing, noise=0.05, experts=experts, top_k=top_k)
    assert (noisy.evidence(*items) - reference).abs().max() > 1e-2


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


@pytest.mark.parametrize("score", ["likelihood_ratio", "head"])
def test_scores_do_not_move_with_padding_batching_or_order(
    policy: Any, encoder: Encoder, items: Items, score: str
) -> None:
    discriminator = build(policy, encoder, score=score)
    prompts, which, segments = items
    together = discriminator.score(prompts, which, segments)
    alone = torch.cat(
        [discriminator.score([prompts[p]], [0], [item]) for p, item in zip(which, segments, strict=True)], 1
    )
    torch.testing.assert_close(together, alone, atol=3e-4, rtol=1e-5)
    order = [3, 0, 7, 5, 1, 6, 2, 4]
    shuffled = discriminator.score(
        prompts[::-1], [len(prompts) - 1 - which[r] for r in order], [segments[r] for r in order]
    )
    torch.testing.assert_close(shuffled, together[:, order], atol=3e-4, rtol=1e-5)


@pytest.mark.parametrize("score", ["likelihood_ratio", "head"])
def test_the_same_text_scores_the_same_as_demonstration_and_as_response(
    policy: Any, encoder: Encoder, world: World, score: str
) -> None:
    """Through the paths the game uses: a demonstration from its row, a response from sampled tokens."""
    discriminator, splitter = build(policy, encoder, score=score), Splitter(encoder.tokenizer)
    rows = world[1]
    prompts = [encoder.encode(row) for row in rows]
    teachers = [splitter.split(row["response"]) for row in rows]
    assert all(teachers)
    spelled = [
        [index for part in row["response"] for index in encoder.tokenizer(part, add_special_tokens=False)["input_ids"]]
        for row in rows
    ]
    students = [splitter.split(splitter.vocabulary.text(ids) + "\n") for ids in spelled]
    assert students == teachers
    scores = contest.judge(discriminator, contest.pair_up(prompts, teachers, [[item] for item in students]), 5)
    for role in range(2):
        assert losses.pair_accuracy(scores.margins_2R[role]).value == pytest.approx(0.5, abs=0.13)
        assert abs(scores.margins_2R[role]).max() < 5e-4


def test_a_blank_image_changes_the_scores(policy: Any, encoder: Encoder, items: Items) -> None:
    discriminator = build(policy, encoder)
    prompts, which, segments = items
    blank = [dataclasses.replace(prompt, patches=torch.zeros_like(prompt.patches)) for prompt in prompts]
    moved = (discriminator.score(prompts, which, segments) - discriminator.score(blank, which, segments)).abs()
    for r, index in enumerate(which):
        has_image = len(prompts[index].grids) > 0
        assert (moved[:, r] > 1e-3).all() == has_image
        assert (moved[:, r] < 3e-4).all() == (not has_image)


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


def plain_gradients(
    discriminator: Discriminator, batch: contest.Batch, objective: contest.Objective, world: Alone
) -> Any:
    """The loss with one forward pass per sequence, prompt repeated."""
    values = [discriminator.score([batch.prompts[p]], [0], [item]) for p, item in zip(*batch.branches[1:], strict=True)]
    count = len(batch.prompts)
    scores = torch.cat(values, 1)
    margins = scores[:, :count][:, batch.which] - scores[:, count:]
    loss = -functional.logsigmoid(margins).sum() / len(batch.which)
    loss = loss + objective.regulariser * (scores[:, :count].pow(2).mean() + scores[:, count:].pow(2).mean())
    loss.backward()
    return scores.detach(), {n: p.grad.clone() for n, p in discriminator.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("score", ["likelihood_ratio", "head"])
def test_shared_fused_and_partial_gradients_equal_one_sequence_at_a_time(
    policy: Any, encoder: Encoder, items: Items, score: str
) -> None:
    discriminator = build(policy.double(), encoder, score=score)
    discriminator.backbone.double()
    prompts, which, segments = items
    batch = contest.Batch(prompts, segments[:5], segments, which)
    results = []
    for method, micro in ((plain_gradients, 9), (contest._fused, 9), (contest._in_parts, 2), (contest._in_parts, 4)):
        for _, value in discriminator.named_parameters():
            value.grad = None
        found = method(discriminator, batch, contest.Objective(1e-2, 0.0, micro, (5, len(which))), Alone())
        gradients = {n: p.grad.clone() for n, p in discriminator.named_parameters() if p.grad is not None}
        results.append((found[0], gradients))
    expected_scores, expected = results[0]
    for scores, gradients in results[1:]:
        torch.testing.assert_close(scores, expected_scores, atol=1e-5, rtol=1e-6)
        size = sum(value.pow(2).sum() for value in expected.values()).sqrt()
        for name, value in expected.items():
            error = (gradients[name] - value).norm() / size
            assert error < 1e-6, name  # norms, routers and heads compute in fp32 whatever the model's type
        assert len(expected) == len(gradients)


def test_the_balance_loss_does_not_depend_on_how_the_step_is_parted(
    policy: Any, encoder: Encoder, items: Items
) -> None:
    discriminator = build(policy, encoder)
    prompts, which, segments = items
    batch = contest.Batch(prompts, segments[:5], segments, which)
    gradients = []
    for method, micro in ((contest._fused, 9), (contest._in_parts, 2)):
        for _, value in discriminator.named_parameters():
            value.grad = None
        balance = method(discriminator, batch, contest.Objective(0.0, 5.0, micro, (5, len(which))), Alone())[2]
        router = discriminator.backbone.model.language_model.layers[1].mlp.gate.weight.grad.clone()
        gradients.append((balance, router))
    assert gradients[0][0] == pytest.approx(gradients[1][0], rel=1e-5)
    torch.testing.assert_close(gradients[0][1], gradients[1][1], atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("score", ["likelihood_ratio", "head"])
def test_saved_and_loaded_scores_the_same(
    policy: Any, encoder: Encoder, items: Items, tmp_path: Path, score: str
) -> None:
    discriminator = build(policy, encoder, score=score)
    save(discriminator, tmp_path)
    banned = discriminator.banned_V
    loaded = load(tmp_path, banned, reference=policy, device="cpu")
    assert torch.equal(loaded.score(*items), discriminator.score(*items))
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "qwen3_vl_moe"


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
        (folder / DESCRIPTION).write_text(json.dumps({k: v for k, v in content.items() if v is not None}))

    assert "format 3" in refused("newer", lambda folder: rewrite(folder, format=3))
    assert "`routing`" in refused("less", lambda folder: rewrite(folder, routing=None))

    def drop_a_router(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        weights = load_file(folder / "model.safetensors")
        del weights["model.language_model.layers.1.mlp.gate.weight"]
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    assert "mlp.gate.weight" in refused("no-router", drop_a_router)


def test_teacher_against_teacher_stays_at_chance(policy: Any, encoder: Encoder, world: World) -> None:
    """Trained to tell two samples of the same writer apart, it cannot, on prompts it has not seen."""
    import random

    rng, splitter = random.Random(0), Splitter(encoder.tokenizer)

    def write(row: Row) -> Segments:
        a, b = rng.randint(1, 9), rng.randint(1, 9)
        text = f"<caption>{a} {b}</caption>\n<think>{a}+{b}={a + b}</think>\n<answer>{a + b}</answer>"
        segments = splitter.split(text)
        assert segments is not None
        return segments

    discriminator = build(policy, encoder)
    player = Player(
        "discriminator",
        discriminator.named_parameters(),
        learning_rate=3e-3,
        weight_decay=0.01,
        warmup_steps=0,
        gradient_clip=1.0,
    )
    rows = world[1]
    objective = contest.Objective(1e-3, 0.01, 8)
    for step in range(25):
        some = [rows[(step * 8 + index) % 16] for index in range(8)]
        prompts, writers = [encoder.encode(row) for row in some], [write(row) for row in some]
        batch = contest.pair_up(prompts, writers, [[write(r)] * 2 for r in some])
        contest.learn(discriminator, player, batch, objective, step, Alone())
    fresh = rows[16:]
    count, wins = 0, 0.0
    for _ in range(125):
        prompts = [encoder.encode(row) for row in fresh]
        batch = contest.pair_up(prompts, [write(row) for row in fresh], [[write(row)] for row in fresh])
        margins = contest.judge(discriminator, batch, 8).margins_2R.sum(0)
        share = losses.pair_accuracy(margins)
        wins, count = wins + share.value * share.n, count + share.n
    assert count >= 1000
    interval = losses.wilson(wins, count, z=2.576)
    assert interval.low < 0.5 < interval.high


@pytest.mark.parametrize(("score", "missing"), [("likelihood_ratio", "reference"), ("head", "heads")])
def test_a_discriminator_needs_what_its_score_needs(policy: Any, encoder: Encoder, score: str, missing: str) -> None:
    good = build(policy, encoder, score=score)
    with pytest.raises(ValueError, match=missing):
        Discriminator(good.backbone, good.description, good.banned_V)
