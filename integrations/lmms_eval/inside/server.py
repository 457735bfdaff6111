"""Asking an OpenAI-compatible server for chat completions, with patience."""

# Packages of the lmms_eval environment.
# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from integrations.errors import StageFailed
from integrations.lmms_eval.job import Server

AGAIN = {408, 409, 425, 429, 500, 502, 503, 504}
"""Status codes after which the same request may succeed."""
LONGEST_PAUSE = 15.0
UNFINISHED = {None, "abort", "error"}
"""Reasons of servers for giving up a response on their own account: it is no response of the model's."""


class ServerFailed(StageFailed):
    """The server does not answer any more: no other cell can be evaluated either."""


@dataclass(frozen=True)
class Reply:
    text: str
    finish: str
    usage: Mapping[str, Any] | None
    used: Mapping[str, Any]
    """The sampling parameters that the server says it used; empty where it does not tell."""


class Connection:
    """One server, used by one event loop."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._url = server.url.rstrip("/") + "/chat/completions"
        local = urlsplit(server.url).hostname in ("localhost", "127.0.0.1", "::1")
        self._http = httpx.AsyncClient(
            headers=_headers(server),
            timeout=httpx.Timeout(server.timeout, connect=10.0),
            limits=httpx.Limits(max_connections=server.concurrency),
            trust_env=not local,  # a proxy for the world must not be asked for this machine's own server
        )

    async def __aenter__(self) -> Connection:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def complete(self, messages: Sequence[Mapping[str, Any]], sent: Mapping[str, Any]) -> Reply:
        """The response to these messages.

        Args:
            sent: sampling parameters, put into the request as they are.

        Raises:
            ServerFailed: the server kept failing for `patience` seconds.
            StageFailed: the server refuses this request, or answered it with other sampling parameters.
        """
        payload = {"model": self._server.model, "messages": messages, **sent}
        until, pause = time.monotonic() + self._server.patience, 0.25
        while True:
            reply, problem = await self._try(payload)
            if reply is not None:
                _check_used(reply.used, sent)
                return reply
            if time.monotonic() + pause > until:
                raise ServerFailed(
                    f"the server {self._server.url} {problem}, for {self._server.patience:.0f} s",
                    "look at the server's log, then run the same command again: finished responses are kept",
                )
            await asyncio.sleep(pause * (1 + random.random() / 2))
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _try(self, payload: Mapping[str, Any]) -> tuple[Reply | None, str]:
        try:
            response = await self._http.post(self._url, json=payload)
        except httpx.TransportError as error:
            return None, f"cannot be reached ({type(error).__name__}: {error})"
        if response.status_code == 200:
            return _reply(response), "sent something that is not a whole chat completion"
        told = " ".join(response.text.split())[:300]
        if response.status_code not in AGAIN:
            raise StageFailed(
                f"the server {self._server.url} refuses a request ({response.status_code}: {told})",
                "check the served model's name and its context length (prompt and longest response have to fit)",
            )
        return None, f"answered {response.status_code}: {told}"


def _headers(server: Server) -> dict[str, str]:
    key = os.environ.get(server.api_key_env) if server.api_key_env else None
    return {"Authorization": f"Bearer {key}"} if key else {}


def _check_used(used: Mapping[str, Any], sent: Mapping[str, Any]) -> None:
    """Raises StageFailed where the server used other sampling parameters than it was sent."""
    for name, value in sent.items():
        if name in used and used[name] != value:
            raise StageFailed(
                f"the server used {name} {used[name]} where {value} was asked for",
                "its responses do not belong to this protocol; serve the model without parameters of its own",
            )


def _reply(response: httpx.Response) -> Reply | None:
    try:
        content = response.json()
        [choice] = content["choices"]
        if choice["finish_reason"] in UNFINISHED:
            return None
        text = (choice["message"]["content"] or "").encode("utf-8", "replace").decode()  # half a character is none
        return Reply(text, choice["finish_reason"], content.get("usage"), content.get("prism") or {})
    except (ValueError, KeyError, TypeError):
        return None
