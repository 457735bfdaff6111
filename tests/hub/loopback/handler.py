"""HTTP for the loopback Hub: one request after the other on a connection, each with the fault that befalls it."""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
import time
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from loopback.faults import Effect
from loopback.messages import Call, Refused, Reply, Request
from loopback.routes import find

if TYPE_CHECKING:
    from loopback.server import Hub

_CHUNK = 1 << 18
_log = logging.getLogger("loopback")


class Broken(Exception):
    """The connection is to be broken, or the other side has."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet per reply: with two, each would wait for the other side's delayed acknowledgement
    server: Any

    def answer(self) -> None:
        hub, split = self.server.hub, urlsplit(self.path)
        found = find(self.command, split.path, self.server.origin == "blobs")
        kind = found[0].kind if found else "unknown"
        authorized, client = "Authorization" in self.headers, self.headers.get("User-Agent", "")
        call = Call(kind, self.command, split.path, split.query, self.server.origin, authorized, client)
        hub.calls.append(call)
        effect = hub.effect_on(call)
        call.fault = effect.name
        body = _Body(self, call, effect)
        try:
            self._begin(hub, effect, body)
            if effect.status:
                body.drain()
                reply = Reply.refusal(Refused(effect.status, effect.message))
                reply.headers |= dict(effect.headers)
            else:
                reply = self._work(hub, call, found, body)
            if effect.after:
                effect.after(call)
            if effect.drop == "after":
                raise Broken
            self._send(call, reply, effect)
        except (Broken, ConnectionError, TimeoutError):
            self._reset()
        finally:
            call.over = True

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = answer

    def _begin(self, hub: Hub, effect: Effect, body: _Body) -> None:
        if effect.before:
            effect.before(body.call)
        if effect.drop == "before":
            raise Broken
        if effect.hang:
            body.drain()  # so that a client that gives up shows
            while not hub.closing.wait(0.05) and not self._gone():
                pass
            raise Broken
        if effect.delay and hub.closing.wait(effect.delay):
            raise Broken

    def _gone(self) -> bool:
        """Whether the client has hung up."""
        self.connection.setblocking(False)
        try:
            return self.connection.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True
        finally:
            with contextlib.suppress(OSError):
                self.connection.setblocking(True)

    def _work(self, hub: Hub, call: Call, found: Any, body: _Body) -> Reply:
        """The reply of the call's handler. Whatever it leaves of the body is read."""
        if found is None:
            body.drain()
            return Reply.refusal(Refused(404, f"no such address: {call.method} {call.path}"))
        route, match = found
        named = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
        query = {key.removesuffix("[]"): values for key, values in parse_qs(call.query).items()}
        headers = {name.title(): value for name, value in self.headers.items()}
        try:
            reply = route.handler(Request(hub, call, named, query, headers, body))
        except Refused as refused:
            reply = Reply.refusal(refused)
        except (Broken, ConnectionError):
            raise
        except Exception as error:  # a defect of the server, or a request that it does not understand: told, not hidden
            _log.exception("%s %s", call.method, call.path)
            reply = Reply.refusal(Refused(500, f"{type(error).__name__}: {error}"))
        body.drain()
        return reply

    def _send(self, call: Call, reply: Reply, effect: Effect) -> None:
        first, last = reply.part or (0, _size(reply.body) - 1)
        size = last - first + 1
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value.encode("latin-1", "replace").decode("latin-1"))
        self.send_header("Content-Length", str(size))
        self.send_header("X-Request-Id", uuid.uuid4().hex)
        self.end_headers()
        broken = 0 <= effect.cut < size and not call.received
        if call.method != "HEAD":
            for piece in _paced(_pieces(reply.body, first, effect.cut if broken else size, effect.rate), effect.rate):
                self.wfile.write(piece)
                if effect.rate:
                    self.wfile.flush()
        self.wfile.flush()
        if broken and call.method != "HEAD":
            self.close_connection = True  # an end, not a reset: what was sent arrives
            return
        call.status = reply.status

    def _reset(self) -> None:
        """Break the connection at once, as a proxy that dies does."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.wfile = _Nowhere()  # type: ignore[assignment]
        for end in (self.rfile, self.connection):
            with contextlib.suppress(OSError):
                end.close()

    def log_message(self, *_: object) -> None:
        """`calls` is the log."""


class _Nowhere:
    """In place of a broken connection's stream, whose unsent bytes nobody waits for."""

    closed = True

    def close(self) -> None:
        pass


class _Body:
    """A request's body in chunks, by length or chunked, counted, paced and broken off as the fault wants it."""

    def __init__(self, handler: Handler, call: Call, effect: Effect) -> None:
        self.call = call
        self._effect = effect
        self._chunks = _paced(_received(handler, effect.rate // 10 or _CHUNK), effect.rate)

    def __call__(self) -> Iterator[bytes]:
        cut = self._effect.cut
        for chunk in self._chunks:
            if 0 <= cut < self.call.received + len(chunk):
                kept = chunk[: cut - self.call.received]
                self.call.received += len(kept)
                yield kept
                raise Broken
            self.call.received += len(chunk)
            yield chunk

    def drain(self) -> None:
        for _ in self():
            pass


def _received(handler: Handler, most: int) -> Iterator[bytes]:
    if "chunked" in handler.headers.get("Transfer-Encoding", ""):
        while length := int(handler.rfile.readline().split(b";")[0] or b"0", 16):
            yield from _exactly(handler, length, most)
            handler.rfile.readline()
        while handler.rfile.readline().strip():
            pass
    else:
        yield from _exactly(handler, int(handler.headers.get("Content-Length") or 0), most)


def _exactly(handler: Handler, length: int, most: int) -> Iterator[bytes]:
    while length:
        chunk = handler.rfile.read(min(length, most))
        if not chunk:
            raise Broken
        length -= len(chunk)
        yield chunk


def _size(body: bytes | Path) -> int:
    return body.stat().st_size if isinstance(body, Path) else len(body)


def _pieces(body: bytes | Path, first: int, length: int, rate: int) -> Iterator[bytes]:
    most = rate // 10 or _CHUNK
    if isinstance(body, bytes):
        yield from (body[at : min(at + most, first + length)] for at in range(first, first + length, most))
        return
    with body.open("rb") as stream:
        stream.seek(first)
        while length and (piece := stream.read(min(length, most))):
            length -= len(piece)
            yield piece


def _paced(pieces: Iterator[bytes], rate: int) -> Iterator[bytes]:
    """The same pieces, at `rate` bytes per second; 0: as they come."""
    for piece in pieces:
        yield piece
        if rate:
            time.sleep(len(piece) / rate)
