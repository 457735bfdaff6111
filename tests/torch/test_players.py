"""What a player's numbers are kept in: exact where that is promised, as small as documented, and exact in resume."""

from __future__ import annotations

import copy
import itertools
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from integrations.alignment.training import adamw
from integrations.alignment.training.formats import BLOCK, Blockwise, joined, rounded, split
from integrations.alignment.training.players import Player
from integrations.errors import StageFailed

MASTERS, MOMENTS = ("split", "fp32", "none"), ("fp32", "bf16", "8bit", "offload")
FORMATS = [("fp32", "split"), *(("bf16", masters) for masters in MASTERS)]
EVERY_FORMAT = [(*pair, moments) for pair, moments in itertools.product(FORMATS, MOMENTS)]
Named = dict[str, torch.Tensor]


def precision(compute: str = "fp32", masters: str = "split", moments: str = "fp32") -> Any:
    return SimpleNamespace(compute=compute, masters=masters, moments=moments, lora=None, freeze_vision=False)


def make_net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(96, 72), nn.Tanh(), nn.Linear(72, 4))


def make_player(net: nn.Module, formats: Any, learning_rate: float = 1e-3) -> Player:
    return Player(
        "policy",
        net.named_parameters(),
        learning_rate=learning_rate,
        weight_decay=0.01,
        warmup_steps=3,
        gradient_clip=1.0,
        precision=formats,
    )


def learn(player: Player, net: nn.Module, steps: int, first: int = 0) -> list[float]:
    """Regression on a stream of data that depends on the step alone; losses."""
    losses, dtype = [], next(net.parameters()).dtype
    for step in range(first, steps):
        generator = torch.Generator().manual_seed(step)
        inputs = torch.randn(32, 96, generator=generator)
        wanted = inputs[:, :4].sin()
        player.begin(step)
        loss = (net(inputs.to(dtype)).float() - wanted).square().mean()
        loss.backward()
        losses.append(loss.item())
        player.finish(losses[-1])
    return losses


def same(left: Named, right: Named) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_plain_players_are_torchs_own_adamw_bit_for_bit() -> None:
    net, other = make_net(), make_net()
    losses = learn(make_player(net, precision()), net, 12)
    optimizer = torch.optim.AdamW(other.parameters(), lr=1e-3, weight_decay=0.01, betas=(0.9, 0.95))
    for step, loss in enumerate(losses):
        generator = torch.Generator().manual_seed(step)
        inputs = torch.randn(32, 96, generator=generator)
        optimizer.param_groups[0]["lr"] = 1e-3 * min(1.0, (step + 1) / 4)
        optimizer.zero_grad()
        value = (other(inputs) - inputs[:, :4].sin()).square().mean()
        value.backward()
        assert value.item() == loss
        nn.utils.clip_grad_norm_(other.parameters(), 1.0)
        optimizer.step()
    assert same(dict(net.named_parameters()), dict(other.named_parameters()))


@pytest.mark.parametrize("masters", ["split", "fp32"])
def test_masters_are_fp32_adamw_bit_for_bit(masters: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty steps on the same gradients, in pieces that do not divide the tensors, some parameters left out."""
    monkeypatch.setattr(adamw, "PIECE", 2 * BLOCK)
    torch.manual_seed(1)
    start = [torch.randn(shape) * 0.05 for shape in ((37, 53), (1000,), (3,))]
    wide = [nn.Parameter(value.clone()) for value in start]
    narrow = [nn.Parameter(rounded(value)) for value in start]
    common = {"lr": 1e-3, "weight_decay": 0.1, "betas": (0.9, 0.95)}
    plain = torch.optim.AdamW(wide, **common)
    ours = adamw.NarrowAdamW(narrow, dict(zip(narrow, start, strict=True)), masters=masters, moments="fp32", **common)
    for step in range(50):
        for group in (*plain.param_groups, *ours.param_groups):
            group["lr"] = 1e-6 if step % 2 else 1e-3
        for index, (left, right) in enumerate(zip(wide, narrow, strict=True)):
            gradient = (torch.randn(left.shape) * 10.0 ** (-(step % 5))).to(torch.bfloat16)
            given = None if (step + index) % 7 == 0 else gradient
            left.grad, right.grad = given if given is None else given.float(), given
        plain.step()
        ours.step()
        for left, right in zip(wide, narrow, strict=True):
            assert torch.equal(ours.exact(right), left)
            assert torch.equal(right, rounded(left))


def test_a_split_number_is_whole_again_whatever_its_bits() -> None:
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31, (200_000,), generator=generator).to(torch.int32)
    edges = [0, 1, 0x8000, 0x7FFF, 0x8001, 0x18000, 0x7F7FFFFF, 0x7F800000, 0x3F808000, 0x3F818000]
    bits = torch.cat([bits, torch.tensor([sign + edge for edge in edges for sign in (0, -(2**31))], dtype=torch.int32)])
    values = bits.view(torch.float32)
    weight, rest = split(values)
    assert torch.equal(joined(weight, rest).view(torch.int32), bits)
    finite = values[values.abs() < 3e38]
    nearest = finite.to(torch.bfloat16)
    error = (rounded(finite).double() - finite.double()).abs()
    assert bool((error <= (nearest.double() - finite.double()).abs()).all())


@pytest.mark.parametrize("moments", MOMENTS)
def test_split_and_full_masters_train_alike(moments: str) -> None:
    found = []
    for masters in ("split", "fp32"):
        net = make_net()
        player = make_player(net, precision("bf16", masters, moments))
        learn(player, net, 12)
        found.append(dict(player.weights()) | {f"bf16 {name}": value for name, value in net.named_parameters()})
    assert same(*found)


def test_moments_in_the_hosts_memory_change_nothing() -> None:
    found = []
    for moments in ("fp32", "offload"):
        net = make_net()
        player = make_player(net, precision("fp32", "split", moments))
        learn(player, net, 12)
        found.append(dict(player.weights()))
    assert same(*found)


BYTES = {"fp32": 8.0, "bf16": 4.0, "8bit": 2 + 2 * 4 / BLOCK, "offload": 8.0}
WEIGHT = {("fp32", "split"): 4.0, ("bf16", "split"): 4.0, ("bf16", "fp32"): 6.0, ("bf16", "none"): 2.0}


@pytest.mark.parametrize(("compute", "masters", "moments"), EVERY_FORMAT)
def test_memory_is_what_the_settings_say(compute: str, masters: str, moments: str) -> None:
    """Bytes of everything that a player holds per parameter, shared storage counted once."""
    net = nn.Linear(512, 256, bias=False)
    player = make_player(net, precision(compute, masters, moments))
    player.begin(0)
    net(torch.ones(1, 512, dtype=net.weight.dtype)).sum().backward()
    gradient = net.weight.grad
    assert gradient is not None
    assert gradient.element_size() == (2 if compute == "bf16" else 4)
    player.finish(1.0)
    held: dict[int, int] = {}
    for value in tensors_of([net.weight, player.optimizer.state, getattr(player.optimizer, "slots", None)]):
        held[value.data_ptr()] = value.untyped_storage().nbytes()
    found = sum(size for size in held.values() if size > 1024) / net.weight.numel()
    assert found == pytest.approx(WEIGHT[compute, masters] + BYTES[moments])


def tensors_of(thing: Any) -> list[torch.Tensor]:
    """Every tensor within containers and the optimizer's own objects."""
    if isinstance(thing, torch.Tensor):
        return [thing.detach()]
    if isinstance(thing, dict):
        return [tensor for item in thing.values() for tensor in tensors_of(item)]
    if isinstance(thing, list | tuple):
        return [tensor for item in thing for tensor in tensors_of(item)]
    return tensors_of(vars(thing)) if hasattr(thing, "__dict__") else []


@pytest.mark.parametrize(("compute", "masters", "moments"), EVERY_FORMAT)
def test_resumed_is_uninterrupted_bit_for_bit(
    compute: str, masters: str, moments: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    formats = precision(compute, masters, moments)
    net = make_net()
    player = make_player(net, formats)
    learn(player, net, 6)
    path = tmp_path_factory.mktemp("state") / "state.pt"
    torch.save({"state": player.state(), "weights": dict(player.weights())}, path)
    learn(player, net, 12, first=6)

    saved = torch.load(path, weights_only=True)
    other = make_net(seed=9)
    resumed = make_player(other, formats)
    resumed.restore(saved["state"], saved["weights"])
    learn(resumed, other, 12, first=6)
    assert same(dict(player.weights()), dict(resumed.weights()))
    assert same(dict(net.named_parameters()), dict(other.named_parameters()))


@pytest.mark.parametrize("moments", MOMENTS)
@pytest.mark.parametrize(("compute", "masters"), [("fp32", "split"), ("bf16", "split")])
def test_narrow_numbers_follow_fp32_training(compute: str, masters: str, moments: str) -> None:
    net, other = make_net(), make_net()
    start = {name: value.detach().clone() for name, value in net.named_parameters()}
    plain, narrow = make_player(net, precision()), make_player(other, precision(compute, masters, moments))
    losses, found = learn(plain, net, 150), learn(narrow, other, 150)
    assert losses[-1] < 0.4 * losses[0]
    assert found[-1] == pytest.approx(losses[-1], rel=0.02)
    way = math.sqrt(sum(float((value - start[name]).square().sum()) for name, value in plain.weights()))
    own = dict(narrow.weights())
    off = math.sqrt(sum(float((value - own[name]).square().sum()) for name, value in plain.weights()))
    assert off < 0.1 * way


def test_at_a_small_rate_bf16_weights_alone_stand_still_and_masters_move() -> None:
    moved = {}
    for masters in ("none", "split"):
        net = make_net()
        player = make_player(net, precision("bf16", masters), learning_rate=1e-6)
        before = dict(player.weights())
        before = {name: value.clone() for name, value in before.items()}
        learn(player, net, 30)
        weight = before["0.weight"]
        large = weight.abs() > 1e-6 / 2.0**-9
        assert large.float().mean() > 0.9
        moved[masters] = float((dict(player.weights())["0.weight"] != weight)[large].float().mean())
    assert moved["none"] == 0
    assert moved["split"] > 0.99


def test_blocks_keep_small_numbers_beside_large_ones_elsewhere() -> None:
    vector = Blockwise(1000, torch.device("cpu"), signed=True)
    assert torch.equal(vector.read(slice(0, 1000)), torch.zeros(1000))
    values = torch.linspace(-1, 1, 1000)
    values[:BLOCK] *= 1e-6
    vector.write(slice(0, 1000), values)
    read = vector.read(slice(0, 1000))
    for part in (slice(0, BLOCK), slice(BLOCK, 1000)):
        assert float((read[part] - values[part]).abs().max() / values[part].abs().max()) < 0.02
    assert torch.equal(vector.read(slice(BLOCK, 1000)), read[BLOCK:])


def test_frozen_weights_and_heads_keep_every_bit() -> None:
    """bf16 computes with rounded copies; what is published of frozen weights is what was loaded."""
    net = nn.ModuleDict({"tower": nn.Linear(64, 64), "text": nn.Linear(64, 64), "heads": nn.Linear(64, 1)})
    net["tower"].requires_grad_(False)
    before = {name: value.detach().clone() for name, value in net.named_parameters()}
    player = make_player(net, precision("bf16"))
    assert {value.dtype for name, value in net.named_parameters() if "heads" not in name} == {torch.bfloat16}
    assert {value.dtype for value in net["heads"].parameters()} == {torch.float32}
    weights = dict(player.weights())
    assert same(weights, before)
    assert set(player.parameters) == {name for name in before if not name.startswith("tower")}


@pytest.mark.parametrize("compute", ["fp32", "bf16"])
def test_a_gradient_that_is_not_finite_ends_the_stage_before_the_weights_change(compute: str) -> None:
    net = make_net()
    player = make_player(net, precision(compute))
    before = copy.deepcopy(dict(player.weights()))
    player.begin(0)
    for value in net.parameters():
        value.grad = torch.full_like(value, math.inf)
    with pytest.raises(StageFailed, match="the policy's loss is"):
        player.finish(1.0)
    assert same(dict(player.weights()), before)


@pytest.mark.parametrize("compute", ["fp32", "bf16"])
def test_a_gradient_is_clipped_by_its_whole_norm(compute: str) -> None:
    net = make_net()
    player = make_player(net, precision(compute))
    player.begin(0)
    for value in net.parameters():
        value.grad = torch.randn_like(value)
    exact = math.sqrt(sum(float(value.grad.double().square().sum()) for value in net.parameters()))
    assert player.clip() == pytest.approx(exact, rel=1e-6)
    after = math.sqrt(sum(float(value.grad.double().square().sum()) for value in net.parameters()))
    assert after == pytest.approx(1.0, rel=1e-6 if compute == "fp32" else 1e-3)
