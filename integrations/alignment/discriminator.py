"""The discriminator: a mixture of experts grown from a dense Qwen3-VL, and the scores it gives.

Every MLP becomes `experts` copies of itself behind a router (sparse upcycling), told apart by a little noise; without
noise the result equals the dense model exactly, since any convex mixture of equal experts is that expert. Role
routing makes the first expert perception's own and the last one reasoning's own, while prompt and image tokens use
all of them and so are computed once for both.

A score is either a log-likelihood ratio, `log p_D(segment | prompt, what came before) - log p_policy(same)`, or a
scalar read at the segment's last token by the role's own head in fp32. Reasoning is scored given its caption.

On disk: a standard `qwen3_vl_moe` folder with the processor's files, `prism_discriminator.json` and, for heads,
`prism_heads.safetensors`. The loader refuses a folder that lacks a part; nothing is ever initialised at random instead.

Differs from the paper's code: two heads (or none) in place of one for both segments, experts of their own for each
role, true multimodal positions in place of text positions, no dropout, no bf16 scores, noise relative to each
weight's own scale, and reasoning that sees its caption.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Qwen3VLMoeForConditionalGeneration
from transformers.models.qwen3_vl_moe.configuration_qwen3_vl_moe import Qwen3VLMoeConfig
from transformers.models.qwen3_vl_moe.modeling_qwen3_vl_moe import Qwen3VLMoeTextTopKRouter

from integrations.alignment import batching, losses
from integrations.alignment.model import prepare
from integrations.alignment.names import DESCRIPTION
from integrations.alignment.policy import token_log_probs
from integrations.alignment.prompts import Prompt
from integrations.alignment.seeds import derive
from integrations.alignment.segments import Segments
from integrations.common.files import read_json, write_json
from integrations.errors import BadInput

HEADS = "prism_heads.safetensors"
FORMAT = 1
PROMPT, PERCEPTION, REASONING, PADDING = 0, 1, 2, -1
"""Kinds of token that the routers tell apart."""


@dataclass(frozen=True)
class Description:
    """Content of `prism_discriminator.json`."""

    score: str
    """`likelihood_ratio` or `head`."""
    routing: str
    """`roles` or `free`."""
    experts: int
    top_k: int
    reference: str
    """Hash of the policy folder whose likelihood is subtracted (`files.hash_folder`)."""
    tokenizer: str
    """sha256 of `tokenizer.json`."""
    held_out: int
    """Prompts of the teacher pool it was not trained on."""
    format: int = FORMAT


def allowed_experts(experts: int, routing: str) -> torch.Tensor:
    """(3, experts) bool: which experts prompt, perception and reasoning tokens may use."""
    allowed = torch.ones((3, experts), dtype=torch.bool)
    if routing == "roles":
        allowed[PERCEPTION, -1] = False
        allowed[REASONING, 0] = False
    return allowed


class Routing:
    """What the routers of one model share: each token's kind, and the sums for the load-balancing loss.

    Legend: L layers, K kinds of token (3), E experts.
    """

    def __init__(self, allowed_KE: torch.Tensor) -> None:
        self.allowed_KE = allowed_KE
        self.kinds_N = torch.empty(0, dtype=torch.int64)
        self.reset()

    def reset(self) -> None:
        """Forget the sums."""
        self._assigned: dict[int, torch.Tensor] = {}
        self._probability: dict[int, torch.Tensor] = {}

    def set_kinds(self, kinds: torch.Tensor) -> None:
        """Kinds of the tokens of the next pass, any shape, in the order of the hidden states."""
        self.kinds_N = kinds.reshape(-1)

    def mask_NE(self) -> torch.Tensor:
        """bool, the experts each token may use; padding counts as prompt."""
        return self.allowed_KE[self.kinds_N.clamp_min(PROMPT)]

    def record(self, layer: int, probabilities_NE: torch.Tensor, chosen_Nk: torch.Tensor) -> None:
        """Add one pass of one layer to the sums."""
        member_KN = F.one_hot(self.kinds_N + 1, 4)[:, 1:].T.to(probabilities_NE.dtype)
        with torch.no_grad():
            chosen_NE = torch.zeros_like(probabilities_NE).scatter(-1, chosen_Nk, 1.0)
            assigned = member_KN @ chosen_NE
        probability = member_KN @ probabilities_NE
        self._assigned[layer] = self._assigned[layer] + assigned if layer in self._assigned else assigned
        self._probability[layer] = self._probability[layer] + probability if layer in self._probability else probability

    @property
    def assigned_LKE(self) -> torch.Tensor:
        """Tokens sent to each expert."""
        return torch.stack([self._assigned[layer] for layer in sorted(self._assigned)])

    @property
    def probability_LKE(self) -> torch.Tensor:
        """Summed router probabilities, with gradient."""
        return torch.stack([self._probability[layer] for layer in sorted(self._probability)])


class RoleRouter(Qwen3VLMoeTextTopKRouter):
    """Top-k router that leaves out the experts a token's kind may not use. Takes over the original's weight."""

    def __init__(self, original: Qwen3VLMoeTextTopKRouter, layer: int, routing: Routing) -> None:
        nn.Module.__init__(self)
        self.top_k, self.num_experts = original.top_k, original.num_experts
        self.hidden_dim, self.weight = original.hidden_dim, original.weight
        self.layer, self.routing = layer, routing

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(N, H) -> logits (N, E), weights (N, k) that sum to one, expert indices (N, k)."""
        hidden = hidden_states.reshape(-1, self.hidden_dim)
        logits = F.linear(hidden, self.weight)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).masked_fill(
            ~self.routing.mask_NE(), -torch.inf
        )
        probabilities = logits.softmax(-1)
        weights, chosen = probabilities.topk(self.top_k, -1)
        self.routing.record(self.layer, probabilities, chosen)
        weights = weights / weights.sum(-1, keepdim=True)
        return logits, weights.to(hidden.dtype), chosen


def upcycle(
    dense: Any, *, experts: int, top_k: int, noise: float, router_std: float, seed: int
) -> Qwen3VLMoeForConditionalGeneration:
    """A mixture-of-experts copy of a dense Qwen3-VL.

    Args:
        dense: the model; not changed.
        noise: standard deviation of the noise on each expert's matrices, as a share of the matrix's own.
        router_std: standard deviation of the router weights.
        seed: of noise and routers.
    """
    settings = dense.config.to_dict()
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
    config = Qwen3VLMoeConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=dense.config.image_token_id,
        video_token_id=dense.config.video_token_id,
        vision_start_token_id=dense.config.vision_start_token_id,
        vision_end_token_id=dense.config.vision_end_token_id,
        tie_word_embeddings=dense.config.tie_word_embeddings,
    )
    model = Qwen3VLMoeForConditionalGeneration._from_config(
        config, dtype=torch.float32, attn_implementation="sdpa", experts_implementation="eager"
    )
    generator = torch.Generator().manual_seed(derive(seed, "upcycle"))
    weights = {}
    for name, value in dense.state_dict().items():
        if ".mlp." not in name or "language_model" not in name:
            weights[name] = value
    for layer in range(dense.config.text_config.num_hidden_layers):
        prefix = f"model.language_model.layers.{layer}.mlp"
        mlp = dense.model.language_model.layers[layer].mlp
        both = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]).detach()
        weights[f"{prefix}.experts.gate_up_proj"] = _copies(both, experts, noise, generator)
        weights[f"{prefix}.experts.down_proj"] = _copies(mlp.down_proj.weight.detach(), experts, noise, generator)
        router = torch.empty((experts, text["hidden_size"])).normal_(0, router_std, generator=generator)
        weights[f"{prefix}.gate.weight"] = router
    model.load_state_dict(weights, strict=True)
    model.generation_config = dense.generation_config
    return model.to(dense.lm_head.weight.device).eval()


def _copies(weight: torch.Tensor, experts: int, noise: float, generator: torch.Generator) -> torch.Tensor:
    """(experts, *weight.shape): the weight with independent relative noise."""
    draws = torch.empty((experts, *weight.shape)).normal_(0, 1, generator=generator).to(weight)
    return weight + noise * weight.std() * draws


class Discriminator:
    """Scores segments.

    Args:
        backbone: the mixture-of-experts model; its routers are replaced by `RoleRouter`s.
        description: how it scores.
        banned_V: tokens that no response holds (`model.banned_tokens`), left out of likelihoods.
        reference: the dense policy whose likelihood is subtracted; needed for `likelihood_ratio` only.
        heads: one linear map per role; needed for `head` only.
    """

    def __init__(
        self,
        backbone: Any,
        description: Description,
        banned_V: torch.Tensor,
        *,
        reference: Any = None,
        heads: nn.ModuleDict | None = None,
    ) -> None:
        if (description.score == "head") != (heads is not None):
            raise ValueError("a discriminator has heads exactly when its score is `head`")
        if description.score == "likelihood_ratio" and reference is None:
            raise ValueError("a likelihood ratio needs the reference policy")
        device = backbone.lm_head.weight.device
        self.backbone, self.description = prepare(backbone), description
        self.banned_V, self.reference, self.heads = banned_V.to(device), reference, heads
        self.routing = Routing(allowed_experts(description.experts, description.routing).to(device))
        for index, layer in enumerate(backbone.model.language_model.layers):
            layer.mlp.gate = RoleRouter(layer.mlp.gate, index, self.routing)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Trained parameters; the reference is none of them."""
        yield from self.backbone.named_parameters()
        if self.heads is not None:
            yield from ((f"heads.{name}", value) for name, value in self.heads.named_parameters())

    @torch.no_grad()
    def restore(self, parameters: Mapping[str, torch.Tensor]) -> None:
        """Take over parameters by the names of `named_parameters`, all of them."""
        own = dict(self.named_parameters())
        if own.keys() != parameters.keys():
            raise ValueError("the parameters are not those of this discriminator")
        for name, value in own.items():
            value.copy_(parameters[name])

    def score(self, prompts: Sequence[Prompt], which: Sequence[int], segments: Sequence[Segments]) -> torch.Tensor:
        """(2, R) scores of perception and reasoning, with gradient; segment r answers `prompts[which[r]]`."""
        return self.evidence(prompts, which, segments) - self.baseline(prompts, which, segments)

    def evidence(self, prompts: Sequence[Prompt], which: Sequence[int], segments: Sequence[Segments]) -> torch.Tensor:
        """(2, R) the model's own part of the score, with gradient; adds to `routing`'s sums."""
        device = self.banned_V.device
        tails = batching.Tails.pack([item.ids for item in segments], device)
        boundary_R = torch.tensor([item.perception for item in segments], device=device)
        kinds_RT = token_kinds(tails, boundary_R)
        self.routing.set_kinds((batching.prompt_mask(prompts) - 1).to(device))
        state = batching.repeat(batching.read_prompts(self.backbone, prompts), torch.as_tensor(which, device=device))
        self.routing.set_kinds(kinds_RT)
        hidden_RTH = batching.continue_prompts(self.backbone, state, tails)
        if self.heads is None:
            log_probs, _ = token_log_probs(self.backbone, state, hidden_RTH, tails, self.banned_V)
            return sum_by_role(log_probs, kinds_RT)
        rows = torch.arange(len(segments), device=device)
        last = torch.tensor([item.last for item in segments], device=device)
        perception = self.heads["perception"](hidden_RTH[rows, last[:, 0]].float())[:, 0]
        reasoning = self.heads["reasoning"](hidden_RTH[rows, last[:, 1]].float())[:, 0]
        return torch.stack([perception, reasoning])

    @torch.no_grad()
    def baseline(self, prompts: Sequence[Prompt], which: Sequence[int], segments: Sequence[Segments]) -> torch.Tensor:
        """(2, R) what is subtracted: the reference's log-likelihood, or zero for heads."""
        device = self.banned_V.device
        if self.reference is None:
            return torch.zeros((2, len(segments)), device=device)
        tails = batching.Tails.pack([item.ids for item in segments], device)
        boundary_R = torch.tensor([item.perception for item in segments], device=device)
        state = batching.repeat(batching.read_prompts(self.reference, prompts), torch.as_tensor(which, device=device))
        hidden_RTH = batching.continue_prompts(self.reference, state, tails)
        log_probs, _ = token_log_probs(self.reference, state, hidden_RTH, tails, self.banned_V)
        return sum_by_role(log_probs, token_kinds(tails, boundary_R))

    def balance(self, tokens_K: torch.Tensor, assigned_LKE: torch.Tensor) -> torch.Tensor:
        """Load-balancing loss of what `evidence` has read since `routing.reset`.

        Args:
            tokens_K, assigned_LKE: of the whole step, where this is only a part of it (the loss then adds up).
        """
        return losses.balance_loss(assigned_LKE, self.routing.probability_LKE, tokens_K, self.routing.allowed_KE)

    def save(self, folder: Path) -> None:
        """Write backbone, description and heads into a folder."""
        self.backbone.save_pretrained(folder)
        if self.heads is not None:
            save_file(
                {name: value.detach().contiguous() for name, value in self.heads.state_dict().items()}, folder / HEADS
            )
        write_json(folder / DESCRIPTION, asdict(self.description))


def token_kinds(tails: batching.Tails, boundary_R: torch.Tensor) -> torch.Tensor:
    """(R, T) int64: PERCEPTION before the boundary, REASONING from there on, PADDING after the end."""
    steps = torch.arange(tails.ids_RT.shape[1], device=boundary_R.device)
    kinds = torch.where(steps < boundary_R[:, None], PERCEPTION, REASONING)
    return kinds.masked_fill(~tails.mask_RT, PADDING)


def sum_by_role(values_RT: torch.Tensor, kinds_RT: torch.Tensor) -> torch.Tensor:
    """(2, R) sums over each segment's tokens."""
    return torch.stack([(values_RT * (kinds_RT == kind)).sum(1) for kind in (PERCEPTION, REASONING)])


def new_heads(width: int, seed: int, device: torch.device | str = "cpu") -> nn.ModuleDict:
    """Two heads in fp32, near zero, so that scores start small."""
    generator = torch.Generator().manual_seed(derive(seed, "heads"))
    heads = nn.ModuleDict({role: nn.Linear(width, 1, dtype=torch.float32) for role in ("perception", "reasoning")})
    for head in heads.values():
        nn.init.normal_(head.weight, std=0.02, generator=generator)
        nn.init.zeros_(head.bias)
    return heads.to(device)


def read_description(folder: Path) -> Description:
    """The folder's description.

    Raises:
        BadInput: it is missing, not JSON, of another format, or lacks a field.
    """
    path = folder / DESCRIPTION
    content = read_json(path)
    fix = "point at the result of a discriminator stage"
    if not isinstance(content, dict):
        raise BadInput(f"{path} is missing or not JSON, so {folder} is no discriminator", fix)
    if content.get("format") != FORMAT:
        raise BadInput(f"{path}: format {content.get('format')!r}, this version reads {FORMAT}", fix)
    names = {item.name for item in fields(Description)}
    if content.keys() != names:
        wrong = sorted(content.keys() ^ names)
        raise BadInput(f"{path}: field `{wrong[0]}` is missing or unknown", fix)
    return Description(**content)


def load(folder: Path, banned_V: torch.Tensor, *, reference: Any, device: str) -> Discriminator:
    """A discriminator from its folder.

    Args:
        reference: the dense policy; its folder's hash must have been compared with the description's.

    Raises:
        BadInput: a part is missing: description, a tensor of the backbone, or a head.
    """
    description = read_description(folder)
    backbone, report = Qwen3VLMoeForConditionalGeneration.from_pretrained(
        folder,
        dtype=torch.float32,
        attn_implementation="sdpa",
        experts_implementation="eager",
        output_loading_info=True,
    )
    missing = sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"])
    if missing:
        raise BadInput(f"{folder} lacks weights: {missing[0]} and {len(missing) - 1} more", "run its stage again")
    heads = None
    if description.score == "head":
        heads = new_heads(backbone.config.text_config.hidden_size, 0)
        try:
            heads.load_state_dict(load_file(folder / HEADS))
        except (OSError, RuntimeError) as error:
            raise BadInput(f"{folder / HEADS} is missing or not the heads: {error}", "run its stage again") from error
        heads = heads.to(device)
    return Discriminator(
        backbone.to(device).eval(),
        description,
        banned_V,
        reference=reference if description.score == "likelihood_ratio" else None,
        heads=heads,
    )
