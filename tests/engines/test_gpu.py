"""Every engine on a GPU: what its adapter renders there is run for the first time by these tests.

The same tiny models as on a CPU: they show that commands, environments, memory shares and number formats work
together, nothing of speed. vLLM's environment is built on first use (some 9 GB).
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from engine_stage import FINE_TUNING, World, run_launch, run_stage, stage_context
from test_alignment import GAME, WARMUP, finished
from test_eval_command import FIXTURES, TASKS, Bench
from test_verl import LEARNING

from benchmarks.samples import find_cells
from integrations.alignment.adapter import AlignAdapter, DiscriminatorAdapter
from integrations.alignment.settings import RolloutSettings
from integrations.common.checkpoint import check_frozen
from integrations.common.files import hash_folder, read_json
from integrations.common.judge import Judge, Question, ask_all
from integrations.contract import Launch, Machine
from integrations.llamafactory.adapter import SftAdapter
from integrations.verl.adapter import RlvrAdapter
from prism_cli.engines import environments
from prism_cli.engines.environments import Environment
from prism_cli.pipeline.lineage import gpu_names

pytestmark = [pytest.mark.engine, pytest.mark.gpu, pytest.mark.timeout(3600)]

ROOT = Path(__file__).resolve().parents[2]
ONE = Machine(threads=2, gpus=1)
ARMS = {
    "prism": ["base", "sft", "discriminator", "align", "rlvr"],
    "baseline": ["base", "sft", "rlvr"],
    "control": ["base", "sft", "rlvr"],
}
ON_THE_GPU = {
    "stages.base.precision": "bf16",
    "stages.sft.precision": "bf16",
    "stages.discriminator.precision.compute": "bf16",
    "stages.align.precision.compute": "bf16",
    "stages.align.rollout.engine": "vllm",
    "stages.align.rollout.sleep": "true",
    "stages.rlvr.gpu_memory_share": "0.4",
}
"""What the digits recipe, which is made for CPUs, is told there."""


@pytest.fixture(scope="module", autouse=True)
def _the_first_gpu_alone() -> Any:
    """One process for each GPU is another test's subject: `tests/torch/test_gpu.py`, and the server's below."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", visible()[0])
        yield


def visible() -> list[str]:
    """The GPUs that the tests may use, as CUDA_VISIBLE_DEVICES names them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return given.split(",") if given else [str(number) for number in range(len(gpu_names()))]


ALL = visible()
"""Before any test has chosen some of them."""


@pytest.fixture(scope="session")
def vllm_env() -> Environment:
    return environments.ensure("vllm", print)


def logs(stage: Path) -> str:
    return "".join(path.read_text(errors="replace") for path in sorted(stage.glob("attempt-*/engine.log")))


def test_the_alignment_engine(alignment_env: Environment, not_run: list[str]) -> None:
    """`tests/torch/test_gpu.py` in that engine's environment, on all GPUs."""
    command = [str(alignment_env.python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/torch/test_gpu.py"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ",".join(ALL)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    not_run += [line for line in done.stdout.splitlines() if "GPU: not run: " in line]
    print(*(line for line in done.stdout.splitlines() if "reference over ours" in line), sep="\n")


def test_fine_tuning_in_bf16(small_world: World, llamafactory_env: Environment, tmp_path: Path) -> None:
    settings = FINE_TUNING.model_copy(update={"precision": "bf16"})
    ctx = stage_context(tmp_path / "the stage", small_world, settings, machine=ONE)
    news = run_stage(SftAdapter(), ctx, llamafactory_env)
    result = SftAdapter().finish(ctx)
    assert result.step == FINE_TUNING.steps
    losses = [item.metrics["loss"] for item in news if "loss" in item.metrics]
    assert losses[-1] < losses[0]
    check_frozen(ctx.model_dir, ctx.policy, "visual.blocks")
    assert "cuda" in logs(ctx.stage_dir).lower(), "the engine says what it computes on"


def test_the_game_with_vllm_that_sleeps_while_the_trainer_works(
    small_world: World, half_trained: Path, alignment_env: Environment, vllm_env: Environment, tmp_path: Path
) -> None:
    """Warm-up with transformers, game with vLLM: the canary compares both engines after every takeover."""
    parents = {"policy": half_trained}
    warmup = stage_context(tmp_path / "discriminator", small_world, WARMUP, parents=parents, machine=ONE)
    finished(DiscriminatorAdapter(), warmup, alignment_env)
    rollout = RolloutSettings(engine="vllm", max_new_tokens=64, max_images=1, sleep=True)
    settings = GAME.model_copy(update={"steps": 3, "rollout": rollout})
    parents["discriminator"] = warmup.model_dir
    ctx = stage_context(tmp_path / "align", small_world, settings, parents=parents, machine=ONE)
    assert AlignAdapter().engine(settings) == "vllm"
    played = finished(AlignAdapter(), ctx, vllm_env)
    steps = [item.metrics for item in played.news if item.phase == "training"]
    assert len(steps) == 3
    for metrics in steps:
        assert metrics["policy_skipped"] == 0
        assert metrics["canary_gap"] < 0.05, "the engine computes in bf16 with the weights after the step"
    assert "does not sleep" not in logs(ctx.stage_dir)
    assert hash_folder(ctx.model_dir) != hash_folder(ctx.policy)


def test_reinforcement_learning_with_verls_own_rollout(
    small_world: World, half_trained: Path, verl_env: Environment, tmp_path: Path
) -> None:
    settings = LEARNING.model_copy(update={"steps": 3, "gpu_memory_share": 0.4})
    parents = {"policy": half_trained}
    ctx = stage_context(tmp_path / "a stage", small_world, settings, parents=parents, machine=ONE)
    adapter = RlvrAdapter()
    news = run_stage(adapter, ctx, verl_env)
    result = adapter.finish(ctx)
    assert result.step == 3
    assert [item.step for item in news] == [1, 2, 3]
    assert result.generated_tokens > 0
    assert hash_folder(ctx.model_dir) != hash_folder(ctx.policy)


@pytest.fixture(scope="module")
def bench(small_world: World, lmms_eval_env: Environment, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Two models and seven benchmarks in miniature."""
    bench = Bench(tmp_path_factory.mktemp("an evaluation"), small_world)
    argv = ["python", str(FIXTURES), str(bench.root / "data")]
    run_launch(Launch("lmms_eval", argv, packages=("integrations", "benchmarks")), lmms_eval_env, bench.root)
    return bench


def test_vllm_serves_what_the_harness_asks(
    bench: Bench, vllm_env: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On all GPUs, where there are several: a copy of the model on each."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(ALL))
    done = bench.run("--rules-only", "--server", "vllm")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    cells = find_cells(bench.store)
    assert len(cells) == 2 * len(TASKS)
    assert all(response for cell in cells for response in cell.table["response"].to_pylist())
    commands = [path.read_text(errors="replace") for path in bench.store.glob("logs/*/*/server/server.log")]
    assert len(commands) == 2
    if len(ALL) > 1:
        assert all(f"'data_parallel_size': {len(ALL)}" in command for command in commands)


@pytest.mark.gpu(2)
def test_a_judge_on_a_gpu_of_its_own(
    bench: Bench, small_world: World, vllm_env: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers while an evaluation has all the other GPUs."""
    *others, last = ALL
    command = [sys.executable, "-m", "prism_cli", "judge", "serve", "--model", str(small_world.model)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": last, "TMPDIR": str(tmp_path), "COLUMNS": "80"}
    with subprocess.Popen(
        [*command, "--engine", "vllm", "--port", "0"], stdout=subprocess.PIPE, text=True, env=environment
    ) as running:
        assert running.stdout is not None
        lines = iter(running.stdout.readline, "")
        found = (re.search(r"prism judge check --url (\S+)", line) for line in lines)
        url = next((match[1] for match in found if match), None)
        assert url is not None, "the judge did not start"
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(others))
        done = bench.run("--rules-only", "--server", "vllm", "--out", str(tmp_path / "evals"))
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        replies: list[Any] = []
        question = Question("What is 7 + 5?", "12", "12")
        ask_all(Judge(url), [question] * 8, lambda _, reply: replies.append(reply))
        assert all(reply.answered for reply in replies), "random weights give no verdict, but they answer"
        running.send_signal(signal.SIGINT)
        assert running.wait(120) == 0


def test_the_quick_pipeline_on_the_gpu(vllm_env: Environment, tmp_path: Path) -> None:
    """As a user runs it, every stage of every arm, evaluated by vLLM."""
    runs = tmp_path / "my runs"
    command = [sys.executable, "-m", "prism_cli", "train", "--profile", "quick", "--runs-dir", str(runs), "--json"]
    command += [word for field, value in ON_THE_GPU.items() for word in ("--set", f"{field}={value}")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    told = json.loads(done.stdout)
    assert {arm: list(stages) for arm, stages in told["arms"].items()} == ARMS
    assert {stage["status"] for stages in told["arms"].values() for stage in stages.values()} == {"done"}
    (run,) = runs.glob("digits-quick*")
    assert (read_json(run / "manifest.json") or {})["machine"]["gpus"] == list(gpu_names())
    jobs = [json.loads(path.read_text()) for path in run.glob("prism/*/attempt-*/config.json")]
    assert {job["device"] for job in jobs} == {"cuda"}
    servers = {json.dumps(cell.facts["server"]) for cell in find_cells(run / "eval")}
    assert {json.loads(server)["engine"] for server in servers} == {"vllm"}
    trained = told["arms"]["prism"]["rlvr"]["scores"]["greedy"]
    untrained = told["arms"]["prism"]["base"]["scores"]["greedy"]
    assert trained["ci"]["answer"][0] > untrained["ci"]["answer"][1]
