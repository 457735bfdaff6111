"""Checkpoints evaluated while a stage trains: on small programs in place of engines, and scores out of the weights."""

import dataclasses
import json
import random
import shutil
import threading
import time
from types import SimpleNamespace

import pytest
from cells import make_cell
from test_execute import Counting, Program, programs_for_engines, run, store  # noqa: F401 fixtures

from integrations.common.files import read_json
from integrations.contract import Machine, StageContext, StageResult
from integrations.errors import BadInput, Interrupted, StageFailed
from prism_cli.pipeline import execute, intermediate
from prism_cli.pipeline.intermediate import Scored, Tell, link, watching
from prism_cli.pipeline.plan import DATA, MODEL, Node, Plan
from prism_cli.recipes.load import load

ITEMS = 40


def asked(**changes):
    return SimpleNamespace(
        **{
            "eval_every": 1,
            "eval_pool": "validation",
            "eval_items": ITEMS,
            "eval_keep": "last",
            "eval_gpu": None,
            "suite": "digits",
            "max_new_tokens": None,
            **changes,
        }
    )


def verdicts(rate, perception=None, form=1.0):
    """The first `rate` of the items right, so that a fall loses items and gains none."""

    def column(share):
        return {str(item): item < share * ITEMS for item in range(ITEMS)}

    none = dict.fromkeys(map(str, range(ITEMS)))
    return {
        "correct": column(rate),
        "perception": none if perception is None else column(perception),
        "format": column(form),
    }


class Steps(Program):
    """Leaves a checkpoint folder after each step, keeps the two newest, and half a one in between."""

    def intermediate(self, ctx):
        done = json.loads((ctx.checkpoint_dir / "weights.json").read_text())[1:] if self.begun(ctx) else []
        found = []
        for step in done:
            folder = ctx.checkpoint_dir / f"step-{step}"
            if not folder.exists():
                folder.mkdir()
                (folder / "model.safetensors").write_text(json.dumps(step))
            found.append((step, folder))
        for _, old in found[:-2]:
            shutil.rmtree(old)
        return found[-2:]

    def begun(self, ctx):
        return (ctx.checkpoint_dir / "weights.json").exists()


@pytest.fixture(autouse=True)
def small_models(monkeypatch):
    """Models are a number; publishing copies it."""

    def publish(weights, base_model, model_dir):
        partial = model_dir.with_name(".partial")
        partial.mkdir(parents=True)
        (partial / "model.safetensors").write_text((weights / "model.safetensors").read_text())
        partial.rename(model_dir)

    monkeypatch.setattr(intermediate, "publish", publish)
    monkeypatch.setattr(intermediate, "_LOOK_EVERY", 0.0)


def step_of(model):
    """Which step's weights a model folder holds; 0 for what the stage started from."""
    weights = json.loads((model / "model.safetensors").read_text()) if model.is_dir() else "start"
    return weights if isinstance(weights, int) else weights[-1] if isinstance(weights, list) and weights[-1:] else 0


class Stage:
    """One stage's folder and a watch on it, without an executor."""

    def __init__(self, tmp_path, rates, *, steps=6, gpus=0, score=None, **settings):
        self.root, self.rates, self.steps = tmp_path / "prism" / "rlvr", rates, steps
        self.settings, self.gpus, self.given = asked(**settings), gpus, score
        self.events, self.messages, self.asked = [], [], []
        self.whole = []
        for folder in ("checkpoints", "start"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        (self.root / "start" / "model.safetensors").write_text("0")

    def intermediate(self, ctx):
        return [(step, self.weights(step)) for step in self.whole]

    def total_steps(self, ctx):
        return self.steps

    def weights(self, step):
        folder = self.root / "checkpoints" / f"engine-{step}"
        folder.mkdir(exist_ok=True)
        (folder / "model.safetensors").write_text(json.dumps(step))
        return folder

    @property
    def ctx(self):
        return StageContext(
            name="prism/rlvr",
            settings=SimpleNamespace(checkpoint_every=1),
            stage_dir=self.root,
            attempt_dir=self.root / "attempt-1",
            checkpoint_dir=self.root / "checkpoints",
            model_dir=self.root / "model",
            parents={"policy": self.root / "start"},
            base_model=self.root / "start",
            data_dir=self.root,
            seed=0,
            machine=Machine(threads=1, gpus=self.gpus),
        )

    def score(self, model, pool, items, out):
        step = step_of(model)
        self.asked.append(step)
        if self.given is not None:
            return self.given(step)
        return self.rates[step] if isinstance(self.rates[step], dict) else verdicts(self.rates[step])

    def watching(self):
        tell = Tell(lambda kind, **fields: self.events.append({"event": kind, **fields}), self.messages.append)
        return watching(self.settings, self.ctx, self, lambda *_: self.score, tell)

    def run(self, steps=None, *, keep_engine_files=False):
        """Train to the end, each checkpoint whole for a moment; returns the stage's result."""
        with self.watching() as watch:
            for step in steps or range(1, self.steps + 1):
                self.whole = [step]
                watch.tick()
                self.settle(watch)
                if not keep_engine_files:
                    shutil.rmtree(self.weights(step))  # retention
            return self.conclude(watch)

    def conclude(self, watch):
        self.whole = []
        final = self.root / "model"
        shutil.rmtree(final, ignore_errors=True)
        final.mkdir()
        (final / "model.safetensors").write_text(json.dumps(self.steps))
        return watch.conclude(StageResult(step=self.steps), threading.Event())

    def settle(self, watch):
        until = time.monotonic() + 10
        while watch._waiting and watch._go:
            assert time.monotonic() < until
            time.sleep(0.005)

    def of(self, kind):
        return [event for event in self.events if event["event"] == kind]


def test_every_whole_checkpoint_is_scored_with_the_start_and_the_final_model(tmp_path):
    stage = Stage(tmp_path, [0.5, 0.5, 0.6, 0.6, 0.7, 0.7, 0.8])
    result = stage.run()
    assert stage.asked == [0, 1, 2, 3, 4, 5, 6]
    found = stage.of("intermediate_evaluation")
    assert [event["scores"]["correct"] for event in found] == [0.5, 0.5, 0.6, 0.6, 0.7, 0.7, 0.8]
    assert found[0]["scores"] == {"correct": 0.5, "perception": None, "format": 1.0}
    assert {event["n"] for event in found} == {ITEMS}
    assert (result.notes, stage.messages, stage.of("early_warning")) == ([], [], [])
    assert step_of(stage.root / "model") == 6
    assert not list((stage.root / "checkpoints" / "intermediate").rglob("*.safetensors"))  # space given back
    kept = read_json(stage.root / "intermediate" / "step-000004" / "scores.json")
    assert (kept["step"], kept["rates"]["correct"], len(kept["verdicts"]["correct"])) == (4, 0.7, ITEMS)


def test_only_every_nth_checkpoint_is_scored(tmp_path):
    stage = Stage(tmp_path, [0.5] * 8, steps=7, eval_every=3)
    stage.run()
    assert stage.asked == [0, 3, 6, 7]


def test_a_collapse_is_said_once_in_words_and_each_time_as_an_event(tmp_path):
    stage = Stage(tmp_path, [0.5, 0.8, 0.2, 0.2, 0.8, 0.2, 0.8])
    stage.run()
    assert [(w["step"], w["metric"], w["since"]) for w in stage.of("early_warning")] == [
        (2, "correct", 1), (3, "correct", 1), (5, "correct", 1)
    ]  # fmt: skip
    warning = stage.of("early_warning")[0]
    assert (warning["value"], warning["was"], warning["n"]) == (0.2, 0.8, ITEMS)
    assert warning["p"] == pytest.approx(2 / 2**24)  # 24 items lost, none gained
    assert len(stage.messages) == 2
    assert "fewer right answers at step 2: 20.0% of 40 items of `validation`, 80.0% at step 1" in stage.messages[0]


def test_a_fall_below_the_start_in_form_or_perception_is_told_too(tmp_path):
    good, bad = verdicts(0.5, perception=0.9), verdicts(0.5, perception=0.3, form=0.2)
    stage = Stage(tmp_path, [good, bad], steps=1)
    stage.run()
    assert {w["metric"] for w in stage.of("early_warning")} == {"perception", "format"}
    assert any("right captions at step 1: 30.0%" in text and "before this stage" in text for text in stage.messages)


def test_small_falls_are_no_news(tmp_path):
    stage = Stage(tmp_path, [0.8, 0.75, 0.7, 0.75, 0.7, 0.75, 0.7])
    stage.run()
    assert stage.of("early_warning") == []


def test_a_stage_in_which_nothing_falls_seldom_gives_an_alarm(tmp_path):
    """Draws with a constant rate: an alarm in at most 5% of the stages, here 2 of 40 and a margin."""
    alarms = 0
    for trial in range(40):
        draw = random.Random(trial)

        def score(step, draw=draw):
            found = verdicts(0.5)
            found["correct"] = {item: draw.random() < 0.5 for item in found["correct"]}
            found["format"] = {item: draw.random() < 0.9 for item in found["format"]}
            return found

        stage = Stage(tmp_path / str(trial), [], score=score, steps=4)
        stage.run()
        alarms += bool(stage.of("early_warning"))
    assert alarms <= 6


def test_the_best_checkpoint_becomes_the_result(tmp_path):
    stage = Stage(tmp_path, [0.9, 0.5, 0.7, 0.6, 0.7, 0.6, 0.65], eval_keep="best")
    result = stage.run()
    assert step_of(stage.root / "model") == 4  # of equals the later; the start is no candidate
    assert result.step == 6  # what was trained, and what the budget counts
    waited = result.metrics[intermediate.WAITED]
    assert result.metrics == {
        "selected_step": 4, "selected_validation": 0.7, "final_validation": 0.65, intermediate.WAITED: waited
    }  # fmt: skip
    assert "kept step 4 of 6: 70.0% of 40 items of `validation` right, 65.0% at the end" in result.notes[0]
    assert stage.of("checkpoint_selected")[0]["step"] == 4
    assert [p.name for p in (stage.root / "model").iterdir()] == ["model.safetensors"]


def test_the_final_model_wins_a_tie(tmp_path):
    stage = Stage(tmp_path, [0.1, 0.7, 0.7], steps=2, eval_keep="best")
    result = stage.run()
    assert step_of(stage.root / "model") == 2
    assert result.metrics["selected_step"] == 2


def test_only_the_best_model_takes_space(tmp_path):
    stage = Stage(tmp_path, [0.1, 0.7, 0.5, 0.8, 0.2], steps=4, eval_keep="best")
    with stage.watching() as watch:
        for step, expected in ((1, {1}), (2, {1}), (3, {3})):
            stage.whole = [step]
            watch.tick()
            stage.settle(watch)
            deadline = time.monotonic() + 10
            while len(stage.of("intermediate_evaluation")) < step + 1 and time.monotonic() < deadline:
                time.sleep(0.005)
            time.sleep(0.05)
            models = (stage.root / "checkpoints" / "intermediate").glob("step-*/model")
            assert {step_of(model) for model in models} == expected
        stage.conclude(watch)


def test_a_failing_evaluation_is_noted_and_the_others_go_on(tmp_path):
    def score(step):
        if step in (2, 3):
            raise StageFailed("the server died", "") if step == 2 else ZeroDivisionError("a mistake")
        return verdicts(0.5 + step / 100)

    stage = Stage(tmp_path, [], score=score, eval_keep="best")
    result = stage.run()
    assert [(e["step"], e["problem"]) for e in stage.of("intermediate_failed")] == [
        (2, "the server died"), (3, "ZeroDivisionError: a mistake")
    ]  # fmt: skip
    assert len(stage.messages) == 1
    assert "training goes on: the server died" in stage.messages[0]
    assert result.notes[0] == "2 checkpoints could not be evaluated: the server died"
    assert result.metrics["selected_step"] == 6


def test_without_a_score_of_the_final_model_nothing_is_chosen(tmp_path):
    def score(step):
        if step == 6:
            raise StageFailed("no memory", "")
        return verdicts(0.5)

    result = Stage(tmp_path, [], score=score, eval_keep="best").run()
    assert result.notes[-1] == "the final model could not be scored, so it was kept"
    assert "selected_step" not in result.metrics


def test_a_resumed_stage_asks_only_what_is_missing_and_still_has_the_best(tmp_path):
    stage = Stage(tmp_path, [0.1, 0.3, 0.9, 0.3, 0.3, 0.3, 0.3], eval_keep="best")
    with stage.watching() as watch:  # killed after step 3
        for step in (1, 2, 3):
            stage.whole = [step]
            watch.tick()
            stage.settle(watch)
    assert set(stage.asked) >= {0, 1, 2}
    (stage.root / "checkpoints" / "intermediate" / ".step-4").mkdir()  # a half-made copy
    before = [event["step"] for event in stage.of("intermediate_evaluation")]
    result = stage.run([3, 4, 5, 6])
    scored = [event["step"] for event in stage.of("intermediate_evaluation")]
    assert sorted(scored) == [0, 1, 2, 3, 4, 5, 6]
    assert scored[: len(before)] == before
    assert result.metrics["selected_step"] == 2
    assert step_of(stage.root / "model") == 2


def test_scores_of_other_items_do_not_count(tmp_path):
    Stage(tmp_path, [0.5] * 3, steps=2).run()
    again = Stage(tmp_path, [0.5] * 3, steps=2, eval_items=50)
    again.run()
    assert again.asked == [0, 1, 2]


def test_where_gpus_train_evaluations_wait_for_the_end(tmp_path):
    stage = Stage(tmp_path, [0.5] * 9, steps=8, gpus=1, eval_keep="best")
    with stage.watching() as watch:
        for step in range(1, 9):
            stage.whole = [step]
            watch.tick()
        assert stage.asked == []
        result = stage.conclude(watch)
    assert stage.asked == [0, 5, 6, 7, 8]  # four wait at most
    assert [e["step"] for e in stage.of("intermediate_dropped")] == [1, 2, 3, 4]
    assert result.metrics["selected_step"] == 8
    free = Stage(tmp_path / "free", [0.5] * 3, steps=2, gpus=2, eval_gpu=1)
    free.run()
    assert free.asked == [0, 1, 2]


def test_a_checkpoint_that_vanishes_while_it_is_linked_is_left_out(tmp_path, monkeypatch):
    stage = Stage(tmp_path, [0.5] * 7)

    def vanishing(source, target):
        if "engine-3" in str(source):
            raise FileNotFoundError(source)
        link(source, target)

    monkeypatch.setattr(intermediate, "link", vanishing)
    stage.run()
    assert stage.asked == [0, 1, 2, 4, 5, 6]
    assert stage.of("intermediate_failed") == []


def test_too_little_disk_is_noted(tmp_path, monkeypatch):
    monkeypatch.setattr(intermediate.shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    stage = Stage(tmp_path, [0.5] * 3, steps=2)
    result = stage.run()
    assert stage.asked == [0, 2]  # both have a model already
    assert "disk" in result.notes[0]


def test_a_stop_ends_the_wait(tmp_path):
    stop = threading.Event()
    stop.set()
    release = threading.Event()

    def score(step):
        release.wait(10)
        return verdicts(0.5)

    stage = Stage(tmp_path, [], score=score, steps=1)
    with stage.watching() as watch:
        with pytest.raises(Interrupted):
            watch.conclude(StageResult(step=1), stop)
        release.set()


def test_links_are_copies_where_there_are_none(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(95, "not supported")

    (tmp_path / "a").write_text("x")
    monkeypatch.setattr(intermediate.os, "link", refuse)
    link(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "x"


def test_undefined_verdicts_are_no_items():
    one = Scored(1, {"correct": {"a": True, "b": None, "c": False}})
    other = Scored(2, {"correct": {"a": False, "b": True, "d": True}})
    assert (one.rate("correct"), other.rate("perception")) == (0.5, None)
    assert one.against(other, "correct") == (1, 0)


# In the executor


def plan_with(settings, **fields):
    class Watched(Counting):
        checkpoint_every: int = 1

    nodes = {DATA: Node(DATA, DATA, Counting(kind="data")), MODEL: Node(MODEL, "model", Counting(kind="model"))}
    nodes["prism/sft"] = Node(
        "prism/sft", "sft", Watched(steps=5, pause=0.6, **fields), {"policy": MODEL}, watched=settings
    )
    return Plan(nodes, {"prism": ("prism/sft",)})


@pytest.fixture
def watched_programs(monkeypatch):
    monkeypatch.setattr(execute, "adapter_for", lambda kind: Steps())
    rates = {0: 0.4, 1: 0.5, 2: 0.9, 3: 0.5, 4: 0.5, 5: 0.6}

    def scorer(self, settings, ctx, stop):
        return lambda model, pool, items, out: verdicts(rates[min(5, step_of(model))])

    monkeypatch.setattr(execute.Execution, "_scorer", scorer)


def test_the_executor_keeps_the_best_and_says_so_in_the_record(store, watched_programs):  # noqa: F811
    view = run(store, plan_with(asked(eval_keep="best")))
    record = read_json(store.root / "prism/sft/DONE")
    assert record["result"]["step"] == 5
    assert record["result"]["metrics"]["selected_step"] == 2
    assert "kept step 2 of 5" in record["result"]["notes"][0]
    assert (store.root / "prism/sft/model/model.safetensors").read_text() == "2"
    assert not (store.root / "prism/sft/checkpoints").exists()
    events = [json.loads(line) for line in (store.root / "events.jsonl").read_text().splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds.count("intermediate_evaluation") >= 3
    assert kinds[-2:] == ["checkpoint_selected", "stage_done"]
    assert view.finished["prism/sft"] == "done"
    again = run(store, plan_with(asked(eval_keep="best")))
    assert again.finished["prism/sft"] == "unchanged"


def test_waiting_for_evaluations_is_no_training_time(store, watched_programs, monkeypatch):  # noqa: F811
    conclude = intermediate.Watch.conclude

    def slow(self, result, stop):
        found = conclude(self, result, stop)
        return dataclasses.replace(found, metrics={**found.metrics, intermediate.WAITED: 1000.0})

    monkeypatch.setattr(intermediate.Watch, "conclude", slow)
    run(store, plan_with(asked()))
    assert read_json(store.root / "prism/sft/DONE")["seconds"] < 0


def test_only_what_decides_the_result_makes_it_stale(store, watched_programs):  # noqa: F811
    run(store, plan_with(None))
    assert run(store, plan_with(asked())).finished["prism/sft"] == "unchanged"
    assert run(store, plan_with(asked(eval_keep="best"))).finished["prism/sft"] == "done"


def test_a_stage_that_fails_ends_its_evaluations(store, watched_programs):  # noqa: F811
    before = threading.active_count()
    with pytest.raises(StageFailed, match="ran out of luck"):
        run(store, plan_with(asked(), die_at=3))
    assert threading.active_count() <= before + 1


# In a recipe


def test_it_is_off_by_default_and_set_by_its_field():
    from prism_cli.pipeline.plan import make_plan

    plain = make_plan(load("digits", None, []).recipe)
    assert all(node.watched is None for node in plain.nodes.values())
    recipe = load("digits", None, ["evaluation.eval_every=1", "evaluation.eval_stages=[rlvr]"]).recipe
    watched = [name for name, node in make_plan(recipe).nodes.items() if node.watched is not None]
    assert watched == ["prism/rlvr", "baseline/rlvr", "control/rlvr"]
    tokens = load("digits", None, ["evaluation.eval_every=1", "budget=tokens"]).recipe
    assert make_plan(tokens).nodes["baseline/rlvr"].watched is not None


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("evaluation.eval_pool=test", "reported on `test`"),
        ("evaluation.eval_pool=teacher", "trains on `teacher`"),
        ("evaluation.eval_pool=sft", "trains on `sft`"),
        ("evaluation.eval_pool=nowhere", "no pool `nowhere`"),
    ],
)
def test_a_pool_that_would_flatter_the_choice_is_refused(change, problem):
    with pytest.raises(BadInput, match=problem):
        load("digits", None, ["evaluation.eval_every=1", change])
    load("digits", None, [change])  # without eval_every it is not used


def test_suites_of_published_items_give_way_to_the_runs_own(tmp_path, monkeypatch):
    asked_of = []

    class Evaluator:
        def __init__(self, ask, server, machine, jobs, view, stop):
            self.ask, self.server, self.machine = ask, server, machine

        def run_model(self, model):
            asked_of.append((self.ask, self.server, self.machine, model))
            cell = make_cell(model.store, items=20, correct=[True] * 20)
            return [SimpleNamespace(cell=cell)]

    monkeypatch.setattr(intermediate, "Evaluator", Evaluator)
    stage = Stage(tmp_path, [], gpus=4)
    for suite, tasks in (
        ("digits", ["prism_digits"]),
        ("multimodal-reasoning", ["prism_pool"]),
        (None, ["prism_pool"]),
    ):
        settings = SimpleNamespace(suite=suite, batch=8, eval_gpu=3, max_new_tokens=64)
        score = intermediate.scorer_of(settings, stage.ctx, None, threading.Event())
        found = score(stage.root / "start", "validation", 20, tmp_path / "step-000040")
        ask, server, machine, model = asked_of[-1]
        tasks = [task for benchmark in ask.suite.benchmarks for task in benchmark.tasks]
        assert tasks == (["prism_digits"] if suite == "digits" else ["prism_pool"])
        assert (ask.protocols, ask.limit, ask.pool, ask.max_new_tokens) == (("greedy",), 20, "validation", 64)
        assert (server.gpu, machine.gpus) == (3, 1)
        assert (model.label, model.pools) == ("prism/rlvr step 40", stage.root)
        assert set(found["correct"].values()) == {True}
        assert len(found["correct"]) == 20
        assert set(found["perception"].values()) == {None}
