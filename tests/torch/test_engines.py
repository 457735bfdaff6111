"""Engines with weights of their own: what they take over, what the canary catches, and which engine is opened."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from integrations.alignment.data.prompts import Encoder
from integrations.alignment.data.seeds import derive
from integrations.alignment.forward.model import banned_tokens, load_policy
from integrations.alignment.rollouts.engines import TOLERANCE, Synced, open_sampler
from integrations.alignment.rollouts.rollout import Generation, Rollouts, Sampling
from integrations.common.rows import Row
from integrations.errors import StageFailed

World = tuple[Path, list[Row]]
SAMPLING = Sampling(max_new_tokens=12)


def stream(row: Row, sample: int) -> int:
    return derive("test", row["id"], sample)


@pytest.fixture
def copied(checkpoint: Path, policy: Any, encoder: Encoder, world: World) -> Synced:
    """An engine with a copy of the policy."""
    banned = banned_tokens(encoder.tokenizer, policy.lm_head.out_features)
    engine = Rollouts(load_policy(checkpoint), encoder)
    return Synced(engine, policy, world[1][1:3], banned, tolerance=TOLERANCE[torch.float32])


def change(policy: Any, *, seed: int = 0) -> None:
    """One random step of every weight."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in policy.parameters():
            value += 0.02 * torch.randn(value.shape, generator=rng)


def sampled(engine: Any, rows: list[Row]) -> list[list[Generation]]:
    return engine.sample(rows, 3, SAMPLING, stream, 64)


def test_a_copy_samples_the_policy_as_it_is_now(copied: Synced, policy: Any, encoder: Encoder, world: World) -> None:
    rows, own = world[1][:4], Rollouts(policy, encoder)
    assert sampled(copied, rows) == sampled(own, rows)
    before = sampled(copied, rows)
    change(policy)
    assert sampled(copied, rows) == before
    assert copied.sync(policy.named_parameters())["canary_gap"] < 1e-6
    assert sampled(copied, rows) == sampled(own, rows) != before
    assert own.sync(iter(())) == {}


def test_the_canary_finds_old_weights(copied: Synced, policy: Any) -> None:
    copied.check()
    change(policy)
    with pytest.raises(
        StageFailed, match=r"has not the policy's weights: .* log-probability of -\d.*, the trainer -\d"
    ):
        copied.check()
    copied.sync(policy.named_parameters())
    with torch.no_grad():
        copied.engine.model.model.visual.merger.linear_fc1.weight.zero_()  # type: ignore[attr-defined]
    with pytest.raises(StageFailed, match="has not the policy's weights"):
        copied.check()


def test_a_canary_that_is_not_a_number_is_caught(copied: Synced, policy: Any) -> None:
    with torch.no_grad():
        policy.model.language_model.norm.weight.fill_(torch.nan)
    with pytest.raises(StageFailed, match="the trainer nan"):
        copied.check()


def test_weights_that_are_not_the_models_are_refused(copied: Synced, policy: Any) -> None:
    weights = dict(policy.named_parameters())
    name = "model.language_model.layers.1.mlp.up_proj.weight"
    without = {key: value for key, value in weights.items() if key != name}
    with pytest.raises(StageFailed, match=f"was not given `{name}`"):
        copied.sync(without.items())
    with pytest.raises(StageFailed, match="has no `adapter` of shape"):
        copied.sync((weights | {"adapter": torch.zeros(1)}).items())
    with pytest.raises(StageFailed, match=f"has no `{name}` of shape"):
        copied.sync((weights | {name: weights[name].T}).items())


def test_sleeping_engines_are_woken_for_every_use(copied: Synced, policy: Any, world: World) -> None:
    class Sleeper(Rollouts):
        awake, naps = True, 0

        def sleep(self) -> None:
            self.awake, self.naps = False, self.naps + 1

        def wake(self) -> None:
            self.awake = True

        def load(self, weights: Any) -> None:
            assert self.awake
            super().load(weights)

        def sample(self, *arguments: Any) -> Any:
            assert self.awake
            return super().sample(*arguments)

    sleeper = Sleeper(copied.engine.model, copied.encoder)  # type: ignore[attr-defined]
    synced = Synced(sleeper, policy, copied.canary, copied.banned_V, tolerance=1e-4, sleep=True)
    for _ in range(2):
        synced.sync(policy.named_parameters())
        sampled(synced, world[1][:2])
        assert not sleeper.awake
    assert sleeper.naps == 4


@pytest.mark.parametrize(("dtype", "tolerance"), [("auto", None), ("float32", 1e-4), ("bfloat16", 0.05)])
def test_a_model_of_its_own_only_for_a_number_format_of_its_own(
    dtype: str, tolerance: float | None, checkpoint: Path, policy: Any, encoder: Encoder, world: World
) -> None:
    rollout = SimpleNamespace(engine="transformers", dtype=dtype, canary_tolerance=None, sleep=False)
    settings = SimpleNamespace(rollout=rollout, precision=SimpleNamespace(compute="fp32"))
    job: Any = SimpleNamespace(settings=settings, policy=checkpoint, device="cpu")
    banned = banned_tokens(encoder.tokenizer, policy.lm_head.out_features)
    sampler = open_sampler(job, policy, encoder, world[1], banned)
    if tolerance is None:
        assert isinstance(sampler, Rollouts)
        assert sampler.model is policy
        return
    assert isinstance(sampler, Synced)
    assert sampler.tolerance == tolerance
    change(policy)
    sampler.sync(policy.named_parameters())
    assert sampler.engine.model.dtype == getattr(torch, dtype)  # type: ignore[attr-defined]
    assert (sampler.check() > 1e-4) == (dtype == "bfloat16")
