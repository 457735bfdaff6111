"""Weights: what the files' headers, the index and the numbers themselves say, without loading a model."""

from __future__ import annotations

import re
from collections.abc import Iterable

from integrations.common.checkpoint import INDEX
from release.checks.view import Check, Found, View, listed, shown

_SHARD = re.compile(r"model-(\d{5})-of-(\d{5})\.safetensors")
_FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_WHOLE = ("I", "U", "BOOL")
"""How the names of dtypes of whole numbers begin."""


def _headers(view: View) -> Found:
    return [(path, header.problem) for path, header in view.headers.items() if header.problem]


def _twice(view: View) -> Found:
    place: dict[str, str] = {}
    for path, header in view.weights.items():
        names = [span.name for span in header.spans]
        twice = [name for name in names if name in place]
        if twice:
            yield path, f"holds {listed(twice)}, which `{place[twice[0]]}` holds too"
        place |= dict.fromkeys(names, path)


def _index(view: View) -> Found:
    if INDEX not in view.status:
        if any(_SHARD.fullmatch(path) for path in view.weights):
            yield INDEX, "is missing beside the shards"
        return
    index = view.object(INDEX)
    told, metadata = index.get("weight_map"), index.get("metadata")
    if not isinstance(told, dict) or not all(isinstance(path, str) for path in told.values()):
        yield INDEX, "has no `weight_map` of tensor names and files"
        return
    files = set(told.values())
    if absent := sorted(files - view.weights.keys()):
        yield INDEX, f"names {listed(absent)}, which the folder does not have"
    if left := sorted(view.weights.keys() - files):
        yield INDEX, f"does not name {listed(left)}"
    if absent or left or any(view.weights[path].problem for path in files):
        return
    held = {path: {span.name: span.end - span.begin for span in view.weights[path].spans} for path in files}
    wrong = [name for name, path in told.items() if name not in held[path]]
    wrong += [name for names in held.values() for name in names if name not in told]
    if wrong:
        yield INDEX, f"and the shards disagree about where {listed(sorted(wrong))} is"
        return
    total = sum(held[path][name] for name, path in told.items())
    if not isinstance(metadata, dict) or metadata.get("total_size") != total:
        yield INDEX, f"`total_size` is not {total}, the bytes of all tensors"
    yield from _numbering(files)


def _numbering(files: Iterable[str]) -> Found:
    found = sorted(match.groups() for path in files if (match := _SHARD.fullmatch(path)))
    wanted = [(f"{number:05d}", f"{len(found):05d}") for number in range(1, len(found) + 1)]
    if found != wanted:
        yield INDEX, f"the shards are not numbered 1 to {len(found)}"


def _dtype(view: View) -> Found:
    """Floating-point tensors of one dtype, which config.json declares."""
    config = view.object("config.json")
    if not config:
        return
    declared = config.get("dtype", config.get("torch_dtype"))
    if declared not in _FLOATS.values():
        yield "config.json: dtype", "declares no dtype of the weights"
        return
    for path, header in view.weights.items():
        floats = [span for span in header.spans if not span.dtype.startswith(_WHOLE)]
        other = [span for span in floats if _FLOATS.get(span.dtype) != declared]
        if other:
            yield path, f"holds {listed(s.name for s in other)} as {other[0].dtype}, config.json declares {declared}"
    for part in ("text_config", "vision_config"):
        inner = config.get(part)
        told = inner.get("dtype", inner.get("torch_dtype", declared)) if isinstance(inner, dict) else declared
        if told != declared:
            yield f"config.json: {part}.dtype", f"is {shown(told)}, the model's is {declared}"


def _not_finite(view: View) -> Found:
    return [(path, f"{listed(names)}: NaN or infinity") for path, names in view.numbers.not_finite.items()]


def _all_zero(view: View) -> Found:
    for path, names in view.numbers.all_zero.items():
        # A bias begins at zero, and stays there where its part of the model is frozen.
        wrong = [name for name in names if not name.endswith("bias")]
        if wrong:
            yield path, f"{listed(wrong)}: nothing but zeros"


_AGAIN = "run the stage that made the weights again, and assemble the folder again"

CHECKS = (
    Check(
        "safetensors", "error", "Weights file that is damaged",
        "Every safetensors file: length and JSON of the header, names, dtypes, spans, holes, overlaps, file size.",
        _AGAIN, _headers,
    ),
    Check(
        "tensor-twice", "error", "Tensor in two files", "The names of all tensors over all weights files.", _AGAIN,
        _twice,
    ),
    Check(
        "index", "error", "Index that does not fit the shards",
        "model.safetensors.index.json: files, names, total size and numbering against the shards.", _AGAIN, _index,
    ),
    Check(
        "dtype", "error", "Weights of another dtype than declared",
        "Every tensor of floating point against `dtype` of config.json and its parts.",
        "save all weights in the dtype that config.json declares", _dtype,
    ),
    Check(
        "not-finite", "error", "NaN or infinity in the weights", "Every number of every tensor.",
        "train again with a lower learning rate, from a sound checkpoint", _not_finite,
    ),
    Check(
        "all-zero", "error", "Tensor of nothing but zeros", "Every tensor of floating point but biases.", _AGAIN,
        _all_zero,
    ),
)  # fmt: skip
