"""What the client raises, in words: which request failed, why, and what to do. Nothing here shows a token."""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from integrations.errors import BadInput, PrismError, StageFailed

if TYPE_CHECKING:
    from huggingface_hub import errors

AGAIN = "Run the same command again: it goes on where it stopped, and nothing is uploaded twice."
LOGIN = "Set HF_TOKEN to a token with write access (https://huggingface.co/settings/tokens), or run `hf auth login`."
NO_REPOSITORY = "RepoNotFound"
"""The Hub's word for a repository that is not there, or not for this token."""
PASSING = frozenset({408, 429, 500, 502, 503, 504})
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9_]{6,}")
_LIMIT = re.compile(r"r\s*=\s*0\s*;\s*t\s*=\s*(\d+)")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_LONGEST = 300


class HubFailed(StageFailed):
    """The Hub, or the way there, did not do its part."""

    def __init__(
        self, problem: str, fix: str = "", *, status: int | None = None, passing: bool = False, wait: float = 0.0
    ) -> None:
        super().__init__(problem, fix)
        self.status = status
        """HTTP status; None when no answer came."""
        self.passing = passing
        """The same request may succeed in a while."""
        self.wait = wait
        """Seconds that the Hub asked to wait."""


class HubRefused(BadInput):
    """The Hub understood the request and will not do it: a token, a name or a right is wrong."""

    def __init__(self, problem: str, fix: str = "", *, status: int | None = None, code: str = "") -> None:
        super().__init__(problem, fix)
        self.status = status
        self.code = code
        """The Hub's word for it, e.g. `RepoNotFound`."""


def causes(error: BaseException) -> list[BaseException]:
    """The error and what it came from, outermost first."""
    found: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in found:
        found.append(current)
        current = current.__cause__ or current.__context__
    return found


def asked_pause(headers: Mapping[str, str]) -> float | None:
    """Seconds that an answer's `Retry-After` or used-up `RateLimit` asks to wait; None without either."""
    after = headers.get("retry-after", "").strip()
    if after.isascii() and after.isdigit():
        return float(after)
    limit = _LIMIT.search(headers.get("ratelimit", ""))
    return float(limit.group(1)) if limit else None


def clean(text: object) -> str:
    """Foreign text for a message: one line, no control characters, no tokens, not endless."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return _TOKEN.sub("[token]", line)[:_LONGEST]


def explain(error: Exception, doing: str, endpoint: str) -> PrismError | None:
    """The error for the user, or None for one that is not the Hub's, the network's or the disk's.

    Args:
        error: what a call of huggingface_hub raised.
        doing: what the request was for, as in "could not <doing>".
        endpoint: address of the Hub.
    """
    from huggingface_hub import errors

    chain = causes(error)
    for inner in chain:
        if isinstance(inner, PrismError):
            return inner
        if isinstance(inner, errors.HfHubHTTPError):
            return _answered(inner, doing)
    for inner in chain:
        if isinstance(inner, OSError) and (inner.errno in _FULL or inner.filename):
            place = f"{inner.filename}: " if inner.filename else ""
            fix = "Free some space. " if inner.errno in _FULL else "See to that file. "
            return HubFailed(f"Could not {doing}: {place}{clean(inner.strerror)}.", fix + AGAIN)
    if any(isinstance(inner, errors.HTTPError | OSError) for inner in chain):
        late = any("Timeout" in type(inner).__name__ for inner in chain)
        why = "no answer in time" if late else clean(chain[-1]) or "the connection broke"
        return HubFailed(f"Could not {doing}: {endpoint}: {why}.", "Check the network. " + AGAIN, passing=True)
    if isinstance(error, ValueError) and "metadata in README" in str(error):
        return HubRefused(f"The Hub does not accept the card: {clean(error)}.", "Correct the card's front matter.")
    if isinstance(error, RuntimeError | ValueError):
        return HubFailed(f"Could not {doing}: {clean(error)}.", AGAIN)
    return None


def _answered(error: errors.HfHubHTTPError, doing: str) -> PrismError:
    """The error of an HTTP answer."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    response = error.response
    status, code = int(response.status_code), str(response.headers.get("X-Error-Code", ""))
    if isinstance(error, RepositoryNotFoundError) and not isinstance(error, GatedRepoError):
        code = NO_REPOSITORY
    said = clean(error.server_message or response.headers.get("X-Error-Message") or "")
    problem = f"Could not {doing}: the Hub answered {status}" + (f" ({said})." if said else ".")
    if status in PASSING:
        fix = "Wait a few minutes. " + AGAIN if status == 429 else AGAIN
        wait = asked_pause(response.headers) or 0.0
        return HubFailed(problem, fix, status=status, passing=True, wait=wait)
    if status >= 500 or status in (409, 412, 413):
        return HubFailed(problem, AGAIN, status=status)
    return HubRefused(problem, _fix(status, code, said), status=status, code=code)


def _fix(status: int, code: str, said: str) -> str:
    """What to do about a refusal."""
    if code == "GatedRepo":
        return "Ask for access on the repository's page, and sign in with the account that was given it."
    if code == "RevisionNotFound":
        return "See the tags and commits on the repository's page."
    if status == 401 and code != NO_REPOSITORY:
        return "The Hub does not know this token. " + LOGIN
    if code == NO_REPOSITORY or status in (401, 404):
        return "Check the name; a private repository needs the token of an account that may see it. " + LOGIN
    if status == 403:
        return "The token's account may not do this. " + LOGIN
    return "Correct what the Hub names."
