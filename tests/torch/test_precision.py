"""Both players in other formats and with adapters: the same game, resumed exactly, published plainly."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from integrations.alignment.data.prompts import Encoder
from integrations.alignment.data.segments import Splitter
from integrations.alignment.discriminators import storage
from integrations.alignment.forward import batching
from integrations.alignment.forward.model import dtype_to_load, load_policy, stored_dtype
from integrations.alignment.forward.policy import response_log_probs
from integrations.alignment.game import advantages as adv
from integrations.alignment.game import contest
from integrations.alignment.game.game import Game
from integrations.alignment.names import POLICY_WEIGHTS
from integrations.alignment.rollouts.rollout import Generation
from integrations.alignment.training import checkpoints, lora
from integrations.alignment.training.players import Player
from integrations.alignment.training.world import World as Alone
from integrations.common.checkpoint import check_frozen
from integrations.common.rows import Row
from integrations.errors import BadInput
from tests.torch.conftest import response
from tests.torch.test_discriminator import build
from tests.torch.test_game import SETTINGS, groups_of, new_game

World = tuple[Path, list[Row]]
LORA = SimpleNamespace(rank=4, alpha=8.0, targets=["q_proj", "v_proj", "down_proj"])


def new(policy: Any, encoder: Encoder, world: World, *, kl: float = 0.0, **formats: Any) -> Game:
    precision = SimpleNamespace(**(vars(SETTINGS["precision"]) | formats))  # type: ignore[call-overload]
    return new_game(policy, encoder, world, precision=precision, kl=kl)


def play(game: Game, encoder: Encoder, world: World, steps: int, first: int = 0) -> None:
    """Steps of both players on made-up responses, which depend on the step alone."""
    prompts = [encoder.encode(row) for row in world[1][4:8]]
    splitter = Splitter(encoder.tokenizer)
    teachers = [splitter.split(row["response"]) for row in world[1][4:8]]
    for step in range(first, steps):
        rng = np.random.default_rng(step)
        groups = groups_of(encoder, 4)
        earned = adv.Advantages(*(rng.normal(size=(4, 4)) for _ in range(3)), 0, 0)
        batch = contest.pair_up(prompts, teachers, contest.valid_segments(groups, splitter))
        objective = contest.Objective(1e-3, 0.01, 4)
        contest.learn(game.discriminator, game.judge, batch, objective, step, game.session.world)
        game.policy_step.take(prompts, groups, earned, step)


def everything(game: Game) -> Iterator[torch.Tensor]:
    for player in (game.learner, game.judge):
        yield from dict(player.weights()).values()
        yield from player.model.values()


def log_probs(model: Any, encoder: Encoder, world: World, game: Game) -> torch.Tensor:
    """(R, T) of the demonstrations."""
    rows = world[1][:4]
    ids = [encoder.tokenizer(row["response"], add_special_tokens=False)["input_ids"] for row in rows]
    with torch.no_grad():
        prompts = [encoder.encode(row) for row in rows]
        return response_log_probs(model, prompts, [0, 1, 2, 3], ids, game.session.banned_V)[0]


@pytest.mark.parametrize(
    "formats",
    [
        {},
        {"moments": "8bit"},
        {"compute": "bf16"},
        {"compute": "bf16", "masters": "fp32", "moments": "bf16", "freeze_vision": True},
        {"compute": "bf16", "masters": "none", "moments": "offload"},
        {"lora": LORA},
        {"lora": LORA, "discriminator_lora": LORA, "compute": "bf16", "moments": "8bit"},
    ],
    ids=lambda formats: " ".join(str(value) for value in formats.values() if value is not LORA) or "plain",
)
def test_a_game_killed_and_resumed_ends_in_the_same_bits(
    policy: Any, encoder: Encoder, world: World, formats: dict[str, Any], tmp_path: Path
) -> None:
    game = new(policy, encoder, world, **formats)
    play(game, encoder, world, 1)
    checkpoints.save(tmp_path, 1, game.state())
    play(game, encoder, world, 3, first=1)

    resumed = new(policy, encoder, world, **formats)
    found = checkpoints.newest(tmp_path)
    assert found is not None
    resumed.restore(*found)
    play(resumed, encoder, world, 3, first=1)
    started = new(policy, encoder, world, **formats)
    assert all(torch.equal(a, b) for a, b in zip(everything(game), everything(resumed), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(everything(game), everything(started), strict=True))


def test_adapters_are_published_merged_and_change_nothing_else(
    policy: Any, encoder: Encoder, world: World, checkpoint: Path, tmp_path: Path
) -> None:
    game = new(policy, encoder, world, lora=LORA)
    assert sum(value.numel() for value in game.learner.parameters.values()) < 0.1 * policy.num_parameters()
    play(game, encoder, world, 5)
    checkpoints.save(tmp_path, 5, game.state())
    saved = checkpoints.newest(tmp_path)
    assert saved is not None
    assert (tmp_path / "step-000005" / POLICY_WEIGHTS).is_file()

    plain = load_policy(checkpoint)
    own, trained = dict(plain.named_parameters()), dict(game.policy.named_parameters())
    assert saved[1]["policy"].keys() == own.keys()
    touched = 0
    for name, value in own.items():
        prefix = f"{name.removesuffix('.weight')}.lora"
        low, high = trained.get(f"{prefix}_A.default.weight"), trained.get(f"{prefix}_B.default.weight")
        wanted = value.double()
        if low is not None and high is not None:
            wanted, touched = wanted + 2.0 * high.double() @ low.double(), touched + 1
        assert torch.allclose(saved[1]["policy"][name].double(), wanted, rtol=1e-6, atol=1e-8), name
    assert touched == 9
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(saved[1]["policy"][name])
    there, here = log_probs(plain, encoder, world, game), log_probs(game.policy, encoder, world, game)
    assert (there - here).abs().max() < 1e-4
    assert (here - log_probs(policy, encoder, world, game)).abs().max() > 1e-2


@pytest.mark.parametrize("words", [{}, {"architecture": "dense", "score": "head"}], ids=["experts", "dense"])
def test_a_discriminator_learns_by_adapters_and_is_saved_without(
    policy: Any, encoder: Encoder, world: World, words: dict[str, Any], tmp_path: Path
) -> None:
    discriminator = build(policy, encoder, **words)
    before = {name: value.detach().clone() for name, value in discriminator.named_parameters()}
    adapted = lora.add(discriminator.backbone, LORA, 0)
    player = Player(
        "discriminator",
        discriminator.named_parameters(),
        learning_rate=1e-2,
        weight_decay=0.0,
        warmup_steps=0,
        gradient_clip=1.0,
        adapted=adapted,
    )
    prompts, splitter = [encoder.encode(row) for row in world[1][4:8]], Splitter(encoder.tokenizer)
    teachers = [splitter.split(row["response"]) for row in world[1][4:8]]
    batch = contest.pair_up(prompts, teachers, contest.valid_segments(groups_of(encoder, 4), splitter))
    losses = []
    for step in range(8):
        _, found = contest.learn(discriminator, player, batch, contest.Objective(1e-3, 0.0, 4), step, Alone())
        losses.append(found["discriminator_loss"])
    assert losses[-1] < 0.9 * losses[0]
    weights = dict(player.weights())
    assert weights.keys() == before.keys()
    moved = {name.split(".")[-2] for name, value in weights.items() if not torch.equal(value, before[name])}
    dense = {"q_proj", "v_proj", "down_proj", "perception", "reasoning"}
    assert moved == (dense if words else {"q_proj", "v_proj"})

    storage.save(discriminator, tmp_path, weights.items())
    loaded = storage.load(tmp_path, discriminator.banned_V, reference=discriminator.reference, device="cpu")
    scores = contest.judge(discriminator, batch, 4), contest.judge(loaded, batch, 4)
    assert np.allclose(scores[0].student_2R, scores[1].student_2R, atol=1e-3)


def test_adapters_for_matrices_that_a_model_lacks_are_refused(policy: Any, encoder: Encoder) -> None:
    backbone = build(policy, encoder).backbone
    with pytest.raises(BadInput, match=r"none of the adapters' targets \(up_proj, down_proj\)"):
        lora.add(backbone, SimpleNamespace(rank=4, alpha=8.0, targets=["up_proj", "down_proj"]), 0)


@pytest.mark.parametrize("compute", ["fp32", "bf16"])
def test_the_reference_of_adapters_is_the_policy_without_them_in_the_same_memory(
    policy: Any, encoder: Encoder, world: World, compute: str
) -> None:
    game = new(policy, encoder, world, lora=LORA, compute=compute, kl=0.1)
    start = log_probs(game.reference, encoder, world, game)
    assert torch.equal(start, log_probs(game.policy, encoder, world, game))
    play(game, encoder, world, 3)
    assert torch.equal(log_probs(game.reference, encoder, world, game), start)
    assert not torch.equal(log_probs(game.policy, encoder, world, game), start)
    shared = {value.data_ptr() for value in game.policy.parameters()}
    assert all(value.data_ptr() in shared for value in game.reference.parameters())
    assert game.discriminator.reference is game.reference


@pytest.mark.parametrize("compute", ["fp32", "bf16"])
def test_adapters_learn_the_same_where_layers_are_computed_again(
    policy: Any, encoder: Encoder, world: World, compute: str
) -> None:
    found = []
    for again in (False, True):
        game = new(policy, encoder, world, lora=LORA, compute=compute)
        if again:
            batching.checkpoint_layers(game.policy)
        play(game, encoder, world, 2)
        found.append({name: value.detach() for name, value in game.learner.parameters.items()})
    assert any(bool(value.any()) for name, value in found[0].items() if "lora_B" in name)
    for name, value in found[0].items():
        assert torch.allclose(found[1][name], value, rtol=1e-4, atol=1e-7), name


@pytest.mark.parametrize("formats", [{}, {"compute": "bf16"}, {"lora": LORA}], ids=["fp32", "bf16", "lora"])
def test_a_frozen_vision_tower_keeps_every_bit_in_both_models(
    policy: Any, encoder: Encoder, world: World, formats: dict[str, Any]
) -> None:
    game = new(policy, encoder, world, freeze_vision=True, **formats)
    players = (game.learner, game.judge)
    before = [{name: value.clone() for name, value in player.weights()} for player in players]
    play(game, encoder, world, 2)
    for player, old in zip(players, before, strict=True):
        moved = {name for name, value in player.weights() if not torch.equal(value, old[name])}
        assert moved
        assert not [name for name in moved if "visual" in name]
        assert any("visual" in name for name in old)
    loaded = dict(policy.named_parameters())
    assert all(torch.equal(value, loaded[name]) for name, value in before[0].items() if "visual" in name)


def test_without_the_freeze_the_vision_tower_learns(policy: Any, encoder: Encoder, world: World) -> None:
    game = new(policy, encoder, world)
    before = {name: value.clone() for name, value in game.learner.weights()}
    play(game, encoder, world, 2)
    moved = [name for name, value in game.learner.weights() if not torch.equal(value, before[name])]
    assert any("visual" in name for name in moved)


def test_a_bf16_model_stays_one_on_disk_and_has_masters_between(
    policy: Any, encoder: Encoder, world: World, tmp_path: Path
) -> None:
    narrow, saved = tmp_path / "narrow", tmp_path / "discriminator"
    copy.deepcopy(policy).to(torch.bfloat16).save_pretrained(narrow)
    assert dtype_to_load(narrow, "fp32") == torch.float32
    dtype = dtype_to_load(narrow, "bf16")
    assert dtype == stored_dtype(narrow) == torch.bfloat16
    game = new(load_policy(narrow, dtype=dtype), encoder, world, compute="bf16", freeze_vision=True)
    play(game, encoder, world, 2)
    for player in (game.learner, game.judge):
        assert not player.frozen
        weights = dict(player.weights())
        assert {value.dtype for value in weights.values()} == {torch.float32}
        assert any(not torch.equal(value, value.to(torch.bfloat16).float()) for value in weights.values())
    storage.save(game.discriminator, saved, game.judge.weights(), dtype=torch.bfloat16)
    assert stored_dtype(saved) == torch.bfloat16
    check_frozen(saved, narrow, "visual.")
    loaded = storage.load_backbone(saved, "moe", dtype=torch.bfloat16)
    wanted = {name: value.to(torch.bfloat16) for name, value in game.judge.weights()}
    assert all(torch.equal(value, wanted[name]) for name, value in loaded.named_parameters())


def test_bf16_computes_nearly_what_fp32_does_and_scores_in_fp32(policy: Any, encoder: Encoder, world: World) -> None:
    splitter = Splitter(encoder.tokenizer)
    prompts = [encoder.encode(row) for row in world[1][4:8]]
    segments = [splitter.split(row["response"]) for row in world[1][4:8]]
    found = {}
    for compute in ("fp32", "bf16"):
        game = new(policy, encoder, world, compute=compute)
        with torch.no_grad():
            game.discriminator.routing.reset()
            scores = game.discriminator.score(prompts, [0, 1, 2, 3], segments)
        found[compute] = log_probs(game.policy, encoder, world, game), scores
    (exact, scores), (near, rough) = found["fp32"], found["bf16"]
    assert near.dtype == rough.dtype == torch.float32
    assert 0 < (near - exact).abs().mean() < 0.02
    assert (rough - scores).abs().max() < 0.3  # nats, over sums of some 25 tokens' log-probabilities, twice
    assert not torch.equal(rough, rough.to(torch.bfloat16).float())


@pytest.mark.parametrize(
    "formats",
    [{}, {"compute": "bf16"}, {"compute": "bf16", "moments": "8bit"}, {"lora": LORA}],
    ids=["fp32", "bf16", "8bit", "lora"],
)
def test_the_reward_is_followed_in_every_format(
    policy: Any, encoder: Encoder, world: World, formats: dict[str, Any]
) -> None:
    """Two responses of a group, one rewarded: its share of their probability must grow."""
    game = new(policy, encoder, world, **formats)
    prompts = [encoder.encode(row) for row in world[1][:2]]
    good, bad = (written(encoder, text) for text in (response("3 4", "3+4=7", "7"), response("8 1", "8+1=5", "5")))
    scores = np.array([[1.0, -1.0], [-1.0, 1.0]])
    earned = adv.advantages(np.stack([scores, scores]), np.ones((2, 2), bool), adv.Rule())

    def preference() -> float:
        with torch.no_grad():
            sums = response_log_probs(
                game.policy, prompts, [0, 0, 1, 1], [good.token_ids, bad.token_ids] * 2, game.session.banned_V
            )[0].sum(1)
        return float(sums[0] - sums[1] + sums[2] - sums[3])

    start = preference()
    for step in range(5):
        game.policy_step.take(prompts, [[good, bad], [bad, good]], earned, step)
    assert preference() > start + 0.5


def written(encoder: Encoder, text: str) -> Generation:
    ids = encoder.tokenizer(text, add_special_tokens=False)["input_ids"]
    return Generation([*ids, encoder.tokenizer.convert_tokens_to_ids("<|im_end|>")], text, True)
