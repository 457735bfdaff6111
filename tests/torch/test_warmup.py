"""The discriminator stage: the likelihood's gradient, its two phases, pairs from a file, and the best weights kept."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from integrations.alignment.data.pool import read_pairs, read_pool
from integrations.alignment.data.prompts import Encoder
from integrations.alignment.data.segments import Splitter
from integrations.alignment.game import contest
from integrations.alignment.game.warmup import Warmup, schedule
from integrations.alignment.job import Job
from integrations.alignment.rollouts.rollout import Generation, Rollouts
from integrations.alignment.training.players import Player
from integrations.alignment.training.session import Session
from integrations.alignment.training.world import World as Alone
from integrations.common.rows import Row
from integrations.errors import BadInput
from tests.torch.conftest import response
from tests.torch.test_discriminator import build
from tests.torch.test_game import SETTINGS

World = tuple[Path, list[Row]]
WARMUP = {
    "kind": "discriminator",
    "prompts_per_step": 4,
    "samples": 2,
    "pretrain_steps": 2,
    "likelihood": 1.0,
    "decay": True,
    "score": "likelihood_ratio",
    "learning_rate": 1e-3,
    "weight_decay": 0.01,
    "patience": 0,
    "check_every": 2,
    "checkpoint_every": 100,
    "pairs": None,
}


def new_warmup(policy: Any, encoder: Encoder, world: World, folder: Path, **change: Any) -> Warmup:
    folders = dict.fromkeys(Job.__annotations__, folder)
    settings = SimpleNamespace(**(SETTINGS | WARMUP | change))
    own = {"settings": settings, "data_dir": world[0], "steps": 4, "seed": 0, "threads": 1, "device": "cpu"}
    job = Job(**(folders | own | {"progress_file": folder / "progress.jsonl", "result_dir": folder / "result"}))
    splitter = Splitter(encoder.tokenizer)
    pool = read_pool(world[0] / "teacher.jsonl", 4, splitter)
    discriminator = build(policy, encoder)
    session = Session(job, policy, splitter, pool, encoder, Rollouts(policy, encoder), discriminator.banned_V)
    return Warmup(session, discriminator)


def write_pairs(world: World, path: Path, count: int = 8) -> Path:
    """The authors' layout: a caption with its tags, the rest from <think> on."""
    lines = []
    for index, row in enumerate(row for row in world[1] if row["images"]):
        teacher, student = row["response"].split("\n", 1), response("I see 1 2", "so 1+2=4", "4").split("\n", 1)
        lines.append(
            {
                "id": index,
                "image": str(world[0] / row["images"][0]),
                "question": f"<image>{row['prompt']}",
                "teacher_caption": teacher[0],
                "teacher_cot": teacher[1],
                "student_caption": student[0].removeprefix("<caption>").removesuffix("</caption>"),
                "student_cot": student[1],
            }
        )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines[:count]), encoding="utf-8")
    return path


@pytest.mark.parametrize("micro_prompts", [8, 2])
def test_the_likelihood_moves_demonstrations_only(
    policy: Any, encoder: Encoder, world: World, micro_prompts: int
) -> None:
    """Its gradient is that of the plain mean negative log-likelihood, in one pass and in parts."""
    rows, splitter = world[1][:4], Splitter(encoder.tokenizer)
    prompts, teachers = [encoder.encode(row) for row in rows], [splitter.split(row["response"]) for row in rows]
    batch = contest.pair_up(prompts, teachers, [[]] * 4)  # type: ignore[arg-type]
    discriminator = build(policy, encoder)
    tokens = sum(len(item.ids) for item in batch.teachers)
    loss = -discriminator.evidence(prompts, range(4), batch.teachers).sum() / tokens
    wanted = torch.autograd.grad(loss, [value for _, value in discriminator.named_parameters()], allow_unused=True)
    options = {"learning_rate": 1e-3, "weight_decay": 0.0, "warmup_steps": 0, "gradient_clip": 1e9}
    player = Player("discriminator", discriminator.named_parameters(), **options)
    player.optimizer.step = lambda: None  # type: ignore[method-assign]
    objective = contest.Objective(1.0, 0.0, micro_prompts, pairs=0.0, likelihood=2.0)
    contest.learn(discriminator, player, batch, objective, 0, Alone())
    for (name, value), gradient in zip(discriminator.named_parameters(), wanted, strict=True):
        if gradient is not None:
            torch.testing.assert_close(value.grad, 2 * gradient, atol=2e-5, rtol=1e-3, msg=name)


def test_likelihood_first_then_pairs(policy: Any, encoder: Encoder, world: World, tmp_path: Path) -> None:
    warmup = new_warmup(policy, encoder, world, tmp_path, pairs=str(write_pairs(world, tmp_path / "pairs.jsonl")))
    steps = [warmup._one_step() for _ in range(4)]
    assert ["margin_perception" in step for step in steps] == [False, False, True, True]
    assert [step["restated"] for step in steps] == [1, 1, 1, 1]
    assert warmup.generated_tokens == 0
    assert steps[1]["discriminator_loss"] < 0, "the likelihood ratio of what was just learnt"


def test_a_head_has_no_likelihood(policy: Any, encoder: Encoder, world: World, tmp_path: Path) -> None:
    objective = new_warmup(policy, encoder, world, tmp_path, score="head")._objective()
    assert (objective.pairs, objective.likelihood) == (1, 0)


def test_the_best_weights_are_kept(
    policy: Any, encoder: Encoder, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three checks, the second the best; a run that is resumed in between keeps the same weights."""
    pairs = str(write_pairs(world, tmp_path / "pairs.jsonl"))
    warmup = new_warmup(policy, encoder, world, tmp_path, pairs=pairs, patience=1, learning_rate=1e-2)
    found = iter([3.0, 1.0, 2.0])
    monkeypatch.setattr("integrations.alignment.game.heldout.check", lambda *_, **__: {"held_out_loss": next(found)})
    kept = []
    for _ in range(3):
        warmup._one_step()
        warmup._check()
        kept.append({name: value.detach().clone() for name, value in warmup.player.weights()})
    assert warmup.finished
    assert warmup.best_check == {"held_out_loss": 1.0}
    for name, value in warmup.best.items():
        assert torch.equal(value, kept[1][name]), name
    assert any(not torch.equal(value, kept[2][name]) for name, value in warmup.best.items())
    again = new_warmup(policy, encoder, world, tmp_path, pairs=pairs, patience=1)
    again.restore(3, warmup.state())
    assert again.finished
    assert again.best.keys() == warmup.best.keys()


def test_the_rate_falls_to_a_tenth() -> None:
    factors = [schedule(step, 100) for step in range(101)]
    assert factors[0] == 1
    assert factors[50] == pytest.approx(0.55)
    assert factors[100] == pytest.approx(0.1)
    assert factors == sorted(factors, reverse=True)


def test_pairs_in_the_authors_layout(world: World, processor: Any, tmp_path: Path) -> None:
    splitter, path = Splitter(processor.tokenizer), write_pairs(world, tmp_path / "pairs.jsonl", 3)
    whole = read_pairs(path, splitter)
    assert [row["id"] for row in whole.train] == ["pairs.jsonl:1", "pairs.jsonl:2", "pairs.jsonl:3"]
    row = whole.train[0]
    assert row["student"] == response("I see 1 2", "so 1+2=4", "4")
    assert splitter.split(row["response"]) == whole.demonstrations[row["id"]]
    assert "<image>" not in row["prompt"]
    assert Path(row["images"][0]).is_file()
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    del lines[0]["student_cot"]
    lines[1]["teacher_cot"] = "no blocks"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    rest = read_pairs(path, splitter)
    assert [row["id"] for row in rest.train] == ["pairs.jsonl:3"]
    assert set(rest.dropped) == {"pairs.jsonl:1", "pairs.jsonl:2"}


@pytest.mark.parametrize(
    ("text", "problem"), [("{", "line 1: not JSON"), ("{}\n", "no usable pair"), (None, "cannot read the pairs")]
)
def test_unusable_pairs_are_refused(processor: Any, tmp_path: Path, text: str | None, problem: str) -> None:
    if text is not None:
        (tmp_path / "pairs.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(BadInput, match=problem):
        read_pairs(tmp_path / "pairs.jsonl", Splitter(processor.tokenizer))


def test_demonstrations_are_restated_where_a_response_allows_it(world: World, processor: Any) -> None:
    splitter = Splitter(processor.tokenizer)
    pool = read_pool(world[0] / "teacher.jsonl", 4, splitter)
    rows = pool.train[:2]
    groups = [
        [Generation([], response("I see 1 2", "so 1+2=4", "4"), True), Generation([], "no blocks", True)],
        [Generation([], response("I see 1 2", "so 1+2=4", "4"), False)],
    ]
    found, restated = pool.teachers(rows, groups, splitter, "response", 0)
    a, b, total = *rows[0]["response"].split("<caption>")[1].split("<")[0].split(), rows[0]["answer"]
    assert found[0] == splitter.split(response(f"I see {a} {b}", f"so {a}+{b}={total}", total))
    assert found[1] == pool.demonstrations[rows[1]["id"]], "an unfinished response lends no words"
    assert restated == 1
    assert pool.teachers(rows, groups, splitter, "demonstration", 0) == (
        [pool.demonstrations[row["id"]] for row in rows],
        0,
    )
