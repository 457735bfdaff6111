"""A small clean release, made by hand, for the tests of its checks."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from integrations.common.checkpoint import INDEX
from integrations.common.files import write_json
from release.checks import CheckContext, Numbers, run_checks
from release.finding import Finding
from release.manifest import Manifest, read, scan

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>")
WORDS = [*"abcdefghijklmnopqrstuvwxyz", "Ġthe", "/home/", "sk-", "hf_", "@gmail", "password"]
CANARY = {"prompt": "p", "response": "r", "log_probability": -3.5, "tolerance": 5e-3, "dtype": "float32"}
CONTEXT = CheckContext(
    licence="apache-2.0",
    origin="hub",
    base_model="Qwen/Qwen3-VL-4B-Instruct",
    base_revision="0123456789abcdef0123456789abcdef01234567",
    base_licence="apache-2.0",
    probe={"problems": {"weights": [], "processor": [], "canary": []}, "canary": CANARY},
    private=("wonderland", "/srv-7/runs"),
)
CARD = """---
license: apache-2.0
base_model: Qwen/Qwen3-VL-4B-Instruct
base_model_relation: finetune
library_name: transformers
pipeline_tag: image-text-to-text
language:
- en
tags:
- arxiv:2604.28123
---

# A model

![Scores](images/scores.png) and its [hashes](provenance/manifest.json), see [the paper](https://arxiv.org/abs/2604.28123).

| Task | n | Score |
| --- | --- | --- |
| digits | 400 | 71.2 |

```bash
curl http://localhost:8000/v1/models  # CUDA 12.8, nvidia-curand-cu12==10.3.9.90
```

```bibtex
@misc{prism, title={{PRISM}: a title}, eprint={2604.28123}}
```
"""
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
VALUES: dict[str, np.ndarray[Any, Any]] = {
    "model.language_model.embed_tokens.weight": np.linspace(-1, 1, 152, dtype=np.float32).reshape(38, 4),
    "model.language_model.norm.weight": np.ones(4, np.float32),
    "model.visual.merger.bias": np.zeros(4, np.float32),
}


def clean(folder: Path) -> Path:
    """A release without a finding: a model in two shards, its tokenizer, a card, a licence, provenance."""
    folder.mkdir()
    tokens = [{"id": len(WORDS) + i, "content": word, "special": True} for i, word in enumerate(SPECIAL)]
    special = {token["content"]: token["id"] for token in tokens}
    inner = {"dtype": "float32", "eos_token_id": special["<|im_end|>"], "vocab_size": 38}
    config = {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "dtype": "float32",
        "image_token_id": special["<|image_pad|>"],
        "model_type": "qwen3_vl",
        "text_config": inner,
        "vision_config": {"dtype": "float32"},
    }
    decoder = {str(token["id"]): {"content": token["content"]} for token in tokens}
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", {"eos_token_id": [special["<|im_end|>"]], "pad_token_id": None})
    write_json(folder / "tokenizer_config.json", {"added_tokens_decoder": decoder, "pad_token": "<|endoftext|>"})
    write_json(
        folder / "tokenizer.json", {"added_tokens": tokens, "model": {"type": "BPE", "vocab": vocabulary, "merges": []}}
    )
    write_weights(folder)
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}\n")
    (folder / "README.md").write_text(CARD)
    (folder / "LICENSE").write_text("Apache License\nVersion 2.0\n")
    (folder / "NOTICE").write_text("A changed version of Qwen/Qwen3-VL-4B-Instruct.\n")
    for name in ("images", "provenance", ".eval_results"):
        (folder / name).mkdir()
    (folder / "images/scores.png").write_bytes(b"\x89PNG\r\n")
    write_json(
        folder / "provenance/facts.json", {"environment": {"nvidia-curand-cu12": "10.3.9.90"}, "hash": "ab" * 32}
    )
    (folder / ".eval_results/digits.yaml").write_text("- dataset: {id: a/b, task_id: c}\n  value: 0.7\n")
    return folder


def pack(values: Mapping[str, np.ndarray[Any, Any]], dtype: str = "F32") -> bytes:
    """A safetensors file's bytes; numbers are written as they are, `dtype` is only said of them."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, value in values.items():
        span = [len(data), len(data) + value.nbytes]
        entries[name] = {"dtype": dtype, "shape": list(value.shape), "data_offsets": span}
        data += value.tobytes()
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + data


def write_weights(folder: Path, values: Mapping[str, np.ndarray[Any, Any]] = VALUES) -> None:
    """The model's weights in two shards, the first tensor in the first, with their index."""
    names = list(values)
    place = {name: SHARDS[min(number, 1)] for number, name in enumerate(names)}
    for shard in SHARDS:
        (folder / shard).write_bytes(pack({name: values[name] for name in names if place[name] == shard}))
    total = sum(value.nbytes for value in values.values())
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": place})


def check(
    folder: Path, context: CheckContext = CONTEXT, plant: Callable[[Path], object] = lambda folder: None
) -> list[Finding]:
    """Findings in a folder. `plant` spoils it after it was hashed."""
    numbers = Numbers()
    manifest = Manifest(scan(folder, numbers).files, (read(folder) or Manifest({})).canary)
    plant(folder)
    return run_checks(folder, manifest, replace(context, numbers=numbers))


def edit(path: Path, change: Callable[[Any], object]) -> None:
    """Change a JSON file."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def header(path: Path, change: Callable[[Any], object]) -> None:
    """Write a safetensors file anew with another header: the changed value, or the text that `change` returns."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    value = json.loads(content[8 : 8 + length])
    text = change(value)
    text = (text if isinstance(text, str) else json.dumps(value)).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
