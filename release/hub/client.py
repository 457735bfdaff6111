"""The Hub's client with what it lacks: timeouts, a bounded retry for every request, and errors that say what to do.

    hub = connect()                                            # token from HF_TOKEN or the stored login, and only there
    hub.ask("read the tags", lambda: hub.api.list_repo_refs(repo))         # repeated while trouble passes by itself
    hub.once("commit", lambda: hub.api.create_commit(...))                 # sent once; the caller reconciles

Works on both lines of huggingface_hub, 1.x (httpx) and 2.x (httpx2). Waiting is set by the environment:
PRISM_HUB_TIMEOUT (seconds without an answer, 120), PRISM_HUB_ATTEMPTS (times a request is sent, 5) and PRISM_HUB_WAIT
(longest pause in seconds that the Hub may ask for, 330: its rate limits count in windows of five minutes).
"""

from __future__ import annotations

import importlib
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from integrations.errors import BadInput, PrismError
from release.hub.failures import HubFailed, asked_pause, explain

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")

CONNECT_SECONDS = 10.0
FIRST_PAUSE = 1.0
LONGEST_BACKOFF = 20.0
_BUSY = "another conflicting operation is in progress"


@dataclass(frozen=True)
class Patience:
    """How long to wait for the Hub."""

    timeout: float = 120.0
    """Seconds without an answer before a request counts as lost."""
    attempts: int = 5
    """Times a request is sent."""
    wait: float = 330.0
    """Longest pause in seconds that the Hub may ask for; a longer one is reported instead."""

    @classmethod
    def from_environment(cls) -> Patience:
        """Raises: BadInput: a variable is not a positive number."""
        values = {}
        for name in ("timeout", "attempts", "wait"):
            text = os.environ.get(variable := f"PRISM_HUB_{name.upper()}")
            if text is None:
                continue
            try:
                values[name] = float(text)
            except ValueError:
                values[name] = -1.0
            if not 0 < values[name] < float("inf"):
                raise BadInput(f"{variable} is not a positive number.", f"Set {variable} to seconds, or unset it.")
        attempts = max(1, int(values.get("attempts", cls.attempts)))
        return cls(values.get("timeout", cls.timeout), attempts, values.get("wait", cls.wait))


@dataclass(frozen=True)
class Hub:
    """One endpoint, one token. The token shows in no text that this object makes."""

    api: HfApi
    endpoint: str
    signed_in: bool
    patience: Patience

    def __repr__(self) -> str:
        return f"Hub({self.endpoint})"

    def ask(self, doing: str, request: Callable[[], T], attempts: int | None = None) -> T:
        """The request's answer; sent again while the trouble may pass. For requests that may be repeated.

        Args:
            doing: what the request is for, as in "could not <doing>".
            attempts: fewer than `patience` has, for what huggingface_hub repeats itself.

        Raises:
            HubFailed, HubRefused: with the status the Hub gave last.
        """
        for pause in self.pauses(attempts):
            try:
                return self.once(doing, request)
            except HubFailed as error:
                if not error.passing or pause is None:
                    raise
                time.sleep(max(pause, error.wait))
        raise AssertionError("unreachable")

    def once(self, doing: str, request: Callable[[], T]) -> T:
        """The request's answer, sent once.

        Raises:
            HubFailed, HubRefused: the error in words.
        """
        try:
            return request()
        except PrismError:
            raise
        except Exception as error:
            told = explain(error, doing, self.endpoint)
            if told is None:
                raise
            if self.api.token:
                told.problem = told.problem.replace(str(self.api.token), "[token]")
            raise told from None

    def pauses(self, attempts: int | None = None) -> Iterator[float | None]:
        """Seconds to wait after each attempt, growing, with jitter; None after the last."""
        for number in range(min(attempts or self.patience.attempts, self.patience.attempts) - 1):
            yield min(LONGEST_BACKOFF, self.patience.wait, FIRST_PAUSE * 2**number) * random.uniform(0.5, 1.0)
        yield None


def connect() -> Hub:
    """A client of the endpoint in HF_ENDPOINT, or of huggingface.co, with the token of the environment or the login.

    Raises:
        BadInput: the environment forbids the network.
        HubFailed: the token's provider failed.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import huggingface_hub
    from huggingface_hub import constants, errors
    from huggingface_hub.utils import disable_progress_bars
    from huggingface_hub.utils import logging as hub_logging

    patience = Patience.from_environment()
    endpoint = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
    if constants.HF_HUB_OFFLINE:
        raise BadInput("HF_HUB_OFFLINE forbids talking to the Hub.", "Unset HF_HUB_OFFLINE and run again.")
    hub_logging.set_verbosity_error()  # its warnings carry addresses with signatures; ours say what happened
    disable_progress_bars()
    huggingface_hub.set_client_factory(lambda: _session(patience))
    try:
        token = huggingface_hub.get_token()
    except (errors.OIDCError, errors.HTTPError, OSError):
        raise HubFailed("The token's provider gave none.", "Set HF_TOKEN, or run `hf auth login`.") from None
    api = huggingface_hub.HfApi(endpoint=endpoint, token=token or False, library_name="prism-suite")
    return Hub(api, endpoint, token is not None, patience)


def _session(patience: Patience) -> Any:
    """An HTTP client of the library that the installed huggingface_hub uses."""
    from huggingface_hub.errors import HTTPError

    http = importlib.import_module(HTTPError.__module__.partition(".")[0])
    limits = http.Timeout(patience.timeout, connect=min(CONNECT_SECONDS, patience.timeout))

    def limit(request: Any) -> None:
        """Listings and look-ups ask for no timeout at all, which goes before the client's own."""
        if request.extensions.get("timeout", {}).get("read") is None:
            request.extensions["timeout"] = limits.as_dict()

    hooks = {"request": [limit], "response": [lambda answer: _bounded(answer, patience)]}
    return http.Client(timeout=limits, follow_redirects=True, event_hooks=hooks)


def _bounded(answer: Any, patience: Patience) -> None:
    """Stop where huggingface_hub would wait without a bound: for long rate limits, and for a repository's creation."""
    pause = asked_pause(answer.headers) if answer.status_code in (429, 503) else None
    if pause is not None and pause > patience.wait:
        raise HubFailed(
            f"The Hub asks to wait {pause:.0f} s before the next request.",
            "Run the same command again then: it goes on where it stopped, and nothing is uploaded twice.",
            status=answer.status_code,
        )
    if answer.status_code == 409 and answer.request.url.path.endswith("/api/repos/create"):
        answer.read()
        if _BUSY in answer.text:
            raise HubFailed(
                "The Hub is creating another repository of yours and takes one at a time.",
                "Run the same command again in a minute.",
                status=409,
                passing=True,
            )
