"""The plan's formula of the alignment's memory beside what torch allocates, at more than 50 million parameters.

    ENV/bin/python tests/campaign/plan_memory.py [--threads 1]

ENV is the alignment environment (`prism env list`). Takes some minutes and 6 GB. Exits with 1 where the plan is off by
more than 15% of weights, masters, moments, gradients and activations together.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "torch"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from planned import Case, measure

from benchmarks.perf._models import Shape, Size, Width

WIDTH = Width(640, 2048, 10, 10, 5, 64, 256, 1024, 4, 4, 16_384)
SHAPE = Shape(prompt=256, image=192, caption=120, reasoning=280, group=4)
SIZE = Size(WIDTH, WIDTH, SHAPE)
CASES = (
    Case("policy"),
    Case("policy", checkpointing=True),
    Case("policy", branches=4),
    Case("policy", compute="bf16"),
    Case("policy", compute="bf16", checkpointing=True, moments="8bit"),
    Case("discriminator"),
    Case("discriminator", checkpointing=True),
    Case("discriminator", compute="bf16"),
    Case("discriminator", compute="bf16", checkpointing=True, moments="bf16"),
    Case("discriminator", score="likelihood_ratio"),
    Case("discriminator", score="likelihood_ratio", compute="bf16", checkpointing=True),
)
LARGEST_ERROR = 0.15
MIB = 2.0**20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(parser.parse_args().threads)
    worst = 0.0
    for case in CASES:
        found = measure(case, SIZE)
        worst = max(worst, abs(found.error))
        states, step = ([value / MIB for value in pair] for pair in (found.states, found.step))
        print(f"{case}: error {found.error:+.1%}")
        print(f"    states {states[0]:.0f} MiB, planned {states[1]:.0f}; step {step[0]:.0f}, planned {step[1]:.0f}")
        print(
            "    " + ", ".join(f"{name} {value / MIB:.0f}" for name, value in found.terms.items() if value), flush=True
        )
    print(f"largest error {worst:.1%}")
    return int(worst > LARGEST_ERROR)


if __name__ == "__main__":
    sys.exit(main())
