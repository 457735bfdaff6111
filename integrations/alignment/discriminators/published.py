"""The discriminator that the paper's authors published, prism-vlm/Qwen3-VL-2B-4X-Moe-warmup-120k.

A `qwen3_vl_moe` folder without `prism_discriminator.json`, whose one head for both roles, a linear map without bias,
lies among the model's own tensors as `v_head.1.weight` or in a file of its own, `value_head.pt`. Its warm-up closed
the assistant's turn as the chat template does and read the score on the newline after `<|im_end|>`, and scored
reasoning without its caption. Weights are kept in bfloat16, the experts transposed (see
`storage.experts_transposed`). The paper's code goes on with a random head when this one does not load; here that is
refused.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import Qwen3VLMoeConfig

from integrations.alignment.discriminators.description import Description
from integrations.alignment.discriminators.discriminator import SHARED, new_heads
from integrations.alignment.names import DESCRIPTION
from integrations.common.checkpoint import read_tensors
from integrations.common.files import hash_file, read_json
from integrations.errors import BadInput

HEAD = "v_head.1.weight"
HEAD_FILE = "value_head.pt"
FIX = "download the folder anew, whole"


def is_published(folder: Path) -> bool:
    """Whether the folder has that layout: experts, but no description of this project."""
    config = read_json(folder / "config.json")
    named = isinstance(config, dict) and config.get("model_type") == "qwen3_vl_moe"
    return named and not (folder / DESCRIPTION).is_file()


def describe(folder: Path) -> Description:
    """How such a folder's weights were trained to read and score.

    Raises:
        BadInput: the tokenizer is missing.
    """
    tokenizer = folder / "tokenizer.json"
    if not tokenizer.is_file():
        raise BadInput(f"{folder} has no tokenizer.json", FIX)
    text = Qwen3VLMoeConfig.from_pretrained(folder).text_config
    return Description(
        positions="text",
        score="head",
        heads=SHARED,
        reasoning="alone",
        terminator="turn-end",
        routing="free",
        experts=text.num_experts,
        top_k=text.num_experts_per_tok,
        reference="",
        tokenizer=hash_file(tokenizer),
        held_out=0,
    )


def load_head(folder: Path, width: int) -> nn.ModuleDict:
    """The one head, in fp32.

    Raises:
        BadInput: it is in neither place, differs between the two, or has another shape.
    """
    found = [value for value in (_among_the_weights(folder), _in_its_own_file(folder)) if value is not None]
    if not found:
        raise BadInput(f"{folder} has no head: neither `{HEAD}` among its weights nor {HEAD_FILE}", FIX)
    for value in found:
        if value.shape != (1, width):
            raise BadInput(f"{folder}: the head's shape is {tuple(value.shape)}, not (1, {width})", FIX)
        if not torch.equal(value.float(), found[0].float()):
            raise BadInput(f"{folder}: `{HEAD}` and {HEAD_FILE} hold different heads", FIX)
    heads = new_heads(width, 0, SHARED)
    heads.load_state_dict({f"{SHARED}.weight": found[0].float()})
    return heads


def _among_the_weights(folder: Path) -> torch.Tensor | None:
    tensor = read_tensors(folder).get(HEAD)
    if tensor is None:
        return None
    with safe_open(tensor.path, "pt") as stream:
        return stream.get_tensor(HEAD)


def _in_its_own_file(folder: Path) -> torch.Tensor | None:
    """The one tensor of `value_head.pt`, which is read as weights only: a pickle could run code."""
    path = folder / HEAD_FILE
    if not path.is_file():
        return None
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise BadInput(f"{path} is not a file of weights: {str(error).splitlines()[0]}", FIX) from error
    weights = list(content.values()) if isinstance(content, dict) else [content]
    if len(weights) != 1 or not isinstance(weights[0], torch.Tensor):
        raise BadInput(f"{path} does not hold one tensor, the head's weight", FIX)
    return weights[0]
