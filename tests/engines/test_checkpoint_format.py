"""A published model is the same model in every engine's environment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_stage import FineTuned, World, launch_code, run_inside

from integrations.common.checkpoint import publish, read_tensors
from integrations.contract import Launch
from prism_cli.engines.environments import Environment

pytestmark = pytest.mark.engine

Answers = Mapping[str, np.ndarray[Any, Any]]


@pytest.fixture(scope="module")
def environments(
    alignment_env: Environment, llamafactory_env: Environment, verl_env: Environment
) -> dict[str, Environment]:
    return {"alignment": alignment_env, "llamafactory": llamafactory_env, "verl": verl_env}


@pytest.fixture(scope="module")
def models(
    small_world: World,
    fine_tuned: FineTuned,
    environments: dict[str, Environment],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """The base model, LLaMA-Factory's own result, and one published from what each other engine's libraries write."""
    root = tmp_path_factory.mktemp("results of engines")
    result = {"base": small_world.model, "llamafactory": fine_tuned.ctx.model_dir}
    for seed, engine in enumerate(("alignment", "verl")):
        saved = root / f"{engine} saved"
        run_inside(environments[engine], "save.py", [small_world.model, saved, str(seed)], root)
        result[engine] = root / engine
        publish(saved, small_world.model, result[engine], parent=small_world.model)
    return result


@pytest.fixture(scope="module")
def answers(
    small_world: World,
    models: dict[str, Path],
    environments: dict[str, Environment],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Answers]:
    """What every environment makes of every model."""
    root = tmp_path_factory.mktemp("answers")
    result = {}
    for name, environment in environments.items():
        arguments = [root / f"{name}.npz", small_world.data / "sft.jsonl", *models.values()]
        run_inside(environment, "logits.py", arguments, root)
        result[name] = dict(np.load(root / f"{name}.npz"))
    return result


@pytest.mark.parametrize("model", [0, 1, 2, 3], ids=["base", "llamafactory", "alignment", "verl"])
@pytest.mark.parametrize("environment", ["llamafactory", "verl"])
def test_every_environment_loads_the_same_model(answers: dict[str, Answers], environment: str, model: int) -> None:
    here, there = answers["alignment"], answers[environment]
    assert here[f"strange-{model}"] == there[f"strange-{model}"] == 0
    for name in ("ids", "mask", "end"):
        np.testing.assert_array_equal(there[f"{name}-{model}"], here[f"{name}-{model}"])
    real = here[f"mask-{model}"].astype(bool)
    logits, others = here[f"logits-{model}"][real], there[f"logits-{model}"][real]
    assert np.abs(logits).max() > 0.1
    np.testing.assert_allclose(others, logits, rtol=0, atol=1e-5)


def test_the_models_differ_from_each_other(answers: dict[str, Answers]) -> None:
    """So that equal logits above mean equal weights."""
    logits = [answers["alignment"][f"logits-{model}"] for model in range(4)]
    for model in range(1, 4):
        assert all(np.abs(logits[model] - other).max() > 0.01 for other in logits[:model])


def test_the_models_have_one_format(models: dict[str, Path]) -> None:
    base = {path.name: path.read_bytes() for path in models["base"].iterdir() if path.suffix != ".safetensors"}
    layout = [(t.name, t.dtype, t.shape, t.begin) for t in read_tensors(models["llamafactory"]).values()]
    for name, folder in models.items():
        files = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".safetensors"}
        assert files == base, name
        assert [item[:3] for item in layout] == [(t.name, t.dtype, t.shape) for t in read_tensors(folder).values()]


def check(environment: Environment, model: Path, pool: Path, root: Path) -> dict[str, Any]:
    argv = ["python", "-m", "integrations.alignment.check_model", "--model", str(model)]
    launch = Launch("alignment", [*argv, "--row-file", str(pool), "--out", str(root / "verdict.json")])
    assert launch_code(launch, environment, root) == 0
    return json.loads((root / "verdict.json").read_text())


def test_the_check_passes_a_good_model_and_names_what_is_wrong_with_a_bad_one(
    fine_tuned: FineTuned, small_world: World, alignment_env: Environment, tmp_path: Path
) -> None:
    pool = small_world.data / "validation.jsonl"
    verdict = check(alignment_env, fine_tuned.ctx.model_dir, pool, tmp_path)
    assert (verdict["ok"], verdict["problems"]) == (True, [])
    assert verdict["canary"]

    bad = tmp_path / "bad"
    bad.mkdir()
    for path in fine_tuned.ctx.model_dir.iterdir():
        (bad / path.name).write_bytes(path.read_bytes())
    norm = read_tensors(bad)["model.language_model.norm.weight"]
    with norm.path.open("r+b") as stream:
        stream.seek(norm.begin)
        stream.write(np.float32(np.nan).tobytes())
    verdict = check(alignment_env, bad, pool, tmp_path)
    assert not verdict["ok"]
    assert verdict["problems"] == ["`model.language_model.norm.weight` is not finite"]

    with norm.path.open("r+b") as stream:
        stream.truncate(norm.begin)
    verdict = check(alignment_env, bad, pool, tmp_path)
    assert not verdict["ok"]
    assert verdict["problems"][0].startswith(f"{bad} does not load: SafetensorError")
