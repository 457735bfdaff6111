"""Sample a policy with transformers and with vLLM in turns, in one process, and compare speed and log-probabilities.

    PYTHONPATH=. ENVIRONMENT/bin/python tests/campaign/rollout_engines.py MODEL POOL.jsonl [--rounds 9]

ENVIRONMENT is vLLM's (`prism env list` tells its folder), or on a machine without a GPU the tests' with its build for
CPUs. Every round samples groups of responses to the pool's first prompts, once until they end and once to the limit;
at the end vLLM takes over changed weights. Exits with 1 when log-probabilities differ by more than `--tolerance`.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch

from integrations.alignment.data.prompts import Encoder
from integrations.alignment.data.seeds import derive
from integrations.alignment.forward.model import banned_tokens, load_policy, load_processor
from integrations.alignment.forward.policy import response_log_probs
from integrations.alignment.rollouts.engines import Synced, open_sampler
from integrations.alignment.rollouts.rollout import Generation, Rollouts, Sampling
from integrations.common.rows import Row, read_rows

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def main() -> None:
    options = read_options()
    torch.set_num_threads(options.threads)
    policy, processor = load_policy(options.model, DEVICE, getattr(torch, options.dtype)), load_processor(options.model)
    encoder = Encoder(processor, options.pool.parent)
    banned = banned_tokens(processor.tokenizer, policy.lm_head.out_features).to(DEVICE)
    rows = list(islice(read_rows(options.pool), options.prompts))
    own, vllm = Rollouts(policy, encoder), open_vllm(options, policy, encoder, rows, banned)
    largest = 0.0
    for what in ("until the end of turn", "to the limit"):
        if what == "to the limit":
            own.banned[own.vocabulary.end] = True
            vllm.engine.bias[own.vocabulary.end] = -math.inf  # type: ignore[attr-defined]
        speeds: dict[str, list[float]] = {"transformers": [], "vllm": []}
        for turn in range(options.rounds + 1):
            for name, engine in (("transformers", own), ("vllm", vllm)):
                speed, groups = timed(engine, rows, options, turn)
                speeds[name] += [speed] if turn else []
                if name == "vllm" and not turn:
                    largest = max(largest, gap(policy, encoder, rows, groups, own.banned))
        told = ", ".join(f"{name} {median(values):.0f}" for name, values in speeds.items())
        ratio = median(a / b for a, b in zip(speeds["vllm"], speeds["transformers"], strict=True))
        print(f"{what}: tokens/s {told}; vllm / transformers {ratio:.2f}", flush=True)
    del vllm.engine.bias[own.vocabulary.end]  # type: ignore[attr-defined]
    with torch.no_grad():
        for value in policy.parameters():
            value.mul_(1.01)
    began = time.perf_counter()
    found = vllm.sync(policy.named_parameters())
    print(f"weights taken over in {time.perf_counter() - began:.2f} s: {found}")
    print(f"largest difference of log-probabilities: {largest:.2g}")
    sys.exit(int(not largest <= options.tolerance))


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("pool", type=Path)
    for name, value in {"prompts": 8, "samples": 8, "tokens": 40, "rounds": 9, "threads": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    parser.add_argument("--gpu-memory-share", type=float, default=0.4)
    return parser.parse_args()


def open_vllm(
    options: argparse.Namespace, policy: Any, encoder: Encoder, rows: Sequence[Row], banned_V: torch.Tensor
) -> Synced:
    rollout = SimpleNamespace(
        engine="vllm",
        dtype=options.dtype,
        canary_tolerance=None,
        sleep=False,
        batch_size=options.prompts * options.samples,
        max_new_tokens=options.tokens,
        max_images=8,
        gpu_memory_share=options.gpu_memory_share,
        compiled=True,
    )
    precision = SimpleNamespace(compute="fp32" if options.dtype == "float32" else "bf16")
    settings = SimpleNamespace(rollout=rollout, precision=precision, max_prompt_tokens=4096)
    job: Any = SimpleNamespace(settings=settings, policy=options.model, device=DEVICE)
    sampler = open_sampler(job, policy, encoder, rows, banned_V)
    assert isinstance(sampler, Synced)
    return sampler


def timed(
    engine: Any, rows: Sequence[Row], options: argparse.Namespace, turn: int
) -> tuple[float, list[list[Generation]]]:
    """Tokens per second, and the responses."""
    began = time.perf_counter()
    groups = engine.sample(
        rows,
        options.samples,
        Sampling(max_new_tokens=options.tokens),
        lambda row, sample: derive(turn, row["id"], sample),
        options.prompts * options.samples,
    )
    tokens = sum(len(item.token_ids) for group in groups for item in group)
    return tokens / (time.perf_counter() - began), groups


@torch.no_grad()
def gap(
    policy: Any,
    encoder: Encoder,
    rows: Sequence[Row],
    groups: Sequence[Sequence[Generation]],
    banned_V: torch.Tensor,
) -> float:
    """Largest difference between the engine's log-probabilities and the trainer's."""
    largest = 0.0
    for row, group in zip(rows, groups, strict=True):
        ids = [item.token_ids for item in group]
        ours, _, mask = response_log_probs(policy, [encoder.encode(row)], [0] * len(ids), ids, banned_V)
        theirs = torch.tensor([value for item in group for value in item.log_probs or ()])
        largest = max(largest, float((ours[mask].cpu() - theirs).abs().max()))
    return largest


if __name__ == "__main__":
    main()
