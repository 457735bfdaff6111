"""Do rows repeat questions or pictures that are evaluated on?

    held_out = HeldOut.read([Path("data/benchmarks"), Path("data/prism/test.jsonl")])
    held_out.texts.find(words(row["prompt"]))           # the place of the question in `held_out.names`, or None

What is held out is read from pools and from copies of benchmarks as `prism eval --data` takes them: parquet files whose
pictures are columns with `bytes`, and whose question is the first of `QUESTIONS` that a row fills.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from integrations.errors import BadInput
from prism_cli.datasets.pictures import Fingerprint, Outlines, PictureIndex, fingerprint, problem
from prism_cli.datasets.reading import BATCH, items
from prism_cli.datasets.texts import TextIndex

QUESTIONS = ("question", "prompt", "problem", "query")
"""Columns that may hold a benchmark's question, the likeliest first."""
CHUNK = 16
"""Pictures handed to a process at a time."""
Picture = Path | bytes
Tick = Callable[[int], None]
"""Told how many pictures or rows are done."""


@dataclass(frozen=True)
class Look:
    """What a process saw of a picture."""

    problem: str | None
    """Why it cannot be used, or None."""
    print: Fingerprint | None
    """None where it cannot be read, or is like nothing that is looked for."""


class Looker:
    """Opens pictures in several processes, in order. Use it as `with looking(...) as looker`."""

    def __init__(self, executor: ProcessPoolExecutor | None, outlines: Outlines | None) -> None:
        self._executor, self._outlines = executor, outlines

    def look(self, pictures: Sequence[Picture]) -> Iterable[Look]:
        """What is seen of each."""
        if self._executor is None:
            return [_look(picture, self._outlines) for picture in pictures]
        return self._executor.map(_look_from_here, pictures, chunksize=CHUNK)


@contextmanager
def looking(jobs: int, outlines: Outlines | None = None) -> Iterator[Looker]:
    """Processes that open pictures.

    Args:
        jobs: how many; 1: none beside this one.
        outlines: only pictures that may be one of these keep their fingerprint; None: all do.
    """
    if jobs == 1:
        yield Looker(None, outlines)
        return
    context = get_context("spawn")  # a forked child could inherit a lock that a thread of this process holds
    with ProcessPoolExecutor(jobs, context, _take_outlines, (outlines,)) as executor:
        yield Looker(executor, outlines)


_OUTLINES: Outlines | None = None


def _take_outlines(outlines: Outlines | None) -> None:
    global _OUTLINES
    _OUTLINES = outlines


def _look_from_here(picture: Picture) -> Look:
    return _look(picture, _OUTLINES)


def _look(picture: Picture, outlines: Outlines | None) -> Look:
    try:
        wrong = problem(picture)
        seen = fingerprint(picture)
    except FileNotFoundError:
        return Look("names a file that is missing", None)
    except (OSError, ValueError, SyntaxError) as error:
        return Look(f"cannot be read ({type(error).__name__})", None)
    return Look(wrong, seen if outlines is None or outlines.near(seen) else None)


@dataclass(frozen=True)
class Question:
    """One held-out item."""

    name: str
    """File and row, for people."""
    text: str
    pictures: list[Picture]


@dataclass(frozen=True)
class HeldOut:
    """What must not be trained on."""

    names: list[str]
    """Of the questions, in their order."""
    pictured: list[bool]
    """Whether a question comes with pictures."""
    texts: TextIndex
    pictures: PictureIndex
    picture_names: list[str]
    """The question of each picture."""
    unread: int
    """Pictures that could not be read."""

    @classmethod
    def read(
        cls, paths: Sequence[Path], pictures: bool = True, jobs: int = 1, tick: Tick = lambda done: None
    ) -> HeldOut:
        """Read questions and pictures of pools, parquet files, or folders of them.

        Args:
            pictures: whether to open their pictures; without, only texts can be found again.
            jobs: processes that open them.
            tick: told how many questions are read.

        Raises:
            BadInput: a path is missing, or nothing in it is a question.
        """
        names: list[str] = []
        pictured: list[bool] = []
        texts: list[str] = []
        index, picture_names, unread = PictureIndex(), [], 0
        asked = (question for path in paths for question in questions(path))
        with looking(jobs if pictures else 1) as looker:
            while some := list(islice(asked, BATCH)):
                names += [question.name for question in some]
                texts += [question.text for question in some]
                pictured += [bool(question.pictures) for question in some]
                shown = [(question.name, picture) for question in some for picture in question.pictures if pictures]
                for (name, _), seen in zip(shown, looker.look([one for _, one in shown]), strict=True):
                    if seen.print is None:
                        unread += 1
                        continue
                    index.add(seen.print)
                    picture_names.append(name)
                tick(len(names))
        return cls(names, pictured, TextIndex(texts), index, picture_names, unread)


def questions(path: Path) -> Iterator[Question]:
    """The held-out items of a pool, a parquet file, or all such files in a folder.

    Raises:
        BadInput: the path is missing, or nothing in it is a question.
    """
    files = [path]
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix in (".parquet", ".jsonl") and ".cache" not in p.parts)
    if not files or not path.exists():
        raise BadInput(
            f"there are no held-out items in {path}",
            "give pools (JSON lines), parquet files, or the folder of `prism eval --data`",
        )
    for file in files:
        label = str(file.relative_to(path)) if path.is_dir() else file.name
        yield from _of_parquet(file, label) if file.suffix == ".parquet" else _of_pool(file, label)


def _of_pool(file: Path, label: str) -> Iterator[Question]:
    for item in items(file):
        images = item.row.get("images") or []
        pictures = [item.embedded.get(image, file.parent / image) for image in images]
        yield Question(f"{label}:{item.number}", str(item.row.get("prompt") or ""), pictures)


def _of_parquet(file: Path, label: str) -> Iterator[Question]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(file)
        columns = [f.name for f in table.schema_arrow if f.name in QUESTIONS or _holds_pictures(f.type)]
        number = 0
        for batch in table.iter_batches(BATCH, columns=columns):
            for record in batch.to_pylist():
                number += 1
                text = next((record[name] for name in QUESTIONS if isinstance(record.get(name), str)), "")
                yield Question(f"{label}:{number}", text, [*_pictures_in(record)])
    except (OSError, pa.ArrowException) as error:
        raise BadInput(f"cannot read {file}: {str(error).splitlines()[0]}", "fetch the file again") from error


def _holds_pictures(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _holds_pictures(kind.value_type)
    return pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0


def _pictures_in(record: dict[str, Any]) -> Iterator[Picture]:
    for value in record.values():
        for image in value if isinstance(value, list) else [value]:
            if isinstance(image, dict) and isinstance(image.get("bytes"), bytes):
                yield image["bytes"]
