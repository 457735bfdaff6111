"""`prism align`: see what the discriminator reads in a response, and what it gives for it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from prism_cli.runs.store import RunStore

app = typer.Typer(no_args_is_help=True, help="See what the discriminator reads and rewards.")

ROLES = ("perception", "reasoning")
STYLES = {"perception": "cyan", "reasoning": "magenta"}
FIELDS: dict[str, type] = {"images": list, "prompt": str, "response": str}

File = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        help="JSON lines with `images` (paths beside the file), `prompt` and `response`, e.g. a pool of a run.",
    ),
]
Run = Annotated[str | None, typer.Option(help="The run whose discriminator reads. [default: the last active run]")]
Stage = Annotated[
    str | None, typer.Option(help="Its discriminator stage, where there are several, e.g. prism/discriminator.")
]
RunsDir = Annotated[Path, typer.Option(envvar="PRISM_RUNS", help="Folder that holds the runs.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


@app.command()
def segment(
    file: File,
    run: Run = None,
    stage: Stage = None,
    model: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A model's folder instead of a run: its tokenizer reads.")
    ] = None,
    runs_dir: RunsDir = Path("runs"),
    json_: Json = False,
) -> None:
    """Split responses into perception and reasoning, as demonstrations and samples are split alike.

    Shows for each segment its token ids, their offsets in its text, and the token where a head reads the score.
    """
    from integrations.errors import BadInput
    from prism_cli.runs.overview import find_or_latest

    if model is not None and (run, stage) != (None, None):
        raise BadInput("--model and --run both name a tokenizer", "give one of them")
    if model is not None and not (model / "tokenizer.json").is_file():
        raise BadInput(f"{model} has no tokenizer.json", "name a model's folder with --model")
    items = read_items(file, ("response",))
    folder = model.absolute() if model is not None else _discriminator(find_or_latest(runs_dir, run), stage)[0]
    _show(_ask("segment", file, items, folder, None, json_), json_)


@app.command()
def score(
    file: File,
    run: Run = None,
    stage: Stage = None,
    runs_dir: RunsDir = Path("runs"),
    json_: Json = False,
) -> None:
    """Score responses with a run's discriminator: one number for perception, one for reasoning.

    Scores compare responses to one prompt; their zero and scale mean nothing by themselves.
    """
    from prism_cli.runs.overview import find_or_latest

    items = read_items(file, tuple(FIELDS))
    folder, policy = _discriminator(find_or_latest(runs_dir, run), stage)
    _show(_ask("score", file, items, folder, policy, json_), json_)


def read_items(file: Path, needed: tuple[str, ...]) -> list[dict[str, Any]]:
    """Items of a file with their line numbers.

    Raises:
        BadInput: naming the file, the line and the field.
    """
    from integrations.errors import BadInput

    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise BadInput(f"cannot read {file}: {error.strerror}", "name a file of JSON lines") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{file} is not UTF-8 text", "name a file of JSON lines") from error
    items = [_item(file, number, line, needed) for number, line in enumerate(lines, 1) if line.strip()]
    if not items:
        raise BadInput(f"{file} is empty", f"write JSON lines with {', '.join(needed)}")
    return items


def _item(file: Path, number: int, line: str, needed: tuple[str, ...]) -> dict[str, Any]:
    from integrations.errors import BadInput

    where = f"{file}, line {number}"
    try:
        row = json.loads(line)
    except ValueError as error:
        raise BadInput(f"{where}: not JSON ({error})", "write one JSON object a line") from error
    fix = f"give every line {', '.join(f'`{name}`' for name in needed)}"
    for name in needed:
        if not isinstance(row, dict) or name not in row:
            raise BadInput(f"{where}: no field `{name}`", fix)
        if not isinstance(row[name], FIELDS[name]):
            kind = "a list of paths" if FIELDS[name] is list else "text"
            raise BadInput(f"{where}: `{name}` is not {kind}", fix)
    for image in row["images"] if "images" in needed else []:
        if not isinstance(image, str) or not (file.parent / image).is_file():
            raise BadInput(f"{where}: `images`: there is no file {image}", f"paths start at {file.parent.absolute()}")
    system = row.get("system")
    if system is not None and not isinstance(system, str):
        raise BadInput(f"{where}: `system` is not text", "leave it out or write the system turn's text")
    kept = {name: row[name] for name in (*needed, "id") if name in row}
    return {"line": number, "system": system, **kept}


def _discriminator(run: RunStore, stage: str | None) -> tuple[Path, Path | None]:
    """Folder of a run's discriminator and of the policy that it was trained against.

    Raises:
        BadInput: there is none, or several and none is named.
    """
    from integrations.errors import BadInput

    records = {name: run.stage(name).done() for name in run.manifest().get("stages", {})}
    done = {name: record for name, record in records.items() if record and record.get("kind") == "discriminator"}
    names = ", ".join(done)
    if not done:
        raise BadInput(f"run `{run.name}` has no finished discriminator", "train it: prism train --stage discriminator")
    if stage is None and len(done) > 1:
        raise BadInput(f"run `{run.name}` has several discriminators: {names}", "name one with --stage")
    name = stage or next(iter(done))
    if name not in done:
        raise BadInput(f"run `{run.name}` has no finished discriminator `{name}`", f"it has {names}")
    parent = done[name].get("parents", {}).get("policy", {}).get("stage")
    return run.stage(name).model_dir, run.stage(parent).model_dir if parent else None


def _ask(
    task: str, file: Path, items: list[dict[str, Any]], model: Path, policy: Path | None, quiet: bool
) -> dict[str, Any]:
    """The answer of the alignment environment (`integrations.alignment.inspection`)."""
    import tempfile
    import threading

    from integrations.common import error_line
    from integrations.common.files import read_json, write_json
    from integrations.contract import Launch
    from integrations.errors import BadInput, StageFailed
    from prism_cli.engines import environments, process

    environment = environments.ensure("alignment", lambda text: None if quiet else print(text, file=sys.stderr))
    threads = len(os.sched_getaffinity(0))
    request = {"task": task, "file": str(file), "items": items, "model": str(model), "threads": threads}
    request |= {"policy": None if policy is None else str(policy), "data_dir": str(file.parent.absolute())}
    with tempfile.TemporaryDirectory(prefix="prism-align-") as folder:
        top = Path(folder)
        asked, out, log = top / "request.json", top / "answer.json", top / "log.txt"
        write_json(asked, request)
        argv = ["python", "-m", "integrations.alignment.inspection", "--request", str(asked), "--out", str(out)]
        launch = Launch("alignment", argv, {"OMP_NUM_THREADS": str(threads)}, what=f"{task} responses")
        code = process.run(
            launch,
            environment,
            cwd=top,
            log=log,
            import_root=top / "import",
            tick=lambda: None,
            stop=threading.Event(),
        )
        answer = read_json(out)
        if code == 0 and isinstance(answer, dict):
            return answer
        said = log.read_text(errors="replace")
        told = error_line.told(said)
        if told is not None:
            raise BadInput(*told)
        raise StageFailed(f"the alignment engine ended with code {code}:\n{said.strip()[-2000:]}", "")


def _show(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(answer, indent=2, ensure_ascii=False))
        return
    from rich.text import Text

    from benchmarks.report.text import visible
    from prism_cli.ui.tables import print_table

    scored = any("scores" in item for item in answer["items"])
    rows: list[list[object]] = []
    for item in answer["items"]:
        if not item["valid"]:
            rows.append([item["line"], "none", None, *([None] if scored else []), f"the response {item['problem']}"])
            continue
        for role in ROLES:
            one = item["segments"][role]
            score = [f"{item['scores'][role]:+.3f}"] if scored else []
            text = Text(visible(one["text"]).strip(), style=STYLES[role])
            rows.append([item["line"], Text(role, style=STYLES[role]), len(one["ids"]), *score, text])
    columns = ["line", "segment", "tokens", *(["score"] if scored else []), "text"]
    print_table(columns, rows, numbers=[0, 2, 3] if scored else [0, 2])
    reading = answer["reading"]
    print(f"read with `reasoning: {reading['reasoning']}`, `terminator: {reading['terminator']}`")
