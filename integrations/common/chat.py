"""A client of an OpenAI-compatible address: many questions at a time, patience, and a key that shows nowhere.

    chat = Chat("http://127.0.0.1:8000", "Qwen/Qwen3-VL-32B-Instruct", role="teacher")
    ask_all(chat, [chat.body([{"role": "user", "content": "What is 7 + 5?"}])], lambda index, said: print(said.text))

    async with chat.session() as session:                        # the same inside an event loop
        said = await session.complete(chat.body(messages))

What a server does never raises: it comes back as a problem in words. A server that keeps failing is left alone. Runs
in prism's own process and in the engines' environments.

The key is read from an environment variable when a request is made, and stands in no message, log or result. It goes
over https and to this machine; over plain http to another one only if its variable was named.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import ipaddress
import json
import os
import ssl
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

try:
    import httpx2 as httpx
except ModuleNotFoundError:  # the engines' environments have it under its earlier name
    import httpx  # type: ignore[import-not-found, no-redef]

from integrations.errors import BadInput, Interrupted, StageFailed

DEFAULT_KEY = "OPENAI_API_KEY"
LONGEST_REPLY = 1 << 20
"""Bytes of an HTTP reply that are read; a longer one is an error."""
LONGEST_WAIT = 30.0
"""Seconds waited between two attempts at most, whatever the server asks for."""
FEW_ATTEMPTS = 30
MOST_FAULTS = 0.25
"""Share of attempts, of at least FEW_ATTEMPTS, that a server may fail before it is left alone: attempts are repeated,
so that answers may still come, but a server in this state is not to be trusted with thousands of questions."""
_AGAIN = {408, 425, 429, 500, 502, 503, 504, 529}
"""Status codes after which the same request may succeed."""


class Outcome(Protocol):
    """What came of one question, as far as the server's health is concerned."""

    @property
    def answered(self) -> bool: ...
    @property
    def problem(self) -> str | None: ...
    @property
    def attempts(self) -> int: ...
    @property
    def faults(self) -> int: ...


@dataclass(frozen=True)
class Said:
    """What came of one request."""

    text: str | None
    """The message; None: there is none."""
    problem: str | None = None
    """What was wrong, in printable characters."""
    answered: bool = True
    """The server answered with a body that makes sense."""
    finish_reason: str | None = None
    """`stop`, or `length` where the message was cut."""
    prompt_tokens: int = 0
    """As the server counts them, images included; 0 where it does not tell."""
    completion_tokens: int = 0
    fingerprint: str | None = None
    seconds: float = 0.0
    """From the first attempt to the end, waits included."""
    attempts: int = 1
    faults: int = 0
    """Attempts that the server failed: no connection, no answer in time, 5xx, a body that makes no sense."""


class Chat:
    """Where a language model is and how it is asked.

    Args:
        url: of the server, with or without `/v1` and `/chat/completions`.
        model: its name there; None: the only one that the server lists.
        role: what it is to the one who asks, for messages.
        start: how to start one, for the message that none answers.
        key_variable: environment variable that holds the key; None: OPENAI_API_KEY where it is safe to send.
        timeout: seconds of one attempt.
        attempts: per question, where a failure may pass (no connection, timeout, 429, 5xx).
        patience: seconds before the second attempt, four times as many before each further one; longer where the
            server asks for it.
        concurrency: questions under way at the same time.
        extra: further fields of every request, e.g. `{"chat_template_kwargs": {"enable_thinking": False}}`.
        transport: of httpx, in tests.

    Raises:
        BadInput: the address or the key cannot be used.
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        *,
        role: str = "server",
        start: str = "start it, or correct the address",
        key_variable: str | None = None,
        timeout: float = 120.0,
        attempts: int = 3,
        patience: float = 0.5,
        concurrency: int = 8,
        extra: Mapping[str, Any] | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.role, self.start = role, start
        self.url = _base_url(url, role)
        self.wanted = model
        self.key_variable = key_variable
        self.timeout, self.attempts, self.patience = timeout, max(1, attempts), patience
        self.concurrency = max(1, concurrency)
        self.extra = dict(extra or {})
        self._transport = transport
        self._key()

    @cached_property
    def listed(self) -> list[dict[str, Any]] | None:
        """The server's models, each with its `id`; None when it does not list them.

        Raises:
            BadInput: nothing answers there, or it refuses the key.
        """
        return asyncio.run(self._listed())

    @cached_property
    def model(self) -> str:
        """The model's name on the server.

        Raises:
            BadInput: none was given, and the server does not list exactly one.
        """
        return self.wanted or self._only_model(self.listed)

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """Connections to the server, for use inside one event loop. Raises what `model` raises."""
        if self.wanted is None:
            self.wanted = self._only_model(await self._listed())
        async with self._client() as client:
            yield Session(self, client)

    def body(self, messages: Sequence[Mapping[str, Any]], **fields: Any) -> dict[str, Any]:
        """The body of a request.

        Args:
            fields: e.g. `temperature` and `max_tokens`; the chat's own `extra` goes before them.
        """
        return {"model": self.model, "messages": list(messages), "stream": False, **fields, **self.extra}

    def hide_key(self, text: str) -> str:
        """The text without the key, should a server repeat it."""
        key = self._key()
        return text.replace(key, "[key]") if key else text

    def _client(self) -> httpx.AsyncClient:
        key = self._key()
        return httpx.AsyncClient(
            # Compressed replies could be of any size once unpacked.
            headers={"Accept-Encoding": "identity", **({"Authorization": f"Bearer {key}"} if key else {})},
            timeout=httpx.Timeout(self.timeout, connect=min(10.0, self.timeout), pool=None),
            limits=httpx.Limits(max_connections=self.concurrency, max_keepalive_connections=self.concurrency),
            verify=self._certificates,
            trust_env=not _is_loopback(self.url),  # no proxy reaches this machine's own servers
            transport=self._transport,
        )

    @cached_property
    def _certificates(self) -> ssl.SSLContext | bool:
        """Reading a system's certificates takes most of a second: once, and not for plain http."""
        return httpx.create_ssl_context() if self.url.startswith("https:") else False

    def _key(self) -> str | None:
        name = self.key_variable or DEFAULT_KEY
        key = os.environ.get(name, "").strip()
        if self.key_variable and not key:
            raise BadInput(f"the environment variable {name} holds no key for the {self.role}", f"export {name}=...")
        if not self.key_variable and not self.url.startswith("https:") and not _is_loopback(self.url):
            return None
        if not all(33 <= ord(character) <= 126 for character in key):
            raise BadInput(f"the environment variable {name} holds characters that no key has", f"set {name} anew")
        return key or None

    def _only_model(self, listed: Sequence[Mapping[str, Any]] | None) -> str:
        names = [str(entry["id"]) for entry in listed or []]
        if len(names) != 1:
            shown = ", ".join(names[:5]) or "none"
            raise BadInput(f"which model is the {self.role}? {self.url} lists {printable(shown)}", "give its name")
        return names[0]

    async def _listed(self) -> list[dict[str, Any]] | None:
        async with self._client() as client:
            try:
                async with asyncio.timeout(min(30.0, self.timeout)):
                    status, body, _ = await _exchange(client, "GET", f"{self.url}/models", None)
            except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, OSError) as error:
                raise BadInput(
                    f"no {self.role} answers at {self.url}: {printable(self.hide_key(_cause(error)))}",
                    self.start,
                ) from None
        if status in (401, 403):
            name = self.key_variable or DEFAULT_KEY
            raise BadInput(f"the {self.role} at {self.url} refuses the key (HTTP {status})", f"export {name}=...")
        data = (_json(body) or {}).get("data") if status == 200 else None
        if not isinstance(data, list):
            return None
        return [entry for entry in data if isinstance(entry, dict) and isinstance(entry.get("id"), str)]


class Session:
    """Open connections to a server."""

    def __init__(self, chat: Chat, client: httpx.AsyncClient) -> None:
        self.chat = chat
        self._client = client

    async def complete(self, body: Mapping[str, Any]) -> Said:
        """Ask, more than once where a failure may pass. Never raises for what the server does."""
        began = time.monotonic()
        content = json.dumps(body).encode()
        faults = 0
        for attempt in range(1, self.chat.attempts + 1):
            said, wait = await self._attempt(content, self.chat.patience * 4 ** (attempt - 1))
            faults += said.faults
            if wait is None or attempt == self.chat.attempts:
                break
            await asyncio.sleep(min(LONGEST_WAIT, wait))
        problem = None if said.problem is None else printable(self.chat.hide_key(said.problem))
        return replace(said, problem=problem, seconds=time.monotonic() - began, attempts=attempt, faults=faults)

    async def _attempt(self, body: bytes, patience: float) -> tuple[Said, float | None]:
        """What was said, and after how many seconds it is worth another attempt (None: it is not)."""
        url = f"{self.chat.url}/chat/completions"
        try:
            async with asyncio.timeout(self.chat.timeout):
                status, content, headers = await _exchange(self._client, "POST", url, body)
        except TimeoutError:
            return _fault(f"no answer within {self.chat.timeout:g} s"), patience
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            return _fault(_cause(error)), patience
        if status == 200:
            return _read(content), None
        said = f"HTTP {status}: {content[:2000].decode(errors='replace')}"
        again = max(patience, _retry_after(headers)) if status in _AGAIN else None
        return _fault(said) if status >= 500 else Said(None, said, answered=False), again


def _fault(problem: str) -> Said:
    return Said(None, problem, answered=False, faults=1)


class _Health:
    """Whether the server is worth asking further."""

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.in_a_row = self.attempts = self.faults = 0

    def after(self, outcome: Outcome) -> str | None:
        """What is wrong with the server after one more reply; None: it is well."""
        self.in_a_row = 0 if outcome.answered else self.in_a_row + 1
        self.attempts += outcome.attempts
        self.faults += outcome.faults
        if self.in_a_row >= self.patience:
            return f"stopped answering: {outcome.problem}"
        if self.attempts >= FEW_ATTEMPTS and self.faults > MOST_FAULTS * self.attempts:
            return f"fails too often, in {self.faults} of {self.attempts} attempts"
        return None


Result = TypeVar("Result", bound=Outcome)


def ask_all(
    chat: Chat,
    bodies: Sequence[Mapping[str, Any]],
    heard: Callable[[int, Said], None],
    stop: threading.Event | None = None,
) -> None:
    """Ask many questions, `chat.concurrency` at a time; see `work_through`."""

    async def ask(session: Session, body: Mapping[str, Any]) -> Said:
        return await session.complete(body)

    work_through(chat, bodies, ask, heard, stop)


def work_through(
    chat: Chat,
    questions: Sequence[Any],
    ask: Callable[[Session, Any], Awaitable[Result]],
    heard: Callable[[int, Result], None],
    stop: threading.Event | None = None,
) -> None:
    """Put many questions to a server, `chat.concurrency` at a time.

    Args:
        ask: puts one question.
        heard: called with a question's index and what came of it, in the order of answers, one at a time. What it
            raises ends the asking and is passed on.
        stop: when set, the asking ends within a second.

    Raises:
        StageFailed: the server is not well. As many questions in a row as are asked at a time (but at least four)
            failed, each after all its attempts; or more than MOST_FAULTS of all attempts did, 429 not counted.
        Interrupted: `stop` was set.
    """
    asyncio.run(_work_through(chat, questions, ask, heard, stop))


async def _work_through(
    chat: Chat,
    questions: Sequence[Any],
    ask: Callable[[Session, Any], Awaitable[Result]],
    heard: Callable[[int, Result], None],
    stop: threading.Event | None,
) -> None:
    left = iter(enumerate(questions))
    health = _Health(max(4, chat.concurrency))

    async def work(session: Session) -> None:
        for index, question in left:
            if stop is not None and stop.is_set():
                return  # what waits for the workers says so
            outcome = await ask(session, question)
            heard(index, outcome)
            if problem := health.after(outcome):
                raise StageFailed(
                    f"the {chat.role} at {chat.url} {problem}",
                    "look at its server; what it answered is kept, and the same command asks for the rest",
                )

    async with chat.session() as session:
        workers = [asyncio.create_task(work(session)) for _ in range(min(chat.concurrency, len(questions)))]
        try:
            await _until_done(workers, stop)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)


async def _until_done(workers: Sequence[asyncio.Task[None]], stop: threading.Event | None) -> None:
    """Wait for all, for the first that fails, or for the stop."""
    waiting: set[asyncio.Task[None]] = set(workers)
    while waiting:
        done, waiting = await asyncio.wait(waiting, timeout=0.2, return_when=asyncio.FIRST_EXCEPTION)
        for worker in done:
            worker.result()
        if stop is not None and stop.is_set():
            raise Interrupted("stopped", "run the same command again to go on from here")


async def _exchange(
    client: httpx.AsyncClient, method: str, url: str, body: bytes | None
) -> tuple[int, bytes, httpx.Headers]:
    headers = {"Content-Type": "application/json"} if body is not None else {}
    async with client.stream(method, url, content=body, headers=headers) as response:
        content = bytearray()
        async for chunk in response.aiter_raw():
            content += chunk
            if len(content) > LONGEST_REPLY:
                raise httpx.ReadError(f"the reply is longer than {LONGEST_REPLY} bytes")
        return response.status_code, bytes(content), response.headers


def _read(content: bytes) -> Said:
    """The message in the body of a chat completion."""
    told = _json(content)
    choices = told.get("choices") if told is not None else None
    choice = choices[0] if isinstance(choices, list) and len(choices) == 1 else None
    choice = choice if isinstance(choice, dict) else {}
    message = choice.get("message")
    text = message.get("content") if isinstance(message, dict) else None
    if told is None:
        return _fault("the server's reply is no JSON object")
    if not isinstance(text, str):
        return Said(None, "the server's reply holds no message")
    fingerprint, reason, usage = told.get("system_fingerprint"), choice.get("finish_reason"), told.get("usage")
    return Said(
        text,
        finish_reason=reason if isinstance(reason, str) else None,
        prompt_tokens=_count(usage, "prompt_tokens"),
        completion_tokens=_count(usage, "completion_tokens"),
        fingerprint=fingerprint if isinstance(fingerprint, str) else None,
    )


def _count(usage: Any, name: str) -> int:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) and value > 0 else 0


def _json(content: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def printable(text: str, length: int = 300) -> str:
    """Text from elsewhere on one line, without characters that steer a terminal or hide others."""
    shown = "".join(character if character.isprintable() else " " for character in text[: 4 * length])
    shown = " ".join(shown.split())
    return shown if len(shown) <= length else f"{shown[: length - 1]}…"


def _cause(error: Exception) -> str:
    return str(error) or type(error).__name__


def _retry_after(headers: httpx.Headers) -> float:
    """Seconds that the server asks to wait, 0 where it does not say."""
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:6])
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return 0.0


def _base_url(url: str, role: str) -> str:
    example = "give it like http://127.0.0.1:8000"
    try:
        parts = urlsplit(url.strip())
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
        parts.port  # noqa: B018 - raises on a port that is none
    except ValueError:
        usable = False
    if not usable or any(character.isspace() or not character.isprintable() for character in url.strip()):
        raise BadInput(f"the {role}'s address `{printable(url)}` is no http address", example)
    if parts.username is not None or parts.password is not None:
        raise BadInput(f"the {role}'s address holds a user or a password", "export the key as OPENAI_API_KEY instead")
    if parts.query or parts.fragment:
        raise BadInput(f"the {role}'s address `{printable(url)}` has a part after `?` or `#`", example)
    path = parts.path.rstrip("/").removesuffix("/chat/completions")
    return f"{parts.scheme}://{parts.netloc}{path or '/v1'}"


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
