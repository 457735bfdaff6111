"""Finding an inference server, and what is said when it does not come up."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from integrations.alignment.serving import serve_launch
from integrations.common import error_line
from integrations.common.serving import SERVED_NAME, free_port, wait_ready
from integrations.contract import Machine
from integrations.errors import BadInput, Interrupted, StageFailed


@pytest.fixture
def tiny_model(tmp_path: Path) -> Path:
    """A folder that looks like a model, in a folder with a space in its name."""
    folder = tmp_path / "a model"
    folder.mkdir()
    for name in ("config.json", "tokenizer_config.json"):
        (folder / name).write_text("{}")
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    return folder


class Handler(BaseHTTPRequestHandler):
    loading = 0
    """Answers still to be given with 503."""

    def do_GET(self) -> None:
        Handler.loading -= self.path == "/health"
        body = json.dumps({"data": [{"id": SERVED_NAME}]}).encode() if self.path == "/v1/models" else b""
        self.send_response(503 if Handler.loading >= 0 else 200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def write_ready(folder: Path, port: int, name: str = SERVED_NAME) -> Path:
    path = folder / "ready.json"
    path.write_text(json.dumps({"host": "127.0.0.1", "port": port, "name": name}))
    return path


def wait(folder: Path, ended: bool = False, stop: bool = False, seconds: float = 30) -> str:
    events = [threading.Event(), threading.Event()]
    for event, is_set in zip(events, (ended, stop), strict=True):
        if is_set:
            event.set()
    return wait_ready(folder / "ready.json", folder / "server.log", events[0], events[1], seconds, interval=0.01)


def test_a_server_is_ready_once_it_answers_with_success(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # a user's proxy has no part in it
    Handler.loading = 3
    write_ready(tmp_path, port)
    assert wait(tmp_path) == f"http://127.0.0.1:{port}/v1"
    assert Handler.loading == -1


def test_the_ready_file_may_come_late(port: int, tmp_path: Path) -> None:
    Handler.loading = 0
    threading.Timer(0.2, write_ready, (tmp_path, port)).start()
    assert wait(tmp_path).endswith(f":{port}/v1")


def test_another_server_at_the_port_is_not_taken_for_ours(port: int, tmp_path: Path) -> None:
    Handler.loading = 0
    write_ready(tmp_path, port, name="other")
    with pytest.raises(StageFailed, match=r"another server than ours answers .* \['policy'\]"):
        wait(tmp_path)


def test_a_dead_servers_last_words_are_told(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    with pytest.raises(StageFailed, match=r"ended before it answered$"):
        wait(tmp_path, ended=True)
    log.write_text("[prism 12:00] serving: python\n[prism 12:01] was ended by SIGKILL\n")
    with pytest.raises(StageFailed, match=r"answered: was ended by SIGKILL$"):
        wait(tmp_path, ended=True)
    log.write_bytes(b"loading\n\xff\x1b[31mValueError: no weights\x1b[0m\ncleaning up\n[prism 12:01] ended\n")
    with pytest.raises(StageFailed, match=r"answered: .*ValueError: no weights\[0m$") as failed:
        wait(tmp_path, ended=True)
    assert "\x1b" not in failed.value.problem
    line = error_line.MARK + json.dumps({"problem": "no config.json", "fix": "name a folder"})
    log.write_text(f"{line}\n{error_line.MARK}nonsense\n[prism 12:01] ended\n")
    with pytest.raises(StageFailed, match=r"did not start: no config\.json") as failed:
        wait(tmp_path, ended=True)
    assert failed.value.fix == "name a folder"


def test_waiting_ends(tmp_path: Path) -> None:
    write_ready(tmp_path, free_port())  # nobody listens there
    with pytest.raises(StageFailed, match="did not answer within 0 s"):
        wait(tmp_path, seconds=0.1)
    with pytest.raises(Interrupted):
        wait(tmp_path, stop=True)


def test_the_transformers_servers_command(tmp_path: Path, tiny_model: Path) -> None:
    ready = tmp_path / "ready.json"
    ready.write_text("{}")
    protocol = {"temperature": 1.0, "top_p": 0.7, "top_k": 0, "max_new_tokens": 64}
    launch = serve_launch(
        tiny_model, protocol, machine=Machine(threads=3), ready=ready, log=tmp_path / "log.jsonl", batch=8
    )
    assert launch.argv[:3] == ["python", "-m", "integrations.alignment.serve"]
    options = dict(option.removeprefix("--").split("=", 1) for option in launch.argv[3:])
    assert options == {
        "model": str(tiny_model), "name": "policy", "host": "127.0.0.1", "port": "0", "temperature": "1.0",
        "top-p": "0.7", "top-k": "0", "max-new-tokens": "64", "max-batch": "8", "threads": "3", "device": "cpu",
        "ready": str(ready), "log": str(tmp_path / "log.jsonl"),
    }  # fmt: skip
    assert launch.env["OMP_NUM_THREADS"] == "3"
    assert not ready.exists()
    gpu = serve_launch(
        tiny_model, protocol, machine=Machine(1, gpus=2), ready=ready, log=tmp_path, max_image_pixels=4096
    )
    assert {"--device=cuda", "--max-image-pixels=4096"} <= {*gpu.argv}
    (tiny_model / "config.json").unlink()
    with pytest.raises(BadInput, match=r"config\.json is missing"):
        serve_launch(tiny_model, protocol, machine=Machine(1), ready=ready, log=tmp_path)
