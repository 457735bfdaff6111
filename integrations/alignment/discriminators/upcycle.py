"""Sparse upcycling: a mixture of experts grown from a dense Qwen3-VL.

Every MLP becomes `experts` copies of itself behind a router, told apart by a little noise. Without noise the result
equals the dense model exactly, since any convex mixture of equal experts is that expert. Vision tower, attention and
embeddings are copied.

Differs from the paper's code, which adds N(0, 0.01) to every expert weight whatever the weight's own scale, in
bfloat16: that is of the same order as the weights, so the copies start as damaged models. Here the noise is a share
of each matrix's own standard deviation, in fp32.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import Qwen3VLMoeForConditionalGeneration
from transformers.models.qwen3_vl_moe.configuration_qwen3_vl_moe import Qwen3VLMoeConfig

from integrations.alignment.data.seeds import derive


def upcycle(
    dense: Any, *, experts: int, top_k: int, noise: float, router_std: float, seed: int
) -> Qwen3VLMoeForConditionalGeneration:
    """A mixture-of-experts copy of a dense Qwen3-VL, in fp32 on the same device.

    Args:
        dense: the model; not changed.
        noise: standard deviation of the noise on each expert's matrices, as a share of the matrix's own.
        router_std: standard deviation of the router weights.
        seed: of noise and routers.
    """
    config = _configuration(dense.config, experts, top_k)
    model = Qwen3VLMoeForConditionalGeneration._from_config(
        config, dtype=torch.float32, attn_implementation="sdpa", experts_implementation="eager"
    )
    generator = torch.Generator().manual_seed(derive(seed, "upcycle"))
    weights = {
        name: value for name, value in dense.state_dict().items() if ".mlp." not in name or "language_model" not in name
    }
    for index, layer in enumerate(dense.model.language_model.layers):
        prefix, mlp = f"model.language_model.layers.{index}.mlp", layer.mlp
        both = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
        weights[f"{prefix}.experts.gate_up_proj"] = _copies(both, experts, noise, generator)
        weights[f"{prefix}.experts.down_proj"] = _copies(mlp.down_proj.weight, experts, noise, generator)
        router = torch.empty((experts, config.text_config.hidden_size)).normal_(0, router_std, generator=generator)
        weights[f"{prefix}.gate.weight"] = router
    model.load_state_dict(weights, strict=True)
    model.generation_config = dense.generation_config
    return model.to(dense.lm_head.weight.device).eval()


def copy_dense(dense: Any) -> Any:
    """A dense discriminator's backbone: the model as it is, in fp32, with every parameter to be trained."""
    return copy.deepcopy(dense).float().requires_grad_(True).eval()


def _configuration(dense: Any, experts: int, top_k: int) -> Qwen3VLMoeConfig:
    settings = dense.to_dict()
    text = {name: value for name, value in settings["text_config"].items() if name != "model_type"}
    vision = {name: value for name, value in settings["vision_config"].items() if name != "model_type"}
    text |= {
        "num_experts": experts,
        "num_experts_per_tok": top_k,
        "moe_intermediate_size": text["intermediate_size"],
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "router_aux_loss_coef": 0.0,
    }
    return Qwen3VLMoeConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=dense.image_token_id,
        video_token_id=dense.video_token_id,
        vision_start_token_id=dense.vision_start_token_id,
        vision_end_token_id=dense.vision_end_token_id,
        tie_word_embeddings=dense.tie_word_embeddings,
    )


@torch.no_grad()
def _copies(weight: torch.Tensor, experts: int, noise: float, generator: torch.Generator) -> torch.Tensor:
    """(experts, *weight.shape) fp32: the weight with independent relative noise."""
    weight = weight.float()
    draws = torch.empty((experts, *weight.shape)).normal_(0, 1, generator=generator).to(weight)
    return weight + noise * weight.std() * draws
