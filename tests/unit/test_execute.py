"""The executor on small programs in place of engines: what it skips, resumes, leaves out, refuses and stops."""

import json
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from integrations.common.files import read_json
from integrations.common.jsonl import JsonlTail
from integrations.contract import Launch, Machine, Progress, Settings, StageResult
from integrations.errors import BadInput, Interrupted, StageFailed
from prism_cli.engines.environments import Environment
from prism_cli.pipeline import execute
from prism_cli.pipeline.plan import DATA, MODEL, Node, Plan
from prism_cli.runs.store import RunStore

# Trains "weights" (a number a step) with a checkpoint after each step; resumes from the checkpoint.
PROGRAM = """
import json, pathlib, sys, time
checkpoint, progress, result, steps, start, die_at, pause = sys.argv[1:]
checkpoint = pathlib.Path(checkpoint)
weights = json.loads(checkpoint.read_text()) if checkpoint.exists() else [start]
for step in range(len(weights), int(steps) + 1):
    if step == int(die_at) and not checkpoint.with_name("died").exists():
        checkpoint.with_name("died").touch()
        sys.exit("out of luck")
    weights.append(step)
    checkpoint.write_text(json.dumps(weights))
    with open(progress, "a") as log:
        log.write(json.dumps({"step": step, "total": int(steps)}) + chr(10))
    time.sleep(float(pause))
pathlib.Path(result).mkdir(parents=True)
(pathlib.Path(result) / "model.safetensors").write_text(json.dumps(weights))
"""


class Counting(Settings):
    kind: str = "sft"
    steps: int = 3
    die_at: int = -1
    pause: float = 0.0
    protocols: tuple[str, ...] = ()
    tokens_per_step: int = 10


class Program:
    def engine(self, settings):
        return "alignment"

    def total_steps(self, ctx):
        return ctx.gradient_steps or ctx.settings.steps

    def check_inputs(self, ctx):
        return None

    def render(self, ctx):
        start = ctx.policy.joinpath("model.safetensors").read_text() if ctx.parents else "start"
        result = ctx.data_dir if ctx.name == DATA else ctx.model_dir
        argv = ["python", "-c", PROGRAM, str(ctx.checkpoint_dir / "weights.json"), str(ctx.attempt_dir / "log.jsonl")]
        argv += [str(result), str(self.total_steps(ctx)), start, str(ctx.settings.die_at), str(ctx.settings.pause)]
        return [Launch("alignment", argv, what="counting")]

    def follow(self, ctx):
        return Following(JsonlTail(ctx.attempt_dir / "log.jsonl"))

    def explain(self, ctx, log_tail):
        return "the program ran out of luck" if "out of luck" in log_tail else None

    def finish(self, ctx):
        weights = json.loads((ctx.checkpoint_dir / "weights.json").read_text())
        if len(weights) != self.total_steps(ctx) + 1:
            raise StageFailed("too few steps", "")
        return StageResult(step=len(weights) - 1, generated_tokens=ctx.settings.tokens_per_step * (len(weights) - 1))


@dataclass
class Following:
    reader: JsonlTail

    def poll(self):
        return [Progress(line["step"], line["total"]) for line in self.reader.poll()]


@dataclass
class Watching:
    """A view that remembers."""

    finished: dict = field(default_factory=dict)
    steps: list = field(default_factory=list)

    def stage_started(self, name, total, attempt): ...
    def stage_progress(self, name, step, total, metrics, generated_tokens, phase):
        self.steps.append((name, step))

    def stage_finished(self, name, status, seconds, note):
        self.finished[name] = status

    def message(self, text): ...
    def environment(self, name, text): ...
    def close(self): ...


@pytest.fixture(autouse=True)
def programs_for_engines(monkeypatch):
    here = Environment("alignment", "k", Path(sys.prefix), Path(sys.executable), Path(sys.executable).parent)
    monkeypatch.setattr(execute, "adapter_for", lambda kind: Program())
    monkeypatch.setattr(execute.environments, "ensure", lambda name, report, stop: here)
    monkeypatch.setattr(execute.environments, "locate", lambda name: here)
    monkeypatch.setattr(execute.Execution, "_check_model", lambda self, ctx: None)


def plan_of(**stages):
    """data and first policy, then each stage on the one named as its parent: `sft=("shared/init", {...})`."""
    nodes = {DATA: Node(DATA, DATA, Counting(kind="data")), MODEL: Node(MODEL, "model", Counting(kind="model"))}
    for name, (parent, fields) in stages.items():
        extra = {"extra_steps": fields.pop("extra_steps", 0), "token_budget_of": fields.pop("budget", ())}
        nodes[f"prism/{name}"] = Node(f"prism/{name}", "sft", Counting(**fields), {"policy": parent}, **extra)
    return Plan(nodes, {"prism": tuple(n for n in nodes if "/" in n)})


def run(store, plan, **options):
    view = Watching()
    execution = execute.Execution(store, plan, 0, Machine(threads=1), options.get("jobs", 1), view, lambda: None)
    try:
        execution.run()
    finally:
        view.execution = execution
        run.view = view
    return view


@pytest.fixture
def store(tmp_path):
    return RunStore.create(tmp_path / "my runs", "r")


CHAIN = {"sft": (MODEL, {}), "rlvr": ("prism/sft", {})}


def test_a_chain_runs_in_order_and_a_second_run_changes_nothing(store):
    view = run(store, plan_of(**CHAIN))
    assert set(view.finished.values()) == {"done"}
    assert ("prism/rlvr", 3) in view.steps
    before = (store.root / "prism/rlvr/DONE").read_text()
    again = run(store, plan_of(**CHAIN))
    assert set(again.finished.values()) == {"unchanged"}
    assert (store.root / "prism/rlvr/DONE").read_text() == before


def test_a_record_names_the_bytes_it_was_made_from(store):
    run(store, plan_of(**CHAIN))
    child, parent = (read_json(store.root / f"prism/{s}/DONE") for s in ("rlvr", "sft"))
    assert child["parents"]["policy"] == {"stage": "prism/sft", "hash": parent["hash"]}
    assert child["hash"] != parent["hash"]


def test_a_changed_stage_is_run_again_with_all_that_hangs_on_it(store):
    run(store, plan_of(**CHAIN))
    view = run(store, plan_of(sft=(MODEL, {"steps": 4}), rlvr=("prism/sft", {})))
    assert view.finished == {DATA: "unchanged", MODEL: "unchanged", "prism/sft": "done", "prism/rlvr": "done"}
    assert (store.root / "prism" / "sft.old-1" / "DONE").exists()


def test_a_stage_that_died_resumes_from_its_checkpoint(store):
    plan = plan_of(sft=(MODEL, {"steps": 5, "die_at": 4}))
    with pytest.raises(StageFailed, match="ran out of luck") as caught:
        run(store, plan)
    assert "engine.log" in caught.value.fix
    view = run(store, plan)
    assert [step for name, step in view.steps if name == "prism/sft"] == [4, 5]
    weights = json.loads((store.root / "prism/sft/model/model.safetensors").read_text())
    assert weights[1:] == [1, 2, 3, 4, 5]
    assert not (store.root / "prism/sft/checkpoints").exists()  # a finished stage gives their space back
    assert len(store.stage("prism/sft").attempts()) == 2


def test_a_failure_leaves_out_what_needs_it_and_nothing_else(store):
    plan = plan_of(bad=(MODEL, {"die_at": 1}), child=("prism/bad", {}), other=(MODEL, {}))
    with pytest.raises(StageFailed, match="prism/bad"):
        run(store, plan)
    assert run.view.finished.get("prism/other") == "done"
    assert run.view.execution.skipped == ["prism/child"]


def test_two_jobs_run_side_by_side(store):
    plan = plan_of(a=(MODEL, {"pause": 0.3, "steps": 5}), b=(MODEL, {"pause": 0.3, "steps": 5}))
    view = run(store, plan, jobs=2)
    order = [name for name, _ in view.steps if name in ("prism/a", "prism/b")]
    assert len({*order[: len(order) - 3]}) == 2  # neither waited for the other's end


def test_a_damaged_parent_is_refused_by_name(store):
    run(store, plan_of(**CHAIN))
    weights = store.root / "prism/sft/model/model.safetensors"
    weights.write_bytes(bytes(reversed(weights.read_bytes())))  # the same size, other bytes
    with pytest.raises(StageFailed, match=r"`prism/sft` .* is damaged"):
        run(store, plan_of(sft=(MODEL, {}), rlvr=("prism/sft", {"steps": 9})))


def test_a_full_disk_is_noticed_before_anything_starts(store, monkeypatch):
    full = SimpleNamespace(total=2**40, used=2**40 - 2**20, free=2**20)
    monkeypatch.setattr("prism_cli.runs.store.shutil.disk_usage", lambda path: full)
    with pytest.raises(BadInput, match="1 MiB free"):
        run(store, plan_of(**CHAIN))
    assert not (store.root / DATA / "attempt-1").exists()


def test_extra_steps_lengthen_a_stage(store):
    run(store, plan_of(sft=(MODEL, {"steps": 3, "extra_steps": 2})))
    assert read_json(store.root / "prism/sft/DONE")["result"]["step"] == 5


def test_a_token_budget_is_spent_within_one_step(store):
    plan = plan_of(
        align=(MODEL, {"steps": 6, "tokens_per_step": 30}),
        rlvr=("prism/align", {"steps": 10, "tokens_per_step": 20}),
        baseline=(MODEL, {"steps": 10, "tokens_per_step": 15, "budget": ("prism/align", "prism/rlvr")}),
    )
    run(store, plan)
    spent = read_json(store.root / "prism/baseline/DONE")["result"]["generated_tokens"]
    assert abs(spent - (6 * 30 + 10 * 20)) <= 15


def test_a_stop_ends_the_engine_and_the_run_resumes(store):
    plan = plan_of(sft=(MODEL, {"steps": 40, "pause": 0.25}))

    def press_ctrl_c():
        while not (store.root / "prism/sft/checkpoints/weights.json").exists():
            time.sleep(0.05)
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press_ctrl_c).start()
    with pytest.raises(Interrupted):
        run(store, plan)
    reached = len(json.loads((store.root / "prism/sft/checkpoints/weights.json").read_text())) - 1
    assert 0 < reached < 40
    assert not (store.root / "prism/sft/DONE").exists()
    quick = plan_of(sft=(MODEL, {"steps": 40, "pause": 0.25}))
    view = Watching()
    executed = execute.Execution(store, quick, 0, Machine(threads=1), 1, view, lambda: None)
    executed.run()
    assert min(step for name, step in view.steps if name == "prism/sft") == reached + 1
