"""What the plan says of the alignment's memory beside what torch allocates: one step of each player, on a CPU.

Used by test_planning.py with a small model and by tests/campaign/plan_memory.py with one of more than 50 million
parameters. Only tensors count (the allocator's own events), not the interpreter.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from benchmarks.perf import _models
from benchmarks.perf._counting import peak_memory
from integrations.alignment.discriminators.discriminator import new_heads
from integrations.alignment.forward.batching import Limits, checkpoint_layers
from integrations.alignment.forward.model import prepare
from integrations.alignment.forward.policy import Part, policy_gradient
from integrations.alignment.game import contest, losses
from integrations.alignment.training import adamw
from integrations.alignment.training.players import Player
from integrations.alignment.training.world import World
from prism_cli.planning import alignment as plan
from prism_cli.planning import models

FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Case:
    """One step to measure."""

    player: str
    """`policy` or `discriminator`."""
    compute: str = "fp32"
    checkpointing: bool = False
    branches: int = 2
    """Responses whose graph is held at once."""
    score: str = "head"
    moments: str = "fp32"
    head_chunk: int = 128

    def __str__(self) -> str:
        kept = "checkpointing" if self.checkpointing else "all kept"
        score = f", {self.score}" if self.player == "discriminator" else ""
        return f"{self.player}{score}, {self.compute}, {kept}, {self.branches} at once, moments {self.moments}"

    @property
    def precision(self) -> Any:
        """As the recipe's `precision`."""
        return SimpleNamespace(
            compute=self.compute,
            masters="split",
            moments=self.moments,
            lora=None,
            discriminator_lora=None,
            freeze_vision=False,
            micro_branches=self.branches,
            head_chunk=self.head_chunk,
            gradient_checkpointing=self.checkpointing,
        )


@dataclass(frozen=True)
class Found:
    """Bytes, measured and planned."""

    states: tuple[float, float]
    """Weights, masters and moments."""
    step: tuple[float, float]
    """What a step needs beside them, at its peak."""
    terms: dict[str, float]

    @property
    def error(self) -> float:
        """The plan's relative error of both together."""
        measured, planned = self.states[0] + self.step[0], self.states[1] + self.step[1]
        return planned / measured - 1


def measure(case: Case, size: _models.Size) -> Found:
    """Build the models, take one step that creates the optimizer's state, measure the next."""
    torch.manual_seed(0)
    shape = size.shape
    material = _models.step(size)
    dtype = FORMATS[case.compute]
    policy = prepare(_models.policy(size.policy, "cpu", dtype))
    dense = models.from_config(size.policy.config().to_dict(), "policy")
    if case.player == "policy":
        model, dimensions, heads = policy, dense, 0
        player = _player(case, policy.named_parameters())
        run = lambda: update(case, policy, player, material)  # noqa: E731
    else:
        grown = _models.backbone(size.discriminator, "cpu", dtype)
        found = new_heads(size.discriminator.hidden, 0) if case.score == "head" else None
        reference = policy if found is None else None
        judge = _models.discriminator(grown, found, reasoning="after_caption", reference=reference)
        judge.save_memory(case.precision)
        model, heads = judge.backbone, 2 * size.discriminator.hidden if found else 0
        dimensions = models.from_config(size.discriminator.config().to_dict(), "discriminator")
        dimensions = dimensions.mixture(_models.EXPERTS, _models.TOP_K)
        player = _player(case, judge.named_parameters())
        run = lambda: learn(case, judge, player, material)  # noqa: E731
    if case.checkpointing and case.player == "policy":
        checkpoint_layers(model)
    run()
    for value in (*player.parameters.values(), *player.parts.values()):
        value.grad = None
    planned = plan.Player(dimensions, case.precision, None, 1, heads)
    terms = _terms(case, planned, shape)
    states = sum(plan.Player(dimensions, case.precision, None, 1, heads).states.values())
    return Found((float(held(player)), states), (float(peak_memory(run, "cpu")), sum(terms.values())), terms)


def _terms(case: Case, player: plan.Player, shape: _models.Shape) -> dict[str, float]:
    held = 1
    branches = min(case.branches, shape.group + (case.player == "discriminator"))
    graph = plan.graph(
        player.model,
        player.width,
        prompts=(held, shape.prompt),
        branches=(branches, shape.response),
        images=shape.image * shape.prompts,
        head_chunk=case.head_chunk,
        checkpointing=case.checkpointing,
        freeze_vision=False,
        logits=case.player == "policy" or case.score == "likelihood_ratio",
        largest=player.largest,
    )
    every = (shape.group + (case.player == "discriminator")) * shape.prompts
    return plan.peak(player, graph, alone=branches == every)


def _player(case: Case, parameters: Iterator[tuple[str, nn.Parameter]]) -> Player:
    options: dict[str, Any] = {"learning_rate": 1e-6, "weight_decay": 0.0, "warmup_steps": 0, "gradient_clip": 1.0}
    return Player(case.player, parameters, precision=case.precision, **options)


def held(player: Player) -> int:
    """Bytes of weights, masters and moments, each memory once."""
    tensors: list[torch.Tensor] = list(player.model.values())
    optimizer = player.optimizer
    if isinstance(optimizer, adamw.NarrowAdamW):
        for slot in optimizer.slots.values():
            for vector in (slot.weight, slot.first, slot.second):
                tensors += vector.tensors.values()
    else:
        tensors += [item for state in optimizer.state.values() for item in state.values() if torch.is_tensor(item)]
    storages = {item.untyped_storage().data_ptr(): item.untyped_storage().nbytes() for item in tensors}
    return sum(storages.values())


def update(case: Case, policy: Any, player: Player, material: _models.Step) -> None:
    """The policy's step, as `game.policy_step` takes it."""
    banned_V = torch.zeros(policy.lm_head.out_features, dtype=torch.bool)
    responses = [student.ids for student in material.students]
    tokens = sum(map(len, responses))

    def loss(part: Part) -> torch.Tensor:
        weights_RT = torch.tensor([material.advantages[row] for row in part.rows])[:, None].expand_as(part.log_probs_RT)
        return losses.policy_loss(part.log_probs_RT, weights_RT, part.mask_RT, tokens)

    player.begin(0)
    limits = Limits(1, case.branches, case.head_chunk)
    policy_gradient(policy, material.prompts, material.which, responses, loss, banned_V, limits)
    player.finish(0.0)


def learn(case: Case, judge: Any, player: Player, material: _models.Step) -> None:
    """The discriminator's step."""
    batch = contest.Batch(material.prompts, material.teachers, material.students, material.which)
    contest.learn(judge, player, batch, contest.Objective(1e-3, 0.01, 1, case.branches), 0, World())
