"""Evaluate a stage's checkpoints while it trains: see early when something breaks, and keep the best if asked to.

As soon as a checkpoint is whole its weights are linked aside, because the engine deletes old ones; a thread beside the
training publishes and scores them on some items of a pool that no stage trains on and no table reports. (Choosing a
checkpoint by the items that it is reported on would make its score look better than it is.) Whatever goes wrong here is
noted and never ends the training.

    <stage>/intermediate/step-000040/scores.json    verdicts and rates; step 0 is the policy the stage started from
    <stage>/checkpoints/intermediate/step-000040/   its model, until it is scored, or while it is the best

A warning is given when a rate has fallen since the stage's start or since its best checkpoint by more than chance
explains: an exact test on the same items, corrected for all pairs of checkpoints and for the rates looked at, so that
a stage in which nothing falls gives any false alarm in at most 5 of 100 cases.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.samples import Cell, read_cell
from benchmarks.statistics import mcnemar
from benchmarks.suites import load_suite
from integrations.common.checkpoint import publish
from integrations.common.files import hash_folder, read_json, write_json
from integrations.contract import StageAdapter, StageContext, StageResult
from integrations.errors import Interrupted, PrismError, StageFailed
from integrations.lmms_eval import adapter as harness
from prism_cli.evaluation.cells import Ask
from prism_cli.evaluation.models import Model
from prism_cli.evaluation.run import Evaluator
from prism_cli.evaluation.servers import choose
from prism_cli.ui.view import View

FOLDER = "intermediate"
SCORES = "scores.json"
WATCHED = {"correct": "right answers", "perception": "right captions", "format": "responses of the right form"}
"""Verdicts that are followed, with their names for people."""
GENERAL_SUITE = "held-out"
"""Suite on pools of any kind, by rules alone."""
WAITING = 4
"""Most checkpoints that wait for their evaluation; of more the oldest is dropped, since each holds a model's space."""
FALSE_ALARMS = 0.05
"""Largest chance of any warning in a stage where nothing falls."""
WAITED = "evaluation_wait_seconds"
"""Metric of a stage's result: how long its end waited for evaluations. No part of the time that it took to train."""
_LOOK_EVERY = 1.0

Score = Callable[[Path, str, int, Path], Mapping[str, Mapping[str, bool | None]]]
"""Scores a model folder: (model, pool, items, folder for whatever it writes) -> verdicts by name of WATCHED, then by
item; None or a missing item: undefined. Raises PrismError."""


@dataclass(frozen=True)
class Tell:
    """Where news goes: the run's events and the person who watches."""

    event: Callable[..., None]
    message: Callable[[str], None]


@dataclass(frozen=True)
class Scored:
    """One evaluated checkpoint."""

    step: int
    verdicts: Mapping[str, Mapping[str, bool | None]]

    def rate(self, name: str) -> float | None:
        """Share of items with a right verdict; None where none is defined."""
        defined = [value for value in self.verdicts.get(name, {}).values() if value is not None]
        return sum(defined) / len(defined) if defined else None

    @property
    def n(self) -> int:
        return len(self.verdicts.get("correct", {}))

    def against(self, other: Scored, name: str) -> tuple[int, int]:
        """Items that only this one got right, and that only the other did."""
        mine, others = self.verdicts.get(name, {}), other.verdicts.get(name, {})
        pairs = [(mine[i], others[i]) for i in mine if mine[i] is not None and others.get(i) is not None]
        return sum(a is True and b is False for a, b in pairs), sum(a is False and b is True for a, b in pairs)


class Watch:
    """The evaluations of one attempt at one stage.

    Args:
        settings: a recipe's `evaluation`.
        score: ends early, with any PrismError, once `stop` is set.
        stop: set by `close`; the caller hands it to `score`.
    """

    def __init__(
        self, settings: Any, ctx: StageContext, adapter: StageAdapter, score: Score, stop: threading.Event, tell: Tell
    ) -> None:
        self.settings, self.ctx, self.adapter, self.score, self.tell = settings, ctx, adapter, score, tell
        self.root, self.models = ctx.stage_dir / FOLDER, ctx.checkpoint_dir / FOLDER
        self.every = settings.eval_every * ctx.settings.checkpoint_every
        self.total = adapter.total_steps(ctx)
        self.metrics: dict[str, float] = {}
        """The newest checkpoint's share of right answers, for display beside the training's own figures."""
        self.problems: dict[int, str] = {}
        self._scored = self._read()
        self._alarmed: set[str] = set()
        self._waiting: dict[int, Path | None] = {}
        self._change = threading.Condition()
        self._stop, self._ending, self._looked = stop, False, 0.0
        # On GPUs that all train there is no memory to spare, so evaluations wait for the end of the training.
        self._go = ctx.machine.gpus == 0 or settings.eval_gpu is not None
        self._resume()
        self._thread = threading.Thread(target=self._work, name=f"checkpoints of {ctx.name}")
        self._thread.start()

    def tick(self) -> None:
        """Link whole checkpoints aside; called often while the engine runs, from the stage's own thread."""
        if time.monotonic() - self._looked < _LOOK_EVERY:
            return
        self._look()
        self._looked = time.monotonic()

    def conclude(self, result: StageResult, stop: threading.Event) -> StageResult:
        """Evaluate what waits and the stage's final model, then make the best checkpoint its result if asked to.

        Args:
            result: of the stage, whose model folder has been written.
            stop: the run's.

        Raises:
            Interrupted: a stop was asked for.
        """
        started = time.monotonic()
        self._look()
        with self._change:
            self._waiting.pop(result.step, None)
            if result.step not in self._scored:
                self._waiting[result.step] = self.ctx.model_dir
            self._go = self._ending = True
            self._change.notify()
        while self._thread.is_alive():
            self._thread.join(0.2)
            if stop.is_set():
                raise Interrupted("stopped", "run the same command again to go on from here")
        notes = [*result.notes]
        if self.problems:
            first = next(iter(self.problems.values()))
            notes.append(f"{len(self.problems)} checkpoints could not be evaluated: {first}")
        waited = round(time.monotonic() - started, 1)
        result = replace(result, notes=notes, metrics={**result.metrics, WAITED: waited})
        return self._choose(result) if self.settings.eval_keep == "best" else result

    def close(self) -> None:
        """End an evaluation that is under way; what was scored is kept."""
        self._stop.set()
        with self._change:
            self._change.notify()
        self._thread.join()

    # What was there before

    def _read(self) -> dict[int, Scored]:
        """Scores of earlier attempts, as far as they are of the same items; clears half-made models."""
        for folder in self.models.glob(".*"):
            shutil.rmtree(folder)
        found = {}
        for path in self.root.glob(f"step-*/{SCORES}"):
            known = read_json(path) or {}
            if known.get("asked") == self._asked:
                found[known["step"]] = Scored(known["step"], known["verdicts"])
        return found

    def _resume(self) -> None:
        """Ask for the start, and for what earlier attempts linked aside and did not come to score."""
        if 0 not in self._scored:
            self._waiting[0] = self.ctx.policy
        for folder in sorted(self.models.glob("step-*")):
            step = int(folder.name.removeprefix("step-"))
            if step in self._scored:
                continue
            if any(folder.iterdir()):
                self._enqueue(step)
            else:  # could not be evaluated then; the engine may still have it
                folder.rmdir()

    @property
    def _asked(self) -> dict[str, Any]:
        return {"pool": self.settings.eval_pool, "items": self.settings.eval_items}

    # In the stage's thread

    def _look(self) -> None:
        try:
            whole = self.adapter.intermediate(self.ctx)
            for step, weights in whole:
                if step % self.every == 0 and step not in self._scored and not self._folder(step).exists():
                    self._take(step, weights)
        except (OSError, ValueError):  # the engine deletes what we look at, or the disk is full: look again later
            return

    def _take(self, step: int, weights: Path) -> None:
        """Link a checkpoint's weights aside, whole or not at all."""
        partial = self.models / f".step-{step}"
        shutil.rmtree(partial, ignore_errors=True)
        (partial / "weights").mkdir(parents=True)
        for path in [*weights.glob("*.safetensors"), *weights.glob("*.index.json")]:
            link(path, partial / "weights" / path.name)
        partial.rename(self._folder(step))
        self._enqueue(step)

    def _enqueue(self, step: int) -> None:
        with self._change:
            self._waiting[step] = None
            waiting = sorted(s for s in self._waiting if s)
            dropped = waiting[: max(0, len(waiting) - WAITING)]
            for old in dropped:
                del self._waiting[old]
                shutil.rmtree(self._folder(old) / "weights", ignore_errors=True)
            self._change.notify()
        for old in dropped:
            self.tell.event("intermediate_dropped", stage=self.ctx.name, step=old)

    def _folder(self, step: int) -> Path:
        return self.models / f"step-{step:06d}"

    # In the thread beside it

    def _work(self) -> None:
        while (job := self._next()) is not None:
            step, model = job
            if step in self._scored:  # the final step's checkpoint was under way when the stage ended
                continue
            try:
                self._evaluate(step, model)
            except Exception as error:  # even a mistake of ours must not end days of training
                self._failed(step, error)

    def _next(self) -> tuple[int, Path | None] | None:
        """The next checkpoint to evaluate, oldest first; waits for one. None: it is over."""
        with self._change:
            while not self._stop.is_set():
                if self._go and self._waiting:
                    step = min(self._waiting)
                    return step, self._waiting.pop(step)
                if self._ending:
                    return None
                self._change.wait()
        return None

    def _evaluate(self, step: int, model: Path | None) -> None:
        started = time.monotonic()
        model = model or self._publish(step)
        out = self.root / f"step-{step:06d}"
        out.mkdir(parents=True, exist_ok=True)
        asked = self._asked
        verdicts = self.score(model, asked["pool"], asked["items"], out)
        scored = Scored(step, verdicts)
        rates = {name: scored.rate(name) for name in WATCHED}
        seconds = round(time.monotonic() - started, 1)
        write_json(
            out / SCORES,
            {"step": step, "asked": asked, "n": scored.n, "rates": rates, "seconds": seconds, "verdicts": verdicts},
        )
        self.tell.event(
            "intermediate_evaluation", stage=self.ctx.name, step=step, n=scored.n, scores=rates, seconds=seconds
        )
        self._warn(scored)
        self._scored[step] = scored
        self._tidy()
        if (rate := rates["correct"]) is not None:
            self.metrics = {"validation": rate}

    def _publish(self, step: int) -> Path:
        """The linked weights as a model folder; the links are given back."""
        folder = self._folder(step)
        weights, model = folder / "weights", folder / "model"
        if not model.exists():
            need = 2 * sum(path.stat().st_size for path in weights.glob("*.safetensors"))
            free = shutil.disk_usage(self.models).free
            if free < need:
                raise StageFailed(f"{free / 2**20:.0f} MiB of disk are free, {need / 2**20:.0f} would be needed", "")
            publish(weights, self.ctx.base_model, model)
        shutil.rmtree(weights, ignore_errors=True)
        return model

    def _tidy(self) -> None:
        """Keep the best model of those scored, if it may be needed, and give the others' space back."""
        kept = self._best(self._kept()) if self.settings.eval_keep == "best" else None
        for step in self._kept():
            if kept is None or step != kept.step:
                shutil.rmtree(self._folder(step) / "model", ignore_errors=True)

    def _kept(self) -> list[int]:
        """Scored steps whose model is here."""
        return [step for step in self._scored if (self._folder(step) / "model").is_dir()]

    def _best(self, steps: Sequence[int]) -> Scored | None:
        """The one with the most right answers, of equals the later one."""
        candidates = [self._scored[step] for step in steps if self._scored[step].rate("correct") is not None]
        return max(candidates, key=lambda scored: (scored.rate("correct"), scored.step), default=None)

    def _warn(self, scored: Scored) -> None:
        """Say what has fallen since the stage's start or its best checkpoint; each fall once in words."""
        looks = self.total // self.every + 2  # the start and the final model are looked at too
        limit = FALSE_ALARMS / (len(WATCHED) * looks * (looks - 1) / 2)
        for name, words in WATCHED.items():
            earlier = [known for known in self._scored.values() if known.step < scored.step]
            fallen = [(known, p) for known in earlier if (p := _fall(scored, known, name)) < limit]
            references = [(known, p) for known, p in fallen if known.step == 0 or known is _highest(earlier, name)]
            if not references:
                self._alarmed.discard(name)
                continue
            known, p = min(references, key=lambda pair: pair[1])
            before, now = known.rate(name), scored.rate(name)
            assert before is not None
            assert now is not None
            facts = {"metric": name, "value": now, "since": known.step, "was": before, "n": scored.n, "p": p}
            self.tell.event("early_warning", stage=self.ctx.name, step=scored.step, **facts)
            if name not in self._alarmed:
                since = f"at step {known.step}" if known.step else "before this stage"
                self.tell.message(
                    f"{self.ctx.name}: fewer {words} at step {scored.step}: {now:.1%} of {scored.n} items of "
                    f"`{self.settings.eval_pool}`, {before:.1%} {since} (p {p:.1g}). Look at the stage's curves; a "
                    "lower learning rate often helps, and evaluation.eval_keep=best keeps the best checkpoint"
                )
            self._alarmed.add(name)

    def _failed(self, step: int, error: Exception) -> None:
        if self._stop.is_set():  # ended on purpose
            return
        problem = error.problem if isinstance(error, PrismError) else f"{type(error).__name__}: {error}"
        with contextlib.suppress(OSError):
            self.tell.event("intermediate_failed", stage=self.ctx.name, step=step, problem=problem)
        if not self.problems:
            self.tell.message(f"{self.ctx.name}: step {step} could not be evaluated, training goes on: {problem}")
        self.problems[step] = problem
        shutil.rmtree(self._folder(step) / "weights", ignore_errors=True)
        shutil.rmtree(self._folder(step) / "model", ignore_errors=True)

    # At the end

    def _choose(self, result: StageResult) -> StageResult:
        """Make the best checkpoint the stage's result. The final model is among them, or nothing is chosen."""
        final = self._scored.get(result.step)
        if final is None or final.rate("correct") is None:
            return replace(result, notes=[*result.notes, "the final model could not be scored, so it was kept"])
        best = self._best([*{*self._kept(), result.step}])
        assert best is not None
        best_rate, final_rate = best.rate("correct"), final.rate("correct")
        chosen = {"selected_step": float(best.step), "selected_validation": best_rate, "final_validation": final_rate}
        metrics = {**result.metrics, **{name: value for name, value in chosen.items() if value is not None}}
        if best.step != result.step:
            _put_in_place(self._folder(best.step) / "model", self.ctx.model_dir)
        words = (
            f"kept step {best.step} of {result.step}: {best_rate:.1%} of {best.n} items of "
            f"`{self.settings.eval_pool}` right, {final_rate:.1%} at the end; of equals the later is kept"
        )
        facts = {"n": best.n, "rate": best_rate, "final_rate": final_rate}
        self.tell.event("checkpoint_selected", stage=self.ctx.name, step=best.step, of=result.step, **facts)
        return replace(result, metrics=metrics, notes=[*result.notes, words])


class Unwatched:
    """In place of a watch where a stage's checkpoints are not evaluated."""

    metrics: Mapping[str, float] = {}

    def tick(self) -> None:
        """Nothing to look at."""

    def conclude(self, result: StageResult, stop: threading.Event) -> StageResult:
        return result


@contextlib.contextmanager
def watching(
    settings: Any | None,
    ctx: StageContext,
    adapter: StageAdapter,
    scorer: Callable[[Any, StageContext, threading.Event], Score],
    tell: Tell,
) -> Iterator[Watch | Unwatched]:
    """Watch a stage's checkpoints while the block runs.

    Args:
        settings: a recipe's `evaluation`; None for stages that are not watched.
        scorer: makes the function that scores one model folder; it must end soon after the event is set.
    """
    if settings is None:
        yield Unwatched()
        return
    ctx.checkpoint_dir.joinpath(FOLDER).mkdir(parents=True, exist_ok=True)
    stop = threading.Event()
    watch = Watch(settings, ctx, adapter, scorer(settings, ctx, stop), stop, tell)
    try:
        yield watch
    finally:
        watch.close()


def selection(settings: Any) -> dict[str, Any]:
    """What decides which checkpoint is kept, for the stage's inputs.

    Args:
        settings: a recipe's `evaluation`.
    """
    fields = ("eval_every", "eval_pool", "eval_items", "eval_keep", "suite", "max_new_tokens")
    return {name: getattr(settings, name) for name in fields}


def scorer_of(settings: Any, ctx: StageContext, view: View, stop: threading.Event) -> Score:
    """Scores model folders as `prism eval` does: greedy answers of a server, judged by the harness.

    A suite that asks the run's own pools is asked of the pool for choosing; any other holds published test items, and
    the general suite on pools takes its place.
    """
    suite = load_suite(settings.suite or GENERAL_SUITE)
    if not all(harness.reads_pool(task) for benchmark in suite.benchmarks for task in benchmark.tasks):
        suite = load_suite(GENERAL_SUITE)
    server = replace(choose("auto", None, settings.batch, ctx.machine.gpus), gpu=settings.eval_gpu)
    machine = ctx.machine if settings.eval_gpu is None else replace(ctx.machine, gpus=1)

    def score(model: Path, pool: str, items: int, out: Path) -> dict[str, dict[str, bool | None]]:
        ask = Ask(suite, ("greedy",), limit=items, max_new_tokens=settings.max_new_tokens, pool=pool)
        label = f"{ctx.name} step {int(out.name.removeprefix('step-'))}"
        asked = Model(label, model, hash_folder(model), out / "cells", ctx.seed, ctx.data_dir, {"stage": ctx.name})
        outcomes = Evaluator(ask, server, machine, 1, view, stop).run_model(asked)
        cells = [read_cell(outcome.cell.folder) for outcome in outcomes]
        return verdicts_of([cell for cell in cells if cell is not None])

    return score


def verdicts_of(cells: Sequence[Cell]) -> dict[str, dict[str, bool | None]]:
    """Verdicts of WATCHED by item; of several responses to one item the first counts."""
    found: dict[str, dict[str, bool | None]] = {name: {} for name in WATCHED}
    for cell in cells:
        for row in cell.table.select(["item_id", *WATCHED]).to_pylist():
            for name in WATCHED:
                found[name].setdefault(f"{cell.task}/{row['item_id']}", row[name])
    return found


def link(source: Path, target: Path) -> None:
    """The same bytes under another name: a hard link, or a copy where the disk knows no links."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)


def _fall(now: Scored, before: Scored, name: str) -> float:
    """p of a fall; 1 where there is none."""
    wins, losses = now.against(before, name)
    return mcnemar(wins, losses) if losses > wins else 1.0


def _highest(scored: Sequence[Scored], name: str) -> Scored | None:
    known = [one for one in scored if one.rate(name) is not None]
    return max(known, key=lambda one: one.rate(name) or 0.0, default=None)


def _put_in_place(model: Path, target: Path) -> None:
    """Make `target` hold the same files as `model`, which stays, for a kill before the stage's record is written."""
    partial = target.with_name(f".{target.name}.chosen")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(model, partial, copy_function=lambda source, to: link(Path(source), Path(to)))
    shutil.rmtree(target)
    partial.rename(target)
