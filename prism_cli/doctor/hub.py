"""The Hub: reachable, with a clock that agrees, and what the stored login may do there."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from prism_cli.doctor.diagnosis import Diagnosis

PATIENCE = 10.0
"""Seconds to wait for the Hub."""
ODD_CLOCK = 120.0
"""Seconds of difference from which signed download addresses are refused."""


def examine() -> Iterator[Diagnosis]:
    """Ask the Hub. Never shows a token."""
    import os

    import httpx2
    from huggingface_hub import constants, get_token

    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        yield Diagnosis("Hub", "note", "not asked: HF_HUB_OFFLINE is set")
        return
    token = get_token()
    headers = {"authorization": f"Bearer {token}"} if token else {}
    try:
        answer = httpx2.get(f"{constants.ENDPOINT}/api/whoami-v2", headers=headers, timeout=PATIENCE)
    except httpx2.HTTPError as error:
        fix = "training on local data works without it; `prism data get` and `prism release` do not"
        yield Diagnosis("Hub", "warning", f"{constants.ENDPOINT} does not answer ({type(error).__name__})", fix)
        return
    yield from clock(answer.headers.get("date"), time.time())
    if not token:
        fix = "`hf auth login`, or HF_TOKEN, where you want gated models or to release"
        yield Diagnosis("Hub login", "note", "nobody is logged in", fix)
    elif answer.status_code == 401:
        yield Diagnosis("Hub login", "error", "the Hub does not know this token", "`hf auth login` with a new one")
    elif answer.status_code != 200:
        yield Diagnosis("Hub login", "warning", f"the Hub answered {answer.status_code}", "try again later")
    else:
        yield permissions(answer.json())


def clock(date: str | None, now: float) -> Iterator[Diagnosis]:
    """Does this machine's clock agree with the Hub's?

    Args:
        date: the answer's `Date` header.
        now: seconds since the epoch, here.
    """
    if date is None:
        return
    off = now - parsedate_to_datetime(date).timestamp()
    if abs(off) > ODD_CLOCK:
        found = f"{abs(off):.0f} s {'ahead of' if off > 0 else 'behind'} the Hub's"
        yield Diagnosis("clock", "warning", found, "set it (NTP): signed addresses are refused when clocks differ")
    else:
        yield Diagnosis("clock", "ok", "agrees with the Hub's")


def permissions(who: Mapping[str, Any]) -> Diagnosis:
    """What this login may do.

    Args:
        who: the Hub's answer to `whoami`.
    """
    role = who.get("auth", {}).get("accessToken", {}).get("role", "unknown")
    places = [who.get("name", "?"), *(organisation["name"] for organisation in who.get("orgs", []))]
    found = f"logged in as {places[0]}, a token for `{role}`" + (
        f", also {', '.join(places[1:])}" if places[1:] else ""
    )
    if role == "read":
        return Diagnosis("Hub login", "note", found, "a release needs a token that may write")
    return Diagnosis("Hub login", "ok", found)
