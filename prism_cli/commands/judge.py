"""`prism judge`: start a judge, or find out whether a server is one.

A judge is any language model behind an OpenAI-compatible address. `prism eval --judge URL` asks it about answers that
rules cannot decide, and asks it the same golden items first that `prism judge check` shows.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from integrations.errors import EXIT_STAGE_FAILED

if TYPE_CHECKING:
    from integrations.common.judge import Judge
    from integrations.common.judge_golden import Examined
    from prism_cli.evaluation.models import Model
    from prism_cli.evaluation.servers import Served, ServerChoice

app = typer.Typer(no_args_is_help=True, help="Start a judge, or check one with golden items.")


@app.command()
def check(
    url: Annotated[str, typer.Option(help="The server, e.g. http://127.0.0.1:8000.")],
    model: Annotated[str | None, typer.Option(help="Its model. [default: the only one it has]")] = None,
    key_env: Annotated[
        str | None,
        typer.Option(help="Environment variable that holds the server's key. [default: OPENAI_API_KEY]"),
    ] = None,
    extra: Annotated[
        str | None,
        typer.Option(metavar="JSON", help='More fields of each request, e.g. {"reasoning_effort": "none"}.'),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Ask a judge golden items: right and wrong answers, other notations, and answers that talk to it.

    It sees question, reference and answer, and its reply must have one exact form: anything else is an error.

    Exit codes: 0 it can judge, 1 it cannot, 2 there is no judge.
    """
    from integrations.common.judge import Judge
    from integrations.common.judge_golden import examine

    judge = Judge(url, model, key_variable=key_env, extra=_fields(extra))
    with _Progress(quiet=json_) as progress:
        examined = examine(judge, progress)
    if json_:
        listed = [str(entry["id"]) for entry in judge.listed or []]
        told = {"sound": examined.problem is None, "judge": judge.identity.to_json(), "models": listed}
        typer.echo(json.dumps({**told, **examined.to_json()}, indent=2))
    else:
        _print(judge, examined)
    if examined.problem is not None:
        raise typer.Exit(EXIT_STAGE_FAILED)


@app.command()
def serve(
    model: Annotated[str, typer.Option(help="Folder of a model, or its name on the Hub.")],
    engine: Annotated[
        str, typer.Option(help="auto, transformers (Qwen3-VL only), or vllm. [auto: vllm on GPUs]")
    ] = "auto",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8000,
) -> None:
    """Start a judge on this machine and keep it running until Ctrl-C.

    It is served under a name that holds the hash of its weights, so that verdicts of another model with the same
    folder name are never taken for its own.
    """
    from integrations.errors import BadInput
    from prism_cli.evaluation.models import find_models
    from prism_cli.evaluation.servers import choose
    from prism_cli.pipeline.lineage import gpu_names

    if engine not in ("auto", "transformers", "vllm"):
        raise BadInput(f"`{engine}` is no engine for a judge", "give auto, transformers or vllm")
    typer.echo(f"reading {model}")
    (found,) = find_models([model], [], Path())
    gpus = len(gpu_names())
    _serve(found, choose(engine, None, 16, gpus), port, gpus)


def _serve(model: Model, choice: ServerChoice, port: int, gpus: int) -> None:
    import contextlib
    import os
    import shutil
    import tempfile
    import threading
    from dataclasses import replace

    from integrations.contract import Machine
    from integrations.errors import Interrupted
    from prism_cli.evaluation.servers import serving
    from prism_cli.pipeline.execute import stop_signals
    from prism_cli.ui.view import choose_view

    protocol = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "max_new_tokens": 48}
    machine = Machine(threads=len(os.sched_getaffinity(0)), gpus=gpus)
    stop, logs = threading.Event(), Path(tempfile.mkdtemp(prefix="prism-judge-"))
    typer.echo(f"starting {choice.engine}; its log is {logs / 'server' / 'server.log'}")
    view = choose_view(False)
    try:
        with (
            stop_signals(stop),
            contextlib.suppress(Interrupted),  # the usual end, also before it answers
            serving(
                replace(choice, served_name=model.slug, port=port), model, protocol, machine, logs, view, stop
            ) as served,
        ):
            _tell(served)
            while not stop.wait(0.5):
                served.check()
    finally:
        view.close()
    typer.echo("stopped")
    shutil.rmtree(logs, ignore_errors=True)


def _tell(served: Served) -> None:
    url = served.job["url"]
    typer.echo(f"{served.job['model']} answers at {url}; Ctrl-C ends it\n")
    typer.echo(f"  prism judge check --url {url}")
    typer.echo(f"  prism eval --suite multimodal-reasoning --judge {url}\n")


class _Progress:
    """A line on a terminal that counts, and nothing in a pipe."""

    def __init__(self, quiet: bool) -> None:
        from rich.console import Console

        console = Console(stderr=True)
        self._status = console.status("asking golden items") if console.is_terminal and not quiet else None

    def __enter__(self) -> _Progress:
        if self._status:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status:
            self._status.stop()

    def __call__(self, done: int, total: int) -> None:
        if self._status:
            self._status.update(f"asking golden items: {done} of {total}")


def _fields(text: str | None) -> dict[str, Any]:
    from integrations.errors import BadInput

    try:
        fields = json.loads(text or "{}")
    except ValueError as error:
        raise BadInput(f"--extra is not JSON: {error}", 'give an object, e.g. {"top_k": 1}') from error
    if not isinstance(fields, dict):
        raise BadInput("--extra is no JSON object", 'give an object, e.g. {"top_k": 1}')
    return fields


def _print(judge: Judge, examined: Examined) -> None:
    from rich.console import Console

    from integrations.common.chat import printable
    from integrations.common.judge_golden import ITEMS
    from prism_cli.ui.tables import print_table

    def say(text: str) -> None:
        Console(highlight=False).print(text, markup=False, emoji=False)

    rows = [
        [item.name, item.kind, item.verdict, reply.verdict or "error", "yes" if reply.verdict == item.verdict else "NO"]
        for item, reply in zip(ITEMS, examined.replies, strict=True)
    ]
    print_table(["golden item", "kind", "it is", "judge", "right"], rows)
    identity = judge.identity
    say(f"judge: {printable(identity.model)}, fingerprint {printable(identity.fingerprint or 'not told')}")
    say(f"right: {examined.right} of {len(ITEMS)}, {examined.seconds:.2f} s per question (median)")
    if examined.problem is None:
        say(f"It can judge:\n  prism eval --suite multimodal-reasoning --judge {judge.url}")
    else:
        say(f"It cannot judge: {examined.problem}")
