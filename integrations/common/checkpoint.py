"""The one checkpoint format of a run: the engine's weights in the base model's clothes.

Every engine saves a model a little differently (other config keys, an extra tied tensor, another dtype, a re-written
tokenizer). `publish` takes only the weights from it and carries configuration, processor, tokenizer, chat template
and generation settings over from the base model byte for byte, so that every stage's result loads in every engine
as the base model does and two arms differ in weights alone.

The safetensors files are read and written here rather than by the `safetensors` package because without torch that
package cannot read bf16, and because a model is streamed tensor by tensor (4B parameters in some 2 GB of memory).
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from integrations.common.files import flush, hash_folder
from integrations.errors import BadInput, StageFailed

if TYPE_CHECKING:
    import numpy as np

SHARD_BYTES = 5 * 10**9
"""Largest weights file written; a dropped transfer costs at most one."""
INDEX = "model.safetensors.index.json"
TIED = ("lm_head.weight", "model.language_model.embed_tokens.weight")
"""The two names of one tensor where a model ties its output to its input embedding."""

_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_ROUNDED = {("F32", "BF16"), ("F32", "F16"), ("F64", "F32")}
_WEIGHT_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx"}
_HEADER_LIMIT = 100_000_000


@dataclass(frozen=True)
class Tensor:
    """Where one tensor lies on disk."""

    name: str
    dtype: str
    """As safetensors spells it: F32, BF16, ..."""
    shape: tuple[int, ...]
    path: Path
    begin: int
    """First byte in the file."""

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * _SIZES[self.dtype]

    def read(self) -> np.ndarray[Any, Any]:
        """The bytes, as a read-only uint8 array mapped from the file."""
        import numpy as np

        if not self.nbytes:
            return np.empty(0, np.uint8)
        return np.memmap(self.path, np.uint8, "r", self.begin, (self.nbytes,))


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Tensors of a model folder by name, from one file or from shards with an index. Reads headers only.

    Raises:
        BadInput: no weights, a missing shard, or a file that is corrupt or cut short (named).
    """
    index = folder / INDEX
    if index.is_file():
        shards = sorted(set(_read_json(index).get("weight_map", {}).values()))
        files = [folder / shard for shard in shards]
    else:
        files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise BadInput(f"no model weights (*.safetensors) in {folder}", "point at a Hugging Face model folder")
    tensors: dict[str, Tensor] = {}
    for path in files:
        for tensor in _read_header(path):
            if tensor.name in tensors:
                raise BadInput(f"{path} holds `{tensor.name}` a second time", "use one set of weights in the folder")
            tensors[tensor.name] = tensor
    return tensors


def check_model_folder(folder: Path) -> None:
    """Refuse a folder that no engine could load: configuration, tokenizer or whole weights missing.

    Raises:
        BadInput: naming the file.
    """
    for name in ("config.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            raise BadInput(f"{folder} is no model folder: {name} is missing", "point at a Hugging Face model folder")
        _read_json(folder / name)
    read_tensors(folder)


def publish(
    weights: Path, base_model: Path, model_dir: Path, *, parent: Path | None = None, frozen: Sequence[str] = ()
) -> str:
    """Make `model_dir` from an engine's weights and everything else of the base model.

    Tensor names, shapes, dtypes and order are the base model's: a tied output embedding is added or left out as the
    base has it, weights that the engine kept in a wider dtype are rounded (to nearest, ties to even). The folder is
    built beside its place and renamed, so it is whole or absent.

    Args:
        weights: folder with the engine's *.safetensors (one file, or shards with an index).
        base_model: the model folder the run started from.
        parent: model the stage started from; the result must differ from it.
        frozen: parts of tensor names (`visual.blocks`) whose tensors must equal the parent's byte for byte.

    Returns:
        `files.hash_folder` of the new folder.

    Raises:
        StageFailed: the weights are corrupt or cut short, lack tensors, have unknown ones or other shapes, are of a
            narrower dtype than the base's, hold NaN, infinity or nothing but zeros, did not change at all, or changed
            where they were frozen; or the folder cannot be written.
        BadInput: the base model or the parent is corrupt.
    """
    base = read_tensors(base_model)
    before = read_tensors(parent) if parent else {}
    try:
        found = read_tensors(weights)
    except BadInput as error:
        raise StageFailed(f"the engine's result is unusable: {error.problem}", "run the stage again") from error
    sources = _match(found, base, tied=_is_tied(base_model))
    partial = model_dir.with_name(f".{model_dir.name}.partial")
    try:
        _remove(partial)
        partial.mkdir(parents=True)
        copied = _Check(before, frozen)
        _write_weights(partial, base, sources, copied)
        copied.conclude(weights)
        for path in carried_over(base_model):
            shutil.copyfile(path, partial / path.name)
        for path in partial.iterdir():
            flush(path)
        flush(partial)
        result = hash_folder(partial)
        _remove(model_dir)
        partial.rename(model_dir)
        flush(model_dir.parent)
    except OSError as error:
        raise StageFailed(
            f"cannot write {model_dir}: {error.strerror}", "free disk space or choose a writable folder, run it again"
        ) from error
    finally:
        if partial.exists():
            shutil.rmtree(partial, ignore_errors=True)
    return result


def check_frozen(result: Path, source: Path, part: str) -> None:
    """Refuse a result whose frozen tensors hold other numbers than the model they came from.

    Args:
        result: folder with the trained weights; they may be of another dtype, to which numbers are rounded.
        source: the model folder that they were taken from.
        part: what the names of frozen tensors hold (`visual.`); what stands before it may differ.

    Raises:
        StageFailed: naming a tensor that changed, or there is no such tensor to compare.
    """
    before = {name.partition(part)[2]: tensor for name, tensor in read_tensors(source).items() if part in name}
    frozen = [tensor for name, tensor in read_tensors(result).items() if part in name]
    if not frozen:
        raise StageFailed(f"{result} has no tensor named `{part}`, which was to stay frozen", "run the stage again")
    for tensor in frozen:
        old = before.get(tensor.name.partition(part)[2])
        if old is None or not _same_numbers(old, tensor):
            raise StageFailed(f"`{tensor.name}` was to stay frozen and changed", "check the freeze options")


def carried_over(base_model: Path) -> list[Path]:
    """Files of the base model that every result repeats byte for byte: all but weights, hidden files and the card."""
    return sorted(
        path
        for path in base_model.iterdir()
        if path.is_file()
        and not path.name.startswith(".")
        and path.suffix not in _WEIGHT_SUFFIXES
        and not path.name.endswith(".index.json")
        and path.name != "README.md"
    )


class _Check:
    """What is asked of the weights while they stream past."""

    def __init__(self, before: Mapping[str, Tensor], frozen: Sequence[str]) -> None:
        self.before, self.frozen = before, tuple(frozen)
        self.changed = 0
        self.not_zero = 0

    def __call__(self, tensor: Tensor, data: np.ndarray[Any, Any]) -> None:
        import numpy as np

        if not _finite(data, tensor.dtype):
            raise StageFailed(
                f"`{tensor.name}` holds NaN or infinity", "lower the learning rate, then start the stage anew"
            )
        self.not_zero += bool(data.any())
        old = self.before.get(tensor.name)
        if old is None:
            return
        same = (old.dtype, old.shape) == (tensor.dtype, tensor.shape) and np.array_equal(old.read(), data)
        if not same and any(part in tensor.name for part in self.frozen):
            raise StageFailed(f"`{tensor.name}` was to stay frozen and changed", "check the freeze options")
        self.changed += not same

    def conclude(self, weights: Path) -> None:
        if not self.not_zero:
            raise StageFailed(f"all weights in {weights} are zero", "run the stage again")
        if self.before and not self.changed:
            raise StageFailed(
                "no weight changed in this stage", "check its learning rate, steps, and what the recipe freezes"
            )


def _match(found: Mapping[str, Tensor], base: Mapping[str, Tensor], *, tied: bool) -> dict[str, Tensor]:
    """The engine's tensor for every name of the base model."""
    output, embedding = TIED
    sources = dict(found)
    if tied and output in sources and output not in base:
        if not _same_bytes(sources[output], sources.get(embedding)):
            raise StageFailed(f"`{output}` and `{embedding}` differ though the model ties them", "run the stage again")
        del sources[output]
    if tied and output in base and output not in sources and embedding in sources:
        sources[output] = sources[embedding]
    for problem, names in (("lacks", base.keys() - sources.keys()), ("has unknown", sources.keys() - base.keys())):
        if names:
            shown = ", ".join(sorted(names)[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise StageFailed(f"the engine's result {problem} tensors: {shown}", "check the engine's log")
    for name, wanted in base.items():
        got = sources[name]
        if got.shape != wanted.shape:
            raise StageFailed(
                f"`{name}` has shape {got.shape}, the base model {wanted.shape}", "check the engine's log"
            )
        if got.dtype != wanted.dtype and (got.dtype, wanted.dtype) not in _ROUNDED:
            raise StageFailed(
                f"`{name}` was saved as {got.dtype}, the base model has {wanted.dtype}: precision was lost",
                "train and save in the base model's dtype",
            )
    return sources


def _write_weights(folder: Path, base: Mapping[str, Tensor], sources: Mapping[str, Tensor], check: _Check) -> None:
    def data(wanted: Tensor) -> np.ndarray[Any, Any]:
        source = sources[wanted.name]
        rounded = _rounded(source.read(), source.dtype, wanted.dtype)
        check(wanted, rounded)
        return rounded

    write_shards(folder, list(base.values()), data, SHARD_BYTES)


def write_shards(
    folder: Path,
    tensors: Sequence[Tensor],
    data: Callable[[Tensor], np.ndarray[Any, Any]] = Tensor.read,
    limit: int = SHARD_BYTES,
) -> None:
    """Write a model's weights as one file, or as shards with their index; nothing is flushed to disk.

    Args:
        tensors: in the order to write.
        data: a tensor's bytes as uint8; by default those it has.
        limit: bytes of tensors in a file; one that is larger gets a file of its own.
    """
    shards = list(_shards(tensors, limit))
    names = ["model.safetensors"]
    if len(shards) > 1:
        names = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
        weight_map = {tensor.name: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        total = sum(tensor.nbytes for tensor in tensors)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    for name, shard in zip(names, shards, strict=True):
        with (folder / name).open("wb") as stream:
            stream.write(_header(shard))
            for tensor in shard:
                stream.write(data(tensor).data)


def _shards(tensors: Sequence[Tensor], limit: int) -> Iterator[list[Tensor]]:
    shard: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if shard and size + tensor.nbytes > limit:
            yield shard
            shard, size = [], 0
        shard.append(tensor)
        size += tensor.nbytes
    yield shard


def _header(shard: Sequence[Tensor]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in shard:
        span = [offset, offset + tensor.nbytes]
        entries[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": span}
        offset = span[1]
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _read_header(path: Path) -> list[Tensor]:
    """Tensors of one safetensors file in the order of their bytes; the header must account for every byte."""

    def bad(why: str) -> BadInput:
        return BadInput(
            f"{path} is corrupt or cut short: {why}", "restore the file, or run the stage that made it again"
        )

    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= min(_HEADER_LIMIT, size - 8):
                raise bad(f"{size} bytes cannot hold a header of {length}")
            entries = json.loads(stream.read(length))
        entries.pop("__metadata__", None)
        tensors = [
            (entry["data_offsets"], Tensor(name, entry["dtype"], tuple(entry["shape"]), path, 8 + length))
            for name, entry in entries.items()
        ]
        expected = 0
        placed = []
        for (begin, end), tensor in sorted(tensors, key=lambda item: (item[0], item[1].name)):
            if begin != expected or end - begin != tensor.nbytes:
                raise bad(f"the bytes of `{tensor.name}` do not fit its shape")
            expected = end
            placed.append(Tensor(tensor.name, tensor.dtype, tensor.shape, path, 8 + length + begin))
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}", "restore the file") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise bad("its header makes no sense") from error
    if 8 + length + expected != size:
        raise bad(f"it has {size} bytes, its header asks for {8 + length + expected}")
    return placed


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}", "restore the file") from error
    except ValueError as error:
        raise BadInput(f"{path} is not JSON: {error}", "restore the file") from error
    if not isinstance(value, dict):
        raise BadInput(f"{path} holds no JSON object", "restore the file")
    return value


def _is_tied(folder: Path) -> bool:
    config = _read_json(folder / "config.json")
    return bool(config.get("tie_word_embeddings", config.get("text_config", {}).get("tie_word_embeddings", False)))


def _same_bytes(left: Tensor, right: Tensor | None) -> bool:
    import numpy as np

    if right is None or (left.dtype, left.shape) != (right.dtype, right.shape):
        return False
    return bool(np.array_equal(left.read(), right.read()))


def _same_numbers(before: Tensor, after: Tensor) -> bool:
    """Whether both hold the same numbers bit for bit: as they are, widened from BF16 to F32, or rounded to BF16."""
    import numpy as np

    if before.shape != after.shape:
        return False
    if (before.dtype, after.dtype) == ("BF16", "F32"):
        bits: np.ndarray[Any, Any] = after.read().view(np.uint32)
        return not (bits & 0xFFFF).any() and bool(np.array_equal(bits >> 16, before.read().view(np.uint16)))
    if (before.dtype, after.dtype) == ("F32", "BF16"):
        return bool(np.array_equal(_rounded(before.read(), "F32", "BF16"), after.read()))
    return _same_bytes(before, after)


def _finite(data: np.ndarray[Any, Any], dtype: str) -> bool:
    import numpy as np

    if dtype == "BF16":
        return not bool(((data.view(np.uint16) & 0x7F80) == 0x7F80).any())
    if dtype in ("F16", "F32", "F64"):
        return bool(np.isfinite(data.view(f"<f{_SIZES[dtype]}")).all())
    return True


def _rounded(data: np.ndarray[Any, Any], dtype: str, wanted: str) -> np.ndarray[Any, Any]:
    """Bytes of a tensor in another dtype, rounded to nearest with ties to even. NaN stays NaN."""
    import numpy as np

    if dtype == wanted:
        return data
    if wanted == "BF16":
        bits: np.ndarray[Any, Any] = data.view(np.uint32)
        upper = bits >> 16
        nearest = (bits + (0x7FFF + (upper & 1)).astype(np.uint32)) >> 16
        not_a_number = (bits & 0x7FFFFFFF) > 0x7F800000
        return np.where(not_a_number, upper | 0x40, nearest).astype(np.uint16).view(np.uint8)
    with np.errstate(over="ignore"):
        return data.view(f"<f{_SIZES[dtype]}").astype(f"<f{_SIZES[wanted]}").view(np.uint8)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
