"""A judge: a language model behind an OpenAI-compatible address that says whether an answer matches a reference.

    judge = Judge("http://127.0.0.1:8000", "Qwen/Qwen2.5-32B-Instruct")
    print(judge.identity.to_json())
    ask_all(judge, [Question("What is 7 + 5?", "12", "twelve")], lambda index, reply: print(index, reply.verdict))

    async with judge.session() as session:                       # the same inside an event loop
        reply = await judge.ask(session, Question("What is 7 + 5?", "12", "twelve"))

What it is asked, and which replies are verdicts, is in `judge_prompt`; verdicts are kept by `verdicts`; connections,
retries and the key are `chat`'s. A reply that is no verdict is an error and never a guess. Runs in prism's own process
and in the engines' environments.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from integrations.common.chat import Chat, Said, Session, httpx, printable, work_through
from integrations.common.files import hash_json
from integrations.common.judge_prompt import SAMPLING, VERSION, Question, Verdict, messages, parse_verdict
from integrations.errors import BadInput


@dataclass(frozen=True)
class Identity:
    """Which judge it is, as far as its server tells. Part of every verdict's key, and named in every table."""

    model: str
    """The model's name; of a folder its last part."""
    served: str | None
    """Hash of what the server lists of the model (its name and where its weights came from); None: not listed."""
    fingerprint: str | None
    """The server's `system_fingerprint`; None: it tells none."""
    prompt: str
    """Version of what is asked, with sampling and extra fields."""

    def key(self, question: Question) -> str:
        """The verdict's key: sha256 of the judge's identity and the three texts as the judge sees them."""
        return hash_json([asdict(self), asdict(question.cut())])

    def to_json(self) -> dict[str, Any]:
        """For result files: no address and no path."""
        return asdict(self)


@dataclass(frozen=True)
class Reply:
    """What came of one question."""

    verdict: Verdict | None
    """None: an error."""
    problem: str | None = None
    """What was wrong, in printable characters."""
    answered: bool = True
    """The server answered with a message, whether or not it was a verdict."""
    fingerprint: str | None = None
    seconds: float = 0.0
    """From the first attempt to the end, waits included."""
    attempts: int = 1
    faults: int = 0
    """Attempts that the server failed: no connection, no answer in time, 5xx, a body that makes no sense."""


class Judge(Chat):
    """Where a judge is and how it is asked; the arguments are `Chat`'s."""

    def __init__(
        self,
        url: str,
        model: str | None = None,
        *,
        key_variable: str | None = None,
        timeout: float = 120.0,
        attempts: int = 3,
        patience: float = 0.5,
        concurrency: int = 8,
        extra: Mapping[str, Any] | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(
            url,
            model,
            role="judge",
            start="start one with `prism judge serve`, or correct the address",
            key_variable=key_variable,
            timeout=timeout,
            attempts=attempts,
            patience=patience,
            concurrency=concurrency,
            extra=extra,
            transport=transport,
        )

    @cached_property
    def identity(self) -> Identity:
        """Who the judge is. Asks one question for it, whose verdict does not matter.

        Raises:
            BadInput: nothing answers there, it refuses the key, or has no such model.
        """
        entry = next((entry for entry in self.listed or [] if entry["id"] == self.model), None)
        reply = asyncio.run(self._ask_once(Question("What is 1 + 1?", "2", "2")))
        if not reply.answered:
            names = ", ".join(entry["id"] for entry in self.listed or [])
            have = f" (it lists {printable(names)})" if names else ""
            raise BadInput(
                f"the judge `{self.model}` at {self.url} does not answer: {reply.problem}{have}",
                "check the address, the model's name and the server's log",
            )
        served = None if entry is None else hash_json([entry["id"], entry.get("root")])[:12]
        return Identity(
            model=os.path.basename(self.model.rstrip("/")) if os.path.isabs(self.model) else self.model,
            served=served,
            fingerprint=reply.fingerprint,
            prompt=hash_json([VERSION, self.extra])[:12] if self.extra else VERSION,
        )

    def payload(self, question: Question) -> dict[str, Any]:
        """The body of a request."""
        return self.body(messages(question), **SAMPLING)

    async def ask(self, session: Session, question: Question) -> Reply:
        """Ask for a verdict, more than once where a failure may pass. Never raises for what the server does."""
        return self._reply(await session.complete(self.payload(question)), question.ticket)

    def _reply(self, said: Said, ticket: str) -> Reply:
        """What was said, read as a verdict."""
        verdict, problem = None, said.problem
        if said.text is not None:
            verdict = parse_verdict(said.text, ticket)
            wrong = self.hide_key(f"no verdict in the agreed form: {said.text[:200]}")
            problem = None if verdict else printable(wrong)
        return Reply(verdict, problem, said.answered, said.fingerprint, said.seconds, said.attempts, said.faults)

    async def _ask_once(self, question: Question) -> Reply:
        async with self.session() as session:
            return await self.ask(session, question)


def ask_all(
    judge: Judge,
    questions: Sequence[Question],
    heard: Callable[[int, Reply], None],
    stop: threading.Event | None = None,
) -> None:
    """Ask many questions, `judge.concurrency` at a time. Arguments and errors are those of `chat.work_through`."""
    work_through(judge, questions, judge.ask, heard, stop)
