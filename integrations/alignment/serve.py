"""An OpenAI-compatible server over transformers, for evaluation where vLLM cannot run: CPUs, and one small GPU.

    python -m integrations.alignment.serve --model FOLDER --port 0 --ready ready.json --log requests.jsonl \
        --temperature 1 --top-p 0.7 --top-k 0 --seed 0 --max-new-tokens 512

POST /v1/chat/completions, GET /v1/models, GET /health (503 until the weights are loaded). Weights are in fp32 unless
asked otherwise; prompts and decoding are those of training (`prompts`, `rollout`), so a greedy answer here is the
answer that the training process would give. A request that leaves out a sampling parameter gets the server's own, so a
protocol holds even for clients that drop some; each answer tells under `prism` which values were used and which of
them came from the server, and so does the log, one JSON object per request. What is not supported is refused.

`transformers serve` is no substitute: it answers one request at a time and draws all of them from one random stream.
"""

# The web library is in the alignment environment only.
# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import sys
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
import uvicorn
from safetensors import SafetensorError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from integrations.alignment.data.prompts import Encoder
from integrations.alignment.data.seeds import derive
from integrations.alignment.forward.model import load_policy, load_processor
from integrations.alignment.rollouts.rollout import Rollouts
from integrations.alignment.server import chat
from integrations.alignment.server.batcher import Batcher, Job, Stopping
from integrations.alignment.server.chat import Refused
from integrations.common import error_line
from integrations.common.files import write_json
from integrations.errors import BadInput, PrismError, StageFailed


@dataclass(frozen=True)
class Options:
    """The command line."""

    model: Path
    name: str
    """Name that requests use for the model."""
    host: str
    port: int
    """0 takes any free port."""
    temperature: float
    top_p: float
    top_k: int
    seed: int
    max_new_tokens: int
    max_batch: int
    threads: int
    device: str
    dtype: str
    min_image_pixels: int | None
    max_image_pixels: int | None
    max_body_mb: int
    ready: Path | None
    log: Path | None

    @property
    def defaults(self) -> dict[str, float | int]:
        """Parameters of a request that gives none."""
        return {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "max_tokens": self.max_new_tokens,
            "seed": self.seed,
        }


class Service:
    """The application: routes, and what they share."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.encoder: Encoder | None = None
        self.context = 0
        """Longest prompt with its response, in tokens."""
        self.started = int(time.time())
        self.batcher = Batcher(self._load, options.max_batch, self._ended)
        self.preparing = ThreadPoolExecutor(1, thread_name_prefix="preparing")
        self.log = options.log.open("a", encoding="utf-8") if options.log else None
        routes = [
            Route("/health", self.health),
            Route("/v1/models", self.models),
            Route("/v1/chat/completions", self.chat_completions, methods=["POST"]),
        ]
        handlers: dict[Any, Any] = {Refused: _refused, 404: _plain, 405: _plain}
        self.app = Starlette(routes=routes, exception_handlers=handlers, lifespan=self._lifespan)
        self.server: uvicorn.Server | None = None

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        self.batcher.start()
        yield
        self.batcher.stop()
        await asyncio.to_thread(self.batcher.join, 10)
        self.preparing.shutdown(cancel_futures=True)
        if self.log:
            self.log.close()

    def _load(self) -> Rollouts:
        options = self.options
        model = load_policy(options.model, options.device, getattr(torch, options.dtype))
        limits = {"min_pixels": options.min_image_pixels, "max_pixels": options.max_image_pixels}
        processor = load_processor(options.model, **{name: limit for name, limit in limits.items() if limit})
        self.encoder = Encoder(processor, options.model)
        self.context = model.config.text_config.max_position_embeddings
        return Rollouts(model, self.encoder)

    def _ended(self) -> None:
        if self.server:
            self.server.should_exit = True

    async def health(self, request: Request) -> JSONResponse:
        ready = self.batcher.ready.is_set()
        return JSONResponse({"status": "ready" if ready else "loading"}, 200 if ready else 503)

    async def models(self, request: Request) -> JSONResponse:
        options = self.options
        used = {"defaults": options.defaults, "dtype": options.dtype, "device": options.device}
        model = {"id": options.name, "object": "model", "created": self.started, "owned_by": "prism"}
        facts = {"root": str(options.model), "max_model_len": self.context or None, "prism": used}
        return JSONResponse({"object": "list", "data": [model | facts]})

    async def chat_completions(self, request: Request) -> JSONResponse:
        identity, began = f"chatcmpl-{uuid.uuid4().hex}", time.monotonic()
        line: dict[str, Any] = {"id": identity, "time": round(time.time(), 3)}
        try:
            answer = await self._answer(identity, await self._body(request), line)
        except Refused as error:
            line |= {"status": error.status, "error": error.message}
            raise
        finally:
            self._write(line | {"seconds": round(time.monotonic() - began, 3)})
        return JSONResponse(answer)

    async def _answer(self, identity: str, body: bytes, line: dict[str, Any]) -> dict[str, Any]:
        """Decode one request; what is worth logging is added to `line`."""
        self.batcher.expect(1)
        try:
            work = asyncio.get_running_loop().run_in_executor(self.preparing, self._prepare, body)
            parameters, jobs = await work
            self.batcher.submit(jobs)
        except Stopping as error:
            raise Refused("the server is stopping", status=503) from error
        finally:
            self.batcher.expect(-1)
        used = {**asdict(parameters), "defaults": list(parameters.defaults)}
        line |= {"parameters": used, "prompt": jobs[0].prompt.id, "images": len(jobs[0].prompt.grids)}
        try:
            choices = await asyncio.gather(*(asyncio.wrap_future(job.done) for job in jobs))
        except Stopping as error:
            raise Refused("the server is stopping", status=503) from error
        except PrismError as error:
            raise Refused(f"{error.problem}; {error.fix}", status=500) from error
        usage = {
            "prompt_tokens": len(jobs[0].prompt.ids),
            "completion_tokens": sum(len(choice.token_ids) for choice in choices),
        }
        line |= {"status": 200, "usage": usage, "finish_reasons": [chat.finish_reason(choice) for choice in choices]}
        return chat.completion(self.options.name, identity, int(line["time"]), used, usage, choices)

    def _prepare(self, body: bytes) -> tuple[chat.Parameters, list[Job]]:
        """A request's parameters, and one job for each response it asks for."""
        encoder = self.encoder
        if encoder is None or not self.batcher.ready.is_set():
            raise Refused("the model is being loaded", status=503)
        try:
            request = json.loads(body)
        except ValueError as error:
            raise Refused(f"the body is not JSON: {error}") from error
        if not isinstance(request, dict):
            raise Refused("the body must be a JSON object")
        if request.get("model") not in (None, self.options.name):
            raise Refused(f"this server has the model `{self.options.name}` only", "model", status=404)
        parameters = chat.parameters(request, self.options.defaults)
        said = chat.conversation(request.get("messages"))
        try:
            prompt = encoder.encode_turns(said.digest, said.turns, said.pictures)
        except BadInput as error:
            raise Refused(f"{error.problem}; {error.fix}", "messages") from error
        room = self.context - len(prompt.ids)
        if "max_tokens" in parameters.defaults:
            parameters = replace(parameters, max_tokens=max(1, min(parameters.max_tokens, room)))
        if parameters.max_tokens > room:
            raise Refused(
                f"the prompt has {len(prompt.ids)} tokens; with {parameters.max_tokens} to generate that is more than "
                f"the model's context of {self.context}",
                "max_tokens",
            )
        keys = [derive(parameters.seed, sample) for sample in range(parameters.n)]
        return parameters, [Job(prompt, parameters.sampling, key) for key in keys]

    async def _body(self, request: Request) -> bytes:
        limit = self.options.max_body_mb * 2**20
        refused = Refused(f"the body is larger than {self.options.max_body_mb} MB", status=413)
        told = request.headers.get("content-length", "0")
        if told.isdigit() and int(told) > limit:
            raise refused
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise refused
        return bytes(body)

    def _write(self, line: Mapping[str, Any]) -> None:
        if self.log:
            self.log.write(json.dumps(line) + "\n")
            self.log.flush()


async def _refused(request: Request, error: Any) -> JSONResponse:
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    told = {"message": error.message, "type": kind, "param": error.field, "code": error.status}
    return JSONResponse({"error": told}, error.status)


async def _plain(request: Request, error: Any) -> JSONResponse:
    return await _refused(
        request, Refused(f"{request.method} {request.url.path}: {error.detail}", None, error.status_code)
    )


async def run(service: Service, listening: socket.socket) -> None:
    """Serve until a signal, or until loading fails; then open requests are answered with 503."""
    config = uvicorn.Config(service.app, log_level="warning", access_log=False, timeout_keep_alive=75)
    service.server = server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    host, port = listening.getsockname()[:2]
    told = False
    while not server.should_exit and not serving.done():
        if server.started and service.batcher.ready.is_set() and not told:
            told = True
            if service.options.ready:
                write_json(service.options.ready, {"host": host, "port": port, "name": service.options.name})
            print(f"serving {service.options.name} at http://{host}:{port}/v1", flush=True)
        await asyncio.sleep(0.05)
    service.batcher.stop()
    await serving


def main(arguments: list[str] | None = None) -> int:
    options = read_options(arguments)
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(options.device == "cpu")  # CUDA has no deterministic cumulative sum
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn raises the signal again once it has stopped; by then there is nothing left to end.
        signal.signal(number, lambda *_: None)
    try:
        if not (options.model / "config.json").is_file():
            raise BadInput(f"{options.model} holds no checkpoint (no config.json)", "give a Hugging Face model folder")
        with listen(options.host, options.port) as listening:
            service = Service(options)
            asyncio.run(run(service, listening))
        if service.batcher.failure:
            raise _explained(options.model, service.batcher.failure)
    except PrismError as error:
        return error_line.tell(error)
    return 0


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to the address.

    Raises:
        BadInput: the address is taken, or none of this machine's.
    """
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise BadInput(f"cannot listen on {host}:{port}: {error.strerror}", "choose another --port, or 0") from error
    return listening


def _explained(model: Path, error: BaseException) -> PrismError:
    """Why the checkpoint cannot be served."""
    if isinstance(error, PrismError):
        return error
    first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    if isinstance(error, (OSError, ValueError, KeyError, SafetensorError)):
        return BadInput(f"cannot load the checkpoint {model}: {first_line}", "train the stage again")
    return StageFailed(f"cannot serve {model}: {type(error).__name__}: {first_line}", "read the server's log")


def read_options(arguments: list[str] | None = None) -> Options:
    parser = argparse.ArgumentParser(description="Serve a Qwen3-VL checkpoint with OpenAI's chat interface.")
    add = parser.add_argument
    add("--model", type=Path, required=True, help="Hugging Face model folder")
    add("--name", help="name that requests use for the model [default: the folder's name]")
    add("--host", default="127.0.0.1")
    add("--port", type=int, default=8000, help="0: any free port, told in --ready")
    add("--temperature", type=float, default=1.0, help="of requests that give none; 0 is greedy")
    add("--top-p", type=float, default=1.0, help="of requests that give none")
    add("--top-k", type=int, default=0, help="of requests that give none; 0 keeps all tokens")
    add("--seed", type=int, default=0, help="of requests that give none")
    add("--max-new-tokens", type=int, default=1024, help="of requests that give no limit, where the context has room")
    add("--max-batch", type=int, default=64, help="most responses decoded together")
    add("--threads", type=int, default=1, help="CPU threads")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--dtype", choices=("float32", "bfloat16"), default="float32")
    add("--min-image-pixels", type=int, help="smaller images are enlarged [default: the checkpoint's own]")
    add("--max-image-pixels", type=int, help="larger images are made smaller [default: the checkpoint's own]")
    add("--max-body-mb", type=int, default=64, help="largest request")
    add("--ready", type=Path, help="file to write, with the port, once requests are answered")
    add("--log", type=Path, help="file to append one JSON object per request to")
    given = vars(parser.parse_args(arguments))
    given["name"] = given["name"] or given["model"].resolve().name
    options = Options(**given)
    try:
        chat.parameters({}, options.defaults)
    except Refused as error:
        parser.error(error.message)
    return options


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    # Everything is written and closed; taking the libraries apart would take seconds, and a stop has not as many.
    os._exit(code)
