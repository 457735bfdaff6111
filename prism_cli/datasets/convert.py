"""Fetched data as what the stages read: a pool's rows in one file, its images beside it.

    pool(files, downloads, Path("data/prism/curated.jsonl"))

Images that are files already are linked, not copied; those inside a parquet file or an archive become files, named by
their content or their path, because every engine opens images by path. Rows that no stage could use are left out,
counted by reason and named. Each file becomes a part, so that an interrupted conversion goes on with the next one.
"""

from __future__ import annotations

import json
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from integrations.common.files import read_json, write_json
from integrations.common.parquet_rows import write_picture
from integrations.errors import BadInput
from prism_cli.datasets.reading import Item, items
from prism_cli.datasets.schema import problems

ROWS = (".parquet", ".jsonl", ".json")
ARCHIVES = (".tar.gz", ".tgz", ".tar", ".zip")
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")
SMALL = 50_000_000
"""Bytes of rows below which starting processes takes longer than it saves."""
TRIED = 100
"""Pairs whose images are looked for before all of them are taken as they are."""
NAMED = 3
"""Rows named for each reason."""
News = Callable[[str], None]


def pool(files: Sequence[str], downloads: Path, target: Path, commit: str, jobs: int, news: News) -> dict[str, Any]:
    """Make `target` and the images beside it.

    Args:
        files: paths below `downloads`: rows, archives and pictures.
        target: the pool's JSON lines; its images go into `images/` beside it.
        commit: of the files; parts of another one are not gone on with.
        jobs: processes that convert, a file each.
        news: told what is done.

    Returns:
        `rows` and `left_out`, which has for each reason the number of rows and the first of them.

    Raises:
        BadInput: no file has rows, or no row can be used.
    """
    shards = [name for name in sorted(files) if name.endswith(ROWS) and not name.endswith("dataset_info.json")]
    if not shards:
        raise BadInput(f"{downloads} has no rows (files that end in {', '.join(ROWS)})", "look at the repository")
    _spread(files, downloads, target.parent / "images" / target.stem, commit, news)
    parts = target.with_name(f".{target.stem}.{commit[:12]}.parts")
    parts.mkdir(parents=True, exist_ok=True)
    work = partial(_part, downloads=downloads, target=target, parts=parts)
    if jobs == 1 or sum((downloads / shard).stat().st_size for shard in shards) < SMALL:
        told = [_tell(work(shard), shard, number, len(shards), news) for number, shard in enumerate(shards, 1)]
    else:
        with ProcessPoolExecutor(min(jobs, len(shards)), get_context("spawn")) as executor:
            results = executor.map(work, shards)
            told = [
                _tell(one, s, n, len(shards), news) for n, (s, one) in enumerate(zip(shards, results, strict=True), 1)
            ]
    return _join(target, parts, shards, told)


def _tell(result: dict[str, Any], shard: str, number: int, of: int, news: News) -> dict[str, Any]:
    news(f"{shard}: {result['rows']} rows ({number} of {of})")
    return result


def _part(shard: str, downloads: Path, target: Path, parts: Path) -> dict[str, Any]:
    """One file's rows as a part, which is whole once its count is written."""
    name = shard.replace("/", "__")
    if (known := read_json(parts / f"{name}.count")) is not None:
        return dict(known)
    left_out: dict[str, Any] = {}
    rows = 0
    with (parts / name).open("w", encoding="utf-8") as stream:
        for item in items(downloads / shard):
            if reason := _take(item, downloads, target):
                entry = left_out.setdefault(reason, {"rows": 0, "first": []})
                entry["rows"] += 1
                entry["first"] = [*entry["first"], f"{shard}:{item.number}"][:NAMED]
                continue
            stream.write(json.dumps(_complete(item.row), ensure_ascii=False) + "\n")
            rows += 1
    told = {"rows": rows, "left_out": left_out}
    write_json(parts / f"{name}.count", told)
    return told


def _take(item: Item, downloads: Path, target: Path) -> str | None:
    """Put the row's images in their place; why it cannot be used, or None."""
    images = []
    for image in item.row.get("images") or []:
        if image in item.embedded:
            write_picture(target.parent / image, item.embedded[image])
            images.append(image)
        else:
            folder = target.parent / "images" / target.stem
            images.append(f"images/{target.stem}/{placed(image, folder) or image}")
    item.row["images"] = images
    wrong = [(where, what) for level, where, what in problems(item, target.parent, None) if level == "error"]
    return f"`{wrong[0][0]}` {wrong[0][1]}" if wrong else None


def _complete(row: dict[str, Any]) -> dict[str, Any]:
    """The fields of a pool's row in their order."""
    ordered = {name: row.get(name) for name in ("id", "images", "system", "prompt", "response", "answer", "source")}
    return {**ordered, "response": ordered["response"] or None}


def _join(target: Path, parts: Path, shards: Sequence[str], told: Sequence[dict[str, Any]]) -> dict[str, Any]:
    rows = sum(one["rows"] for one in told)
    left_out: dict[str, Any] = {}
    for one in told:
        for reason, entry in one["left_out"].items():
            whole = left_out.setdefault(reason, {"rows": 0, "first": []})
            whole["rows"] += entry["rows"]
            whole["first"] = [*whole["first"], *entry["first"]][:NAMED]
    if not rows:
        shutil.rmtree(parts)
        reason = max(left_out, key=lambda reason: left_out[reason]["rows"], default="there are none")
        raise BadInput(f"no row of {target.stem} can be used: {reason}", "look at the file that was fetched")
    partial_file = target.with_name(f".{target.name}.partial")
    with partial_file.open("wb") as stream:
        for shard in shards:
            with (parts / shard.replace("/", "__")).open("rb") as part:
                shutil.copyfileobj(part, stream, 1 << 20)
        stream.flush()
        os.fsync(stream.fileno())
    partial_file.replace(target)
    shutil.rmtree(parts)
    return {"rows": rows, "left_out": left_out}


def placed(image: str, folder: Path) -> str | None:
    """Where below a folder an image lies that a row names by a path of its authors' machine, or of another root.

    Its own path is tried, then shorter ends of it, in the folder and in each folder directly inside.
    """
    parts = [part for part in image.split("/") if part not in ("", ".", "..")]
    for start in range(len(parts)):
        end = "/".join(parts[start:])
        if os.path.isfile(f"{folder}/{end}"):
            return end
        for inside in _inside(folder):
            if os.path.isfile(f"{folder}/{inside}/{end}"):
                return f"{inside}/{end}"
    return None


@cache
def _inside(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def pairs(files: Sequence[str], downloads: Path, target: Path, commit: str, news: News) -> dict[str, Any]:
    """Warm-up pairs: the lines linked to `target`, their images unpacked or linked beside it.

    Where the lines name images by other paths than they lie at, they are written anew with these.
    """
    lines = next((name for name in files if name.endswith(".jsonl")), None)
    if lines is None:
        raise BadInput(f"{downloads} has no JSON lines with pairs", "look at the repository")
    _spread(files, downloads, target.parent, commit, news)
    target.unlink(missing_ok=True)
    with (downloads / lines).open("rb") as stream:
        as_they_are = all(os.path.isfile(target.parent / json.loads(line)["image"]) for line in islice(stream, TRIED))
    if as_they_are:
        _link(downloads / lines, target)
    else:
        _write_pairs(downloads / lines, target)
    with target.open("rb") as stream:
        return {"rows": sum(1 for _ in stream), "left_out": {}}


def _write_pairs(source: Path, target: Path) -> None:
    partial_file = target.with_name(f".{target.name}.partial")
    with source.open("rb") as lines, partial_file.open("w", encoding="utf-8") as stream:
        for line in lines:
            pair = json.loads(line)
            pair["image"] = placed(str(pair.get("image")), target.parent) or pair.get("image")
            stream.write(json.dumps(pair, ensure_ascii=False) + "\n")
    partial_file.replace(target)


def _spread(files: Sequence[str], downloads: Path, folder: Path, commit: str, news: News) -> None:
    """Archives unpacked into a folder, and loose pictures linked there, once."""
    for name in sorted(files):
        if name.endswith(ARCHIVES):
            done = folder / f".{Path(name).name}.{commit[:12]}"
            if not done.exists():
                news(f"unpacking {name}")
                folder.mkdir(parents=True, exist_ok=True)
                _unpack(downloads / name, folder)
                done.touch()
        elif name.lower().endswith(PICTURES):
            _link(downloads / name, folder / name)


def _unpack(archive: Path, folder: Path) -> None:
    try:
        if archive.name.endswith(".zip"):
            with zipfile.ZipFile(archive) as opened:
                opened.extractall(folder)  # never leaves the folder: zipfile takes `..` out of names
            return
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="data")
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise BadInput(f"cannot unpack {archive}: {error}", "remove it, and run the same command again") from error


def _link(source: Path, target: Path) -> None:
    """A second name for the same bytes; across file systems a symbolic link."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        target.symlink_to(source.absolute())
