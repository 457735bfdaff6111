"""The policy's step: one gradient however it is parted, credit where it is due, and a reward that is followed."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from integrations.alignment.data.pool import read_pool
from integrations.alignment.data.prompts import Encoder
from integrations.alignment.data.segments import Splitter
from integrations.alignment.game import advantages as adv
from integrations.alignment.game import contest
from integrations.alignment.game.game import Game
from integrations.alignment.job import Job
from integrations.alignment.rollouts.rollout import Generation, Rollouts
from integrations.alignment.training.session import Session, freeze, reference_of
from integrations.common.rows import Row
from tests.torch.conftest import response
from tests.torch.test_discriminator import build

World = tuple[Path, list[Row]]
SETTINGS = {
    "kind": "align",
    "teacher": "teacher",
    "held_out": 4,
    "prompts_per_step": 4,
    "group_size": 4,
    "wording": "response",
    "learning_rate": 1e-3,
    "discriminator_learning_rate": 1e-3,
    "warmup_steps": 0,
    "weight_decay": 0.0,
    "gradient_clip": 1.0,
    "alpha": 0.5,
    "credit": "per_role",
    "normalise": "per_role",
    "invalid": "apart",
    "format_penalty": 1.0,
    "kl": 0.0,
    "importance": "none",
    "importance_cap": 2.0,
    "min_spread": 0.0,
    "min_separation": 0.0,
    "score_clip": 0.0,
    "score_regulariser": 1e-3,
    "balance": 0.01,
    "accuracy_low": 0.55,
    "accuracy_high": 0.95,
    "stop_when": "never",
    "keep": "last",
    "min_valid_share": 0.5,
    "micro_prompts": 4,
    "check_every": 100,
    "checkpoint_every": 100,
    "precision": SimpleNamespace(
        compute="fp32",
        masters="split",
        moments="fp32",
        lora=None,
        discriminator_lora=None,
        freeze_vision=False,
        micro_branches=0,
        head_chunk=1024,
        gradient_checkpointing=False,
    ),
    "rollout": SimpleNamespace(temperature=1.0, max_new_tokens=24, batch_size=16),
}


def new_game(policy: Any, encoder: Encoder, world: World, job: Any = None, **change: Any) -> Game:
    """A game of its own policy; `job` changes fields of the job, the rest settings."""
    folders = dict.fromkeys(Job.__annotations__, Path("."))
    settings = SimpleNamespace(**(SETTINGS | change))
    own = {"settings": settings, "data_dir": world[0], "steps": 10, "seed": 0, "threads": 1, "device": "cpu"}
    whole = Job(**(folders | own | (job or {})))
    splitter = Splitter(encoder.tokenizer)
    pool = read_pool(world[0] / "teacher.jsonl", 4, splitter)
    discriminator, learner = build(policy, encoder), copy.deepcopy(policy)
    discriminator.reference = reference_of(learner, settings.precision)
    for model in (learner, discriminator.backbone):
        freeze(model, settings.precision)
    session = Session(whole, learner, splitter, pool, encoder, Rollouts(learner, encoder), discriminator.banned_V)
    return Game(session, discriminator, discriminator.reference)


def written(encoder: Encoder, text: str) -> Generation:
    ids = encoder.tokenizer(text, add_special_tokens=False)["input_ids"]
    return Generation([*ids, encoder.tokenizer.convert_tokens_to_ids("<|im_end|>")], text, True)


def groups_of(encoder: Encoder, count: int) -> list[list[Generation]]:
    rng = np.random.default_rng(0)
    return [
        [written(encoder, response(f"{rng.integers(9)} 4", "so " * int(rng.integers(1, 4)), "7")) for _ in range(4)]
        for _ in range(count)
    ]


@pytest.mark.parametrize("kl", [0.0, 0.5])
def test_one_gradient_however_the_step_is_parted(policy: Any, encoder: Encoder, world: World, kl: float) -> None:
    prompts = [encoder.encode(row) for row in world[1][:4]]
    groups, rng = groups_of(encoder, 4), np.random.default_rng(1)
    earned = adv.Advantages(rng.normal(size=(4, 4)), rng.normal(size=(4, 4)), rng.normal(size=(4, 4)), 0, 0)
    gradients = []
    for micro in (4, 3, 1):
        game = new_game(policy, encoder, world, micro_prompts=micro, kl=kl, gradient_clip=1e9)
        game.learner.optimizer.step = lambda: None  # type: ignore[method-assign]
        if kl:
            with torch.no_grad():
                game.policy.lm_head.weight.mul_(1.01)
        game.policy_step.take(prompts, groups, earned, 0)
        gradients.append({name: value.grad for name, value in game.policy.named_parameters()})
    size = sum(value.pow(2).sum() for value in gradients[0].values()).sqrt()
    for other in gradients[1:]:
        for name, value in gradients[0].items():
            assert (other[name] - value).norm() / size < 1e-4, name


def test_each_token_is_credited_with_its_own_segment(policy: Any, encoder: Encoder, world: World) -> None:
    game = new_game(policy, encoder, world)
    one, two = np.array([[1.0]]), np.array([[-2.0]])
    earned = adv.Advantages(one, two, np.zeros((1, 1)), 0, 0)
    generation = written(encoder, response("3 4", "3+4=7", "7"))
    weights = game.policy_step._token_weights(earned, (0, 0), generation.token_ids)
    text = [encoder.tokenizer.decode([index]) for index in generation.token_ids]
    assert "".join(text[: int((weights == 1.0).sum())]).strip() == "<caption>3 4</caption>"
    assert set(weights[text.index("think") :]) == {-2.0}


def test_nothing_to_learn_moves_nothing(policy: Any, encoder: Encoder, world: World) -> None:
    game = new_game(policy, encoder, world)
    before = [value.clone() for value in game.policy.parameters()]
    nothing = adv.Advantages(*(np.zeros((4, 4)) for _ in range(3)), 8, 0)
    prompts = [encoder.encode(row) for row in world[1][:4]]
    assert game.policy_step.take(prompts, groups_of(encoder, 4), nothing, 0) == {"policy_skipped": 1.0}
    assert all(torch.equal(a, b) for a, b in zip(before, game.policy.parameters(), strict=True))


def test_the_policy_follows_the_reward(policy: Any, encoder: Encoder, world: World) -> None:
    """Two responses of a group, one rewarded: its share of their probability must grow."""
    from integrations.alignment.forward.policy import response_log_probs

    game = new_game(policy, encoder, world, learning_rate=3e-4)
    prompts = [encoder.encode(row) for row in world[1][:2]]
    good, bad = written(encoder, response("3 4", "3+4=7", "7")), written(encoder, response("8 1", "8+1=5", "5"))
    groups = [[good, bad], [bad, good]]
    scores = np.array([[1.0, -1.0], [-1.0, 1.0]])
    earned = adv.advantages(np.stack([scores, scores]), np.ones((2, 2), bool), adv.Rule())

    def preference() -> float:
        both = [good.token_ids, bad.token_ids] * 2
        with torch.no_grad():
            found, _, _ = response_log_probs(game.policy, prompts, [0, 0, 1, 1], both, game.session.banned_V)
        sums = found.sum(1)
        return float(sums[0] - sums[1] + sums[2] - sums[3])

    start = preference()
    for _ in range(5):
        game.policy_step.take(prompts, groups, earned, 0)
    assert preference() > start + 1


def test_a_whole_step_counts_what_it_saw(policy: Any, encoder: Encoder, world: World) -> None:
    game = new_game(policy, encoder, world)
    metrics = game.one_step()  # a random policy: no response has the form
    assert metrics["valid"] == 0
    assert metrics["groups_all_invalid"] == 4
    assert metrics["policy_skipped"] == 1
    assert "discriminator_loss" not in metrics
    assert game.generated_tokens == round(metrics["response_tokens"] * 16)


def test_a_step_without_a_valid_response_leaves_the_discriminator_alone(
    policy: Any, encoder: Encoder, world: World
) -> None:
    game = new_game(policy, encoder, world)
    before = [value.clone() for _, value in game.discriminator.named_parameters()]
    prompts = [encoder.encode(row) for row in world[1][:3]]
    teachers = [game.session.pool.demonstrations.get(row["id"]) for row in world[1][:3]]
    batch = contest.pair_up(prompts, teachers, [[None, None]] * 3)
    objective = contest.Objective(1e-3, 0.01, 8)
    scores, learnt = contest.learn(game.discriminator, game.judge, batch, objective, 0, game.session.world)
    assert learnt == {}
    assert scores.metrics() == {}
    assert scores.teacher_2B.shape == (2, 3)
    after = [value for _, value in game.discriminator.named_parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
