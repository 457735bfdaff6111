"""The engines that sample the policy, behind one small interface.

Rows and sampling in; per response token ids, log-probabilities of the sampled tokens and whether it ended, out. The
transformers engine (`rollout.Rollouts`) samples the trainer's own model, and there is nothing to keep in step. An
engine with weights of its own (vLLM; a copy in another number format) is wrapped in `Synced`: at every
`sync` it takes over the policy's weights, forgets what it computed with the old ones, and answers a canary prompt; its
log-probabilities of that answer must be the trainer's. Weights that never arrived give samples of another policy and
no error, so nothing is sampled before this has held.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch

from integrations.alignment.data.prompts import Encoder
from integrations.alignment.data.seeds import derive
from integrations.alignment.forward.model import load_policy
from integrations.alignment.forward.policy import response_log_probs
from integrations.alignment.rollouts.rollout import Generation, Rollouts, Sampling, Seeds, Weights
from integrations.alignment.training import sharding
from integrations.common.rows import Row
from integrations.errors import StageFailed

if TYPE_CHECKING:
    from integrations.alignment.job import Job
    from integrations.alignment.settings import RolloutSettings

CANARY_PROMPTS = 2
CANARY = Sampling(1.0, 1.0, 32)
"""How the canary responses are drawn; their random streams are the same after every takeover."""
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.05}
"""Mean difference per token in nats. Weights not taken over differ by 0.1 to 2 after a few dozen steps."""


class Sampler(Protocol):
    """What the stages ask for."""

    encoder: Encoder

    def sample(
        self, rows: Sequence[Row], samples: int, sampling: Sampling, seeds: Seeds, batch_size: int
    ) -> list[list[Generation]]:
        """`samples` responses to each row, in the rows' order, each with a random stream of its own."""
        ...

    def sync(self, weights: Weights) -> dict[str, float]:
        """To be called with the policy's weights whenever they have changed, before the next `sample`.

        Every process of several must call it. Returns measures of the takeover, where there was one.
        """
        ...


class Engine(Protocol):
    """An engine with weights of its own."""

    encoder: Encoder

    def sample(
        self, rows: Sequence[Row], samples: int, sampling: Sampling, seeds: Seeds, batch_size: int
    ) -> list[list[Generation]]: ...

    def load(self, weights: Weights) -> None:
        """Take over these weights and forget everything computed with the old ones.

        Raises:
            StageFailed: a tensor is missing, unknown, of another shape, or did not arrive as it was sent.
        """
        ...

    def sleep(self) -> None:
        """Give the accelerator's memory to others until `wake`."""
        ...

    def wake(self) -> None: ...


class Synced:
    """An engine with weights of its own, kept in step with the policy.

    Args:
        policy: the trainer's model, whose log-probabilities the canary is compared with.
        canary: rows to try after every takeover, with images where the data has some.
        banned_V: tokens that are never sampled, True.
        tolerance: largest mean difference per token, in nats.
        sleep: put the engine to sleep whenever it is not sampling.
    """

    def __init__(
        self,
        engine: Engine,
        policy: Any,
        canary: Sequence[Row],
        banned_V: torch.Tensor,
        *,
        tolerance: float,
        sleep: bool = False,
    ) -> None:
        self.engine, self.policy, self.canary, self.banned_V = engine, policy, canary, banned_V
        self.tolerance, self.sleeps = tolerance, sleep
        self.encoder = engine.encoder
        self.awake = True

    def sample(
        self, rows: Sequence[Row], samples: int, sampling: Sampling, seeds: Seeds, batch_size: int
    ) -> list[list[Generation]]:
        self._wake()
        groups = self.engine.sample(rows, samples, sampling, seeds, batch_size)
        self._sleep()
        return groups

    def sync(self, weights: Weights) -> dict[str, float]:
        """Take over the policy's weights as they are now, and try the canary.

        Returns:
            `canary_gap`: the mean difference per token, in nats.

        Raises:
            StageFailed: the weights did not arrive.
        """
        self._wake()
        self.engine.load(weights)
        return {"canary_gap": self.check()}

    @torch.no_grad()
    def check(self) -> float:
        """Mean difference per token between the engine's and the trainer's log-probabilities of the canary responses.

        Raises:
            StageFailed: it is above the tolerance, or not a number.
        """

        def stream(row: Row, sample: int) -> int:
            return derive("canary", row["id"], sample)

        groups = self.sample(self.canary, 1, CANARY, stream, len(self.canary))
        responses = [response for [response] in groups]
        prompts = [self.encoder.encode(row) for row in self.canary]
        ids = [response.token_ids for response in responses]
        scored = (self.policy, prompts, range(len(prompts)), ids, self.banned_V)
        ours, _, mask = sharding.run(self.policy, response_log_probs, *scored)
        told = [value for response in responses for value in response.log_probs or []]
        theirs, ours = torch.tensor(told, dtype=torch.float64), ours[mask].double().cpu()
        gap = float((ours - theirs).abs().mean())
        if not gap <= self.tolerance:
            raise StageFailed(
                f"the rollout engine has not the policy's weights: it gives the canary responses a log-probability of "
                f"{float(theirs.sum()):.4f} in {len(told)} tokens, the trainer {float(ours.sum()):.4f} (mean "
                f"difference {gap:.2g} per token, allowed {self.tolerance:.2g})",
                "set `rollout.engine` to transformers, or raise `rollout.canary_tolerance` where only the number "
                "formats differ",
            )
        return gap

    def _wake(self) -> None:
        if not self.awake:
            self.engine.wake()
            self.awake = True

    def _sleep(self) -> None:
        if self.sleeps:
            self.engine.sleep()
            self.awake = False


def open_sampler(
    job: Job,
    policy: Any,
    encoder: Encoder,
    canary: Sequence[Row],
    banned_V: torch.Tensor,
) -> Sampler:
    """The engine that the settings ask for, with the weights of `job.policy`, which are still the policy's.

    Args:
        canary: rows of which the first few, with images where there are any, are tried after every takeover.

    Raises:
        StageFailed: vLLM cannot start, or the weights did not arrive.
    """
    rollout: RolloutSettings = job.settings.rollout
    if rollout.engine == "transformers" and rollout.dtype == "auto":
        return Rollouts(policy, encoder)
    dtype = _dtype(rollout.dtype, job.device)
    engine: Engine
    if rollout.engine == "vllm":
        from integrations.alignment.rollouts.vllm_rollout import VllmEngine

        longest = job.settings.max_prompt_tokens + max(rollout.max_new_tokens, CANARY.max_new_tokens)
        engine = VllmEngine(job.policy, encoder, banned_V, rollout, longest=longest, dtype=dtype, device=job.device)
    else:
        engine = Rollouts(load_policy(job.policy, job.device, dtype), encoder)
    formats = (dtype, torch.bfloat16 if job.settings.precision.compute == "bf16" else torch.float32)
    tolerance = rollout.canary_tolerance or max(TOLERANCE[one] for one in formats)
    canary = sorted(canary, key=lambda row: not row["images"])[:CANARY_PROMPTS]
    synced = Synced(engine, policy, canary, banned_V, tolerance=tolerance, sleep=rollout.sleep)
    synced.check()
    return synced


def _dtype(name: str, device: str) -> torch.dtype:
    if name == "auto":
        return torch.float32 if device == "cpu" else torch.bfloat16
    return getattr(torch, name)
