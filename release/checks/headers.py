"""A safetensors file's header, read as one would read a stranger's.

`integrations.common.checkpoint` reads the files that this project wrote; here every way in which a header can lie has
its own sentence: its length, doubled names, spans that do not fit shape and dtype, holes, overlaps, a file that is cut
short or has bytes behind its tensors.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LIMIT = 100_000_000
"""Longest header that the safetensors library reads, bytes."""
SIZES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2,
    "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "C64": 8,
}  # fmt: skip
"""Bytes of one number by dtype."""

_DIMENSIONS = 16
_LARGEST = 1 << 62


@dataclass(frozen=True)
class Span:
    """One tensor's place in a file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    """First byte, from the start of the file."""
    end: int


@dataclass(frozen=True)
class Header:
    """What a file says it holds."""

    spans: tuple[Span, ...] = ()
    """In the order of their bytes; empty when the header is bad."""
    metadata: dict[str, str] = field(default_factory=dict)
    end: int = 0
    """Where the last tensor ends, from the start of the file."""
    problem: str = ""
    """Why the file is not usable, as the end of a sentence; empty when it is."""


class _Bad(ValueError):
    pass


def read_header(path: Path) -> Header:
    """The header of a file, judged against the file's size. Never raises on what the file holds."""
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            start = stream.read(8)
            length = int.from_bytes(start, "little")
            if len(start) < 8 or not 2 <= length <= min(LIMIT, size - 8):
                return Header(problem=f"has {size} bytes, which cannot hold a header of {length}")
            header = parse_header(stream.read(length))
    except OSError as error:
        return Header(problem=f"cannot be read: {error.strerror}")
    if header.problem or header.end == size:
        return header
    problem = f"is cut short: it has {size} bytes of {header.end}"
    if header.end < size:
        problem = f"has {size - header.end} bytes behind its last tensor"
    return Header(header.spans, header.metadata, header.end, problem)


def parse_header(text: bytes) -> Header:
    """The header in `text`, without the length before it. Never raises."""
    try:
        entries = json.loads(text.decode("utf-8"), object_pairs_hook=_no_twins)
        if not isinstance(entries, dict):
            raise _Bad("its header is no JSON object")
        metadata = entries.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise _Bad("its metadata are not texts by name")
        start = 8 + len(text)
        spans = sorted((_span(name, told, start) for name, told in entries.items()), key=lambda s: (s.begin, s.end))
        end = start
        for span in spans:
            if span.begin != end:
                what = "overlaps the tensor before it" if span.begin < end else "has a hole before it"
                raise _Bad(f"`{_shown(span.name)}` {what}")
            end = span.end
    except _Bad as error:
        return Header(problem=str(error))
    except (ValueError, RecursionError):
        return Header(problem="its header is not JSON")
    return Header(tuple(spans), metadata, end)


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _Bad(f"its header has `{_shown(twice)}` twice")
    return value


def _span(name: str, told: Any, start: int) -> Span:
    if not isinstance(told, dict) or told.keys() != {"dtype", "shape", "data_offsets"}:
        raise _Bad(f"`{_shown(name)}` has other fields than dtype, shape and data_offsets")
    dtype, shape, offsets = told["dtype"], told["shape"], told["data_offsets"]
    if not isinstance(dtype, str) or dtype not in SIZES:
        raise _Bad(f"`{_shown(name)}` has a dtype that is not known")
    if not _whole_numbers(shape) or len(shape) > _DIMENSIONS or not _whole_numbers(offsets) or len(offsets) != 2:
        raise _Bad(f"`{_shown(name)}` has a shape or offsets that are not whole numbers")
    begin, end = offsets
    if end - begin != math.prod(shape) * SIZES[dtype]:
        raise _Bad(f"the bytes of `{_shown(name)}` do not fit its shape and dtype")
    return Span(name, dtype, tuple(shape), start + begin, start + end)


def _whole_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < _LARGEST for item in value)


def _shown(name: str) -> str:
    return (name if name.isprintable() else ascii(name)[1:-1])[:80]
