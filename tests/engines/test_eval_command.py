"""`prism eval` as a user runs it: seven benchmarks in miniature, real server and harness, killed once, resumed."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from engine_stage import World, run_launch

from benchmarks.samples import find_cells
from benchmarks.suites import load_suite
from integrations.contract import Launch
from prism_cli.engines.environments import Environment

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1800)]

FIXTURES = Path(__file__).parents[1] / "fixtures" / "benchmarks.py"
TASKS = [task for benchmark in load_suite("multimodal-reasoning").benchmarks for task in benchmark.tasks]


class Bench:
    """Two models with the same folder name, and local copies of the data sets, in a folder with a space in its name."""

    def __init__(self, root: Path, world: World) -> None:
        self.root = root
        self.models = [root / name / "policy" for name in ("one", "two")]
        for model in self.models:
            shutil.copytree(world.model, model)
        # Other bytes, the same weights: two checkpoints all the same.
        (self.models[1] / "generation_config.json").write_text(json.dumps({"do_sample": False, "note": "another"}))
        self.command = [sys.executable, "-m", "prism_cli", "eval", *map(str, self.models)]
        self.command += ["--suite", "multimodal-reasoning", "--protocol", "paper", "--data", str(root / "data")]
        self.command += ["--limit", "2", "--max-new-tokens", "8", "--out", str(self.store), "--runs-dir", str(root)]
        self.command += ["--concurrency", "4", "--json"]

    @property
    def store(self) -> Path:
        return self.root / "my evals"

    def run(self, *more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*self.command, *more], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def bench(small_world: World, lmms_eval_env: Environment, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    bench = Bench(tmp_path_factory.mktemp("an evaluation"), small_world)
    argv = ["python", str(FIXTURES), str(bench.root / "data")]
    run_launch(Launch("lmms_eval", argv, packages=("integrations", "benchmarks")), lmms_eval_env, bench.root)
    return bench


@pytest.fixture(scope="module")
def killed(bench: Bench) -> list[str]:
    """The cells that were complete when prism was killed, on its way through the first model."""
    with (bench.root / "killed.log").open("w") as log:
        process = subprocess.Popen([*bench.command, "--rules-only"], stdout=log, stderr=log)
        while process.poll() is None and len(find_cells(bench.store)) < 3:
            time.sleep(0.1)
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
        process.wait()
    _, alive = psutil.wait_procs(family, timeout=15)
    assert [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []
    return [cell.folder.as_posix() for cell in find_cells(bench.store)]


@pytest.fixture(scope="module")
def result(bench: Bench, killed: list[str]) -> dict[str, Any]:
    done = bench.run("--rules-only")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_every_cell_of_every_benchmark_is_there(result: dict[str, Any]) -> None:
    assert len(result["cells"]) == 2 * len(TASKS)
    assert {cell["task"] for cell in result["cells"]} == {*TASKS}
    assert {cell["status"] for cell in result["cells"]} == {"done", "unchanged"}


def test_what_was_complete_when_it_was_killed_is_not_asked_again(result: dict[str, Any], killed: list[str]) -> None:
    assert 3 <= len(killed) < len(result["cells"])
    assert {cell["folder"] for cell in result["cells"] if cell["status"] == "unchanged"} == {*killed}


def test_models_of_one_folder_name_share_nothing(bench: Bench, result: dict[str, Any]) -> None:
    by_model: dict[str, set[str]] = {}
    for cell in result["cells"]:
        by_model.setdefault(cell["model"], set()).add(cell["folder"])
    assert len(by_model) == 2
    assert all(label.startswith("policy (") for label in by_model)
    assert len(set.union(*by_model.values())) == len(result["cells"])


def test_the_same_weights_give_the_same_responses(bench: Bench, result: dict[str, Any]) -> None:
    """Seeds follow from the item, so also sampled responses do not depend on which server or kill they came from."""
    responses: dict[str, list[list[str]]] = {}
    for cell in find_cells(bench.store):
        responses.setdefault(cell.task, []).append(cell.table["response"].to_pylist())
    for task, (one, two) in responses.items():
        assert one == two, task


def test_every_request_had_the_protocols_parameters(bench: Bench, result: dict[str, Any]) -> None:
    """As the server used them, not only as they were sent."""
    used = [
        json.loads(line)["parameters"]
        for log in bench.store.glob("logs/*/*/server/requests.jsonl")
        for line in log.read_text().splitlines()
    ]
    assert len(used) >= sum(cell.table.num_rows for cell in find_cells(bench.store))
    assert {(u["temperature"], u["top_p"], u["top_k"], u["max_tokens"]) for u in used} == {(1.0, 0.7, 0, 8)}
    assert {tuple(u["defaults"]) for u in used} == {("top_k",)}  # all tokens are allowed: the server's own default too
    assert len({u["seed"] for u in used}) == 2 * len(TASKS)  # items and tasks differ; the two models share them


def test_the_comparison_covers_all_seven_benchmarks(bench: Bench, result: dict[str, Any]) -> None:
    labels = sorted({cell["model"] for cell in result["cells"]})
    done = bench.run("--rules-only", "--baseline", labels[0])
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert {cell["status"] for cell in found["cells"]} == {"unchanged"}
    (comparison,) = found["comparisons"]
    text = json.dumps(comparison)
    for benchmark in load_suite("multimodal-reasoning").benchmarks:
        assert benchmark.name in text


def test_a_suite_with_a_judge_wants_one_or_a_word_that_it_does_not(bench: Bench) -> None:
    done = bench.run()
    assert done.returncode == 2
    assert "want a judge" in done.stdout + done.stderr


def test_data_that_are_not_there_are_named(bench: Bench, result: dict[str, Any]) -> None:
    shutil.move(bench.root / "data", bench.root / "moved")
    try:
        done = bench.run("--rules-only", "--limit", "1")
        assert done.returncode == 2
        assert "has no data for" in done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr
    finally:
        shutil.move(bench.root / "moved", bench.root / "data")
