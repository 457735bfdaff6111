"""A step of alignment without its rollouts: prompts shared and passed once, against the published code's scheme.

Both sides have the same weights, data, threads and optimizers and take turns in one process; `_reference` says what
the published code's scheme is. A step of the `small` size is one prompt of 256 tokens, 192 of them an image, a
demonstration and 16 responses of 100 tokens of caption and 300 of reasoning. Before anything is timed, scores and
gradients of both sides are compared.

    prism bench alignment                 on a CPU, one thread
    prism bench alignment --size 2b       a 2B policy and discriminator with random weights, bfloat16, on a GPU

`discriminator` is scoring and the discriminator's step, `fused` from one pass or `micro` in parts (the large sizes
have only that); `policy` is the policy's step, with the pass for old log-probabilities where the scheme has one;
`step` is both. `memory` compares the most that `micro` and the reference hold beyond weights and optimizer. Ratios are
the reference's figure over ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.perf import _costs, _models, _reference
from benchmarks.perf._counting import count, peak_memory
from benchmarks.perf._digits import machine, synchronize
from benchmarks.perf._models import Shape, Size, Step
from benchmarks.perf._timing import Options, Times, main, result, take_turns
from integrations.alignment.discriminators.discriminator import Discriminator, new_heads
from integrations.alignment.forward.batching import Limits
from integrations.alignment.forward.model import prepare
from integrations.alignment.forward.policy import Part, policy_gradient
from integrations.alignment.game import contest, losses
from integrations.alignment.training.players import Player
from integrations.alignment.training.world import World

ENGINE = "alignment"
ROUNDS = 3
REGULARISER = 1e-3
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.2}
"""Largest difference of gradients, relative to their norm, that counts as rounding."""
MICRO = 4
"""Demonstrations and responses whose graph `micro` holds at once."""

JUDGE, JUDGE_FUSED, JUDGE_MICRO = "discriminator, reference", "discriminator, fused", "discriminator, micro"
JUDGE_RATIO, JUDGE_ALONE = "discriminator, fused, likelihood ratio", "discriminator, fused, reasoning alone"
POLICY, POLICY_FUSED, POLICY_MICRO = "policy, reference", "policy, fused", "policy, micro"


@dataclass(frozen=True)
class Bench:
    """The models, each with one set of weights that both sides use."""

    judge: _reference.Judge
    discriminators: dict[str, Discriminator]
    """By side."""
    plain_policy: Any
    """The policy as transformers runs it, and as this engine does."""
    policy: Any
    players: dict[str, Player]
    """`discriminator` and `policy`."""
    fits: bool
    """`Size.fits`."""

    @property
    def models(self) -> list[Any]:
        """Everything that runs."""
        ours = [item.backbone for item in self.discriminators.values()]
        return [self.judge.backbone, *ours, self.plain_policy, self.policy]

    @property
    def ours(self) -> tuple[str, str]:
        """This engine's sides that the ratios are of: one pass where a step's graph fits in memory."""
        return (JUDGE_FUSED, POLICY_FUSED) if self.fits else (JUDGE_MICRO, POLICY_MICRO)


def build(size: Size, device: str, dtype: torch.dtype) -> Bench:
    """Models with random weights; they learn at rate zero, so every round has the same weights."""
    plain = _models.backbone(size.discriminator, device, dtype)
    plain_policy = _models.policy(size.policy, device, dtype)
    policy = prepare(_models.twin(plain_policy))
    heads = new_heads(size.discriminator.hidden, 0, device=device)
    discriminators = {
        JUDGE_FUSED: _models.discriminator(_models.twin(plain), heads, reasoning="after_caption"),
        JUDGE_ALONE: _models.discriminator(_models.twin(plain), heads, reasoning="alone"),
        JUDGE_RATIO: _models.discriminator(_models.twin(plain), None, reasoning="after_caption", reference=policy),
    }
    options: dict[str, Any] = {"learning_rate": 0.0, "weight_decay": 0.0, "warmup_steps": 0, "gradient_clip": 1.0}
    trained = [*plain.named_parameters(), *((f"heads.{name}", value) for name, value in heads.named_parameters())]
    players = {
        "discriminator": Player("discriminator", trained, **options),
        "policy": Player("policy", policy.named_parameters(), **options),
    }
    return Bench(_reference.Judge(plain, heads), discriminators, plain_policy, policy, players, size.fits)


def learn(bench: Bench, side: str, step: Step, branches: int = 0) -> contest.Scores:
    """This engine's discriminator step, without the load-balancing loss that the published code leaves out.

    Args:
        branches: demonstrations and responses whose graph is held at once; 0 for all.
    """
    batch = contest.Batch(step.prompts, step.teachers, step.students, step.which)
    objective = contest.Objective(REGULARISER, 0.0, 1 if branches else len(step.prompts), branches)
    scores, _ = contest.learn(bench.discriminators[side], bench.players["discriminator"], batch, objective, 0, World())
    return scores


def update_policy(bench: Bench, step: Step, branches: int = 0) -> None:
    """This engine's policy step; `branches` as in `learn`."""
    player, model = bench.players["policy"], bench.policy
    banned_V = torch.zeros(model.lm_head.out_features, dtype=torch.bool, device=model.lm_head.weight.device)
    responses = [student.ids for student in step.students]
    advantages_R = torch.tensor(step.advantages, device=banned_V.device)
    tokens, total = sum(map(len, responses)), 0.0

    def loss(part: Part) -> torch.Tensor:
        nonlocal total
        weights_RT = advantages_R[part.rows, None].expand_as(part.log_probs_RT)
        found = losses.policy_loss(part.log_probs_RT, weights_RT, part.mask_RT, tokens)
        total += float(found.detach())
        return found

    player.begin(0)
    limits = Limits(1 if branches else len(step.prompts), branches)
    policy_gradient(model, step.prompts, step.which, responses, loss, banned_V, limits)
    player.finish(total)


def sides(bench: Bench, step: Step) -> dict[str, Callable[[], object]]:
    """What is measured, by name."""
    found: dict[str, Callable[[], object]] = {
        JUDGE: lambda: bench.judge.learn(bench.players["discriminator"], step, REGULARISER),
        JUDGE_MICRO: lambda: learn(bench, JUDGE_FUSED, step, MICRO),
        POLICY: lambda: _reference.update_policy(bench.plain_policy, bench.players["policy"], step),
        POLICY_FUSED: lambda: update_policy(bench, step),
        POLICY_MICRO: lambda: update_policy(bench, step, MICRO),
    }
    for side in bench.discriminators:
        found[side] = lambda side=side: learn(bench, side, step)  # type: ignore[misc]
    return {name: _awaited(found[name]) for name in sorted(found) if bench.fits or "fused" not in name}


def _awaited(run: Callable[[], object]) -> Callable[[], object]:
    def wait() -> object:
        done = run()
        synchronize()
        return done

    return wait


def measure(options: Options) -> dict[str, Any]:
    size = _models.SIZES[options.size or "small"]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    bench = build(size, device, torch.bfloat16 if device == "cuda" else torch.float32)
    step = _models.step(size)
    few = _models.step(size, replace(size.shape, group=2))
    differences = check(bench, few)
    runs = sides(bench, step)
    work = {name: count(run, *bench.models) for name, run in runs.items()}
    # Of the reference two responses are enough: it holds one at a time, and the gradient from the first one on.
    alone = {name: run for name, run in sides(bench, few).items() if name in (JUDGE, POLICY)}
    peaks = {name: _peak(bench, run, device) for name, run in (runs | alone).items()}
    times = take_turns(runs, options.rounds or ROUNDS, warm=True)
    judge, policy = bench.ours
    pairs = {"discriminator": (JUDGE, judge), "policy": (POLICY, policy)}
    worst = f"{max(differences.values()):.1e}"
    found = result(times, pairs, largest_difference=worst, **vars(size.shape), **machine())
    found["differences"] = differences
    found["ratios"]["step"] = _step_ratio(times, judge, policy)
    found["ratios"]["memory"] = peaks[JUDGE] / peaks[JUDGE_MICRO]
    found["micro"] = {
        "discriminator": _ratio(times, JUDGE, JUDGE_MICRO),
        "policy": _ratio(times, POLICY, POLICY_MICRO),
        "step": _step_ratio(times, JUDGE_MICRO, POLICY_MICRO),
    }
    found["phases"] = {name: vars(work[name]) | {"peak_bytes": peaks[name]} for name in runs}
    found["growth"] = growth(size, bench)
    found["tables"] = [_phase_table(found), _growth_table(found["growth"]), _micro_table(found)]
    return found


def _peak(bench: Bench, run: Callable[[], object], device: str) -> int:
    """Peak without the gradients of the run before; the optimizers' moments are there already."""
    for player in bench.players.values():
        player.begin(0)
    return peak_memory(run, device)


def _ratio(times: Times, top: str, bottom: str) -> float:
    return median(a / b for a, b in zip(times[top], times[bottom], strict=True))


def _step_ratio(times: Times, judge: str, policy: str) -> float:
    both = zip(times[JUDGE], times[POLICY], times[judge], times[policy], strict=True)
    return median((a + b) / (c + d) for a, b, c, d in both)


def check(bench: Bench, step: Step) -> dict[str, float]:
    """How far scores and gradients of both sides are apart, relative to their norm.

    The published scheme reads reasoning without its caption, so it is compared with `reasoning: alone`; where this
    engine's own way is timed, the reference is compared with reasoning read after the caption.

    Raises:
        AssertionError: further apart than rounding explains.
    """
    found = {}
    judge = bench.judge
    for side, sees_caption in ((JUDGE_ALONE, False), (JUDGE_FUSED, True)):
        other = _reference.Judge(judge.backbone, judge.heads, sees_caption)
        theirs = other.learn(bench.players["discriminator"], step, REGULARISER)
        gradient = _gradient(bench.players["discriminator"])
        ours = learn(bench, side, step).student_2R
        found[f"{side}: scores"] = float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
        found[f"{side}: gradient"] = _apart(_gradient(bench.players["discriminator"]), gradient)
    _reference.update_policy(bench.plain_policy, bench.players["policy"], step)
    gradient = _gradient(bench.players["policy"])
    update_policy(bench, step)
    found["policy: gradient"] = _apart(_gradient(bench.players["policy"]), gradient)
    worst = max(found.values())
    assert worst < TOLERANCE[bench.policy.dtype], f"the sides compute different things: {found}"
    return found


def _gradient(player: Player) -> dict[str, torch.Tensor]:
    return {name: value.grad.clone() for name, value in player.parameters.items() if value.grad is not None}


def _apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys(), "the sides train different parameters"
    difference = sum(float((one[name] - other[name]).float().norm() ** 2) for name in one)
    return (difference / sum(float(value.float().norm() ** 2) for value in other.values())) ** 0.5


def growth(size: Size, bench: Bench) -> list[dict[str, Any]]:
    """How the ratios change with the prompt's length and the group's size: computed everywhere, measured at some."""
    rows = []
    for prompt in (64, 256, 1024):
        for group in (4, 16, 32):
            shape = shape_of(size, prompt, group)
            row: dict[str, Any] = {"prompt": prompt, "group": group, "flops": _costs.ratios(size, shape)}
            if (prompt, group) in size.measured:
                row["seconds"] = _measured(size, shape, bench)
            rows.append(row)
    return rows


def shape_of(size: Size, prompt: int, group: int) -> Shape:
    """The size's own shape with another length of prompt, and so of image, and size of group."""
    return replace(_models.with_prompt(size.shape, prompt), group=group)


def _measured(size: Size, shape: Shape, bench: Bench) -> dict[str, float]:
    runs = sides(bench, _models.step(size, shape))
    judge, policy = bench.ours
    times = take_turns({name: runs[name] for name in (JUDGE, judge, POLICY, policy)}, 1, warm=True)
    return {
        "discriminator": _ratio(times, JUDGE, judge),
        "policy": _ratio(times, POLICY, policy),
        "step": _step_ratio(times, judge, policy),
    }


def _phase_table(found: dict[str, Any]) -> dict[str, Any]:
    rows = []
    for name, phase in found["phases"].items():
        seconds = found["seconds"][name]
        rows.append(
            [
                name,
                phase["tokens"],
                phase["images"],
                f"{phase['flops'] / 1e12:.2f}",
                f"{seconds:.2f}",
                f"{phase['flops'] / seconds / 1e9:.0f}",
                f"{phase['peak_bytes'] / 2**20:.0f}",
            ]
        )
    columns = ["phase", "tokens", "images", "TFLOP", "s", "GFLOP/s", "peak MiB"]
    return {"title": "What each phase runs", "columns": columns, "rows": rows}


def _growth_table(rows: list[dict[str, Any]]) -> dict[str, Any]:
    names = ("discriminator", "policy", "step")
    cells = []
    for row in rows:
        measured = row.get("seconds", {})
        computed = [f"{row['flops'][name]:.1f}" for name in names]
        told = [f"{measured[name]:.1f}" if measured else "" for name in names]
        cells.append([f"{row['prompt']} x {row['group']}", *computed, *told])
    columns = ["prompt x group", "discr.", "policy", "step", "discr. s", "policy s", "step s"]
    return {"title": "Reference over ours: operations, and seconds where measured", "columns": columns, "rows": cells}


def _micro_table(found: dict[str, Any]) -> dict[str, Any]:
    columns = ["reference over micro", *found["micro"]]
    return {"title": "In parts", "columns": columns, "rows": [["", *(f"{x:.2f}" for x in found["micro"].values())]]}


if __name__ == "__main__":
    main(measure)
