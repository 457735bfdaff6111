"""One forward pass over the prompts, shared by every response to them.

`see` runs the vision tower once over all images; `read_prompts` runs the prompts; `continue_prompts` runs any number
of continuations after the prompts' keys and values, with gradient. Sequences lie side by side without padding
(`attention`). Equal to running each prompt with each continuation alone, to rounding, in values and gradients.

Where the graph of all continuations does not fit in memory, they are run some at a time after `PromptState.detached`,
whose gradients add up, and `PromptState.backward` takes the sum through the prompts once. `Features` do the same for
the images.

Legend: B prompts, P padded prompt length, R continuations, T padded continuation length, N tokens of all
continuations, H hidden width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers.cache_utils import DynamicCache

from integrations.alignment.data.prompts import Prompt
from integrations.alignment.forward.attention import Packing, Past, padded

Contexts = tuple[AbstractContextManager[None], AbstractContextManager[None]]


@dataclass(frozen=True)
class Limits:
    """What may be in memory at once. Changes memory and speed only."""

    prompts: int
    """Prompts whose graph is held."""
    branches: int = 0
    """Continuations whose graph is held; 0 for all of the prompts'."""
    head_chunk: int = 1024
    """Tokens whose logits are held."""

    def parts(self, prompts: int) -> list[range]:
        """Prompts that are read together."""
        return [range(prompts)[first : first + self.prompts] for first in range(0, prompts, self.prompts)]

    def groups(self, branches: int) -> list[range]:
        """Continuations that are run together."""
        size = self.branches or max(branches, 1)
        return [range(branches)[first : first + size] for first in range(0, branches, size)]


def checkpoint_layers(model: Any, again: Callable[[], Contexts] | None = None) -> None:
    """From now on keep each layer's input only, and compute the layer again in the backward pass.

    Args:
        again: makes the contexts of a layer's pass and of its repetition (see `torch.utils.checkpoint`).
    """
    options = {"use_reentrant": False} | ({"context_fn": again} if again else {})
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)


def _leaf(value: torch.Tensor) -> torch.Tensor:
    return value.detach().requires_grad_(value.requires_grad)


def _backward(values: Sequence[torch.Tensor], leaves: Sequence[torch.Tensor], extra: torch.Tensor | None) -> None:
    """Hand the leaves' gradients on to what they were taken from, with that of `extra`."""
    pairs = [(value, leaf.grad) for value, leaf in zip(values, leaves, strict=True) if leaf.grad is not None]
    if extra is not None and extra.requires_grad:
        pairs.append((extra, torch.ones_like(extra)))
    if pairs:
        torch.autograd.backward([value for value, _ in pairs], [slope for _, slope in pairs])


@dataclass(frozen=True)
class Features:
    """What the vision tower gives for the images of some prompts."""

    rows: tuple[torch.Tensor, ...]
    """One row per merged patch: the embeddings, then what is added after the first layers. Empty without images."""
    counts: tuple[int, ...]
    """Rows of each prompt."""

    def part(self, prompts: range) -> Features:
        """Those of some neighbouring prompts."""
        first, last = sum(self.counts[: prompts.start]), sum(self.counts[: prompts.stop])
        rows = tuple(row[first:last] for row in self.rows) if last > first else ()
        return Features(rows, self.counts[prompts.start : prompts.stop])

    def detached(self) -> Features:
        """The same values, where gradients are gathered for `backward`."""
        return Features(tuple(_leaf(row) for row in self.rows), self.counts)

    def backward(self, leaves: Features) -> None:
        """Take the gradients that `leaves`, these `detached`, have gathered through the vision tower."""
        _backward(self.rows, leaves.rows, None)


@dataclass(frozen=True)
class PromptState:
    """Prompts, read: one of B rows for each, or after `repeat` one for each continuation."""

    last_BH: torch.Tensor
    """Hidden state of each row's last prompt token, which predicts the first response token."""
    next_B: torch.Tensor
    """int64, the position of each row's first response token (the same on the three axes)."""
    past: Past
    config: Any
    """The language model's."""

    def detached(self) -> PromptState:
        """The same values, where gradients are gathered for `backward`."""
        layers = [(_leaf(keys), _leaf(values)) for keys, values in self.past.layers]
        past = Past(layers, self.past.lengths, self.past.which)
        return PromptState(_leaf(self.last_BH), self.next_B, past, self.config)

    def backward(self, leaves: PromptState, extra: torch.Tensor | None = None) -> None:
        """Take the gradients that `leaves`, this state `detached`, has gathered through the prompts.

        Args:
            extra: a loss of the prompts alone.
        """
        _backward(self._tensors, leaves._tensors, extra)

    @property
    def _tensors(self) -> list[torch.Tensor]:
        return [self.last_BH, *(one for layer in self.past.layers for one in layer)]

    @property
    def mask_BP(self) -> torch.Tensor:
        """(B, P) int64, 1 at the real tokens of each row's prompt, which stand on the right."""
        lengths = torch.tensor([self.past.lengths[p] for p in self.past.which])
        width = int(lengths.max())
        return (torch.arange(width) >= width - lengths[:, None]).long().to(self.last_BH.device)

    @cached_property
    def cache(self) -> DynamicCache:
        """A cache to decode from, with a copy of its prompt's keys and values for every row, padded on the left."""
        cache = DynamicCache(config=self.config)
        which = torch.as_tensor(self.past.which, device=self.last_BH.device)
        for index, layer in enumerate(self.past.layers):
            padded = []
            for one in layer:
                parts = pad_sequence(one.split(list(self.past.lengths)), batch_first=True, padding_side="left")
                padded.append(parts.transpose(1, 2)[which].contiguous())
            cache.update(*padded, index)
        return cache


@dataclass(frozen=True)
class Tails:
    """Continuations, right-padded."""

    ids_RT: torch.Tensor
    mask_RT: torch.Tensor
    """bool, True at real tokens."""
    lengths: tuple[int, ...]

    @classmethod
    def pack(cls, tails: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> Tails:
        lengths = tuple(len(tail) for tail in tails)
        ids: np.ndarray = np.zeros((len(tails), max(lengths)), np.int64)
        mask: np.ndarray = np.zeros(ids.shape, bool)
        for index, tail in enumerate(tails):
            ids[index, : len(tail)], mask[index, : len(tail)] = tail, True
        return cls(torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device), lengths)


def see(model: Any, prompts: Sequence[Prompt]) -> Features:
    """Run the vision tower over the prompts' images, all at once."""
    merge = model.config.vision_config.spatial_merge_size
    counts = tuple(int(prompt.grids.prod(1).sum()) // merge**2 for prompt in prompts)
    if not sum(counts):
        return Features((), counts)
    device = model.lm_head.weight.device
    with_images = [prompt for prompt in prompts if len(prompt.grids)]
    patches = torch.cat([prompt.patches for prompt in with_images]).to(device)
    grids = torch.cat([prompt.grids for prompt in with_images]).to(device)
    seen = _run(model.model.visual, patches, grid_thw=grids)
    return Features((seen.pooler_output, *seen.deepstack_features), counts)


def read_prompts(model: Any, prompts: Sequence[Prompt], features: Features | None = None) -> PromptState:
    """Run the prompts, images included, through `model` (dense or mixture-of-experts Qwen3-VL).

    Args:
        features: of the prompts' images, where the vision tower has run already.
    """
    device, language = model.lm_head.weight.device, model.model.language_model
    features = see(model, prompts) if features is None else features
    lengths = [len(prompt.ids) for prompt in prompts]
    ids_N = torch.from_numpy(np.concatenate([prompt.ids for prompt in prompts])).to(device)
    positions_3N = torch.from_numpy(np.concatenate([prompt.positions for prompt in prompts], 1)).to(device)
    embedded_NH, vision = language.embed_tokens(ids_N), {}
    if features.rows:
        at_image_N = ids_N == model.config.image_token_id
        embedded_NH = embedded_NH.masked_scatter(at_image_N[:, None], features.rows[0].to(embedded_NH.dtype))
        vision = {"visual_pos_masks": at_image_N[None], "deepstack_visual_embeds": list(features.rows[1:])}
    packing = Packing(lengths)
    hidden_NH = _language(language, embedded_NH, positions_3N, packing, **vision)
    ends = torch.tensor(lengths, device=device).cumsum(0) - 1
    layers = [packing.kept[index] for index in range(len(language.layers))]
    past = Past(layers, lengths, range(len(prompts)))
    return PromptState(hidden_NH[ends], positions_3N[:, ends].amax(0) + 1, past, language.config)


def repeat(state: PromptState, which: Sequence[int] | torch.Tensor) -> PromptState:
    """The state with prompt `which[r]` at row r, differentiably; nothing is copied but a row of hidden states."""
    rows = [int(index) for index in which]
    index = torch.tensor(rows, device=state.last_BH.device)
    past = Past(state.past.layers, state.past.lengths, [state.past.which[row] for row in rows])
    return PromptState(state.last_BH[index], state.next_B[index], past, state.config)


def continue_prompts(model: Any, state: PromptState, tails: Tails) -> torch.Tensor:
    """Hidden states (R, T, H) of the continuations, 0 at padding; `state` has one row for each (see `repeat`)."""
    language = model.model.language_model
    steps_RT = torch.arange(tails.ids_RT.shape[1], device=tails.ids_RT.device)
    positions_N = (state.next_B[:, None] + steps_RT)[tails.mask_RT]
    embedded_NH = language.embed_tokens(tails.ids_RT[tails.mask_RT])
    hidden_NH = _language(language, embedded_NH, positions_N.expand(3, -1), Packing(tails.lengths, state.past))
    return padded(hidden_NH.split(list(tails.lengths)))


def predicting_states(state: PromptState, hidden_RTH: torch.Tensor) -> torch.Tensor:
    """(R, T, H): at [r, t] the state that predicts token t of continuation r."""
    return torch.cat([state.last_BH[:, None], hidden_RTH[:, :-1]], 1)


def _language(
    language: Any, embedded_NH: torch.Tensor, positions_3N: torch.Tensor, packing: Packing, **vision: Any
) -> torch.Tensor:
    """(N, H) final hidden states of sequences side by side."""
    output = _run(
        language,
        inputs_embeds=embedded_NH[None],
        position_ids=positions_3N[:, None],
        use_cache=False,
        packing=packing,
        **vision,
    )
    return output.last_hidden_state[0]


def _run(module: Any, *arguments: Any, **options: Any) -> Any:
    """A forward pass whose layers are computed again in the backward pass, where the model is set up so.

    transformers checkpoints layers in training mode only. There is no dropout, so the mode changes nothing else, and
    decoding, which needs its cache, stays out of it.
    """
    module.train(torch.is_grad_enabled() and module.is_gradient_checkpointing)
    try:
        return module(*arguments, **options)
    finally:
        module.eval()
