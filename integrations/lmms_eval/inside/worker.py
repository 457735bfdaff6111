"""Evaluates the cells of a job, one after another, with lmms-eval as published.

Each task is loaded once, asked through `lmms_eval.evaluator.simple_evaluate`, and scored in its `process_results`. A
cell is written when every item has all its responses and every logged request had the protocol's parameters; what
keeps a cell from that is one line in the log, and the others go on. `benchmarks.evaluate` starts this.
"""

# Packages of the lmms_eval environment.
# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import datetime
import errno
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from lmms_eval.evaluator import simple_evaluate
from tenacity import RetryError

from integrations.common.files import write_json
from integrations.errors import BadInput, PrismError, StageFailed
from integrations.lmms_eval.inside.client import Asking, Client, Recorded, Responder, Responses
from integrations.lmms_eval.inside.records import Log, asked_of, sampling, still_good
from integrations.lmms_eval.inside.server import ServerFailed
from integrations.lmms_eval.inside.tasks import METRIC, Library, Loaded, cause
from integrations.lmms_eval.job import CellJob, Job

VERDICT = (
    "item_id", "group_id", "subset", "question", "reference", "caption", "reasoning", "answer", "correct", "rule",
    "format", "perception", "logic",
)  # fmt: skip
"""What `process_results` says of a response; a field that it leaves out is null."""
ASKED = "asked.json"
"""Beside the log of a cell's requests: the facts of the cell that they are for."""
PAUSE = 0.5
"""Seconds between two lines of progress."""


class Finished(Protocol):
    """A cell in the samples store."""

    @property
    def facts(self) -> Mapping[str, Any]: ...

    @property
    def table(self) -> Any: ...


class Store(Protocol):
    """The samples store."""

    def read(self, folder: Path) -> Finished | None: ...

    def write(self, folder: Path, rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> None: ...


class Progress:
    """Appends to the job's progress file."""

    def __init__(self, path: Path, total: int) -> None:
        self._stream = path.open("a", encoding="utf-8")
        self._total = total
        self._before = 0
        self._last = 0.0

    def tell(self, cell: CellJob, done: int) -> None:
        """`done` responses of this cell are there."""
        if time.monotonic() - self._last >= PAUSE:
            self._write(cell, done)

    def finish(self, cell: CellJob, done: int) -> None:
        """The cell is over, with so many responses counted as done."""
        self._write(cell, done)
        self._before += done

    def _write(self, cell: CellJob, done: int) -> None:
        line = {"step": self._before + done, "total": self._total, "cell": cell.folder}
        self._stream.write(json.dumps(line) + "\n")
        self._stream.flush()
        self._last = time.monotonic()


def work(job: Job, folders: Sequence[Path], store: Store) -> int:
    """Evaluate or rescore every cell of the job.

    Args:
        folders: of task definitions.

    Returns:
        How many cells could not be finished; each is explained in two lines on standard output.
    """
    library = Library(folders, Path(job.scratch))
    ready: list[tuple[CellJob, Loaded, int]] = []
    failed = 0
    for cell in job.cells:
        try:
            loaded = library.load(cell.task, cell.source, cell.style)
            ready.append((cell, loaded, len(loaded.ids(cell.facts["limit"])) * cell.facts["samples_per_item"]))
        except PrismError as error:
            failed += _explain(cell, error)
    progress = Progress(Path(job.progress), sum(responses for _, _, responses in ready))
    for number, (cell, loaded, responses) in enumerate(ready):
        try:
            _finish_cell(job, cell, loaded, progress, store)
        except ServerFailed as error:
            _explain(cell, error)
            return failed + len(ready) - number
        except PrismError as error:
            failed += _explain(cell, error)
        except OSError as error:
            failed += _explain(cell, _disk_trouble(error))
        progress.finish(cell, responses)
    return failed


def _explain(cell: CellJob, error: PrismError) -> int:
    print(f"error: {cell.folder}: {error.problem}\nfix: {error.fix}", flush=True)
    return 1


def _disk_trouble(error: OSError) -> StageFailed:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StageFailed("the disk is full", "free some space and run the same command: finished responses are kept")
    return StageFailed(f"cannot read or write {error.filename}: {error.strerror}", "check the folder and run it again")


def _finish_cell(job: Job, cell: CellJob, loaded: Loaded, progress: Progress, store: Store) -> None:
    """Bring one cell to its end, or leave it as it is when it is there already."""
    folder, ids = Path(cell.folder), loaded.ids(cell.facts["limit"])
    old = store.read(folder)
    responder: Responder
    if job.mode == "rescore":
        if old is None:
            raise BadInput("there is no finished cell to score again", "evaluate it first")
        responder = Recorded(old.table.to_pylist(), ids, lambda done: progress.tell(cell, done))
    else:
        if old is not None and _unchanged(old.facts, {**cell.facts, "dataset_hash": loaded.dataset_hash}):
            return
        assert job.server is not None
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / ASKED, dict(cell.facts))
        responder = Asking(job.server, cell.facts, ids, Log(folder), lambda done: progress.tell(cell, done))
    rows, responses = _evaluate(cell, loaded, responder, Path(job.images))
    if job.mode == "evaluate":
        _verify(cell, ids, responses, folder)
    made = {
        "dataset_hash": loaded.dataset_hash,
        "items": len(ids),
        "seconds": old.facts["seconds"] if old and job.mode == "rescore" else round(responses.seconds, 3),
        "generated_tokens": sum(answer.tokens or 0 for answer in responses.answers.values()),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    store.write(folder, rows, {**cell.facts, **made})


def _unchanged(old: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    """Whether a finished cell is the one that is asked for; a judge may have looked at it since."""
    return all(old.get(name) == value for name, value in asked.items() if name != "judge")


def _evaluate(
    cell: CellJob, loaded: Loaded, responder: Responder, previews: Path
) -> tuple[list[dict[str, Any]], Responses]:
    """Let lmms-eval ask and score. Rows in the order of documents, then samples."""
    task, docs = loaded.task, loaded.task.eval_docs
    task.set_config("repeats", cell.facts["samples_per_item"])
    client = Client(responder, docs, previews)
    try:
        results = simple_evaluate(
            client, tasks=[task], limit=cell.facts["limit"], bootstrap_iters=0, log_samples=True, verbosity="ERROR",
            process_docs_parallel=1, task_manager=loaded.manager,
        )  # fmt: skip
    except RetryError as error:
        raise StageFailed(
            f"task {loaded.name} cannot score a response: {cause(error)!r}", "look at its scoring"
        ) from error
    rows = []
    for logged in results["samples"][loaded.name]:
        doc_id = logged["doc_id"]
        for sample in range(cell.facts["samples_per_item"]):
            # lmms-eval's log keeps the first response of each item; the others are scored by the same function.
            text = client.responses.answers[doc_id, sample].text
            verdict = logged[METRIC] if sample == 0 else loaded.score(docs[doc_id], text)
            rows.append(_row(cell, client.responses, doc_id, sample, verdict))
    return rows, client.responses


def _row(cell: CellJob, responses: Responses, doc_id: int, sample: int, verdict: Mapping[str, Any]) -> dict[str, Any]:
    answer, prompt = responses.answers[doc_id, sample], responses.prompts[doc_id]
    return {
        **{name: verdict.get(name) for name in VERDICT},
        "sample": sample,
        "prompt_hash": prompt.hash,
        "images": prompt.images,
        "response": answer.text,
        "rule_correct": verdict["correct"],
        "tokens": answer.tokens,
        "truncated": answer.truncated,
        "training_seed": cell.facts["training_seed"],
        "decoding_seed": cell.facts["decoding_seed"],
    }


def _verify(cell: CellJob, ids: Sequence[str], responses: Responses, folder: Path) -> None:
    """Read the log again: every item was asked as often as wanted, each time with the protocol's parameters.

    Raises:
        StageFailed: naming the first item for which that is not so.
    """
    known, by = Log(folder).read(), asked_of(cell.facts)
    for doc_id, item in enumerate(ids):
        for sample in range(cell.facts["samples_per_item"]):
            sent, prompt = sampling(cell.facts, item, sample), responses.prompts[doc_id].hash
            entry = known.get((item, sample))
            if entry is None or not still_good(entry, by, prompt, sent):
                raise StageFailed(
                    f"item {item}, sample {sample} was not asked as the protocol says: "
                    f"{None if entry is None else entry['sent']} instead of {sent}",
                    f"remove {folder} and evaluate again",
                )
