"""Rows put to a language model, each request once.

Every answer is written to a journal as it comes, under a key made from what was asked: model, texts, the pictures'
hashes, sampling, and the number of the sample. Running the same command again reads the journal and asks for the rest;
a changed prompt or temperature is another request. Requests that failed are asked again.
"""

from __future__ import annotations

import base64
import json
import mimetypes
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from integrations.common.chat import Chat, Said, Session, work_through
from integrations.common.files import hash_file, hash_json
from integrations.common.rows import Row, read_rows, structural_problem
from integrations.errors import BadInput, Interrupted, StageFailed
from prism_cli.making.cost import Meter

JOURNAL = "asked.jsonl"
Tick = Callable[[int, int, int], None]
"""Given answers so far, requests in all, and failures so far."""


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 8192
    seed: int = 0
    """Sample n of a row is asked with seed + n, so that servers that honour seeds repeat it."""


@dataclass(frozen=True)
class Request:
    """One sample of one row."""

    row: Row
    sample: int
    key: str


@dataclass(frozen=True)
class Answer:
    """What the journal keeps."""

    key: str
    id: str
    """The row's."""
    sample: int
    text: str
    cut: bool
    """The answer reached its longest length."""
    prompt_tokens: int
    completion_tokens: int


class Asker:
    """Rows of one pool, one server, one journal.

    Args:
        pool: the rows' file; their images are beside it.
        out: folder of the journal.
        system: system turn for rows that have none of their own.
    """

    def __init__(self, chat: Chat, pool: Path, out: Path, sampling: Sampling, system: str | None) -> None:
        self.chat, self.pool, self.out = chat, pool, out
        self.sampling, self.system = sampling, system
        self._hashes: dict[str, str] = {}

    def requests(self, rows: Sequence[Row], samples: int) -> list[Request]:
        """As many samples of each row, sample by sample, so that a cut-off run has some of every row."""
        return [Request(row, sample, self._key(row, sample)) for sample in range(samples) for row in rows]

    def answers(self) -> dict[str, Answer]:
        """What the journal holds, by key. A half-written last line is left out."""
        return {answer.key: answer for answer in _read(self.out / JOURNAL)}

    def ask(self, requests: Sequence[Request], meter: Meter, tick: Tick, stop: threading.Event) -> dict[str, Answer]:
        """Ask for what the journal does not hold, and return all that it holds afterwards.

        Raises:
            StageFailed: the server fails too often, requests were refused, or the cost reached its bound.
            Interrupted: `stop` was set.
            BadInput: no such server or model.
        """
        known = self.answers()
        left = [request for request in requests if request.key not in known]
        before, ended = len(requests) - len(left), _Either(stop)
        problems: list[str] = []

        def heard(index: int, said: Said) -> None:
            if said.text is None:
                problems.append(said.problem or "no text")
            else:
                answer = _answer(left[index], said)
                known[answer.key] = answer
                journal.write(json.dumps(vars(answer), ensure_ascii=False) + "\n")
                journal.flush()
                meter.add(said.prompt_tokens, said.completion_tokens)
            tick(before + meter.answers, len(requests), len(problems))
            if meter.exhausted:
                ended.set()

        if left:
            with _appending(self.out / JOURNAL) as journal:
                try:
                    work_through(self.chat, left, self._complete, heard, ended)
                except Interrupted:
                    if stop.is_set():
                        raise
                    raise _bound(meter, known, requests) from None
        if problems:
            raise StageFailed(
                f"{len(problems)} of {len(left)} requests were not answered: {problems[0]}",
                "what was answered is kept; the same command asks for the rest",
            )
        return known

    async def _complete(self, session: Session, request: Request) -> Said:
        return await session.complete(self._body(request.row, request.sample))

    def _body(self, row: Row, sample: int) -> dict[str, Any]:
        system = row.get("system") or self.system
        parts: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": _data_url(self.pool.parent / image)}} for image in row["images"]
        ]
        turns: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
        turns.append({"role": "user", "content": [*parts, {"type": "text", "text": row["prompt"]}]})
        fields = {"temperature": self.sampling.temperature, "top_p": self.sampling.top_p}
        return self.chat.body(turns, **fields, max_tokens=self.sampling.max_tokens, seed=self.sampling.seed + sample)

    def _key(self, row: Row, sample: int) -> str:
        pictures = [self._hash(image) for image in row["images"]]
        system = row.get("system") or self.system
        told = [self.chat.model, system, row["prompt"], pictures, vars(self.sampling), self.chat.extra, sample]
        return hash_json(told)[:24]

    def _hash(self, image: str) -> str:
        if image not in self._hashes:
            self._hashes[image] = hash_file(self.pool.parent / image)
        return self._hashes[image]


def usable_rows(pool: Path, limit: int | None) -> list[Row]:
    """Rows of a pool that a server can be asked.

    Raises:
        BadInput: the file cannot be read, a row cannot be used (named), an id stands twice, or there is no row.
    """
    rows: list[Row] = []
    seen: set[str] = set()
    for number, row in enumerate(read_rows(pool), 1):
        problem = structural_problem(row, pool.parent)
        if problem is None and row["id"] in seen:
            problem = f"`id` {row['id']} stands twice"
        if problem is not None:
            raise BadInput(f"{pool}, line {number}: {problem}", "mend the row; `prism data check` lists them all")
        seen.add(row["id"])
        rows.append(row)
        if limit is not None and len(rows) == limit:
            break
    if not rows:
        raise BadInput(f"{pool} holds no row", "name a pool of JSON lines")
    return rows


class _Either(threading.Event):
    """Set by itself or by another."""

    def __init__(self, other: threading.Event) -> None:
        super().__init__()
        self._other = other

    def is_set(self) -> bool:
        return super().is_set() or self._other.is_set()


def _answer(request: Request, said: Said) -> Answer:
    return Answer(
        request.key,
        request.row["id"],
        request.sample,
        said.text or "",
        said.finish_reason == "length",
        said.prompt_tokens,
        said.completion_tokens,
    )


def _bound(meter: Meter, known: Mapping[str, Answer], requests: Sequence[Request]) -> StageFailed:
    done = sum(request.key in known for request in requests)
    return StageFailed(
        f"the cost reached its bound of {meter.most:g} with {done} of {len(requests)} answers",
        "what was answered is kept; give a higher --max-cost to go on",
    )


def _read(path: Path) -> Iterator[Answer]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        return
    for number, line in enumerate(lines[:-1], 1):
        try:
            yield Answer(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise BadInput(f"{path}, line {number}: not an answer of this journal", "move the file away") from error


def _appending(path: Path) -> IO[str]:
    """The journal, without a last line that was cut off in the middle."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(path, whole)
    return path.open("a", encoding="utf-8")


def _data_url(image: Path) -> str:
    kind = mimetypes.guess_type(image.name)[0] or "image/png"
    return f"data:{kind};base64,{base64.b64encode(image.read_bytes()).decode()}"
