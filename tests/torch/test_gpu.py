"""The alignment engine on a GPU: what the CPU tests hold, again there, and what only a GPU has.

Needs torch, transformers, peft, bitsandbytes, pytest and one GPU (two where that is
said). Bounds are those of the arithmetic: fp32 without TF32 agrees with the CPU to rounding; bf16 is held against
fp32, by what transformers' own pass in bf16 loses. Where GPU kernels add up in changing order, results repeat to a
stated share of what the step moved, not bit by bit.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# cuBLAS repeats its results only with a fixed workspace, which it reads when it starts.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import numpy as np
import pytest
import torch
import torch.multiprocessing as multiprocessing

from integrations.alignment.data.prompts import Encoder, Prompt
from integrations.alignment.data.seeds import derive
from integrations.alignment.forward.batching import Limits
from integrations.alignment.forward.model import load_policy
from integrations.alignment.forward.policy import response_log_probs
from integrations.alignment.game.game import Game
from integrations.alignment.rollouts.rollout import Rollouts, Sampling
from integrations.alignment.training import checkpoints
from integrations.alignment.training.formats import Blockwise
from integrations.alignment.training.players import Player
from integrations.alignment.training.world import World as Alone
from integrations.common.rows import Row
from tests.torch import two_processes
from tests.torch.test_distributed import distance
from tests.torch.test_precision import everything, new, play
from tests.torch.test_shared_prompts import (
    assert_equal,
    learn,
    make_case,
    plain_learn,
    plain_states,
    router_gaps,
)

pytestmark = pytest.mark.gpu

World = tuple[Path, list[Row]]
Tensors = dict[str, torch.Tensor]
DEVICE = "cuda"
ROOT = Path(__file__).resolve().parents[2]
ROUNDING = 2e-4
"""Largest difference of scores in nats, and of gradients relative to their size, that fp32 explains; as on the CPU."""
REPEATED = {"fp32": 0.005, "bf16": 0.05}
"""Share of two steps' movement by which two runs of them may differ, where sums are taken in changing order."""
EIGHT_BITS = 0.1
"""The same for 8-bit moments against fp32 ones."""
SIZE = "small"
"""Of the benchmark."""
BENCHMARK_SECONDS = 600
LORA = two_processes.FORMATS["adapters"]["lora"]


@pytest.fixture(autouse=True)
def _plain_fp32() -> Iterator[None]:
    """fp32 products in fp32, and the kernels that repeat themselves wherever there are such."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def policy(checkpoint: Path) -> Any:
    return load_policy(checkpoint, DEVICE)


def new_game(checkpoint: Path, encoder: Encoder, world: World, device: str, **formats: Any) -> Game:
    return new(load_policy(checkpoint, device), encoder, world, **formats)


def copied(game: Game) -> Tensors:
    """Everything both players are: masters and what they compute with."""
    return {str(index): value.detach().cpu().clone() for index, value in enumerate(everything(game))}


def moved(before: Tensors, after: Tensors) -> Tensors:
    return {name: after[name].double() - value.double() for name, value in before.items()}


@pytest.mark.parametrize("experts", ["grouped_mm", "eager"])
def test_shared_prompts_equal_transformers_one_sequence_at_a_time(
    checkpoint: Path, encoder: Encoder, world: World, experts: str
) -> None:
    """Scores and gradients of the discriminator, against the stock model on the same GPU and in float64 on the CPU."""
    exact, slopes = plain_learn(make_case(checkpoint, encoder, world, {}, torch.float64), 1e-2)
    case = make_case(checkpoint, encoder, world, {}, torch.float32, experts, DEVICE)
    stock, expected = plain_learn(case, 1e-2)
    with router_gaps(case.discriminator) as gaps:
        results = [learn(case, limits, 1e-2) for limits in (Limits(5), Limits(2, 3))]
    assert min(gaps) > 1e-5
    for found, gradients in results:
        torch.testing.assert_close(found, stock, atol=ROUNDING, rtol=0.0)
        assert_equal(gradients, expected, 2 * ROUNDING)
        torch.testing.assert_close(found.double().cpu(), exact, atol=ROUNDING, rtol=0.0)
        assert_equal({name: value.double().cpu() for name, value in gradients.items()}, slopes, ROUNDING)


def test_the_engine_chooses_the_grouped_kernel_for_its_experts(
    checkpoint: Path, encoder: Encoder, world: World
) -> None:
    case = make_case(checkpoint, encoder, world, {}, torch.float32, None, DEVICE)
    assert case.discriminator.backbone.config.text_config._experts_implementation == "grouped_mm"


def stock_log_probs(model: Any, prompt: Prompt, tail: tuple[int, ...], banned_V: torch.Tensor) -> torch.Tensor:
    """(T,) fp32, by transformers alone, the output layer in the model's own format."""
    logits = model.lm_head(plain_states(model, prompt, tail)[:-1]).float().masked_fill(banned_V, -torch.inf)
    return logits.log_softmax(-1).gather(-1, torch.tensor(tail, device=logits.device)[:, None])[:, 0]


def test_bf16_loses_no_more_than_transformers_own_pass(checkpoint: Path, encoder: Encoder, world: World) -> None:
    """Log-probabilities of 8 demonstrations: the mean distance from fp32 is at most 1.5 times the stock model's."""
    rows = world[1][:8]
    prompts = [encoder.encode(row) for row in rows]
    tails = [tuple(encoder.tokenizer(row["response"], add_special_tokens=False)["input_ids"]) for row in rows]
    found: dict[torch.dtype, torch.Tensor] = {}
    with torch.no_grad():
        for dtype in (torch.float32, torch.bfloat16):
            model = load_policy(checkpoint, DEVICE, dtype)
            banned = Rollouts(model, encoder).banned
            ours, _, mask = response_log_probs(model, prompts, range(8), tails, banned)
            stock = [stock_log_probs(model, *pair, banned) for pair in zip(prompts, tails, strict=True)]
            found[dtype] = torch.stack([ours[mask], torch.cat(stock)]).double()
    exact, rough = found[torch.float32], found[torch.bfloat16]
    torch.testing.assert_close(exact[0], exact[1], atol=ROUNDING, rtol=0.0)
    ours_off, stock_off = (rough - exact).abs().mean(1).tolist()
    assert 0 < ours_off < 0.02
    assert ours_off < 1.5 * stock_off


def test_one_step_of_both_players_is_the_same_on_both_devices(checkpoint: Path, encoder: Encoder, world: World) -> None:
    gradients = []
    for device in ("cpu", DEVICE):
        game = new_game(checkpoint, encoder, world, device)
        play(game, encoder, world, 1)
        players = (("policy", game.learner), ("judge", game.judge))
        gradients.append(
            {
                f"{who}.{name}": value.grad.detach().cpu()
                for who, player in players
                for name, value in player.parameters.items()
                if value.grad is not None
            }
        )
    assert_equal(gradients[1], gradients[0], 2 * ROUNDING)


def test_responses_carry_the_log_probabilities_that_the_trainer_computes(
    policy: Any, encoder: Encoder, world: World
) -> None:
    rows = world[1][:4]
    rollouts = Rollouts(policy, encoder)
    sampling = Sampling(1.0, 1.0, 24)
    again = [rollouts.sample(rows, 3, sampling, lambda row, one: derive(row["id"], one), size) for size in (12, 12, 3)]
    assert again[0] == again[1]
    groups = again[0]
    ids = [item.token_ids for group in groups for item in group]
    told = torch.tensor([value for group in groups for item in group for value in item.log_probs or []])
    which = [index for index in range(len(rows)) for _ in range(3)]
    with torch.no_grad():
        prompts = [encoder.encode(row) for row in rows]
        ours, _, mask = response_log_probs(policy, prompts, which, ids, rollouts.banned)
    torch.testing.assert_close(told, ours[mask].cpu(), atol=ROUNDING, rtol=0.0)
    alone = [item.token_ids for group in again[2] for item in group]
    assert sum(one == other for one, other in zip(ids, alone, strict=True)) >= len(ids) - 1, "a batch changes no draw"


def trained(checkpoint: Path, encoder: Encoder, world: World, **formats: Any) -> tuple[Player, Tensors]:
    """The policy's player after five steps on made-up gradients, and its weights."""
    player = new_game(checkpoint, encoder, world, DEVICE, **formats).learner
    generator = torch.Generator().manual_seed(0)
    for step in range(5):
        player.begin(step)
        for value in player.parameters.values():
            value.grad = torch.randn(value.shape, generator=generator).to(value)
        player.finish(0.0)
    return player, {name: value.clone() for name, value in player.weights()}


@pytest.mark.parametrize("compute", ["fp32", "bf16"])
def test_moments_elsewhere_or_in_less_memory(checkpoint: Path, encoder: Encoder, world: World, compute: str) -> None:
    """Offloaded ones give the same weights bit by bit; 8-bit ones move them nearly alike, by bitsandbytes' kernels."""
    start = {name: value.detach() for name, value in load_policy(checkpoint, DEVICE).named_parameters()}
    _, resident = trained(checkpoint, encoder, world, compute=compute)
    away, offloaded = trained(checkpoint, encoder, world, compute=compute, moments="offload")
    small, quantised = trained(checkpoint, encoder, world, compute=compute, moments="8bit")
    moments = [tensor for slot in away.optimizer.slots.values() for tensor in slot.first.tensors.values()]  # type: ignore[union-attr]
    assert {tensor.device.type for tensor in moments} == {"cpu"}
    assert all(tensor.is_pinned() for tensor in moments) == (DEVICE == "cuda")
    assert any(isinstance(slot.first, Blockwise) for slot in small.optimizer.slots.values())  # type: ignore[union-attr]
    for name, value in resident.items():
        assert torch.equal(value, offloaded[name]), name
    change = moved(start, resident)
    apart = distance(change, moved(start, quantised))
    assert 0 < apart < EIGHT_BITS


@pytest.mark.parametrize(
    "formats",
    [{}, {"compute": "bf16", "moments": "8bit"}, {"compute": "bf16", "moments": "offload"}],
    ids=["fp32", "bf16 8bit", "bf16 offload"],
)
def test_a_game_killed_and_resumed_goes_on_the_same(
    checkpoint: Path, encoder: Encoder, world: World, tmp_path: Path, formats: dict[str, Any]
) -> None:
    """What is restored is what was saved, bit by bit; two steps later both have moved alike, to REPEATED."""
    game = new_game(checkpoint, encoder, world, DEVICE, **formats)
    start = copied(game)
    play(game, encoder, world, 1)
    checkpoints.save(tmp_path, 1, game.state())
    saved = copied(game)
    play(game, encoder, world, 3, first=1)

    resumed = new_game(checkpoint, encoder, world, DEVICE, **formats)
    found = checkpoints.newest(tmp_path)
    assert found is not None
    resumed.restore(*found)
    restored = copied(resumed)
    assert all(torch.equal(value, restored[name]) for name, value in saved.items())
    assert distance(start, saved) > 0
    play(resumed, encoder, world, 3, first=1)
    bound = REPEATED[formats.get("compute", "fp32")]
    assert distance(moved(saved, copied(game)), moved(saved, copied(resumed))) < bound


@pytest.mark.parametrize("lora", [False, True], ids=["whole", "adapters"])
def test_a_frozen_vision_tower_keeps_every_bit_in_bf16(
    checkpoint: Path, encoder: Encoder, world: World, lora: bool
) -> None:
    """From an fp32 checkpoint, so that what rounding took from the frozen weights must come back, too."""
    adapters = {"lora": LORA, "discriminator_lora": LORA} if lora else {}
    game = new_game(checkpoint, encoder, world, DEVICE, compute="bf16", freeze_vision=True, **adapters)
    loaded = dict(load_policy(checkpoint).named_parameters())
    play(game, encoder, world, 2)
    for player in (game.learner, game.judge):
        weights = {name: value.cpu() for name, value in player.weights()}
        vision = {name for name in weights if "visual" in name}
        assert vision
        assert all(torch.equal(weights[name], loaded[name]) for name in vision)
        assert any(not torch.equal(value, loaded[name]) for name, value in weights.items() if name in loaded)


@pytest.mark.gpu(2)
def test_processes_on_gpus_of_their_own_learn_what_one_does(checkpoint: Path, world: World, tmp_path: Path) -> None:
    """FSDP2 over NCCL, in as many processes as there are GPUs (at most one for each of the five prompts)."""
    (tmp_path / "model").symlink_to(checkpoint)
    (tmp_path / "data").symlink_to(world[0])
    count = max(2, min(torch.cuda.device_count(), len(two_processes.ORDER)))
    alone = two_processes.play_on_gpus(Alone(), tmp_path, DEVICE)
    arguments = (count, str(tmp_path / "store"), tmp_path, DEVICE)
    multiprocessing.spawn(two_processes.process_on_gpu, arguments, nprocs=count)
    together = torch.load(tmp_path / f"found-{count}.pt", weights_only=False, map_location=DEVICE)
    assert alone.keys() == together.keys()
    for case, one in alone.items():
        two = together[case]
        assert distance(one["gradient"], two["gradient"]) < ROUNDING, case
        for found in (one, two):
            assert distance(found["before"], found["weights"]) > 1e-7, case
        assert two["metrics"] == pytest.approx(one["metrics"], rel=1e-3, abs=1e-5), case


def test_the_benchmark_agrees_with_its_reference_and_tells_its_ratios(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It compares scores and gradients of both sides before it times them, in bf16 on a GPU."""
    (tmp_path / "digits.json").write_text("{}")
    (tmp_path / "work").mkdir()
    out = tmp_path / "result.json"
    command = [sys.executable, "-m", "benchmarks.perf.alignment", "--size", SIZE, "--out", str(out)]
    command += ["--work", str(tmp_path / "work"), "--digits", str(tmp_path / "digits.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=BENCHMARK_SECONDS)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    measured = json.loads(out.read_text())
    facts, ratios = measured["facts"], measured["ratios"]
    assert facts["device"] == (torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu")
    assert set(ratios) == {"discriminator", "policy", "step", "memory"}
    assert all(np.isfinite(value) and value > 0 for value in ratios.values())
    told = ", ".join(f"{name} {value:.2f}" for name, value in ratios.items())
    with capsys.disabled():
        print(f"\n{facts['device']}: reference over ours: {told}; largest difference {facts['largest_difference']}")
