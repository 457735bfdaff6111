"""The orchestration of an evaluation with a pretended server and harness: what is asked, kept and skipped."""

import contextlib
import json
import threading

import pytest
from test_evaluation_models import make_checkpoint

from benchmarks.samples import read_cell, write_cell
from benchmarks.suites import load_suite
from integrations.contract import Machine
from integrations.errors import BadInput, Interrupted, RunLocked, StageFailed
from prism_cli.evaluation import run as module
from prism_cli.evaluation.cells import Ask, plan_cells
from prism_cli.evaluation.models import Model, find_models
from prism_cli.evaluation.run import Evaluator, locked
from prism_cli.evaluation.servers import Served, ServerChoice, choose
from prism_cli.ui.view import QuietView

CHOICE = ServerChoice("transformers")


@pytest.fixture
def model(tmp_path):
    folder = make_checkpoint(tmp_path / "a" / "model", "one")
    pools = tmp_path / "pools"
    pools.mkdir()
    for pool in ("test", "validation"):
        (pools / f"{pool}.jsonl").write_text(json.dumps({"id": f"{pool}-0"}) + "\n")
    return Model("prism/rlvr", folder, "0123456789abcdef", tmp_path / "eval", training_seed=0, pools=pools)


class Pretended:
    """Stands for server and harness: writes each cell of a job, unless told to fail."""

    def __init__(self):
        self.jobs = []
        self.served = []
        self.fail_after = None
        self.items = 3

    @contextlib.contextmanager
    def serving(self, choice, model, protocol, machine, logs, view, stop):
        self.served.append(model.label)
        yield Served({"url": "http://127.0.0.1:1/v1", "model": "policy"}, threading.Event(), logs / "server.log")

    def run_logged(self, launch, logs, log_name, tick, stop, explain, name):
        job = json.loads((logs / "job.json").read_text())
        self.jobs.append(job)
        for number, cell in enumerate(job["cells"]):
            if self.fail_after is not None and number >= self.fail_after:
                raise StageFailed(f"{name}: the harness fell over", "try again")
            self.write(cell)
        tick()

    def write(self, cell):
        facts = cell["facts"]
        rows = [
            {"item_id": str(i), "sample": k, "correct": True, "tokens": 1, "truncated": False}
            for i in range(self.items)
            for k in range(facts["samples_per_item"])
        ]
        write_cell(module.Path(cell["folder"]), rows, {**facts, "items": self.items, "dataset_hash": "d"})

    def asked(self):
        return [[cell["facts"]["protocol"]["name"] for cell in job["cells"]] for job in self.jobs]


@pytest.fixture
def pretended(monkeypatch):
    stand_in = Pretended()
    monkeypatch.setattr(module, "serving", stand_in.serving)
    monkeypatch.setattr(module, "run_logged", stand_in.run_logged)
    monkeypatch.setattr(module.environments, "ensure", lambda name, report, stop: None)
    return stand_in


def asking(**changes):
    return Ask(**{"suite": load_suite("digits"), "protocols": ("greedy", "sample"), **changes})


def evaluator(ask, **changes):
    return Evaluator(ask, CHOICE, Machine(threads=1), 1, QuietView(), **changes)


def statuses(outcomes):
    return [outcome.status for outcome in outcomes]


def test_what_is_done_is_not_asked_again(model, pretended):
    assert statuses(evaluator(asking()).run([model])) == ["done", "done"]
    assert statuses(evaluator(asking()).run([model])) == ["unchanged", "unchanged"]
    assert pretended.asked() == [["greedy", "sample"]]
    assert pretended.served == ["prism/rlvr"]


def test_only_what_is_missing_is_asked(model, pretended):
    pretended.fail_after = 1
    outcomes = evaluator(asking()).run([model])
    assert statuses(outcomes) == ["unchanged", "failed"]  # the first was complete when the harness fell over
    assert "fell over" in outcomes[1].problem
    pretended.fail_after = None
    assert statuses(evaluator(asking()).run([model])) == ["unchanged", "done"]
    assert pretended.asked()[1] == ["sample"]


def test_one_model_that_fails_keeps_no_other_back(model, pretended, tmp_path):
    other = Model("baseline/rlvr", model.folder, "fedcba9876543210", model.store, pools=tmp_path / "nowhere")
    with pytest.raises(BadInput, match="no data pool"):
        evaluator(asking()).run([other])
    broken = Model("baseline/rlvr", model.folder, "fedcba9876543210", model.store, pools=model.pools)
    pretended.fail_after = 0
    failed = evaluator(asking()).run([broken])
    pretended.fail_after = None
    assert statuses(failed) == ["failed", "failed"]
    assert statuses(evaluator(asking()).run([broken, model])) == ["done"] * 4


def test_a_cell_made_from_other_data_is_moved_aside(model, pretended):
    (first, _) = evaluator(asking()).run([model])
    with (model.pools / "test.jsonl").open("a") as pool:
        pool.write(json.dumps({"id": "test-1"}) + "\n")
    assert statuses(evaluator(asking()).run([model])) == ["done", "done"]
    assert read_cell(first.cell.folder.with_name("greedy-s0.old-1")) is not None


def test_a_cell_of_other_weights_is_another_cell(model, pretended):
    changed = Model(model.label, model.folder, "f" * 16, model.store, 0, model.pools)
    evaluator(asking()).run([model])
    assert statuses(evaluator(asking()).run([changed])) == ["done", "done"]
    assert len({p.parent.parent.parent for p in model.store.rglob("cell.json")}) == 2


def test_folders_of_one_name_have_cells_of_their_own(model, pretended, tmp_path):
    folders = [str(make_checkpoint(tmp_path / name / "twin", name)) for name in "xy"]
    models = [Model(m.label, m.folder, m.weights_hash, m.store, pools=model.pools)
              for m in find_models(folders, [], tmp_path / "evals")]  # fmt: skip
    evaluator(asking(protocols=("greedy",))).run(models)
    assert len([*(tmp_path / "evals").rglob("cell.json")]) == 2


def test_whatever_may_be_asked_differently_has_a_folder_of_its_own(model):
    variants = [
        {}, {"limit": 2}, {"samples": 2}, {"seeds": (1,)}, {"prompt": "native"}, {"max_new_tokens": 7},
        {"pool": "validation"},
    ]  # fmt: skip
    names = [plan_cells(model, asking(protocols=("sample",), **v), {})[0].folder for v in variants]
    assert len(set(names)) == len(variants)


def test_greedy_decoding_is_asked_once_whatever_the_seeds(model):
    cells = plan_cells(model, asking(seeds=(3, 4), samples=2), {})
    asked = [(c.facts["protocol"]["name"], c.facts["decoding_seed"], c.facts["samples_per_item"]) for c in cells]
    assert asked == [("greedy", 0, 1), ("sample", 3, 2), ("sample", 4, 2)]


def test_facts_name_no_place_on_this_machine(model, tmp_path):
    for cell in plan_cells(model, asking(), CHOICE.facts):
        assert str(tmp_path) not in json.dumps(cell.facts)


def test_an_incomplete_cell_is_a_failure_though_the_harness_says_nothing(model, pretended, monkeypatch):
    monkeypatch.setattr(pretended, "write", lambda cell: None)
    outcomes = evaluator(asking()).run([model])
    assert statuses(outcomes) == ["failed", "failed"]
    assert "no finished cell" in outcomes[0].problem


def test_two_evaluations_in_one_store_are_refused(model, pretended):
    with locked(model.store), pytest.raises(RunLocked, match="another evaluation"):
        evaluator(asking()).run([model])


def test_a_stop_is_an_interruption(model, pretended):
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted):
        evaluator(asking(), stop=stop).run([model])


def test_rescoring_needs_no_server(model, pretended):
    evaluator(asking(protocols=("greedy",))).run([model])
    pretended.served.clear()
    outcomes = evaluator(asking()).rescore([model])
    assert statuses(outcomes) == ["done", "failed"]  # `sample` was never asked
    assert pretended.served == []
    assert (pretended.jobs[-1]["mode"], pretended.jobs[-1]["server"]) == ("rescore", None)


def test_rescoring_nothing_is_refused(model, pretended):
    with pytest.raises(BadInput, match="no responses"):
        evaluator(asking()).rescore([model])


def test_a_suite_on_a_runs_world_needs_a_run(tmp_path):
    folder = make_checkpoint(tmp_path / "model", "one")
    (found,) = find_models([str(folder)], [], tmp_path / "evals")
    with pytest.raises(BadInput, match="belongs to no run"):
        plan_cells(found, asking(), {})


@pytest.mark.parametrize(
    ("engine", "gpus", "chosen"), [("auto", 0, "transformers"), ("auto", 2, "vllm"), ("vllm", 0, "vllm")]
)
def test_servers_are_chosen_by_the_machine(engine, gpus, chosen):
    assert choose(engine, None, 8, gpus).engine == chosen


def test_a_server_at_a_url_needs_the_models_name():
    assert choose("http://127.0.0.1:8000", "m", 8, 0).url == "http://127.0.0.1:8000/v1"
    with pytest.raises(BadInput, match="several models"):
        choose("http://127.0.0.1:8000", None, 8, 0)
    with pytest.raises(BadInput, match="is no server"):
        choose("ollama", None, 8, 0)
