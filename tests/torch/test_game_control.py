"""The whole game with its control: the best state is kept, it ends early, gates close, and it resumes the same."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from integrations.alignment.data.prompts import Encoder
from integrations.alignment.discriminators.description import Description
from integrations.alignment.game import heldout, metrics
from integrations.alignment.game.game import Game, check_discriminator
from integrations.alignment.names import DESCRIPTION
from integrations.alignment.rollouts.rollout import Generation
from integrations.alignment.training import checkpoints
from integrations.common.files import hash_file, hash_folder, write_json
from integrations.common.rows import Row
from integrations.errors import BadInput, StageFailed
from tests.torch.test_control import check
from tests.torch.test_game import World, groups_of, new_game

PAPER = {"credit": "mixed", "invalid": "lowest", "format_penalty": 1.5, "score_clip": 10.0, "balance": 0.0}
Start = Callable[..., Game]


@pytest.fixture
def start(policy: Any, encoder: Encoder, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Makes games that sample written responses and are checked by a script: one pair accuracy or check per step."""

    def make(script: Sequence[Any], **change: Any) -> Game:
        given = {"check_every": 1, "checkpoint_every": 1, "group_size": 4, "prompts_per_step": 2, "micro_prompts": 2}
        folders = {"checkpoint_dir": tmp_path, "result_dir": tmp_path / "result", "progress_file": tmp_path / "log"}
        game = new_game(policy, encoder, world, job=folders | {"steps": len(script) - 1}, **(given | change))

        def sample(rows: Sequence[Row], *rest: Any) -> list[list[Generation]]:
            return groups_of(encoder, len(rows))

        def scripted(*rest: Any, **named: Any) -> dict[str, float]:
            found = script[game.step]
            return found if isinstance(found, dict) else check(found)

        monkeypatch.setattr(game.session.rollouts, "sample", sample)
        monkeypatch.setattr(heldout, "check", scripted)
        return game

    return make


def result(game: Game) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((game.session.job.result_dir / "result.json").read_text())
    return content


def kept(game: Game) -> dict[str, torch.Tensor]:
    return load_file(game.session.job.result_dir / "model.safetensors")


def weights(game: Game) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in game.learner.weights()}


def test_the_best_checks_policy_becomes_the_result(start: Start) -> None:
    short = start([0.9, 0.8, 0.6])
    short.run()
    game = start([0.9, 0.8, 0.6, 0.7, 0.7, 0.75], keep="best")
    game.run()
    about, found = result(game), kept(game)
    assert (about["kept_step"], about["step"]) == (2, 5)
    assert about["metrics"] == check(0.6)
    for name, value in weights(short).items():
        assert torch.equal(found[name], value), name
    assert any(not torch.equal(found[name], value) for name, value in weights(game).items())
    folders = checkpoints.step_folders(game.session.job.checkpoint_dir)
    assert [step for step, _ in folders] == [5, 4, 2], "the two newest and the best"


def test_resumed_after_a_kill_the_best_is_still_known(start: Start) -> None:
    script = [0.9, 0.6, 0.8, 0.7, 0.7, 0.7]
    straight = start(script, keep="best")
    straight.run()
    expected, facts = kept(straight), result(straight)
    first = start(script[:4], keep="best")
    folder = first.session.job.checkpoint_dir
    for _, path in checkpoints.step_folders(folder):
        path.rename(folder / f"old-{path.name}")
    first.run()
    again = start(script, keep="best")
    saved = checkpoints.newest(folder)
    assert saved is not None
    assert saved[0] == 3
    again.restore(*saved)
    again.run()
    assert result(again) == facts
    assert facts["kept_step"] == 1
    for name, value in kept(again).items():
        assert torch.equal(value, expected[name]), name
    assert again.control == straight.control
    assert again.margin.value == straight.margin.value


def test_a_best_checkpoint_that_is_gone_is_an_error_and_no_result(start: Start, tmp_path: Path) -> None:
    game = start([0.9, 0.6, 0.8], keep="best")
    game.control.check(0, check(0.9), game.session.job.settings, 4)
    game.control.check(7, check(0.3), game.session.job.settings, 4)
    with pytest.raises(StageFailed, match="best step, 7, is damaged or gone"):
        game.run()
    assert not (tmp_path / "result").exists()


def test_the_game_ends_early_and_says_why(start: Start) -> None:
    game = start([check(0.8, answer=1.0), check(0.8, answer=0.9), check(0.8, answer=0.0), 0.8], stop_when="falling")
    game.run()
    about = result(game)
    assert (about["step"], about["stopped_early"]) == (2, True)
    assert about["stopped"] == "falling on held-out prompts: answer 100% -> 0%"
    equal = start([0.8, 0.51, 0.51], stop_when="indistinguishable")
    equal.run()
    assert equal.step == 1
    resumed = start([0.8, 0.51, 0.51], stop_when="indistinguishable")
    resumed.restore(1, equal.state())
    resumed.run()
    assert resumed.step == 1, "a stopped game stays stopped"


def test_a_gated_role_moves_nothing_and_is_counted(start: Start) -> None:
    blind = check(0.8, right_over_wrong_perception=0.5, right_over_wrong_reasoning=0.5)
    game = start([blind, blind, blind], min_separation=0.6)
    before = weights(game)
    game.run()
    assert all(torch.equal(before[name], value) for name, value in weights(game).items())
    assert result(game)["totals"]["gated_perception"] == 2
    seeing = check(0.8, right_over_wrong_perception=0.5, right_over_wrong_reasoning=0.9)
    half = start([seeing, seeing], min_separation=0.6)
    half.run()
    assert any(not torch.equal(before[name], value) for name, value in weights(half).items())
    totals = result(half)["totals"]
    assert (totals["gated_perception"], totals["gated_reasoning"]) == (1, 0)


def test_the_band_scales_the_discriminators_rate_alone(start: Start) -> None:
    game = start([0.8, 0.8])
    game.control.scale = 0.5
    found = game.one_step()
    assert found["discriminator_scale"] == 0.5
    assert [group["lr"] for group in game.judge.optimizer.param_groups] == [0.5e-3]
    assert [group["lr"] for group in game.learner.optimizer.param_groups] == [1e-3]


def test_every_step_says_what_it_saw(start: Start) -> None:
    found = start([0.8, 0.8], stop_when="either").one_step()
    for name in ("pair_accuracy", "margin", "reward_spread", "gated"):
        assert {f"{name}_perception", f"{name}_reasoning"} <= found.keys(), name
    for name in (
        "discriminator_loss",
        "discriminator_gradient",
        "policy_loss",
        "policy_gradient",
        "entropy",
        "caption",
    ):
        assert name in found
    for phase in ("rollout", "discriminator", "policy"):
        assert found[f"tflops_{phase}"] > 0
        assert f"mfu_{phase}" not in found, "there is no figure for this processor"
    assert found["advantage_max"] >= found["advantage_abs"] > 0
    assert abs(found["advantage_mean"]) < 1e-9
    assert (found["valid"], found["truncated"]) == (1.0, 0.0)
    assert not [name for name in found if not documented(name)]


def documented(name: str) -> bool:
    """Whether the list at the head of `metrics` has it, as it is or in parts."""
    said = {word.strip(".,;:()") for word in (metrics.__doc__ or "").split()}
    for word, stands_for in (
        (r"(?<=_)(perception|reasoning)", "ROLE"),
        ("(?<=_)(rollout|discriminator|policy|sync)$", "PHASE"),
    ):
        name = re.sub(word, stands_for, name)
    whole, *ends = re.split(r"(?=_within$|_same_style$|_same_length$)", name)
    return name in said or (whole in said and {*ends} <= said)


def test_only_paper_mode_pushes_groups_without_a_valid_response(policy: Any, encoder: Encoder, world: World) -> None:
    own, paper = (new_game(policy, encoder, world, **change) for change in ({}, PAPER))
    assert own.one_step()["policy_skipped"] == 1
    found = paper.one_step()
    assert found["policy_skipped"] == 0
    assert found["advantage_mean"] == found["advantage_abs"] * -1 == -1.5


def test_importance_weights_need_log_probabilities_and_cap_them(start: Start, encoder: Encoder) -> None:
    with pytest.raises(StageFailed, match="tells no log-probabilities"):
        start([0.8, 0.8], importance="truncated").one_step()
    gradients = []
    for shift, options in ((0.0, {}), (0.0, {"importance": "truncated"}), (-9.0, {"importance": "truncated"})):
        game = start([0.8, 0.8], gradient_clip=1e9, **options)
        game.learner.optimizer.step = lambda: None  # type: ignore[method-assign]
        sample = game.session.rollouts.sample
        game.session.rollouts.sample = telling(game, sample, shift)  # type: ignore[method-assign]
        found = game.one_step()
        assert found["logprob_gap_mean"] == pytest.approx(abs(shift), abs=1e-4)
        gradients.append({name: value.grad for name, value in game.policy.named_parameters()})
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value, rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(gradients[2][name], 2 * value, rtol=1e-3, atol=1e-6)


def telling(game: Game, sample: Any, shift: float) -> Any:
    """The sampler with the policy's own log-probabilities, `shift` added."""
    from integrations.alignment.forward.policy import response_log_probs

    @torch.no_grad()
    def told(rows: Sequence[Row], *rest: Any) -> list[list[Generation]]:
        groups = sample(rows, *rest)
        prompts = [game.session.encoder.encode(row) for row in rows]
        which = [index for index, group in enumerate(groups) for _ in group]
        ids = [item.token_ids for group in groups for item in group]
        values, _, _ = response_log_probs(game.policy, prompts, which, ids, game.session.banned_V)
        lists = iter((values[row, : len(own)] + shift).tolist() for row, own in enumerate(ids))
        return [[Generation(item.token_ids, item.text, True, next(lists)) for item in group] for group in groups]

    return told


@pytest.mark.parametrize("player", ["discriminator", "policy"])
def test_a_loss_that_is_not_a_number_ends_the_stage_before_anything_is_written(
    player: str, start: Start, tmp_path: Path
) -> None:
    game = start([0.8, 0.8])
    models = {"discriminator": game.discriminator.backbone, "policy": game.policy}
    with torch.no_grad():
        models[player].lm_head.weight[5] = float("nan")
    with pytest.raises(StageFailed, match=f"the {player}'s loss is nan"):
        game.run()
    assert not (tmp_path / "result").exists()
    assert checkpoints.step_folders(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tokenizer": "other"}, "another tokenizer"),
        ({"reference": "other"}, "scores against another policy"),
        ({"held_out": 2}, "holds 4 prompts out, the discriminator only 2"),
    ],
)
def test_a_discriminator_made_for_something_else_is_refused(
    change: dict[str, Any], says: str, start: Start, checkpoint: Path, tmp_path: Path
) -> None:
    made = {"tokenizer": hash_file(checkpoint / "tokenizer.json"), "reference": hash_folder(checkpoint), "held_out": 4}
    job = dataclasses.replace(start([0.8, 0.8]).session.job, base_model=checkpoint, policy=checkpoint)
    write_json(tmp_path / DESCRIPTION, dataclasses.asdict(Description(**made)))
    check_discriminator(job, tmp_path)
    write_json(tmp_path / DESCRIPTION, dataclasses.asdict(Description(**(made | change))))
    with pytest.raises(BadInput, match=says):
        check_discriminator(job, tmp_path)
