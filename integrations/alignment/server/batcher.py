"""Requests that wait together are decoded together, in one thread of their own.

A batch holds requests of one `Sampling`, so that no request is decoded with another's parameters; the oldest request
decides which. Each response has a random stream of its own (see `rollout`), so it does not depend on its batch. It is
handed over as soon as it ends, so that its asker's next request is there when the batch is done.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from integrations.alignment.data.prompts import Prompt
from integrations.alignment.rollouts.rollout import Generation, Sampling
from integrations.errors import StageFailed

QUIET = 0.02
"""Seconds without news after which a batch that is not full begins."""
PATIENCE = 2.0
"""Seconds after which it begins although more requests are on their way."""


class Streamer(Protocol):
    """What is asked of `rollout.Rollouts`."""

    def stream(
        self, prompts: Sequence[Prompt], which: Sequence[int], sampling: Sampling, keys: Sequence[int]
    ) -> Any: ...


class Stopping(Exception):
    """The server stops before the request is answered."""


@dataclass(eq=False)
class Job:
    """One response to be decoded."""

    prompt: Prompt
    sampling: Sampling
    key: int
    """Seed of the response's random stream."""
    done: Future[Generation] = field(default_factory=Future)


class Batcher:
    """Decodes jobs in batches.

    Args:
        load: makes the `Streamer`, in the decoding thread; what it raises is kept in `failure`.
        max_batch: most responses decoded together.
        ended: called in the decoding thread when it ends by itself, because loading failed.
    """

    def __init__(self, load: Callable[[], Streamer], max_batch: int, ended: Callable[[], None]) -> None:
        self.failure: BaseException | None = None
        self.ready = threading.Event()
        self._load, self._max_batch, self._ended = load, max_batch, ended
        self._waiting: deque[Job] = deque()
        self._expected = 0
        self._news = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="decoding", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def expect(self, change: int) -> None:
        """Tell that `change` more requests are being prepared (negative: no longer); a batch waits for them."""
        with self._news:
            self._expected += change
            self._news.notify()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Decode these; each `done` gets its response.

        Raises:
            Stopping: after `stop`.
        """
        with self._news:
            if self._stopping:
                raise Stopping
            self._waiting.extend(jobs)
            self._news.notify()

    def stop(self) -> None:
        """Give up after the current step: every open job's `done` raises Stopping."""
        with self._news:
            self._stopping = True
            self._news.notify()

    def join(self, seconds: float) -> None:
        self._thread.join(seconds)

    def _run(self) -> None:
        try:
            streamer = self._load()
        except BaseException as error:
            self.failure = error
            self._ended()
            return
        self.ready.set()
        while batch := self._next():
            self._decode(streamer, batch)
        with self._news:
            _fail(self._waiting, Stopping())

    def _next(self) -> list[Job]:
        """The next batch, in order of arrival; waits until there is one. Empty when stopping."""
        with self._news:
            self._news.wait_for(lambda: self._waiting or self._stopping)
            until = time.monotonic() + PATIENCE
            while not self._stopping and self._same() < self._max_batch and time.monotonic() < until:
                if not self._news.wait(QUIET) and not self._expected:
                    break
            if self._stopping:
                return []
            sampling = self._waiting[0].sampling
            batch = [job for job in self._waiting if job.sampling == sampling][: self._max_batch]
            chosen = set(map(id, batch))
            self._waiting = deque(job for job in self._waiting if id(job) not in chosen)
            return batch

    def _same(self) -> int:
        return sum(job.sampling == self._waiting[0].sampling for job in self._waiting)

    def _decode(self, streamer: Streamer, batch: Sequence[Job]) -> None:
        """Decode one batch; what does not fit the device's memory in two halves."""
        groups: dict[str, list[Job]] = {}
        for job in batch:
            groups.setdefault(job.prompt.id, []).append(job)
        prompts = [group[0].prompt for group in groups.values()]
        which = [index for index, group in enumerate(groups.values()) for _ in group]
        jobs = [job for group in groups.values() for job in group]
        try:
            for ended in streamer.stream(prompts, which, jobs[0].sampling, [job.key for job in jobs]):
                for index, generation in ended:
                    if not jobs[index].done.cancelled():
                        jobs[index].done.set_result(generation)
                if self._stopping:
                    raise Stopping
        except torch.OutOfMemoryError as error:
            too_large = str(error)
        except Exception as error:
            _fail(jobs, error)
            return
        else:
            return
        left = [job for job in jobs if not job.done.done()]  # here, where the failed batch's memory is free again
        if len(left) < 2:
            _fail(left, StageFailed(f"the request does not fit the memory: {too_large}", "ask for fewer tokens"))
            return
        for half in (left[: len(left) // 2], left[len(left) // 2 :]):
            self._decode(streamer, half)


def _fail(jobs: Iterable[Job], error: Exception) -> None:
    for job in jobs:
        if not job.done.done():
            job.done.set_exception(error)
