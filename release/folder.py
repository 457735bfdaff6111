"""The folder that is released: a finished stage's model, and the texts that go with it.

    folder = assemble(stage_model, work / "release", {})       # the model's files alone, re-sharded where needed
    add(folder, {"README.md": card, "LICENSE": text})          # what is rendered from their hashes

Only files whose names are known are taken (`MODEL_FILES`, `TEXTS`); whatever else an engine left beside the weights
stays where it is (`left_out`). Files are copied, never linked: a hard link would let a later stage of the run change
what has been hashed, and a release edited by hand change the run; a symbolic link shows another content on every
machine. File systems that can share blocks do so, so that a copy there costs nothing.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from integrations.common.checkpoint import INDEX, SHARD_BYTES, read_tensors, write_shards
from integrations.common.files import flush, hash_folder, whole_folder
from integrations.errors import BadInput
from release.manifest import unsafe

WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
MODEL_FILES = (
    WEIGHTS.pattern,
    r"model\.safetensors\.index\.json",
    r"prism_discriminator\.json",
    r"prism_heads\.safetensors",
    r"(generation_|tokenizer_|processor_|preprocessor_|video_preprocessor_)?config\.json",
    r"tokenizer\.json",
    r"vocab\.json",
    r"merges\.txt",
    r"(added_tokens|special_tokens_map|chat_template)\.json",
    r"chat_template\.jinja",
)
TEXTS = (
    r"README\.md",
    r"LICENSE",
    r"NOTICE",
    r"\.gitattributes",
    r"\.eval_results/[A-Za-z0-9][\w.-]*\.yaml",
    r"provenance/[A-Za-z0-9][\w.-]*\.(json|yaml|txt)",
    r"images/[A-Za-z0-9][\w.-]*\.png",
)
DATA_FILES = (r"data/[A-Za-z0-9][\w.-]*\.parquet",)
"""A dataset's own files."""


def allowed(path: str, patterns: tuple[str, ...] = (*MODEL_FILES, *TEXTS)) -> bool:
    """Whether a release may hold a file of this name."""
    return any(re.fullmatch(pattern, path, re.ASCII) for pattern in patterns)


def left_out(source: Path) -> list[str]:
    """Names in a model folder that are not released."""
    return sorted(path.name for path in source.iterdir() if not allowed(path.name, MODEL_FILES))


def assemble(
    source: Path,
    out: Path,
    extra: Mapping[str, str | bytes],
    shard_bytes: int = SHARD_BYTES,
    expected: str | None = None,
) -> Path:
    """Make the folder that is released. Equal inputs give equal bytes; the folder is whole or absent.

    Args:
        source: a model folder.
        out: replaced where it is there.
        extra: text or bytes by path (`TEXTS`).
        shard_bytes: where a weights file has more bytes of tensors, all are written anew as shards with an index.

    Raises:
        BadInput: the source has no readable weights or holds links, a name is not one of a release, or the folder
            cannot be written.
    """
    source = source.resolve()
    if expected is not None and hash_folder(source) != expected:
        raise BadInput(f"{source} is not what its stage left when it was finished", "run the stage again")
    files = {path.name: path for path in sorted(source.iterdir()) if allowed(path.name, MODEL_FILES)}
    for path in files.values():
        if path.is_symlink() or not path.is_file():
            raise BadInput(f"{path} is no file of its own", "copy what it points at into the folder")
    weights = [path for name, path in files.items() if WEIGHTS.fullmatch(name)]
    try:
        if out.exists():
            shutil.rmtree(out)
        with whole_folder(out) as partial:
            if any(tensor_bytes(path) > shard_bytes for path in weights):
                tensors = [item for item in read_tensors(source).values() if WEIGHTS.fullmatch(item.path.name)]
                write_shards(partial, tensors, limit=shard_bytes)
                files = {name: path for name, path in files.items() if path not in weights and name != INDEX}
            for name, path in files.items():
                _copy(path, partial / name)
            add(partial, extra)
    except OSError as error:
        raise BadInput(f"cannot write {out}: {error.strerror}", "free disk space, or choose another folder") from error
    return out


def assemble_texts(out: Path, files: Mapping[str, str | bytes]) -> Path:
    """The same without a model: a dataset's own files. The folder is whole or absent.

    Raises:
        BadInput: a name is not one of a release, or the folder cannot be written.
    """
    try:
        if out.exists():
            shutil.rmtree(out)
        with whole_folder(out) as partial:
            add(partial, files)
    except OSError as error:
        raise BadInput(f"cannot write {out}: {error.strerror}", "free disk space, or choose another folder") from error
    return out


def tensor_bytes(path: Path) -> int:
    """Bytes of tensors in a safetensors file, by its size and the length of its header."""
    with path.open("rb") as stream:
        return path.stat().st_size - 8 - int.from_bytes(stream.read(8), "little")


def add(folder: Path, extra: Mapping[str, str | bytes]) -> None:
    """Write texts into an assembled folder, each whole or absent; one of the same name is replaced.

    Raises:
        BadInput: a name is not one of `TEXTS`.
        OSError: one cannot be written.
    """
    for path, content in sorted(extra.items()):
        if problem := unsafe(path):
            raise BadInput(f"a release cannot hold {path!r}: it {problem}", "give the file another name")
        if not allowed(path, (*TEXTS, *DATA_FILES)):
            raise BadInput(f"a release holds no file named {path!r}", "leave it out")
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name}.tmp")
        draft.write_bytes(content.encode() if isinstance(content, str) else content)
        flush(draft)
        draft.replace(target)


def _copy(source: Path, target: Path) -> None:
    """The file's bytes, sharing its blocks where the file system can; neither its times nor its rights."""
    with source.open("rb") as given, target.open("xb") as taken:
        left = os.fstat(given.fileno()).st_size
        try:
            while left and (moved := os.copy_file_range(given.fileno(), taken.fileno(), left)):
                left -= moved
            return
        except OSError:  # another file system, or one that cannot
            taken.truncate(0)
    shutil.copyfile(source, target)
