"""A discriminator as a folder.

A standard model folder (`qwen3_vl_moe`, or `qwen3_vl` for a dense one) with the processor's files, beside them
`prism_discriminator.json` and, for heads, `prism_heads.safetensors`. The loader refuses a folder that lacks a part;
nothing is ever initialised at random instead, as the paper's code does when its head does not load.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Qwen3VLForConditionalGeneration, Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration

from integrations.alignment.discriminators.description import Description, read_description
from integrations.alignment.discriminators.discriminator import Discriminator, new_heads
from integrations.alignment.names import DESCRIPTION
from integrations.common.checkpoint import read_tensors
from integrations.common.files import read_json, write_json
from integrations.errors import BadInput

HEADS = "prism_heads.safetensors"
MODELS = {"moe": Qwen3VLMoeForConditionalGeneration, "dense": Qwen3VLForConditionalGeneration}
AGAIN = "run its stage again"


def save(
    discriminator: Discriminator,
    folder: Path,
    weights: Iterable[tuple[str, torch.Tensor]] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write backbone, description and heads into a folder; the processor's files are the adapter's to add.

    Args:
        weights: the parameters as `Player.weights` gives them; None writes them as they are.
        dtype: what the backbone's are rounded to; None keeps theirs. Heads are fp32.
    """
    named = discriminator.named_parameters() if weights is None else weights
    found = {name: value.detach().cpu().contiguous() for name, value in named}
    heads = {name.removeprefix("heads."): found.pop(name) for name in list(found) if name.startswith("heads.")}
    if dtype is not None:
        found = {name: value.to(dtype) for name, value in found.items()}
    discriminator.backbone.save_pretrained(folder, state_dict=found)
    if heads:
        save_file(heads, folder / HEADS)
    write_json(folder / DESCRIPTION, asdict(discriminator.description))


def load(
    folder: Path, banned_V: torch.Tensor, *, reference: Any, device: str, dtype: torch.dtype = torch.float32
) -> Discriminator:
    """A discriminator from its folder.

    Args:
        dtype: the backbone's; heads are fp32.
        reference: the dense policy; its folder's hash must have been compared with the description's.

    Raises:
        BadInput: a part is missing: description, a tensor of the backbone, or a head.
    """
    description = read_description(folder)
    backbone = load_backbone(folder, description.architecture, dtype=dtype).to(device).eval()
    heads = None
    if description.score == "head":
        heads = load_heads(folder, description, backbone.config.text_config.hidden_size).to(device)
    if description.score != "likelihood_ratio":
        reference = None
    return Discriminator(backbone, description, banned_V, reference=reference, heads=heads)


def load_heads(folder: Path, description: Description, width: int) -> nn.ModuleDict:
    """The heads of a folder of this project.

    Raises:
        BadInput: they are missing, or not those of the description.
    """
    heads = new_heads(width, 0, description.heads)
    try:
        heads.load_state_dict(load_file(folder / HEADS))
    except (OSError, RuntimeError, SafetensorError) as error:
        problem = str(error).replace("\n\t", " ")
        raise BadInput(f"{folder / HEADS} is missing or not the heads: {problem}", AGAIN) from error
    return heads


def load_backbone(
    folder: Path, architecture: str, ignored: Collection[str] = (), dtype: torch.dtype = torch.float32
) -> Any:
    """The model in `dtype`, whatever its folder keeps.

    Args:
        ignored: tensors of the folder that are not the model's.

    Raises:
        BadInput: another model type, weights that are missing, unknown, misshapen or corrupt.
    """
    model = MODELS[architecture]
    config = read_json(folder / "config.json")
    expected = model.config_class.model_type
    found = config.get("model_type") if isinstance(config, dict) else None
    if found != expected:
        raise BadInput(f"{folder / 'config.json'}: model_type is {found!r}, not {expected!r}", AGAIN)
    transposed = architecture == "moe" and experts_transposed(folder)
    options: dict[str, Any] = {} if architecture == "dense" else {"experts_implementation": "eager"}
    try:
        backbone, report = model.from_pretrained(
            folder, dtype=dtype, attn_implementation="sdpa", output_loading_info=True, **options
        )
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise BadInput(f"{folder} does not load: {str(error).splitlines()[0]}", AGAIN) from error
    for what in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        wrong = sorted(str(key) for key in report[what] if key not in ignored)
        if wrong:
            more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            raise BadInput(f"{folder} has {what.replace('_keys', '')} weights: {wrong[0]}{more}", AGAIN)
    if transposed:
        _turn_square_experts(backbone)
    return backbone


def experts_transposed(folder: Path) -> bool:
    """Whether a folder keeps its experts as transformers before 5 did: (E, H, 2I) and (E, I, H).

    Later versions keep (E, 2I, H) and (E, H, I) and turn the older ones by their shape when they load, which a square
    tensor does not show. At most one of the two kinds can be square (2I = H or I = H), so the other one tells.
    Legend: E experts, H hidden width, I expert width.

    Raises:
        BadInput: there are no experts, or their shapes fit neither form.
    """
    text = Qwen3VLMoeConfig.from_pretrained(folder).text_config
    experts, hidden, inner = text.num_experts, text.hidden_size, text.moe_intermediate_size
    now = {"gate_up_proj": (experts, 2 * inner, hidden), "down_proj": (experts, hidden, inner)}
    straight, turned = True, True
    for name, tensor in read_tensors(folder).items():
        shape = now.get(name.rpartition(".")[2])
        if ".mlp.experts." in name and shape is not None:
            straight &= tensor.shape == shape
            turned &= tensor.shape == (shape[0], shape[2], shape[1])
    if straight == turned:
        raise BadInput(f"{folder}: the experts' shapes are not those of its config.json", AGAIN)
    return turned


@torch.no_grad()
def _turn_square_experts(backbone: Any) -> None:
    """Transpose the experts that transformers took as they were, because they are square."""
    for name, value in backbone.named_parameters():
        if ".mlp.experts." in name and value.shape[1] == value.shape[2]:
            value.copy_(value.transpose(1, 2).clone())
