"""Vectors of fp32 numbers kept in less memory: what the optimizer's weights and moments are stored in.

Each is read and written in pieces, so that only a piece is ever held in fp32. Pieces start at multiples of BLOCK.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Protocol

import torch
from torch import nn
from torch.distributed.tensor import DTensor

BLOCK = 256
"""Numbers that share a scale in 8-bit moments, as in bitsandbytes' own optimizers."""
SMALLEST_QUANTISED = 4096
"""Shorter vectors stay fp32, as there: norms and biases are few and sensitive."""


class Vector(Protocol):
    """One parameter's numbers, flat."""

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """What it consists of."""
        ...

    def read(self, piece: slice) -> torch.Tensor:
        """(n,) fp32 on the parameter's device; may be a view of what is stored."""
        ...

    def write(self, piece: slice, values_n: torch.Tensor) -> None:
        """Store fp32 numbers."""
        ...


class Plain:
    """Numbers as they are: fp32, or rounded to bf16; on `device` or on the host."""

    def __init__(self, values_N: torch.Tensor, device: torch.device) -> None:
        self.values_N, self.device = values_N, device

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        return {"values": self.values_N}

    def read(self, piece: slice) -> torch.Tensor:
        return self.values_N[piece].to(self.device, torch.float32, non_blocking=True)

    def write(self, piece: slice, values_n: torch.Tensor) -> None:
        self.values_N[piece].copy_(values_n)


class Doubled:
    """A bf16 weight and its fp32 master."""

    def __init__(self, weight_N: torch.Tensor, values_N: torch.Tensor) -> None:
        self.weight_N, self.values_N = weight_N, values_N

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        return {"weight": self.weight_N, "values": self.values_N}

    def read(self, piece: slice) -> torch.Tensor:
        return self.values_N[piece]

    def write(self, piece: slice, values_n: torch.Tensor) -> None:
        self.values_N[piece].copy_(values_n)
        self.weight_N[piece].copy_(rounded(values_n))


class Split:
    """A bf16 weight and the 16 bits it lacks; together they are the fp32 master exactly."""

    def __init__(self, weight_N: torch.Tensor, values_N: torch.Tensor) -> None:
        self.weight_N, self.rest_N = weight_N, split(values_N)[1]

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        return {"weight": self.weight_N, "rest": self.rest_N}

    def read(self, piece: slice) -> torch.Tensor:
        return joined(self.weight_N[piece], self.rest_N[piece])

    def write(self, piece: slice, values_n: torch.Tensor) -> None:
        weight, rest = split(values_n)
        self.weight_N[piece].copy_(weight)
        self.rest_N[piece].copy_(rest)


class Blockwise:
    """Numbers in 8 bits, a scale for every BLOCK of them (dynamic quantisation, arXiv 2110.02861)."""

    def __init__(self, count: int, device: torch.device, signed: bool) -> None:
        self.signed = signed
        self.codes_N = torch.empty(count, dtype=torch.uint8, device=device)
        self.scales = torch.empty(-(-count // BLOCK), dtype=torch.float32, device=device)
        self.write(slice(0, count), torch.zeros(count, device=device))

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        return {"codes": self.codes_N, "scales": self.scales}

    def read(self, piece: slice) -> torch.Tensor:
        from bitsandbytes.functional import dequantize_blockwise

        scales = self.scales[_blocks(piece)]
        codes = self.codes_N[piece]
        return dequantize_blockwise(codes, absmax=scales, code=_levels(self.signed, codes.device), blocksize=BLOCK)

    def write(self, piece: slice, values_n: torch.Tensor) -> None:
        from bitsandbytes.functional import quantize_blockwise

        codes, found = quantize_blockwise(values_n, code=_levels(self.signed, values_n.device), blocksize=BLOCK)
        self.codes_N[piece].copy_(codes)
        self.scales[_blocks(piece)].copy_(found.absmax)


def _blocks(piece: slice) -> slice:
    return slice(piece.start // BLOCK, -(-piece.stop // BLOCK))


@cache
def _levels(signed: bool, device: torch.device) -> torch.Tensor:
    """(256,) fp32: what the codes stand for, as shares of the block's largest magnitude."""
    from bitsandbytes.functional import create_dynamic_map

    return create_dynamic_map(signed=signed).to(device)


def split(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """fp32 numbers as bf16, to nearest (a tie away from zero), and the int16 difference of their bit patterns.

    Ties go away from zero, not to even, because the difference then has 2^16 values and not one more.
    """
    bits = values.contiguous().view(torch.int32)
    upper = ((bits + 0x8000) >> 16).to(torch.int16)
    return upper.view(torch.bfloat16), (bits - (upper.to(torch.int32) << 16)).to(torch.int16)


def joined(weight: torch.Tensor, rest: torch.Tensor) -> torch.Tensor:
    """The fp32 numbers that `split` took apart."""
    return ((weight.view(torch.int16).to(torch.int32) << 16) + rest.to(torch.int32)).view(torch.float32)


def rounded(values: torch.Tensor) -> torch.Tensor:
    """The numbers in bf16; equal whichever way masters are kept."""
    return values if values.dtype == torch.bfloat16 else split(values.to(torch.float32))[0]


def narrow(parameters: Iterable[tuple[str, nn.Parameter]]) -> dict[str, torch.Tensor]:
    """Make a model's parameters bf16, in place, for `compute: bf16`; heads and adapters stay fp32.

    Parameters that are taken apart over processes stay as they are: narrow a model before that.

    Returns:
        Those that rounding has changed, as they were.
    """
    before = {}
    for name, value in parameters:
        stays = name.startswith("heads.") or ".lora_" in name
        if stays or value.dtype != torch.float32 or isinstance(value, DTensor):
            continue
        numbers, value.data = value.data, rounded(value.data)
        if not torch.equal(value.data.to(torch.float32), numbers):
            before[name] = numbers
    return before
