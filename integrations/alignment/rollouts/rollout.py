"""Sampling responses: each prompt is read once, its group decoded together, finished rows dropped as they end.

Every sample has its own random stream, so a response depends on its prompt, seed and sample index and not on the
batch it was decoded in. This is the transformers engine of `engines.Engine`; the evaluator needs only `generate`, the
server only `Rollouts.stream`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from integrations.alignment.data.prompts import Encoder, Prompt
from integrations.alignment.data.seeds import derive
from integrations.alignment.data.segments import Vocabulary
from integrations.alignment.forward import batching
from integrations.alignment.forward.model import banned_tokens
from integrations.alignment.training import sharding
from integrations.common.rows import Row
from integrations.errors import StageFailed

Seeds = Sequence[int] | Callable[[Row, int], int]
"""One seed per row, or a function of row and sample index."""

Weights = Iterable[tuple[str, torch.Tensor]]
"""A policy's whole tensors by its parameters' names, a tied one once, as `Player.weights` gives them."""


COPY_THE_MODEL = "sample a model of the policy's own architecture"


@dataclass(frozen=True)
class Generation:
    """One response."""

    token_ids: list[int]
    """As sampled, the end of turn included where it was reached."""
    text: str
    """Without the end of turn."""
    finished: bool
    """The end of turn was reached within the limit."""
    log_probs: list[float] | None = field(default=None, compare=False)
    """Per token its log-probability at temperature 1 among the tokens that may be sampled, as `policy.token_log_probs`
    defines it, computed by the engine while it sampled. None where an engine does not tell it."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen."""

    temperature: float = 1.0
    """0 means greedy."""
    top_p: float = 1.0
    """Smallest set of most likely tokens with at least this probability; 1 keeps all."""
    max_new_tokens: int = 256
    top_k: int = 0
    """Only so many of the most likely tokens, chosen from before `top_p`; 0 keeps all."""


def choose(logits_RV: torch.Tensor, uniforms_R: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Token ids (R,) drawn by inverting the cumulative distribution at `uniforms_R` (float64 in [0, 1))."""
    if sampling.temperature == 0:
        return logits_RV.argmax(-1)
    probabilities = (logits_RV.double() / sampling.temperature).softmax(-1)
    if sampling.top_p < 1 or sampling.top_k:
        ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
        if sampling.top_k:
            ordered[:, sampling.top_k :] = 0
            ordered = ordered / ordered.sum(-1, keepdim=True)
        ordered = ordered.masked_fill(ordered.cumsum(-1) - ordered >= sampling.top_p, 0)
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered)
    cumulative = probabilities.cumsum(-1)
    points = uniforms_R[:, None].to(cumulative) * cumulative[:, -1:] * (1 - 1e-12)
    return torch.searchsorted(cumulative, points, right=True)[:, 0]


class Rollouts:
    """Samples a model's responses.

    Args:
        model: a Qwen3-VL in evaluation mode; its weights are read at every call, so they may change in between.
        encoder: for the same checkpoint's processor.
    """

    def __init__(self, model: Any, encoder: Encoder) -> None:
        self.model = model
        self.encoder = encoder
        self.vocabulary = Vocabulary(encoder.tokenizer)
        self.banned = banned_tokens(encoder.tokenizer, model.lm_head.out_features).to(model.lm_head.weight.device)

    def sync(self, weights: Weights) -> dict[str, float]:
        """Nothing to do: the model is the trainer's own, so its weights are always the latest."""
        return {}

    @torch.no_grad()
    def load(self, weights: Weights) -> None:
        """Take over a policy's weights, where the model is a copy of its own (see `engines.Synced`).

        Raises:
            StageFailed: names or shapes are not the model's.
        """
        missing = dict(self.model.named_parameters())
        for name, value in weights:
            own = missing.pop(name, None)
            if own is None or own.shape != value.shape:
                raise StageFailed(f"the rollout engine has no `{name}` of shape {tuple(value.shape)}", COPY_THE_MODEL)
            own.copy_(value)
        if missing:
            raise StageFailed(f"the rollout engine was not given `{min(missing)}`", COPY_THE_MODEL)

    def sleep(self) -> None:
        """Nothing to do: a model of transformers stays where it is."""

    def wake(self) -> None:
        """Nothing to do."""

    def sample(
        self, rows: Sequence[Row], samples: int, sampling: Sampling, seeds: Seeds, batch_size: int
    ) -> list[list[Generation]]:
        """`samples` responses to each row, in the rows' order."""
        with torch.no_grad():
            return sharding.run(self.model, self._sample, rows, samples, sampling, seeds, batch_size)

    def _sample(
        self, rows: Sequence[Row], samples: int, sampling: Sampling, seeds: Seeds, batch_size: int
    ) -> list[list[Generation]]:
        per_batch = max(1, batch_size // samples)
        groups: list[list[Generation]] = []
        for start in range(0, len(rows), per_batch):
            some = rows[start : start + per_batch]
            keys = [
                seeds(row, sample) if callable(seeds) else derive(seeds[start + index], sample)
                for index, row in enumerate(some)
                for sample in range(samples)
            ]
            prompts = [self.encoder.encode(row) for row in some]
            which = [index for index in range(len(some)) for _ in range(samples)]
            ended = dict(pair for pairs in self.stream(prompts, which, sampling, keys) for pair in pairs)
            responses = [ended[index] for index in range(len(keys))]
            groups += [responses[index : index + samples] for index in range(0, len(responses), samples)]
        return groups

    @torch.no_grad()
    def stream(
        self, prompts: Sequence[Prompt], which: Sequence[int], sampling: Sampling, keys: Sequence[int]
    ) -> Iterator[list[tuple[int, Generation]]]:
        """Decode together; after every step what ended in it, as (index, response).

        Args:
            which: per response its prompt, an index into `prompts`, never falling; every prompt occurs.
            keys: per response the seed of its random stream.

        Raises:
            StageFailed: the model computes NaN or infinity.
        """
        device = self.banned.device
        uniforms = torch.from_numpy(
            np.stack([np.random.Generator(np.random.Philox(key=key)).random(sampling.max_new_tokens) for key in keys])
        ).to(device)
        state = batching.read_prompts(self.model, prompts)
        if not bool(torch.isfinite(state.last_BH).all()):
            raise StageFailed("the model's activations are not finite", "lower the learning rate and start anew")
        state = batching.repeat(state, torch.as_tensor(which, device=device))
        language, hidden, mask, position = self.model.model.language_model, state.last_BH, state.mask_BP, state.next_B
        live = torch.arange(len(keys), device=device)
        tokens = torch.full((len(keys), sampling.max_new_tokens), -1, dtype=torch.int64, device=device)
        log_probs = torch.zeros(tokens.shape, device=device)
        for step in range(sampling.max_new_tokens):
            logits = self.model.lm_head(hidden).float().masked_fill(self.banned, -torch.inf)
            chosen = choose(logits, uniforms[live, step], sampling)
            tokens[live, step] = chosen
            log_probs[live, step] = logits.gather(-1, chosen[:, None])[:, 0] - logits.logsumexp(-1)
            going = chosen != self.vocabulary.end
            if step + 1 == sampling.max_new_tokens:
                going = torch.zeros_like(going)
            keep = going.nonzero()[:, 0]
            yield self._ended(tokens, log_probs, live[~going], step + 1)
            if not len(keep):
                return
            if len(keep) < len(chosen):
                state.cache.batch_select_indices(keep)
                live, chosen, mask, position = live[keep], chosen[keep], mask[keep], position[keep]
            mask = torch.cat([mask, mask.new_ones((len(mask), 1))], 1)
            hidden = language(
                inputs_embeds=language.embed_tokens(chosen[:, None]),
                position_ids=position.expand(3, -1)[..., None],
                attention_mask=mask,
                past_key_values=state.cache,
                use_cache=True,
            ).last_hidden_state[:, -1]
            position = position + 1

    def _ended(
        self, tokens: torch.Tensor, log_probs: torch.Tensor, which: torch.Tensor, length: int
    ) -> list[tuple[int, Generation]]:
        """Responses `which` of the batch, `length` tokens each."""
        found = zip(which.tolist(), tokens[which, :length].tolist(), log_probs[which, :length].tolist(), strict=True)
        end, text = self.vocabulary.end, self.vocabulary.text
        return [(index, Generation(ids, text(ids), ids[-1] == end, values)) for index, ids, values in found]


def generate(
    model: Any,
    processor: Any,
    rows: Sequence[Row],
    data_dir: Path,
    *,
    samples: int = 1,
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_new_tokens: int = 256,
    seeds: Seeds,
    batch_size: int = 64,
) -> list[list[Generation]]:
    """Responses of `model` to `rows`: `samples` for each, in the rows' order.

    Args:
        model: from `model.load_policy` (or any Qwen3-VL in evaluation mode).
        processor: the checkpoint's processor.
        data_dir: folder that the rows' image paths are relative to.
        temperature: 0 is greedy (then more than one sample repeats itself).
        seeds: one per row, or a function of row and sample index.
        batch_size: most sequences decoded together (at least one prompt's samples).
    """
    sampling = Sampling(temperature, top_p, max_new_tokens)
    return Rollouts(model, Encoder(processor, data_dir)).sample(rows, samples, sampling, seeds, batch_size)
