"""A Hugging Face Hub on loopback, for the real client library: real HTTP, two origins, state on disk, faults.

    with hub(tmp_path / "hub") as server:
        subprocess.run([...], env={**os.environ, **server.env()})
        assert server.repo("prism-vlm/quick").files()
        assert not [call for call in server.calls if call.origin == "blobs" and call.authorized]

Large files live at another origin (`http://localhost:PORT2`) than the API (`http://127.0.0.1:PORT1`), as on the real
Hub: whether a token leaks to it shows in `calls`. Its addresses are signed, and it refuses calls that carry a token.
Written from the calls of huggingface_hub 1.33 and 2.4. It knows no xet storage: clients must run with
HF_HUB_DISABLE_XET=1, which `env` sets. It keeps no git repository: a commit holds its list of files.
"""

from __future__ import annotations

import contextlib
import hmac
import itertools
import re
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import ThreadingHTTPServer
from pathlib import Path

from loopback.faults import Effect, Fault
from loopback.handler import Handler
from loopback.messages import TOKENS, WRITE_TOKEN, Call, Refused, Request, User
from loopback.routes import KINDS
from loopback.store import Repo, Store
from loopback.uploads import place_directly


class Hub:
    """See the module. `hub(folder)` is the way to start one."""

    def __init__(self, folder: Path, part_size: int | None = None, tokens: Mapping[str, User] = TOKENS) -> None:
        self.folder = folder
        self.part_size = part_size
        """Larger objects are uploaded in parts of this many bytes; None: every object whole."""
        self.tokens = tokens
        self.store = Store(folder)
        self.calls: list[Call] = []
        self.closing = threading.Event()
        self._faults: list[Fault] = []
        self._secret = secrets.token_bytes(16)
        self._homes = itertools.count(1)
        self._servers = (_Server(self, "api"), _Server(self, "blobs"))
        self.url = f"http://127.0.0.1:{self._servers[0].server_port}"
        self.blobs_url = f"http://localhost:{self._servers[1].server_port}"

    def start(self) -> None:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        """Stop, and break every connection, as a server that goes down does."""
        self.closing.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()
            server.break_connections()

    def env(self, token: str | None = WRITE_TOKEN) -> dict[str, str]:
        """Variables for a client process: this Hub, a token (None: nobody) and an empty home of its own.

        To be laid over the process's other variables: it also undoes settings that would lead elsewhere.
        """
        home = self.folder / "homes" / str(next(self._homes))
        home.mkdir(parents=True, exist_ok=True)
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_TOKEN_PATH": str(home / "token"),
            "HF_TOKEN": token or "",
            "HUGGING_FACE_HUB_TOKEN": "",
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }

    def settle(self, seconds: float = 10.0) -> None:
        """Wait until no call is under way: a client that was killed leaves some behind.

        Raises:
            TimeoutError: one still is.
        """
        end = time.monotonic() + seconds
        while under_way := [call for call in list(self.calls) if not call.over]:
            if time.monotonic() > end:
                raise TimeoutError(f"still under way: {under_way}")
            time.sleep(0.01)

    # What is on it

    def repo(self, id: str, type: str = "model") -> Repo:
        """The repository as it is now: heads, tags, pulls, private, gated, history(), files(), read(path).

        Raises:
            KeyError: there is none.
        """
        found = self.store.load(type, id)
        if found is None:
            raise KeyError(id)
        return found

    def repos(self, type: str = "model") -> list[str]:
        return self.store.names(type)

    def push(
        self, id: str, files: dict[str, bytes | None], title: str = "by somebody else", type: str = "model"
    ) -> str:
        """A commit on main by another publisher, without HTTP; None deletes a file. Returns its id."""
        with self.store.lock:
            return place_directly(self.repo(id, type), files, title, "another")

    def page(self, repo: Repo) -> str:
        """A repository's address for people."""
        return f"{self.url}/{'' if repo.type == 'model' else repo.type + 's/'}{repo.id}"

    # What goes wrong

    def fault(self, kind: str, effect: Effect, times: float = 1, after: int = 0, path: str = "") -> Fault:
        """Do `effect` to calls of this kind (see faults.py): `times` of them, after the first `after`."""
        if kind != "*" and kind not in KINDS:
            raise ValueError(f"no call is of kind {kind}; kinds: {', '.join(sorted(KINDS))}")
        fault = Fault(kind, effect, times, after, path)
        self._faults.append(fault)
        return fault

    def clear_faults(self) -> None:
        self._faults.clear()

    def effect_on(self, call: Call) -> Effect:
        """The first fault that befalls this call, or nothing."""
        return next((fault.effect for fault in list(self._faults) if fault.befalls(call)), Effect(""))

    # Signed addresses

    def signed(self, url: str) -> str:
        path = re.sub(r"^https?://[^/]+", "", url)
        return f"{url}?signature={self._signature(path)}"

    def check_signature(self, request: Request) -> None:
        """
        Raises:
            Refused: 403, the address was not handed out by this server; 400, a token came along.
        """
        given = request.query.get("signature", [""])[0]
        if not hmac.compare_digest(given, self._signature(request.call.path)):
            raise Refused(403, "SignatureDoesNotMatch")
        if request.call.authorized:
            raise Refused(400, "Only one auth mechanism allowed")

    def _signature(self, path: str) -> str:
        return hmac.new(self._secret, path.encode(), "sha256").hexdigest()


class _Server(ThreadingHTTPServer):
    """One origin."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, hub: Hub, origin: str) -> None:
        self.hub = hub
        self.origin = origin
        self._open: set[object] = set()
        super().__init__(("127.0.0.1", 0), Handler)

    def process_request(self, request, client_address):  # type: ignore[no-untyped-def]
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request):  # type: ignore[no-untyped-def]
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request, client_address):  # type: ignore[no-untyped-def]
        """A client that goes away is no news."""

    def break_connections(self) -> None:
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(2)  # type: ignore[attr-defined]


@contextlib.contextmanager
def hub(folder: Path, part_size: int | None = None) -> Iterator[Hub]:
    """A running Hub on the state in `folder`, which may be empty or another server's."""
    server = Hub(folder, part_size)
    server.start()
    try:
        yield server
    finally:
        server.close()
