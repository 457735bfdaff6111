"""How fast this machine copies, multiplies and generates.

    python -m integrations.alignment.machine_speed --out speed.json [--seconds 3]

Each figure is the best of the repetitions that fit into its share of the time, since other load only ever slows one
down. Writes

    {"device": "cpu", "matmul_tflops": 0.1, "memory_gb_s": 9.5, "host_to_device_gb_s": null, "rollout_tokens_s": 900}

Matrix products are in bf16 on a GPU and in fp32 on a CPU; a copy counts bytes read and written; the rollout is
transformers' own `generate` on a small text model with random weights, 16 responses of 64 tokens.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, Qwen3Config

from integrations.common.files import write_json

RESPONSES, TOKENS = 16, 64
SIZES = {"cuda": (8192, 2**30), "cpu": (1024, 2**26)}
"""Side of the matrices, and bytes copied: large enough that starting the work costs nothing in comparison."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=3.0)
    args = parser.parse_args()
    write_json(args.out, measure(args.seconds))


def measure(seconds: float) -> dict[str, Any]:
    """The figures of the module's docstring.

    Args:
        seconds: for each of them.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    side, size = SIZES[device]
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    left = torch.randn(side, side, device=device, dtype=dtype)
    source = torch.ones(size, device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    host = torch.ones(size, dtype=torch.uint8, pin_memory=True) if device == "cuda" else None
    moved = best(lambda: target.copy_(host, non_blocking=True), seconds, device) if host is not None else None
    return {
        "device": device,
        "name": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "matmul_tflops": 2 * side**3 / best(lambda: left @ left, seconds, device) / 1e12,
        "memory_gb_s": 2 * size / best(lambda: target.copy_(source), seconds, device) / 1e9,
        "host_to_device_gb_s": size / moved / 1e9 if moved else None,
        "rollout_tokens_s": RESPONSES * TOKENS / best(rollout(device, dtype), seconds, device),
    }


def best(work: Callable[[], Any], seconds: float, device: str) -> float:
    """Seconds of the fastest repetition; the first one warms up and is not counted."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    work()
    wait()
    fastest, until = float("inf"), time.monotonic() + seconds
    while fastest == float("inf") or time.monotonic() < until:
        began = time.perf_counter()
        work()
        wait()
        fastest = min(fastest, time.perf_counter() - began)
    return fastest


def rollout(device: str, dtype: torch.dtype) -> Callable[[], Any]:
    """Responses by a small model with random weights."""
    config = Qwen3Config(
        vocab_size=4096, hidden_size=512, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=8,
        num_key_value_heads=4, head_dim=64,
    )  # fmt: skip
    model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype).to(device).eval()
    prompts = torch.ones(RESPONSES, 16, dtype=torch.long, device=device)
    return lambda: model.generate(
        prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=TOKENS, min_new_tokens=TOKENS,
        do_sample=True, pad_token_id=0, eos_token_id=None,
    )  # fmt: skip


if __name__ == "__main__":
    main()
