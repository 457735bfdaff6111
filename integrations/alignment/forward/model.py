"""Loading a Qwen3-VL checkpoint for this engine, and the tokens it may sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoProcessor, Qwen3VLForConditionalGeneration

from integrations.alignment.data.segments import END_OF_TURN
from integrations.alignment.forward import attention
from integrations.common.checkpoint import read_tensors


class LinearPatchEmbed(nn.Module):
    """The vision tower's patch embedding as one matrix product.

    Its convolution has the kernel's size as its stride, so each patch is multiplied by the flattened kernel once;
    the parameters and their names stay as they are.
    """

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self.proj = original.proj

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """(N, patch size) -> (N, vision width)."""
        return F.linear(patches.to(self.proj.weight.dtype), self.proj.weight.flatten(1), self.proj.bias)


def prepare(model: Any) -> Any:
    """The model with the linear patch embedding and attention that shares prompts; saved folders do not change."""
    model.model.visual.patch_embed = LinearPatchEmbed(model.model.visual.patch_embed)
    model.set_attn_implementation({"text_config": attention.NAME})
    model.config.use_cache = True
    return model


def load_policy(folder: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
    """A dense Qwen3-VL, in evaluation mode (it has no dropout, so training mode is the same)."""
    model = Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
    return prepare(model).to(device).eval()


def stored_dtype(folder: Path) -> torch.dtype:
    """bf16 where that is what all of a model folder's weights are kept in, else fp32."""
    return torch.bfloat16 if {tensor.dtype for tensor in read_tensors(folder).values()} == {"BF16"} else torch.float32


def dtype_to_load(folder: Path, compute: str) -> torch.dtype:
    """What to load a model that is to be trained in: nothing wider than it needs, and nothing that would lose a bit.

    A model in fp32 becomes bf16 later, for its masters begin from what it is in fp32 (`formats.narrow`).
    """
    return stored_dtype(folder) if compute == "bf16" else torch.float32


def load_processor(folder: Path, **changes: int) -> Any:
    """The folder's processor: tokenizer, image processor and chat template; `changes` e.g. its `max_pixels`."""
    return AutoProcessor.from_pretrained(folder, **changes)


def banned_tokens(tokenizer: Any, vocabulary_size: int) -> torch.Tensor:
    """(V,) bool, True for ids that a response may not hold.

    Special tokens (turn, vision and media marks) other than the end of turn, and ids past the tokenizer's end: a
    sampled image placeholder would ask for an image that is not there, and no text stands for a padding row.
    """
    banned = torch.zeros(vocabulary_size, dtype=torch.bool)
    banned[[index for index, token in tokenizer.added_tokens_decoder.items() if token.special]] = True
    banned[len(tokenizer) :] = True
    banned[tokenizer.convert_tokens_to_ids(END_OF_TURN)] = False
    return banned
