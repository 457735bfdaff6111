"""A Qwen3-VL of a few thousand parameters with its own tokenizer and images, for tests inside the alignment engine.

Run by the alignment environment: `python -m pytest tests/torch`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from integrations.alignment.data.prompts import Encoder
from integrations.alignment.forward.model import load_policy, load_processor
from integrations.common.rows import Row

SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for c in m.content %}{% if c.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif c.type == 'text' %}{{ c.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def response(caption: str, think: str, answer: str) -> str:
    return f"<caption>{caption}</caption>\n<think>{think}</think>\n<answer>{answer}</answer>"


def make_rows(folder: Path, count: int, images: int | None = None) -> list[Row]:
    """Rows with 0, 1 or 2 random images of several sizes (or exactly `images`) and a demonstration each."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for index in range(count):
        paths = []
        for image in range(index % 3 if images is None else images):
            size = (32 * int(rng.integers(1, 4)), 32 * int(rng.integers(1, 3)))
            path = f"images/{index}-{image}.png"
            Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(folder / path)
            paths.append(path)
        a, b = int(rng.integers(1, 9)), int(rng.integers(1, 9))
        text = response(f"{a} {b}", f"{a}+{b}={a + b}", str(a + b))
        prompt = "Add the digits." if index % 2 else "What is the sum of the digits in the picture?"
        rows.append(
            {
                "id": f"row-{index}",
                "images": paths,
                "system": "Be exact." if index % 4 == 3 else None,
                "prompt": prompt,
                "response": text,
                "answer": str(a + b),
                "source": "teacher",
                "task": {},
            }
        )
    return rows


def make_tokenizer() -> PreTrainedTokenizerFast:
    texts = [response("3 4", "3+4=7", "7"), "What is the sum of the digits in the picture? Add the digits."] * 50
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens={
            "image_token": "<|image_pad|>",
            "video_token": "<|video_pad|>",
            "vision_bos_token": "<|vision_start|>",
            "vision_eos_token": "<|vision_end|>",
        },
    )


def make_model(folder: Path, hidden: int = 32, seed: int = 0) -> None:
    """Write a random checkpoint with everything a Hugging Face folder of Qwen3-VL has."""
    tokenizer = make_tokenizer()
    index = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": (len(tokenizer) // 64 + 1) * 64,
            "hidden_size": hidden,
            "intermediate_size": 2 * hidden + 16,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "max_position_embeddings": 1024,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [4, 2, 2],
                "mrope_interleaved": True,
            },
            "tie_word_embeddings": True,
            "initializer_range": 0.2,
            "pad_token_id": index["<|endoftext|>"],
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": hidden,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
            "initializer_range": 0.2,
        },
        image_token_id=index["<|image_pad|>"],
        video_token_id=index["<|video_pad|>"],
        vision_start_token_id=index["<|vision_start|>"],
        vision_end_token_id=index["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = index["<|im_end|>"]
    model.generation_config.pad_token_id = index["<|endoftext|>"]
    model.save_pretrained(folder)
    size = {"shortest_edge": 32 * 32, "longest_edge": 128 * 128}
    images = Qwen2VLImageProcessor(patch_size=16, temporal_patch_size=2, merge_size=2, size=size)
    video = Qwen3VLVideoProcessor(patch_size=16, temporal_patch_size=2, merge_size=2)
    Qwen3VLProcessor(
        image_processor=images, tokenizer=tokenizer, video_processor=video, chat_template=TEMPLATE
    ).save_pretrained(folder)


def write_pool(folder: Path, name: str, rows: list[Row]) -> None:
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "model"
    make_model(folder)
    return folder


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Row]]:
    """A data folder and its rows."""
    folder = tmp_path_factory.mktemp("world")
    rows = make_rows(folder, 24)
    write_pool(folder, "teacher", rows)
    return folder, rows


@pytest.fixture
def policy(checkpoint: Path) -> Any:
    return load_policy(checkpoint)


@pytest.fixture(scope="session")
def processor(checkpoint: Path) -> Any:
    return load_processor(checkpoint)


@pytest.fixture(scope="session")
def encoder(processor: Any, world: tuple[Path, list[Row]]) -> Encoder:
    return Encoder(processor, world[0])
