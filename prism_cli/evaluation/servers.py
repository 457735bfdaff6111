"""One inference server per checkpoint, started before its cells are asked and ended after.

vLLM where there are GPUs, transformers elsewhere, or any OpenAI-compatible server of the user's own.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from integrations.alignment import serving as transformers_server
from integrations.common import serving as common
from integrations.contract import Launch, Machine
from integrations.errors import BadInput, Interrupted, StageFailed
from prism_cli.engines import environments, process
from prism_cli.evaluation.models import Model
from prism_cli.ui.view import View

Engine = Literal["transformers", "vllm", "url"]
START_SECONDS = 1800.0
"""Longest wait for a server that is alive; a large model takes minutes to load and compile."""


@dataclass(frozen=True)
class ServerChoice:
    """How models are served."""

    engine: Engine
    url: str | None = None
    """Of a server that runs already (`engine: url`), up to and with `/v1`."""
    served_name: str | None = None
    """The model's name there; of a server started here, the name it gets instead of the usual one."""
    concurrency: int = 64
    """Requests in flight; also the largest batch of the transformers server."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable with the key of a server at a URL."""
    gpu: int | None = None
    """The only GPU that a server started here sees, by its number; None: all that prism may use."""
    port: int = 0
    """Of a server started here; 0 is any free one."""

    @property
    def facts(self) -> dict[str, Any]:
        """What can change a response, for cell.json."""
        dtype = {"transformers": "float32", "vllm": "bfloat16", "url": None}[self.engine]
        return {"engine": self.engine, "dtype": dtype}


@dataclass(frozen=True)
class Served:
    """A server that answers."""

    job: Mapping[str, Any]
    """For the harness: url, model, concurrency, api_key_env."""
    ended: threading.Event
    """Set when the server's process has ended."""
    log: Path

    def check(self) -> None:
        """Raises StageFailed when the server has died."""
        if self.ended.is_set():
            raise StageFailed("the inference server died", f"read {self.log}; the same command goes on from here")


@contextlib.contextmanager
def serving(
    choice: ServerChoice,
    model: Model,
    protocol: Mapping[str, Any],
    machine: Machine,
    logs: Path,
    view: View,
    stop: threading.Event,
) -> Iterator[Served]:
    """Serve a checkpoint while the block runs.

    Args:
        protocol: the server's own defaults for what a request leaves out.
        logs: folder for its log.

    Raises:
        StageFailed: the server did not come up.
        BadInput: there is nothing to serve.
    """
    job = {"model": choice.served_name or common.SERVED_NAME, "concurrency": choice.concurrency}
    if choice.engine == "url":
        yield Served({**job, "url": choice.url, "api_key_env": choice.api_key_env}, threading.Event(), logs)
        return
    if model.folder is None:
        raise BadInput(f"{model.label} has no files here", "give a folder, a stage or a repository, or a server's URL")
    logs = logs / "server"
    logs.mkdir()
    ready, log = logs / "ready.json", logs / "server.log"
    launch = server_launch(choice, model.folder, protocol, machine, ready, logs / "requests.jsonl")
    if choice.gpu is not None:
        launch = replace(launch, env={**launch.env, "CUDA_VISIBLE_DEVICES": str(choice.gpu)})
    environment = environments.ensure(launch.engine, lambda text: view.environment(launch.engine, text), stop)
    ended, end = threading.Event(), threading.Event()

    def supervise() -> None:
        try:
            process.run(
                launch, environment, cwd=logs, log=log, import_root=logs / "import", tick=lambda: None, stop=end
            )
        finally:
            ended.set()

    thread = threading.Thread(target=supervise, name=f"server of {model.slug}")
    thread.start()
    try:
        url = common.wait_ready(ready, log, ended, stop, START_SECONDS)
        if stop.is_set():
            raise Interrupted("stopped", "run the same command again to go on from here")
        yield Served({**job, "url": url, "api_key_env": None}, ended, log)
    finally:
        end.set()
        thread.join()


def server_launch(
    choice: ServerChoice, folder: Path, protocol: Mapping[str, Any], machine: Machine, ready: Path, log: Path
) -> Launch:
    """The command that serves a checkpoint, the protocol as the server's own default.

    Raises:
        BadInput: the folder holds no whole model, or the engine cannot run here.
    """
    defaults = {key: protocol[key] for key in ("temperature", "top_p", "top_k", "max_new_tokens")}
    place: dict[str, Any] = {"port": choice.port, "name": choice.served_name or common.SERVED_NAME}
    if choice.engine == "vllm":
        from integrations.vllm import adapter as vllm_server

        return vllm_server.serve_launch(
            folder, defaults, machine=machine, ready=ready, log=log, batch=choice.concurrency, **place
        )
    return transformers_server.serve_launch(
        folder, defaults, machine=machine, ready=ready, log=log, batch=choice.concurrency, **place
    )


def choose(engine: str, served_name: str | None, concurrency: int, gpus: int) -> ServerChoice:
    """A server from what a person wrote.

    Args:
        engine: `auto`, `transformers`, `vllm`, or a URL.

    Raises:
        BadInput: it is none of them.
    """
    if engine.startswith(("http://", "https://")):
        url = engine.rstrip("/")
        url = url if url.endswith("/v1") else f"{url}/v1"
        if served_name is None:
            raise BadInput("a server at a URL may serve several models", "name the one to ask with --served-name")
        return ServerChoice("url", url, served_name, concurrency)
    if engine not in ("auto", "transformers", "vllm"):
        raise BadInput(f"`{engine}` is no server", "give auto, transformers, vllm or a URL")
    if engine == "auto":
        engine = "vllm" if gpus else "transformers"
    return ServerChoice(engine, None, None, concurrency)  # type: ignore[arg-type]
