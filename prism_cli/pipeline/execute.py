"""Carry a plan out: skip what is done, run what is ready, resume what was killed, keep the record.

Nodes run in worker threads, at most `machine.jobs` at once, each as soon as what it needs is finished. When one fails,
those that need it are left out and the others go on. A stop (Ctrl-C, SIGTERM) ends every engine's process tree and
leaves each stage where its newest complete checkpoint stands.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from integrations.common.files import hash_folder, read_json
from integrations.contract import Launch, Machine, Progress, StageAdapter, StageContext, StageResult
from integrations.errors import BadInput, Interrupted, PrismError, StageFailed
from prism_cli.engines import environments, process
from prism_cli.evaluation.models import stage_model
from prism_cli.evaluation.run import evaluator_of, locked
from prism_cli.pipeline.adapters import adapter_for
from prism_cli.pipeline.groundwork import data_hash, describe
from prism_cli.pipeline.intermediate import WAITED, Score, Tell, Unwatched, Watch, scorer_of, selection, watching
from prism_cli.pipeline.plan import DATA, MODEL, Node, Plan
from prism_cli.runs.store import RunStore, StageFolder
from prism_cli.ui.view import View

TOKEN_TOLERANCE = 0.02
"""An RLVR stage with a token budget may fall short of it by this share before it gets more steps."""


@dataclass
class Execution:
    """One `prism train` at work on one run.

    Args:
        on_record: called after each finished stage, in the worker's thread (the manifest is rewritten there).
    """

    store: RunStore
    plan: Plan
    seed: int
    machine: Machine
    jobs: int
    view: View
    on_record: Callable[[], None]

    def __post_init__(self) -> None:
        self.stop = threading.Event()
        self.failures: dict[str, PrismError] = {}
        self.skipped: list[str] = []
        self._hashes: dict[str, str] = {}
        self._record_lock = threading.Lock()

    def run(self) -> None:
        """Run every node of the plan.

        Raises:
            Interrupted: a stop was asked for; nothing is running any more.
            PrismError: the first failure, after everything that does not depend on it has run.
        """
        with contextlib.ExitStack() as held:
            held.enter_context(stop_signals(self.stop))
            if any(node.kind == "evaluate" for node in self.plan.nodes.values()):
                held.enter_context(locked(self.store.root / "eval"))
            self._schedule(held.enter_context(ThreadPoolExecutor(self.jobs, thread_name_prefix="stage")))
        if self.stop.is_set():
            raise _stopped()
        if self.failures:
            raise next(iter(self.failures.values()))

    def _schedule(self, pool: ThreadPoolExecutor) -> None:
        waiting = dict(self.plan.nodes)
        finished: set[str] = set()
        running: dict[Future[None], str] = {}
        try:
            while running or (waiting and not self.stop.is_set()):
                self._drop_orphans(waiting)
                ready = [n for n, node in waiting.items() if set(node.requires) <= finished]
                ready.sort(key=lambda n: waiting[n].kind == "evaluate")  # stages first: others wait for them
                for name in ready[: 0 if self.stop.is_set() else self.jobs - len(running)]:
                    running[pool.submit(self._run_node, waiting.pop(name))] = name
                done, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
                for future in done:
                    name = running.pop(future)
                    if self._collect(name, future):
                        finished.add(name)
        except BaseException:
            self.stop.set()
            raise

    def _drop_orphans(self, waiting: dict[str, Node]) -> None:
        """Leave out what needs a failed stage."""
        lost = set(self.failures) | set(self.skipped)
        for name in [n for n, node in waiting.items() if lost & set(node.requires)]:
            del waiting[name]
            self.skipped.append(name)

    def _collect(self, name: str, future: Future[None]) -> bool:
        error = future.exception()
        if error is None:
            return True
        if isinstance(error, Interrupted):
            return False
        if not isinstance(error, PrismError):
            raise error
        self.failures[name] = error
        self.store.event("stage_failed", stage=name, problem=error.problem, fix=error.fix)
        self.view.stage_finished(name, "failed", 0.0, error.problem)
        return False

    def _run_node(self, node: Node) -> None:
        if node.kind == "evaluate":
            self._evaluate(node)
            return
        folder = self.store.stage(node.name)
        adapter = adapter_for(node.kind)
        inputs = self._inputs(node, adapter)
        if folder.is_current(inputs):
            self.store.event("stage_skipped", stage=node.name)
            self.view.stage_finished(node.name, "unchanged", 0.0, "")
            return
        process.clear_leftovers(folder.path)
        moved = folder.prepare(inputs)
        if moved:
            self.view.message(f"{node.name}: its inputs changed; the earlier result is kept as {moved}")
        started = time.monotonic()
        folder.clear_result()
        self._check_space(node)
        if not node.token_budget_of:
            result = self._attempt(node, folder, adapter, node.steps)
        else:
            result = self._attempt_within_budget(node, folder, adapter)
        self._record(node, folder, inputs, result, time.monotonic() - started)

    def _evaluate(self, node: Node) -> None:
        """Ask the stage's policy; cells that are there already are not asked again."""
        policy = node.parents["policy"]
        self._hash(policy)  # damaged weights are not evaluated
        evaluator = evaluator_of(node.settings, self.machine, self.view, self.stop)
        model, started = stage_model(self.store, policy), time.monotonic()
        if evaluator.missing(model):
            self.store.event("evaluation_started", stage=node.name)
        outcomes = evaluator.run_model(model)
        if all(outcome.status == "unchanged" for outcome in outcomes):
            self.store.event("stage_skipped", stage=node.name)
        else:
            self.store.event("evaluated", stage=node.name, seconds=round(time.monotonic() - started, 1))

    def _inputs(self, node: Node, adapter: StageAdapter) -> dict[str, Any]:
        """Everything that decides the result; a finished stage with equal inputs is not run again."""
        inputs = {
            "kind": node.kind,
            "settings": node.settings.model_dump(mode="json"),
            "steps": node.steps,
            "seed": self.seed,
            "engine": environments.locate(adapter.engine(node.settings)).key,
            "parents": {role: self._hash(name) for role, name in node.parents.items()},
            "tokens": {name: self._tokens(name) for name in node.token_budget_of},
        }
        if node.kind != DATA:
            inputs["data"] = self._hash(DATA)
        if node.kind not in (DATA, "model"):
            inputs["base"] = self._hash(MODEL)
        if node.watched is not None and node.watched.eval_keep == "best":
            inputs["selection"] = selection(node.watched)
        return inputs

    def _hash(self, name: str) -> str:
        """The hash of a finished node's result, checked once against the bytes on the disk."""
        if name not in self._hashes:
            record = self.store.stage(name).done()
            if record is None:
                raise BadInput(f"`{name}` is not finished", "train it first")
            self._check_result(name, record["hash"])
            self._hashes[name] = record["hash"]
        return self._hashes[name]

    def _check_result(self, name: str, expected: str) -> None:
        if self._result_hash(name) != expected:
            raise StageFailed(
                f"the result of `{name}` in {self.store.stage(name).path} is damaged: its bytes are not those that "
                "were written",
                f"delete {self.store.stage(name).path / 'DONE'} and run the same command again",
            )

    def _result_hash(self, name: str) -> str:
        if name == DATA:
            return data_hash(self._data_dir)
        return hash_folder(self.store.stage(name).model_dir)

    def _tokens(self, name: str) -> int:
        record = self.store.stage(name).done() or {}
        return int(record.get("result", {}).get("generated_tokens", 0))

    @property
    def _data_dir(self) -> Path:
        return self.store.root / DATA / "pools"

    def _check_space(self, node: Node) -> None:
        """Refuse to start a stage whose checkpoints cannot fit (weights, two moments, three copies)."""
        weights = 0
        if node.kind in ("sft", "discriminator", "align", "rlvr"):
            weights = sum(p.stat().st_size for p in self.store.stage(MODEL).model_dir.glob("*.safetensors"))
        self.store.require_space(64 * 2**20 + 12 * weights, f"stage `{node.name}`")

    def _context(self, node: Node, folder: StageFolder, steps: int | None) -> StageContext:
        return StageContext(
            name=node.name,
            settings=node.settings,
            stage_dir=folder.path,
            attempt_dir=folder.new_attempt(),
            checkpoint_dir=folder.checkpoint_dir,
            model_dir=folder.model_dir,
            parents={role: self.store.stage(name).model_dir for role, name in node.parents.items()},
            base_model=self.store.stage(MODEL).model_dir,
            data_dir=self._data_dir,
            seed=self.seed,
            machine=self.machine,
            gradient_steps=steps,
        )

    def _attempt(self, node: Node, folder: StageFolder, adapter: StageAdapter, steps: int | None) -> StageResult:
        """Run the stage's commands once and judge what they left."""
        ctx = self._context(node, folder, steps)
        tell = Tell(self.store.event, self.view.message)
        with watching(node.watched, ctx, adapter, self._scorer, tell) as watch:
            self._run_commands(ctx, adapter, watch)
            result = watch.conclude(adapter.finish(ctx), self.stop)
        if node.kind in ("sft", "align", "rlvr"):
            self._check_model(ctx)
        return result

    def _attempt_within_budget(self, node: Node, folder: StageFolder, adapter: StageAdapter) -> StageResult:
        """Run RLVR until it has generated as many tokens as the aligned arm did, within one step.

        How many tokens a step costs is known only once it has run, so the stage is run to nine tenths of the steps
        that the aligned arm's own RLVR suggests and then extended from its checkpoint.
        """
        budget = sum(self._tokens(name) for name in node.token_budget_of)
        rlvr = self.store.stage(node.token_budget_of[-1]).done() or {}
        per_step = rlvr["result"]["generated_tokens"] / rlvr["result"]["step"]
        steps = max(1, math.floor(0.9 * budget / per_step))
        while True:
            result = self._attempt(node, folder, adapter, steps)
            missing = budget - result.generated_tokens
            more = round(missing * result.step / max(1, result.generated_tokens))
            if missing <= TOKEN_TOLERANCE * budget or more < 1:
                return result
            folder.clear_result()
            steps = result.step + more

    def _scorer(self, settings: Any, ctx: StageContext, stop: threading.Event) -> Score:
        return scorer_of(settings, ctx, self.view, stop)

    def _run_commands(self, ctx: StageContext, adapter: StageAdapter, watch: Watch | Unwatched) -> None:
        adapter.check_inputs(ctx)
        launches = adapter.render(ctx)
        total = adapter.total_steps(ctx)
        attempt = int(ctx.attempt_dir.name.removeprefix("attempt-"))
        self.store.event("stage_started", stage=ctx.name, attempt=attempt, steps=total)
        self.view.stage_started(ctx.name, total, attempt)
        follower = adapter.follow(ctx)

        def look() -> None:
            self._report(ctx.name, follower.poll(), watch.metrics)
            watch.tick()

        for launch in launches:
            self._launch(ctx, adapter, launch, look)
        look()

    def _launch(self, ctx: StageContext, adapter: StageAdapter, launch: Launch, tick: Callable[[], None]) -> None:
        environment = environments.ensure(
            launch.engine, lambda text: self.view.environment(launch.engine, text), self.stop
        )
        log = ctx.attempt_dir / "engine.log"
        code = process.run(
            launch,
            environment,
            cwd=ctx.attempt_dir,
            log=log,
            import_root=ctx.attempt_dir / "import",
            tick=tick,
            stop=self.stop,
        )
        if self.stop.is_set():
            raise _stopped()
        if code != 0:
            tail = _tail(log)
            cause = adapter.explain(ctx, tail)
            self.store.event("command_failed", stage=ctx.name, code=code, what=launch.what)
            raise StageFailed(
                f"{ctx.name}: {cause or _last_words(launch, code, tail)}",
                f"the whole log is {log}; the same command resumes the stage",
            )

    def _report(self, name: str, news: Any, beside: Mapping[str, float]) -> None:
        for item in news:
            assert isinstance(item, Progress)
            shown = {**item.metrics, **beside}
            self.view.stage_progress(name, item.step, item.total, shown, item.generated_tokens, item.phase)
            fields: Mapping[str, Any] = {"step": item.step, "total": item.total, "phase": item.phase}
            self.store.event(
                "progress", stage=name, **fields, tokens=item.generated_tokens, **{"metrics": item.metrics}
            )
            for alarm in item.alarms:
                self.store.event("alarm", stage=name, step=item.step, problem=alarm)
                self.view.message(f"{name}, step {item.step}: {alarm}")

    def _check_model(self, ctx: StageContext) -> None:
        """The result must load in transformers and answer one prompt with finite logits."""
        out = ctx.attempt_dir / "check.json"
        pool = next(p for p in ("validation", "rlvr", "teacher", "sft") if (ctx.data_dir / f"{p}.jsonl").is_file())
        argv = ["python", "-m", "integrations.alignment.check_model", "--model", str(ctx.model_dir)]
        argv += ["--row-file", str(ctx.data_dir / f"{pool}.jsonl"), "--out", str(out)]
        env = {"OMP_NUM_THREADS": str(ctx.machine.threads)}
        launch = Launch("alignment", argv, env=env, what="checking the result")
        self._launch(ctx, adapter_for("model"), launch, lambda: None)
        verdict = read_json(out) or {"ok": False, "problems": ["the check wrote no verdict"]}
        if not verdict["ok"]:
            raise StageFailed(f"{ctx.name}: {'; '.join(verdict['problems'])}", f"read {ctx.attempt_dir / 'engine.log'}")

    def _record(
        self, node: Node, folder: StageFolder, inputs: dict[str, Any], result: StageResult, seconds: float
    ) -> None:
        results = ["pools"] if node.kind == DATA else ["model"]
        digest = self._result_hash(node.name)
        record: dict[str, Any] = {
            "stage": node.name,
            "arm": node.name.split("/")[0],
            "arms": list(node.arms),
            "kind": node.kind,
            "status": "done",
            "seconds": round(max(seconds, folder.seconds()) - result.metrics.get(WAITED, 0.0), 1),
            "result": describe(result),
            "hash": digest,
            "parents": {role: {"stage": name, "hash": self._hash(name)} for role, name in node.parents.items()},
        }
        with self._record_lock:
            folder.finish(inputs, results, record)
            self._hashes[node.name] = digest
            self.store.event("stage_done", stage=node.name, seconds=record["seconds"], step=result.step, hash=digest)
            self.on_record()
        self.view.stage_finished(node.name, "done", record["seconds"], "; ".join(result.notes))


def _stopped() -> Interrupted:
    return Interrupted("stopped", "run the same command again to go on from here")


@contextmanager
def stop_signals(stop: threading.Event) -> Iterator[None]:
    """Turn Ctrl-C and a polite kill into a stop; an exception raised in the middle of anything could leave locks
    held or records half-kept."""

    def ask(number: int, frame: Any) -> None:
        stop.set()

    earlier = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _tail(log: Path, size: int = 20_000) -> str:
    try:
        with log.open("rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - size))
            return stream.read().decode(errors="replace")
    except OSError:
        return ""


def _last_words(launch: Launch, code: int, tail: str) -> str:
    lines = [line.strip() for line in tail.splitlines() if line.strip() and not line.startswith("[prism ")]
    ended = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
    said = f"; it last said: {lines[-1][:300]}" if lines else ""
    return f"{launch.what or launch.argv[0]} ({launch.engine}) {ended}{said}"
