"""One forward pass per prompt, shared by every response to it.

`read_prompts` runs a batch of prompts with their images once; `continue_prompts` repeats their keys and values, with
gradient, for any number of continuations. Equal to running each prompt with each continuation alone, to rounding, in
values and gradients.

Legend: B prompts, P padded prompt length, R continuations, T padded continuation length, H hidden width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import DynamicCache

from integrations.alignment.prompts import Prompt


@dataclass(frozen=True)
class PromptState:
    """A batch of prompts, read."""

    last_BH: torch.Tensor
    """Hidden state of each prompt's last token, which predicts the first response token."""
    cache: DynamicCache
    """Keys and values of all prompts, left-padded. Continuing consumes it."""
    mask_BP: torch.Tensor
    """int64, 1 at real tokens."""
    next_B: torch.Tensor
    """int64, the position of the first response token (the same on the three axes)."""


@dataclass(frozen=True)
class Tails:
    """Continuations, right-padded."""

    ids_RT: torch.Tensor
    mask_RT: torch.Tensor
    """bool, True at real tokens."""

    @classmethod
    def pack(cls, tails: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> Tails:
        width = max(len(tail) for tail in tails)
        ids: np.ndarray = np.zeros((len(tails), width), np.int64)
        mask: np.ndarray = np.zeros((len(tails), width), bool)
        for index, tail in enumerate(tails):
            ids[index, : len(tail)], mask[index, : len(tail)] = tail, True
        return cls(torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device))


def prompt_mask(prompts: Sequence[Prompt]) -> torch.Tensor:
    """(B, P) int64, 1 at real tokens; prompts are padded on the left so that they end together."""
    width = max(len(prompt.ids) for prompt in prompts)
    lengths = torch.tensor([len(prompt.ids) for prompt in prompts])
    return (torch.arange(width) >= width - lengths[:, None]).long()


def read_prompts(model: Any, prompts: Sequence[Prompt]) -> PromptState:
    """Run the prompts, images included, through `model` (dense or mixture-of-experts Qwen3-VL)."""
    device = model.lm_head.weight.device
    width = max(len(prompt.ids) for prompt in prompts)
    ids: np.ndarray = np.zeros((len(prompts), width), np.int64)
    positions: np.ndarray = np.zeros((3, *ids.shape), np.int64)
    for index, prompt in enumerate(prompts):
        start = width - len(prompt.ids)
        ids[index, start:], positions[:, index, start:] = prompt.ids, prompt.positions
    ids_BP, mask_BP = torch.from_numpy(ids).to(device), prompt_mask(prompts).to(device)
    positions_3BP = torch.from_numpy(positions).to(device)
    language = model.model.language_model
    embedded = language.embed_tokens(ids_BP)
    vision = {}
    if any(len(prompt.grids) for prompt in prompts):
        seen = see(model, prompts)
        at_image = (ids_BP == model.config.image_token_id) & mask_BP.bool()
        embedded = embedded.masked_scatter(at_image[..., None], seen.pooler_output.to(embedded.dtype))
        vision = {"visual_pos_masks": at_image, "deepstack_visual_embeds": seen.deepstack_features}
    output = language(
        inputs_embeds=embedded,
        position_ids=positions_3BP,
        attention_mask=mask_BP,
        past_key_values=DynamicCache(config=language.config),
        use_cache=True,
        **vision,
    )
    return PromptState(
        last_BH=output.last_hidden_state[:, -1],
        cache=output.past_key_values,
        mask_BP=mask_BP,
        next_B=positions_3BP[:, :, -1].amax(0) + 1,
    )


def see(model: Any, prompts: Sequence[Prompt]) -> Any:
    """The vision tower's output for the prompts' images: one row per merged patch, and the deepstack rows."""
    device = model.lm_head.weight.device
    with_images = [prompt for prompt in prompts if len(prompt.grids)]
    patches = torch.cat([prompt.patches for prompt in with_images]).to(device)
    return model.model.visual(patches, grid_thw=torch.cat([prompt.grids for prompt in with_images]).to(device))


def repeat(state: PromptState, which_R: torch.Tensor) -> PromptState:
    """The state with prompt `which_R[r]` at row r, differentiably. The given state must not be used afterwards."""
    if len(which_R) != len(state.next_B) or bool((which_R != torch.arange(len(which_R), device=which_R.device)).any()):
        state.cache.batch_select_indices(which_R)
    return PromptState(state.last_BH[which_R], state.cache, state.mask_BP[which_R], state.next_B[which_R])


def continue_prompts(model: Any, state: PromptState, tails: Tails) -> torch.Tensor:
    """Hidden states (R, T, H) of the continuations; `state` has one row for each (see `repeat`)."""
    steps = torch.arange(tails.ids_RT.shape[1], device=tails.ids_RT.device)
    positions = (state.next_B[:, None] + steps).expand(3, -1, -1)
    language = model.model.language_model
    return language(
        inputs_embeds=language.embed_tokens(tails.ids_RT),
        position_ids=positions,
        attention_mask=torch.cat([state.mask_BP, tails.mask_RT.to(state.mask_BP.dtype)], 1),
        past_key_values=state.cache,
        use_cache=True,
    ).last_hidden_state


def predicting_states(state: PromptState, hidden_RTH: torch.Tensor) -> torch.Tensor:
    """(R, T, H): at [r, t] the state that predicts token t of continuation r."""
    return torch.cat([state.last_BH[:, None], hidden_RTH[:, :-1]], 1)
