"""Calls, requests, replies and users of the loopback Hub."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loopback.server import Hub
    from loopback.store import Repo


@dataclass(frozen=True)
class User:
    name: str
    role: str
    """Of the token: `read`, `write`, or `fineGrained`."""
    orgs: Mapping[str, str]
    """Organisation -> role in it: `admin`, `write`, `contributor` or `read`."""
    scopes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Of a fine-grained token: user or organisation -> permissions, such as `repo.write`."""

    def may_write(self, namespace: str) -> bool:
        member = namespace == self.name or self.orgs.get(namespace, "read") != "read"
        scoped = self.role == "fineGrained" and "repo.write" in self.scopes.get(namespace, ())
        return member and (self.role == "write" or scoped)

    def belongs_to(self, namespace: str) -> bool:
        return namespace == self.name or namespace in self.orgs


WRITE_TOKEN = "hf_" + "LoopbackWriter" * 2
READ_TOKEN = "hf_" + "LoopbackReader" * 2
FINE_TOKEN = "hf_" + "LoopbackScoped" * 2
STRANGER_TOKEN = "hf_" + "LoopbackGuest0" * 2
_ORGS = {"prism-vlm": "write", "readers": "read"}
TOKENS = {
    WRITE_TOKEN: User("prism-bot", "write", _ORGS),
    READ_TOKEN: User("prism-bot", "read", _ORGS),
    FINE_TOKEN: User("prism-bot", "fineGrained", _ORGS, {"prism-vlm": ("repo.content.read", "repo.write")}),
    STRANGER_TOKEN: User("stranger", "write", {}),
}
"""Three tokens of a user who may write in the organisation `prism-vlm`, and one of somebody else."""


class Refused(Exception):
    """An error reply: its text travels in X-Error-Message, its code in X-Error-Code."""

    def __init__(self, status: int, message: str, code: str = "", **more: Any) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.more = more
        """Further fields of the JSON body."""


@dataclass
class Call:
    """One request, as it came. It is listed before it is answered."""

    kind: str
    """Of the table in routes.py; `unknown` for an address that the server does not have."""
    method: str
    path: str
    query: str
    origin: str
    """`api` or `blobs`."""
    authorized: bool
    """Whether it carried an Authorization header."""
    client: str
    """Its User-Agent."""
    received: int = 0
    """Bytes of its body so far."""
    status: int | None = None
    """None while it is under way, and where the connection was broken."""
    fault: str = ""
    """What was done to it."""
    over: bool = False
    """The server has done with it, whether or not the client still listened."""


@dataclass
class Reply:
    status: int = 200
    body: bytes | Path = b""
    """A path: its content, or `part` of it."""
    headers: dict[str, str] = field(default_factory=dict)
    part: tuple[int, int] | None = None
    """First and last byte."""

    @classmethod
    def json(cls, told: object, status: int = 200, **headers: str) -> Reply:
        return cls(status, json.dumps(told).encode(), {"Content-Type": "application/json", **headers})

    @classmethod
    def refusal(cls, refused: Refused) -> Reply:
        headers = {"X-Error-Message": "".join(c if c.isprintable() else " " for c in refused.message)}
        if refused.code:
            headers["X-Error-Code"] = refused.code
        return cls.json({"error": refused.message, **refused.more}, refused.status, **headers)


@dataclass
class Request:
    """What a handler gets."""

    hub: Hub
    call: Call
    match: Mapping[str, str]
    """Parts of the path, unquoted."""
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: Callable[[], Iterator[bytes]]
    """The body in chunks. Reading it may break off."""

    def read(self) -> bytes:
        return b"".join(self.body())

    def json(self) -> dict[str, Any]:
        try:
            told = json.loads(self.read() or b"{}")
        except ValueError as error:
            raise Refused(400, f"Invalid JSON: {error}") from error
        if not isinstance(told, dict):
            raise Refused(400, "expected a JSON object")
        return told

    @property
    def type(self) -> str:
        """`model` or `dataset`."""
        return "dataset" if (self.match.get("type") or "").startswith("datasets") else "model"

    def user(self) -> User | None:
        """Who calls; None without a token.

        Raises:
            Refused: 401, unknown token.
        """
        token = self.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        if token and token not in self.hub.tokens:
            raise Refused(401, "Invalid credentials in Authorization header")
        return self.hub.tokens.get(token)

    def known_user(self) -> User:
        user = self.user()
        if user is None:
            raise Refused(401, "Invalid username or password.")
        return user

    def repo(self, write: bool = False) -> Repo:
        """The repository that the path names. A private one exists only for its members.

        Raises:
            Refused: 404 (401 without a token) absent or private; 403 (401) no right to write.
        """
        user = self.user()
        id = self.match["id"]
        namespace = id.split("/")[0]
        repo = self.hub.store.load(self.type, id)
        if repo is None or (repo.private and not (user and user.belongs_to(namespace))):
            raise Refused(404 if user else 401, "Repository not found", "RepoNotFound")
        if write and not (user and user.may_write(namespace)):
            raise Refused(403 if user else 401, f"You don't have write access to {id}")
        return repo

    def content(self) -> Repo:
        """Like `repo`, for reading files: a gated one opens them only to its members."""
        repo = self.repo()
        user = self.user()
        if repo.gated and not (user and user.belongs_to(repo.id.split("/")[0])):
            message = f"Access to {self.type} {repo.id} is restricted and you are not in the authorized list."
            raise Refused(403 if user else 401, message, "GatedRepo")
        return repo

    def revision(self, repo: Repo) -> str:
        """The commit that the path names.

        Raises:
            Refused: 404, no such revision.
        """
        name = self.match.get("revision") or "main"
        oid = repo.resolve(name)
        if oid is None:
            raise Refused(404, f"Invalid rev id: {name}", "RevisionNotFound")
        return oid
