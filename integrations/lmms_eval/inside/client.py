"""The model that lmms-eval sees: a client of whoever gives the responses.

`Client` is lmms-eval's model interface. Behind it stands `Asking`, which asks a server and keeps a log, or `Recorded`,
which gives the responses of a finished cell again.
"""

# Packages of the lmms_eval environment.
# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms

from integrations.errors import StageFailed
from integrations.lmms_eval.inside.prompts import Prompt, Prompts
from integrations.lmms_eval.inside.records import Answer, Log, asked_of, sampling, still_good
from integrations.lmms_eval.inside.server import Connection
from integrations.lmms_eval.job import Server

ENCODERS = 4
"""Threads that prepare images while others wait for the server."""

Counts = Mapping[int, int]
"""Responses wanted, by document."""


@dataclass
class Responses:
    """What was got for a cell, by document and sample."""

    answers: dict[tuple[int, int], Answer] = field(default_factory=dict)
    prompts: dict[int, Prompt] = field(default_factory=dict)
    seconds: float = 0.0


class Responder(Protocol):
    """Gives the responses of one cell."""

    def respond(self, counts: Counts, prompts: Prompts) -> Responses: ...


class Client(lmms):
    """lmms-eval's model: generation only, from chat messages.

    Args:
        responder: gives the responses.
        docs: documents of the evaluation split.
        previews: folder for previews of the images.
    """

    is_simple = False

    def __init__(self, responder: Responder, docs: Sequence[Any], previews: Path) -> None:
        super().__init__()
        self._responder = responder
        self._docs = docs
        self._previews = previews
        self.responses = Responses()

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """One result per request; a document that is asked several times stands there as often."""
        seen: Counter[int] = Counter()
        wanted = []
        for request in requests:
            doc_id = request.args[3]
            wanted.append((doc_id, seen[doc_id]))
            seen[doc_id] += 1
        prompts = Prompts(self._docs, requests[0].args[1], self._previews)
        self.responses = self._responder.respond(seen, prompts)
        answers = [self.responses.answers[key] for key in wanted]
        return [GenerationResult(answer.text, TokenCounts(output_tokens=answer.tokens)) for answer in answers]

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise NotImplementedError("tasks of ours generate")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        raise NotImplementedError("tasks of ours ask once")


class Asking:
    """Asks a server for what the cell's log does not hold yet.

    Args:
        facts: of the cell.
        ids: item id by document.
        told: called after each response, with those that are there.
    """

    def __init__(
        self, server: Server, facts: Mapping[str, Any], ids: Sequence[str], log: Log, told: Callable[[int], None]
    ) -> None:
        self._server = server
        self._facts = facts
        self._ids = ids
        self._log = log
        self._told = told
        self._by = asked_of(facts)
        self._known = log.read()
        self._before = max((entry["seconds"] for entry in self._known.values()), default=0.0)
        self._began = time.monotonic()
        self._got = Responses(seconds=self._before)

    def respond(self, counts: Counts, prompts: Prompts) -> Responses:
        """Raises StageFailed (ServerFailed) when the server refuses or is gone; what came until then is in the log."""
        try:
            asyncio.run(self._respond(counts, prompts))
        except BaseExceptionGroup as group:
            raise _first(group) from None
        finally:
            self._log.close()
        return self._got

    async def _respond(self, counts: Counts, prompts: Prompts) -> None:
        waiting = iter(counts.items())
        free = asyncio.Semaphore(self._server.concurrency)
        loop = asyncio.get_running_loop()

        async def serve() -> None:
            """Take one document after the other; those of all servers are in hand at once."""
            for doc_id, count in waiting:
                prompt = await loop.run_in_executor(encoders, prompts.build, doc_id)
                self._got.prompts[doc_id] = prompt.told()
                missing = [sample for sample in range(count) if not self._recall(doc_id, sample, prompt)]
                if missing:
                    messages = await loop.run_in_executor(encoders, prompt.messages)
                    async with asyncio.TaskGroup() as samples:
                        for sample in missing:
                            samples.create_task(self._ask(connection, free, doc_id, sample, prompt, messages))

        with ThreadPoolExecutor(ENCODERS) as encoders:
            async with Connection(self._server) as connection, asyncio.TaskGroup() as servers:
                for _ in range(self._server.concurrency):
                    servers.create_task(serve())

    def _recall(self, doc_id: int, sample: int, prompt: Prompt) -> bool:
        """Take the response from the log, if it answers this very request."""
        item = self._ids[doc_id]
        entry = self._known.get((item, sample))
        if entry is None or not still_good(entry, self._by, prompt.hash, sampling(self._facts, item, sample)):
            return False
        self._take(doc_id, sample, entry)
        return True

    async def _ask(
        self,
        connection: Connection,
        free: asyncio.Semaphore,
        doc_id: int,
        sample: int,
        prompt: Prompt,
        messages: list[dict[str, Any]],
    ) -> None:
        sent = sampling(self._facts, self._ids[doc_id], sample)
        async with free:
            reply = await connection.complete(messages, sent)
        self._got.seconds = self._before + time.monotonic() - self._began
        who = {"item": self._ids[doc_id], "sample": sample, "by": self._by, "prompt": prompt.hash, "sent": sent}
        told = {"text": reply.text, "finish": reply.finish, "usage": reply.usage}
        entry = {**who, **told, "seconds": round(self._got.seconds, 3)}
        self._log.append(entry)
        self._take(doc_id, sample, entry)

    def _take(self, doc_id: int, sample: int, entry: Mapping[str, Any]) -> None:
        self._got.answers[doc_id, sample] = Answer.of(entry)
        self._told(len(self._got.answers))


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class Recorded:
    """Gives the responses of a finished cell again, for the very prompts that they answered.

    Args:
        rows: of the cell's samples.
        ids: item id by document.
        told: called with the documents done.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]], ids: Sequence[str], told: Callable[[int], None]) -> None:
        self._rows = {(row["item_id"], row["sample"]): row for row in rows}
        self._ids = ids
        self._told = told

    def respond(self, counts: Counts, prompts: Prompts) -> Responses:
        """Raises StageFailed when the data set, the prompts or the number of samples are not those of the cell."""
        responses = Responses()
        for doc_id, count in counts.items():
            prompt = prompts.build(doc_id)
            responses.prompts[doc_id] = prompt.told()
            for sample in range(count):
                row = self._rows.get((self._ids[doc_id], sample))
                if row is None or row["prompt_hash"] != prompt.hash:
                    what = "has no recorded response" if row is None else "is asked in another way now"
                    raise StageFailed(
                        f"item {self._ids[doc_id]} {what}: the data set or the task changed since the evaluation",
                        "evaluate it again, without rescoring",
                    )
                responses.answers[doc_id, sample] = Answer(row["response"], row["truncated"], row["tokens"])
                self._told(len(responses.answers))
        return responses
