"""Put adapters into the weights of one of verl's checkpoints.

    python -m integrations.verl.merge --folder FOLDER --scale ALPHA/RANK --out OUT

verl saves a model with adapters under peft's names, the frozen matrices beside their two factors; `OUT` gets the plain
model's: W + scale * B A, in fp32. Runs in verl's environment, once, after the last step.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

PREFIX = "base_model.model."
BASE, FIRST, SECOND = ".base_layer.", ".lora_A.default.", ".lora_B.default."
PER_FILE = 400
"""Tensors of one written file, so that a large model is never in memory whole."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--scale", type=float, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    partial = args.out.with_name(f".{args.out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    places = {name: path for path in sorted(args.folder.glob("*.safetensors")) for name in names(path)}
    written: dict[str, torch.Tensor] = {}
    count = 0
    for name, value in merged(places, args.scale):
        written[name] = value.contiguous()
        if len(written) == PER_FILE:
            save_file(written, partial / f"model-{(count := count + 1):05d}.safetensors", metadata={"format": "pt"})
            written = {}
    if written:
        save_file(written, partial / f"model-{count + 1:05d}.safetensors", metadata={"format": "pt"})
    shutil.rmtree(args.out, ignore_errors=True)
    partial.rename(args.out)
    return 0


def names(path: Path) -> list[str]:
    with safe_open(path, "pt") as file:
        return [*file.keys()]


def merged(places: Mapping[str, Path], scale: float) -> Iterator[tuple[str, torch.Tensor]]:
    """The plain model's tensors, one after the other.

    Args:
        places: the file of each tensor under peft's names.
        scale: of the adapters' product.
    """
    for name in places:
        if FIRST in name or SECOND in name:
            continue
        value = read(places, name)
        if BASE in name:
            factors = [name.replace(BASE, part) for part in (FIRST, SECOND)]
            if factors[0] in places:
                first, second = (read(places, factor) for factor in factors)
                value = (value.float() + scale * (second.float() @ first.float())).to(torch.float32)
        yield name.removeprefix(PREFIX).replace(BASE, "."), value


def read(places: Mapping[str, Path], name: str) -> torch.Tensor:
    with safe_open(places[name], "pt") as file:
        return file.get_tensor(name)


if __name__ == "__main__":
    sys.exit(main())
