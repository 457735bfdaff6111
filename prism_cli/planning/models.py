"""A Qwen3-VL's dimensions and parameters, from its `config.json` alone.

The counts equal those of the model that transformers builds from the same configuration on the meta device (a test
holds this). Published sizes come with prism (`facts/*.json`, the fields of their `config.json` that matter here);
others are read from a model folder.

Legend: H hidden width, I width inside the MLP, V vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from integrations.errors import BadInput

FACTS = Path(__file__).with_name("facts")
FAMILY = "qwen3_vl"
_FIELDS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "vocab_size",
)


@dataclass(frozen=True)
class Vision:
    """The vision tower; a token of the language model is `merge` x `merge` patches."""

    depth: int
    hidden: int
    inside: int
    heads: int
    out: int
    deepstack: int
    """Layers whose states are also added to the language model's first layers, each through a merger of its own."""
    patch: int
    """Numbers of one patch: channels x frames x height x width."""
    merge: int
    positions: int

    @property
    def per_layer(self) -> int:
        """Two layer norms, attention and MLP, with biases."""
        attention = 4 * self.hidden * self.hidden + 4 * self.hidden
        return 4 * self.hidden + attention + 2 * self.hidden * self.inside + self.inside + self.hidden

    @property
    def merger(self) -> int:
        """The projector between vision tower and language model."""
        return 2 * self.hidden + self._projection

    @property
    def parameters(self) -> int:
        merged = self.hidden * self.merge**2
        embedding = self.patch * self.hidden + self.hidden + self.positions * self.hidden
        others = self.deepstack * (2 * merged + self._projection)
        return embedding + self.depth * self.per_layer + self.merger + others

    @property
    def _projection(self) -> int:
        merged = self.hidden * self.merge**2
        return merged * merged + merged + merged * self.out + self.out


@dataclass(frozen=True)
class Dimensions:
    """A dense Qwen3-VL, or with `experts` the mixture that the discriminator is grown into."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    """Width of one head."""
    inside: int
    """Width inside the MLP, or inside each expert."""
    vocabulary: int
    tied: bool
    """Whether the output layer is the embedding."""
    vision: Vision
    experts: int = 1
    top_k: int = 1

    @property
    def attention(self) -> int:
        """Parameters of one layer's attention, its norms of queries and keys included."""
        return 2 * self.hidden * self.head * (self.heads + self.kv_heads) + 2 * self.head

    @property
    def mlp(self) -> int:
        """Parameters of one layer's MLP, or of all its experts and their router."""
        dense = 3 * self.hidden * self.inside
        return dense if self.experts == 1 else self.experts * (dense + self.hidden)

    @property
    def per_layer(self) -> int:
        return self.attention + self.mlp + 2 * self.hidden

    @property
    def embedding(self) -> int:
        return self.vocabulary * self.hidden

    @property
    def text(self) -> int:
        """The language model with embedding and output layer."""
        return self.layers * self.per_layer + self.hidden + self.embedding * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        return self.text + self.vision.parameters

    @property
    def active(self) -> int:
        """Parameters that one text token is multiplied with, embedding excluded and output layer included."""
        chosen = 3 * self.hidden * self.inside * self.top_k
        return self.layers * (self.attention + chosen) + self.embedding

    @property
    def largest(self) -> int:
        """Numbers of the largest single tensor."""
        return max(self.embedding, self.experts * 2 * self.hidden * self.inside if self.experts > 1 else 0)

    @property
    def kv_per_token(self) -> int:
        """Numbers that a token leaves in the cache of keys and values, all layers together."""
        return 2 * self.layers * self.kv_heads * self.head

    def mixture(self, experts: int, top_k: int) -> Dimensions:
        """Every MLP as so many experts of the same width (`integrations.alignment.discriminators.upcycle`)."""
        return replace(self, experts=experts, top_k=top_k)

    def adapters(self, rank: int, targets: tuple[str, ...]) -> int:
        """Parameters of low-rank adapters beside these matrices of every layer: rank x (rows + columns) each.

        A mixture's experts get none.
        """
        queries, keys = self.heads * self.head, self.kv_heads * self.head
        sizes = {
            "q_proj": self.hidden + queries,
            "k_proj": self.hidden + keys,
            "v_proj": self.hidden + keys,
            "o_proj": queries + self.hidden,
        }
        if self.experts == 1:
            sizes |= dict.fromkeys(("gate_proj", "up_proj", "down_proj"), self.hidden + self.inside)
        return self.layers * rank * sum(sizes.get(target, 0) for target in targets)


def known() -> list[str]:
    """Names of the published sizes that come with prism, the smallest first."""
    return sorted((path.stem for path in FACTS.glob("*.json")), key=lambda name: int(name.split("-")[-1][:-1]))


def published(name: str) -> Dimensions | None:
    """Dimensions of a published model by a repository's or folder's name (`Qwen/Qwen3-VL-4B-Instruct`); None: not one
    of those that come with prism."""
    last = name.rstrip("/").rsplit("/", 1)[-1].lower()
    for size in reversed(known()):
        if last == size.lower() or last.startswith(f"{size.lower()}-"):
            return from_config(json.loads((FACTS / f"{size}.json").read_text(encoding="utf-8")), size)
    return None


def from_folder(folder: Path) -> Dimensions:
    """Dimensions of the model in a folder.

    Raises:
        BadInput: there is no configuration, or it is of another family.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot read {path}: {error}", "name a folder with a Qwen3-VL in Hugging Face form") from error
    return from_config(config, str(path))


def from_config(config: Mapping[str, Any], where: str) -> Dimensions:
    """Dimensions from a `config.json`.

    Args:
        where: what to call it in a message.

    Raises:
        BadInput: the model is of another family, or a field is missing.
    """
    kind = config.get("model_type")
    if kind not in (FAMILY, f"{FAMILY}_moe"):
        raise BadInput(
            f"{where}, field `model_type`: {kind!r} is another family than Qwen3-VL",
            f"start from a model whose `model_type` is {FAMILY}: {', '.join(known())} or one trained from them",
        )
    text, vision = config.get("text_config") or {}, config.get("vision_config") or {}
    missing = next((name for name in _FIELDS if not isinstance(text.get(name), int)), None)
    if missing:
        raise BadInput(f"{where}, field `text_config.{missing}`: missing", "take the configuration as it is published")
    heads = text["num_attention_heads"]
    tower = _vision(vision, where)
    experts = text.get("num_experts", 1) or 1
    return Dimensions(
        hidden=text["hidden_size"],
        layers=text["num_hidden_layers"],
        heads=heads,
        kv_heads=text["num_key_value_heads"],
        head=text.get("head_dim") or text["hidden_size"] // heads,
        inside=text["intermediate_size"] if experts == 1 else text["moe_intermediate_size"],
        vocabulary=text["vocab_size"],
        tied=bool(config.get("tie_word_embeddings", False)),
        vision=tower,
        experts=experts,
        top_k=text.get("num_experts_per_tok", 1) if experts > 1 else 1,
    )


def _vision(vision: Mapping[str, Any], where: str) -> Vision:
    try:
        size, frames = vision["patch_size"], vision.get("temporal_patch_size", 2)
        return Vision(
            depth=vision["depth"],
            hidden=vision["hidden_size"],
            inside=vision["intermediate_size"],
            heads=vision["num_heads"],
            out=vision["out_hidden_size"],
            deepstack=len(vision["deepstack_visual_indexes"]),
            patch=vision.get("in_channels", 3) * frames * size * size,
            merge=vision.get("spatial_merge_size", 2),
            positions=vision["num_position_embeddings"],
        )
    except KeyError as error:
        problem = f"{where}, field `vision_config.{error.args[0]}`: missing"
        raise BadInput(problem, "take the configuration as it is published") from error
