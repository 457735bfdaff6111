"""Write a tiny Qwen3-VL with random weights and a tokenizer of its own: the folder the digits run starts from.

    python -m benchmarks.digits.build_model --settings model.json --data data/ --out model/

Every engine loads it as it would load Qwen3-VL-4B: same architecture, same added tokens, Qwen's splitting rule (digits
stand alone) and Qwen's chat layout without thinking, which is what LLaMA-Factory's template `qwen3_vl_nothink` renders.
The byte-level BPE merges are learnt from the world's own text by `tokenizers`. Runs in the alignment environment; the
same settings and data give the same bytes. `--settings` is a `TinyModel` as JSON.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoProcessor,
    AutoTokenizer,
    GenerationConfig,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    set_seed,
)

from integrations.common.files import whole_folder
from integrations.common.rows import read_rows

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
ADDED = (
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)
"""Qwen's further added tokens, which are not special: they stay in decoded text."""

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen's splitting rule."""

CHAT_TEMPLATE = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.content is string %}
        {{- message.content }}
    {%- else %}
        {%- for part in message.content %}
            {%- if part.type == 'image' or 'image' in part or 'image_url' in part %}
                {{- '<|vision_start|><|image_pad|><|vision_end|>' }}
            {%- elif part.type == 'video' or 'video' in part %}
                {{- '<|vision_start|><|video_pad|><|vision_end|>' }}
            {%- elif 'text' in part %}
                {{- part.text }}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

PATCH, MERGE, FRAMES = 16, 2, 2
SIDE = PATCH * MERGE


def world_text(data: Path) -> Iterator[str]:
    """Prompts and responses of the pools that demonstrate, with the roles' names."""
    for pool in ("base", "sft"):
        for row in read_rows(data / f"{pool}.jsonl"):
            yield f"user\n{row['prompt']}"
            yield f"assistant\n{row['response']}"


def train_tokenizer(texts: Iterator[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE with Qwen's splitting rule; all added tokens fit into `vocab_size` and stand last, as in Qwen."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL) - len(ADDED),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in ADDED])
    return tokenizer


def tokenizer_settings(tokenizer: Tokenizer) -> dict[str, Any]:
    """`tokenizer_config.json` in Qwen's form."""
    special = set(SPECIAL)
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(tokenizer.token_to_id(token)): {
                "content": token,
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": token in special,
            }
            for token in (*SPECIAL, *ADDED)
        },
        "additional_special_tokens": list(SPECIAL[1:]),
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 4096,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }


def image_settings(max_digits: int) -> dict[str, Any]:
    """`preprocessor_config.json`: strips of 1 to `max_digits` digits pass unscaled."""
    return {
        "size": {"shortest_edge": SIDE * SIDE, "longest_edge": SIDE * SIDE * max_digits},
        "patch_size": PATCH,
        "temporal_patch_size": FRAMES,
        "merge_size": MERGE,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "processor_class": "Qwen3VLProcessor",
        "image_processor_type": "Qwen2VLImageProcessorFast",
    }


def video_settings(max_digits: int) -> dict[str, Any]:
    """`video_preprocessor_config.json`; the world has no videos, but processors of this family carry one."""
    return {**image_settings(max_digits), "video_processor_type": "Qwen3VLVideoProcessor", "image_processor_type": None}


def model_config(model: SimpleNamespace, ids: dict[str, int]) -> Qwen3VLConfig:
    """The architecture, in fp32, with tied embeddings as in the small Qwen3-VL."""
    sections = {32: [8, 4, 4], 64: [16, 8, 8], 128: [24, 20, 20]}[model.head_dim]
    return Qwen3VLConfig(
        architectures=["Qwen3VLForConditionalGeneration"],
        dtype="float32",
        tie_word_embeddings=True,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        text_config={
            "architectures": ["Qwen3ForCausalLM"],
            "dtype": "float32",
            "vocab_size": model.vocab_size,
            "hidden_size": model.hidden_size,
            "intermediate_size": model.intermediate_size,
            "num_hidden_layers": model.layers,
            "num_attention_heads": model.heads,
            "num_key_value_heads": model.kv_heads,
            "head_dim": model.head_dim,
            "initializer_range": model.initializer_range,
            "max_position_embeddings": 4096,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": sections,
                "mrope_interleaved": True,
            },
            "tie_word_embeddings": True,
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
        },
        vision_config={
            "dtype": "float32",
            "depth": model.vision_layers,
            "hidden_size": model.vision_hidden_size,
            "intermediate_size": model.vision_intermediate_size,
            "num_heads": model.vision_heads,
            "initializer_range": model.initializer_range,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": FRAMES,
            "out_hidden_size": model.hidden_size,
            "num_position_embeddings": 256,
            "deepstack_visual_indexes": list(range(min(3, model.vision_layers, model.layers))),
        },
    )


def write_model(model: SimpleNamespace, data: Path, out: Path) -> dict[str, Any]:
    """Write the whole folder into the existing empty folder `out`; returns sizes."""
    tokenizer = train_tokenizer(world_text(data), model.vocab_size)
    tokenizer.save(str(out / "tokenizer.json"))
    ids = {token: tokenizer.token_to_id(token) for token in SPECIAL}
    files = {
        "tokenizer_config.json": tokenizer_settings(tokenizer),
        "preprocessor_config.json": image_settings(model.max_digits),
        "video_preprocessor_config.json": video_settings(model.max_digits),
    }
    for name, content in files.items():
        kept = {key: value for key, value in content.items() if value is not None or key in ("bos_token", "unk_token")}
        (out / name).write_text(json.dumps(kept, indent=2) + "\n")
    (out / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    set_seed(model.seed)
    network = Qwen3VLForConditionalGeneration(model_config(model, ids)).to(torch.float32)
    network.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        bos_token_id=ids["<|endoftext|>"],
        pad_token_id=ids["<|endoftext|>"],
        eos_token_id=[ids["<|im_end|>"], ids["<|endoftext|>"]],
    )
    network.save_pretrained(out)
    _drop_vision_rotary(out / "config.json")
    AutoProcessor.from_pretrained(out)
    return {
        "parameters": sum(weight.numel() for weight in network.parameters()),
        "tokens": len(AutoTokenizer.from_pretrained(out)),
        "vocab_size": model.vocab_size,
    }


def _drop_vision_rotary(path: Path) -> None:
    """Leave out a field that newer transformers write with its default value and older ones warn about."""
    config = json.loads(path.read_text())
    config["vision_config"].pop("rope_parameters", None)
    path.write_text(json.dumps(config, indent=2) + "\n")


def build(model: SimpleNamespace, data: Path, out: Path) -> dict[str, Any]:
    """Build the model beside `out` and rename it there, so that `out` is whole or absent.

    Raises:
        FileExistsError: `out` exists already.
    """
    with whole_folder(out) as partial:
        return write_model(model, data, partial)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a tiny Qwen3-VL with random weights.")
    parser.add_argument("--settings", type=Path, required=True, help="TinyModel as JSON")
    parser.add_argument("--data", type=Path, required=True, help="the world's folder; the tokenizer learns its text")
    parser.add_argument("--out", type=Path, required=True, help="folder to make; must not exist")
    args = parser.parse_args()
    model = SimpleNamespace(**json.loads(args.settings.read_text()))
    try:
        summary = build(model, args.data, args.out)
    except (OSError, AttributeError) as error:
        parser.exit(1, f"cannot build the tiny model: {error}\n")
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
