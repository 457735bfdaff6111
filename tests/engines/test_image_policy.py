"""One image policy, that of the model folder, gives as many visual tokens in every engine as prism counts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from engine_stage import FINE_TUNING, World, run_inside, run_launch, stage_context
from PIL import Image

from integrations.common.image_tokens import image_policy, visual_tokens
from integrations.llamafactory.adapter import SftAdapter
from integrations.verl.adapter import RlvrAdapter
from integrations.verl.check_prompts import CHECKED
from integrations.verl.settings import RlvrSettings
from prism_cli.engines.environments import Environment

pytestmark = pytest.mark.engine

SIZES = {"small": (32, 32), "odd": (70, 41), "large": (500, 333), "wide": (640, 50), "tall": (200, 900)}
"""Made larger, rounded, made smaller, and two that are long; in pixels."""
TOKENS = {"small": 4, "odd": 6, "large": 35, "wide": 40, "tall": 26}


@pytest.fixture
def world(small_world: World, tmp_path: Path) -> World:
    """The tiny model with other limits than its own, 4 to 40 visual tokens, and rows with noise for images."""
    model, data = tmp_path / "model", tmp_path / "data"
    shutil.copytree(small_world.model, model)
    path = model / "preprocessor_config.json"
    settings = json.loads(path.read_text()) | {"size": {"shortest_edge": 4 * 1024, "longest_edge": 40 * 1024}}
    path.write_text(json.dumps(settings))
    data.mkdir()
    noise = np.random.default_rng(0)
    rows = []
    for name, (width, height) in SIZES.items():
        Image.fromarray(noise.integers(0, 256, (height, width, 3), np.uint8)).save(data / f"{name}.png")
        rows.append({"id": name, "images": [f"{name}.png"], "prompt": "What is it?", "answer": "noise"})
    rows.append(rows[0] | {"id": "two", "images": ["small.png", "large.png"]})
    (data / "pool.jsonl").write_text("".join(json.dumps(row | {"response": "said"}) + "\n" for row in rows))
    return World(data, model)


def test_one_policy_gives_the_same_tokens_in_every_engine(
    world: World,
    llamafactory_env: Environment,
    verl_env: Environment,
    alignment_env: Environment,
    lmms_eval_env: Environment,
    tmp_path: Path,
) -> None:
    sft = stage_context(tmp_path / "sft", world, FINE_TUNING.model_copy(update={"data": ["pool"]}))
    rlvr = stage_context(
        tmp_path / "rlvr", world, RlvrSettings(data=["pool"], steps=1, prompts_per_step=2, max_prompt_length=50)
    )
    SftAdapter().render(sft)
    RlvrAdapter().check_inputs(rlvr)
    check, _ = RlvrAdapter().render(rlvr)
    seen = {}
    for environment, engine, config in (
        (llamafactory_env, "llamafactory", sft.attempt_dir / "train.yaml"),
        (verl_env, "verl", rlvr.attempt_dir / "rlvr.yaml"),
        (alignment_env, "alignment", ""),
        (lmms_eval_env, "lmms_eval", ""),
        (alignment_env, "server", ""),
    ):
        out = tmp_path / f"{engine}.json"
        arguments = [engine, world.model, world.data / "pool.jsonl", out, *([config] if config else [])]
        run_inside(environment, "image_policy.py", arguments, tmp_path)
        if engine == "lmms_eval":
            out.rename(tmp_path / "server.messages")
        else:
            seen[engine] = json.loads(out.read_text())

    policy = image_policy(world.model)
    assert {name: visual_tokens(*size, policy) for name, size in SIZES.items()} == TOKENS
    expected = TOKENS | {"two": TOKENS["small"] + TOKENS["large"]}
    for engine, counts in seen.items():
        assert {name: tokens for name, (tokens, _) in counts.items()} == expected, engine
    lengths = [{name: length for name, (_, length) in counts.items()} for counts in seen.values()]
    assert lengths[1:] == lengths[:1] * 3, "the whole prompts are as long, too"

    run_launch(check, verl_env, rlvr.attempt_dir)
    told = json.loads((rlvr.attempt_dir / CHECKED).read_text())
    over = [{"id": name, "tokens": length} for name, length in lengths[0].items() if length > 50]
    assert told == {"prompts": 6, "longest": max(lengths[0].values()), "over": over, "transparent": []}
    assert 0 < len(over) < 4
