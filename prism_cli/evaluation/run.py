"""Carry an evaluation out: for each checkpoint one server and one harness, only for the cells that are missing.

What is done is skipped, what was killed goes on where it stopped, a failed model does not keep the others from being
evaluated. One evaluation at a time works in a store.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from benchmarks.suites import load_suite
from integrations.common.jsonl import JsonlTail
from integrations.common.serving import SERVED_NAME
from integrations.contract import Launch, Machine
from integrations.errors import BadInput, Interrupted, PrismError, RunLocked, StageFailed
from integrations.lmms_eval import adapter as harness
from prism_cli.engines import environments, process
from prism_cli.evaluation.cells import Ask, PlannedCell, plan_cells
from prism_cli.evaluation.models import Model
from prism_cli.evaluation.servers import Served, ServerChoice, choose, server_launch, serving
from prism_cli.ui.view import View

PROGRESS = "progress.jsonl"


@dataclass(frozen=True)
class Outcome:
    """What became of one cell."""

    cell: PlannedCell
    status: str
    """`done`, `unchanged` or `failed`."""
    problem: str = ""


@dataclass
class Evaluator:
    """One evaluation at work.

    Args:
        server: how models are served.
        jobs: checkpoints evaluated at the same time.
        stop: set from outside, it ends everything within seconds.
    """

    ask: Ask
    server: ServerChoice
    machine: Machine
    jobs: int
    view: View
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self, models: Sequence[Model]) -> list[Outcome]:
        """Evaluate models, in their order; a problem of one is in its outcomes and keeps no other back.

        Raises:
            Interrupted: a stop was asked for; nothing is running any more.
            RunLocked: another evaluation works in one of the stores.
        """
        with _all_locked(models), ThreadPoolExecutor(self.jobs, thread_name_prefix="evaluation") as pool:
            outcomes = [outcome for found in pool.map(self._attempt, models) for outcome in found]
        if self.stop.is_set():
            raise Interrupted("stopped", "run the same command again to go on from here")
        return outcomes

    def _attempt(self, model: Model) -> list[Outcome]:
        try:
            return self.run_model(model)
        except Interrupted:
            return []
        except PrismError as error:
            self.view.stage_finished(f"eval/{model.label}", "failed", 0.0, error.problem)
            return [
                Outcome(cell, "unchanged") if cell.is_done() else Outcome(cell, "failed", error.problem)
                for cell in plan_cells(model, self.ask, self.server.facts)
            ]

    def rescore(self, models: Sequence[Model]) -> list[Outcome]:
        """Score the kept responses anew with today's tasks, without a server; what was never asked stays missing.

        Raises:
            Interrupted: a stop was asked for.
            RunLocked: another evaluation works in one of the stores.
            BadInput: there is nothing to score anew.
        """
        with _all_locked(models):
            environments.ensure(harness.ENGINE, lambda text: self.view.environment(harness.ENGINE, text), self.stop)
            return [outcome for model in models for outcome in self._rescore_model(model)]

    def _rescore_model(self, model: Model) -> list[Outcome]:
        name = f"rescore/{model.label}"
        planned = plan_cells(model, self.ask, self.server.facts)
        kept = [cell for cell in planned if cell.has_responses()]
        if not kept:
            raise BadInput(
                f"{model.label} has no responses for this suite and protocol",
                "ask it first: prism eval without --rescore",
            )
        started = time.monotonic()
        logs = new_attempt(model.store / "logs" / model.slug)
        self.view.stage_started(name, 0, 1)
        self._harness(None, model, kept, logs, name)
        self.view.stage_finished(name, "done", time.monotonic() - started, "")
        return [Outcome(cell, "done") if cell in kept else _never_asked(cell) for cell in planned]

    def missing(self, model: Model) -> list[PlannedCell]:
        """The model's cells that are still to be had."""
        return [cell for cell in plan_cells(model, self.ask, self.server.facts) if not cell.is_done()]

    def run_model(self, model: Model) -> list[Outcome]:
        """Evaluate one checkpoint; the caller holds the store's lock.

        Raises:
            PrismError: something failed; cells that were complete by then are kept.
            Interrupted: a stop was asked for.
        """
        name = f"eval/{model.label}"
        planned = plan_cells(model, self.ask, self.server.facts)
        missing = [cell for cell in planned if not cell.is_done()]
        if not missing:
            self.view.stage_finished(name, "unchanged", 0.0, "")
            return [Outcome(cell, "unchanged") for cell in planned]
        for cell in missing:
            moved = cell.make_room()
            if moved:
                self.view.message(f"{cell.title}: made from something else; the earlier one is kept as {moved}")
        started = time.monotonic()
        self._fill(model, missing, name)
        self.view.stage_finished(name, "done", time.monotonic() - started, "")
        return [Outcome(cell, "done" if cell in missing else "unchanged") for cell in planned]

    def _fill(self, model: Model, missing: Sequence[PlannedCell], name: str) -> None:
        """Start server and harness, and judge what they leave."""
        logs = new_attempt(model.store / "logs" / model.slug)
        attempt = int(logs.name.removeprefix("attempt-"))
        self.view.stage_started(name, 0, attempt)
        environments.ensure(harness.ENGINE, lambda text: self.view.environment(harness.ENGINE, text), self.stop)
        with serving(self.server, model, missing[0].facts["protocol"], self.machine, logs, self.view, self.stop) as at:
            self._harness(at, model, missing, logs, name)
        problems = [problem for cell in missing if (problem := harness.check_cell(cell.folder, cell.facts))]
        if problems:
            raise StageFailed(f"{name}: {problems[0]}", f"read the logs in {logs}; the same command goes on from here")

    def _harness(
        self, served: Served | None, model: Model, missing: Sequence[PlannedCell], logs: Path, name: str
    ) -> None:
        job = self._job(served, model, missing, logs)
        tail = JsonlTail(logs / PROGRESS)

        def tick() -> None:
            for news in tail.poll():
                self.view.stage_progress(name, int(news["step"]), int(news["total"]), {}, 0, "answering")
            if served is not None:
                served.check()

        run_logged(harness.launch(job), logs, "harness.log", tick, self.stop, harness.explain, name)

    def _job(self, served: Served | None, model: Model, cells: Sequence[PlannedCell], logs: Path) -> Path:
        """Write what the harness is asked to do; without a server it scores kept responses."""
        return harness.write_job(
            logs / "job.json",
            server=None if served is None else served.job,
            mode="rescore" if served is None else "evaluate",
            cells=[{"folder": str(c.folder), "facts": dict(c.facts), "dataset": c.dataset} for c in cells],
            images=model.store / "images",
            progress=logs / PROGRESS,
            online=any(c.dataset is None for c in cells),
        )

    def preview(self, model: Model, folder: Path) -> list[Launch]:
        """The commands of server and harness, with the harness's job written into `folder`; starts nothing."""
        planned = plan_cells(model, self.ask, self.server.facts)
        assert model.folder is not None
        ready, log = folder / "ready.json", folder / "requests.jsonl"
        server = server_launch(self.server, model.folder, planned[0].facts["protocol"], self.machine, ready, log)
        served = Served({"url": "http://127.0.0.1:PORT/v1", "model": SERVED_NAME}, threading.Event(), log)
        return [server, harness.launch(self._job(served, model, planned, folder))]


def _never_asked(cell: PlannedCell) -> Outcome:
    return Outcome(cell, "failed", "it was never asked; run without --rescore")


def evaluator_of(settings: Any, machine: Machine, view: View, stop: threading.Event) -> Evaluator:
    """The evaluation that a recipe asks for after each stage.

    Args:
        settings: a recipe's `evaluation`.
    """
    ask = Ask(
        suite=load_suite(settings.suite),
        protocols=tuple(settings.protocols),
        limit=settings.limit,
        max_new_tokens=settings.max_new_tokens,
        pool=settings.pool,
    )
    return Evaluator(ask, choose("auto", None, settings.batch, machine.gpus), machine, 1, view, stop)


def run_logged(
    launch: Launch,
    logs: Path,
    log_name: str,
    tick: Callable[[], None],
    stop: threading.Event,
    explain: Callable[[str], tuple[str, str] | None],
    name: str,
) -> None:
    """Run a command to its end.

    Raises:
        StageFailed: it ended with another code than 0.
        Interrupted: a stop was asked for.
    """
    environment = environments.locate(launch.engine)
    log = logs / log_name
    code = process.run(
        launch, environment, cwd=logs, log=log, import_root=logs / f"import-{log.stem}", tick=tick, stop=stop
    )
    if stop.is_set():
        raise Interrupted("stopped", "run the same command again to go on from here")
    if code != 0:
        tail = log.read_text(encoding="utf-8", errors="replace")[-20_000:]
        cause, fix = explain(tail) or (f"{launch.what} {process.describe_exit(code)}", f"read {log}")
        raise StageFailed(f"{name}: {cause}", fix)


def new_attempt(folder: Path) -> Path:
    """A new, empty folder for one launch's logs."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = [int(m[1]) for p in folder.iterdir() if (m := re.fullmatch(r"attempt-(\d+)", p.name))]
    attempt = folder / f"attempt-{max(numbers, default=0) + 1}"
    attempt.mkdir()
    return attempt


@contextlib.contextmanager
def _all_locked(models: Sequence[Model]) -> Iterator[None]:
    """Hold every store that these models' cells go to."""
    with contextlib.ExitStack() as locks:
        for store in dict.fromkeys(model.store for model in models):
            locks.enter_context(locked(store))
        yield


@contextlib.contextmanager
def locked(store: Path) -> Iterator[None]:
    """Hold a store of cells for this process.

    Raises:
        RunLocked: another evaluation holds it.
        BadInput: the folder cannot be written to.
    """
    try:
        store.mkdir(parents=True, exist_ok=True)
        lock = FileLock(store / "lock", timeout=0)
        lock.acquire()
    except Timeout:
        raise RunLocked(
            f"another evaluation is working in {store}", "wait for it, stop it, or give another place with --out"
        ) from None
    except OSError as error:
        raise BadInput(f"{store} cannot be written to ({error.strerror})", "choose another place with --out") from error
    try:
        yield
    finally:
        lock.release()
