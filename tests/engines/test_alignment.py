"""The discriminator and align stages through their adapters: they learn, and a kill at any moment changes nothing."""

from __future__ import annotations

import contextlib
import json
import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from engine_stage import World, launch_code, run_inside, run_stage, stage_context

from integrations.alignment.adapter import AlignAdapter, DiscriminatorAdapter
from integrations.alignment.settings import AlignSettings, DiscriminatorSettings, RolloutSettings
from integrations.common.checkpoint import publish, read_tensors
from integrations.common.files import hash_folder, read_json
from integrations.contract import Progress, StageAdapter, StageContext, StageResult
from prism_cli import __main__ as program
from prism_cli.engines.environments import Environment

pytestmark = pytest.mark.engine

ROLLOUT = RolloutSettings(max_new_tokens=64)
WARMUP = DiscriminatorSettings(
    teacher="sft",  # the small world's largest pool
    held_out=40,
    steps=6,
    pretrain_steps=0,  # six steps are enough to learn style, not content
    wording="demonstration",
    likelihood=0.0,
    decay=False,
    prompts_per_step=4,
    samples=4,
    warmup_steps=2,
    learning_rate=1e-3,
    check_every=3,
    checkpoint_every=2,
    rollout=ROLLOUT,
)
GAME = AlignSettings(
    min_separation=0.0,  # a judge of six steps knows style
    teacher="sft",
    held_out=40,
    steps=6,
    prompts_per_step=4,
    group_size=4,
    learning_rate=1e-4,
    micro_prompts=3,
    kl=0.01,
    check_every=3,
    checkpoint_every=2,
    rollout=ROLLOUT,
)


class Finished:
    """A stage that came to its end in one go."""

    def __init__(self, ctx: StageContext, result: StageResult, news: list[Progress]) -> None:
        self.ctx, self.result, self.news = ctx, result, news


@pytest.fixture(scope="module")
def policy(small_world: World, alignment_env: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder as an SFT stage would leave it."""
    folder = tmp_path_factory.mktemp("half trained")
    arguments = [small_world.data / "sft.jsonl", small_world.model, folder / "raw", "150"]
    run_inside(alignment_env, "half_trained.py", arguments, folder)
    publish(folder / "raw", small_world.model, folder / "model")
    return folder / "model"


def finished(adapter: StageAdapter, ctx: StageContext, environment: Environment) -> Finished:
    news = run_stage(adapter, ctx, environment)
    return Finished(ctx, adapter.finish(ctx), news)


@pytest.fixture(scope="module")
def warmed_up(
    small_world: World, policy: Path, alignment_env: Environment, tmp_path_factory: pytest.TempPathFactory
) -> Finished:
    root = tmp_path_factory.mktemp("straight") / "the discriminator"
    ctx = stage_context(root, small_world, WARMUP, parents={"policy": policy})
    return finished(DiscriminatorAdapter(), ctx, alignment_env)


@pytest.fixture(scope="module")
def aligned(
    small_world: World,
    policy: Path,
    warmed_up: Finished,
    alignment_env: Environment,
    tmp_path_factory: pytest.TempPathFactory,
) -> Finished:
    parents = {"policy": policy, "discriminator": warmed_up.ctx.model_dir}
    ctx = stage_context(tmp_path_factory.mktemp("straight") / "align", small_world, GAME, parents=parents)
    return finished(AlignAdapter(), ctx, alignment_env)


def test_the_discriminator_learns(warmed_up: Finished) -> None:
    result = warmed_up.result
    assert result.step == 6
    assert result.rows == {"given": 96, "trained": 56, "held_out": 40, "dropped": 0}
    assert result.metrics["held_out_pair_accuracy_total_low"] > 0.5
    steps = [item for item in warmed_up.news if item.phase == "training"]
    assert [item.step for item in steps] == [1, 2, 3, 4, 5, 6]
    assert steps[0].metrics["margin_reasoning"] == pytest.approx(0, abs=0.1), "the likelihood ratio starts at zero"
    assert steps[-1].metrics["margin_reasoning"] > 0.5
    assert result.generated_tokens == steps[-1].generated_tokens > 0


def test_the_discriminators_folder_is_complete(warmed_up: Finished, small_world: World) -> None:
    folder = warmed_up.ctx.model_dir
    config = read_json(folder / "config.json")
    assert config is not None
    assert config["model_type"] == "qwen3_vl_moe"
    assert config["text_config"]["num_local_experts"] == 4
    description = read_json(folder / "prism_discriminator.json")
    assert description is not None
    assert description["reference"] == hash_folder(warmed_up.ctx.policy)
    assert not (folder / "result.json").exists()
    for path in small_world.model.iterdir():
        if path.suffix != ".safetensors" and path.name not in ("config.json", "generation_config.json"):
            assert (folder / path.name).read_bytes() == path.read_bytes()


def test_what_it_reads_and_rewards_is_shown(
    warmed_up: Finished, small_world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`prism align` on a pool of the run: the same rows, split the same with a run's tokenizer or a model's, scored."""
    run = tmp_path / "runs" / "a run"
    records = {"shared/sft": {"kind": "sft"}, "prism/d": {"kind": "discriminator"}}
    records["prism/d"]["parents"] = {"policy": {"stage": "shared/sft"}}  # type: ignore[assignment]
    for stage, folder in (("shared/sft", warmed_up.ctx.policy), ("prism/d", warmed_up.ctx.model_dir)):
        shutil.copytree(folder, run / stage / "model")
        (run / stage / "DONE").write_text(json.dumps(records[stage]))
    (run / "manifest.json").write_text(json.dumps({"stages": records}))
    rows = [json.loads(line) for line in (small_world.data / "sft.jsonl").read_text().splitlines()[:5]]
    rows[1]["images"], rows[1]["prompt"], rows[4]["response"] = rows[0]["images"], rows[0]["prompt"], "no form"
    shutil.copytree(small_world.data / "images", tmp_path / "images")
    file = tmp_path / "items.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def ask(*words: str) -> dict[str, Any]:
        assert program.main(["align", words[0], str(file), *words[1:], "--json"]) == 0
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    scored = ask("score", "--runs-dir", str(tmp_path / "runs"))
    split = ask("segment", "--model", str(small_world.model))
    assert [item["valid"] for item in scored["items"]] == [True, True, True, True, False]
    assert scored["items"][4]["problem"] == "has not the three blocks"
    for one, other in zip(scored["items"], split["items"], strict=True):
        values = one.pop("scores", {})
        assert one == other
        assert all(math.isfinite(value) for value in values.values())
        assert list(values) == (["perception", "reasoning"] if one["valid"] else [])
    shutil.copy(run / "shared/sft/model/config.json", run / "shared/sft/model/more.json")
    assert program.main(["align", "score", str(file), "--runs-dir", str(tmp_path / "runs"), "--json"]) == 2
    assert "scores against a policy that is not" in json.loads(capsys.readouterr().out)["error"]


def test_alignment_moves_the_policy_and_keeps_the_base_models_format(aligned: Finished, small_world: World) -> None:
    before, after = read_tensors(aligned.ctx.policy), read_tensors(aligned.ctx.model_dir)
    assert list(before) == list(after)
    assert hash_folder(aligned.ctx.model_dir) != hash_folder(aligned.ctx.policy)
    for path in small_world.model.iterdir():
        if path.suffix != ".safetensors":
            assert (aligned.ctx.model_dir / path.name).read_bytes() == path.read_bytes()
    steps = [item for item in aligned.news if item.phase == "training"]
    assert [item.step for item in steps] == [1, 2, 3, 4, 5, 6]
    for name in ("entropy", "valid", "margin_perception", "pair_accuracy_reasoning", "tokens_per_second"):
        assert all(name in item.metrics for item in steps), name
    assert aligned.result.generated_tokens == steps[-1].generated_tokens


def test_a_checkpoint_holds_the_policy_of_its_step(aligned: Finished, warmed_up: Finished, tmp_path: Path) -> None:
    found = AlignAdapter().intermediate(aligned.ctx)
    assert [step for step, _ in found] == [4, 6]
    hashes = [publish(weights, aligned.ctx.base_model, tmp_path / str(step)) for step, weights in found]
    assert hashes[1] == hash_folder(aligned.ctx.model_dir) != hashes[0]
    assert DiscriminatorAdapter().intermediate(warmed_up.ctx) == []


def test_the_game_with_vllm_as_rollout_engine(
    warmed_up: Finished,
    small_world: World,
    vllm_cpu_env: Environment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PRISM_ENV_VLLM", str(vllm_cpu_env.folder))
    rollout = RolloutSettings(engine="vllm", max_new_tokens=64, max_images=1, sleep=True)
    settings = GAME.model_copy(update={"steps": 2, "rollout": rollout, "processes": 2})
    parents = {"policy": warmed_up.ctx.policy, "discriminator": warmed_up.ctx.model_dir}
    ctx = stage_context(tmp_path / "align", small_world, settings, parents=parents)
    played = finished(AlignAdapter(), ctx, vllm_cpu_env)
    steps = [item.metrics for item in played.news if item.phase == "training"]
    assert len(steps) == 2
    for metrics in steps:
        assert metrics["policy_skipped"] == 0
        assert metrics["canary_gap"] < 1e-5, "the engine has the weights after the step"
        assert metrics["logprob_gap_max"] < 1e-4, "it had them before, too"
    assert "does not sleep" in (ctx.attempt_dir / "engine.log").read_text()
    assert hash_folder(ctx.model_dir) != hash_folder(ctx.policy)


def kill_at(adapter: StageAdapter, ctx: StageContext, environment: Environment, when: Callable[[Any], bool]) -> None:
    """Run a stage and SIGKILL its process as soon as `when(progress)`."""
    adapter.check_inputs(ctx)
    (launch,) = adapter.render(ctx)
    follower = adapter.follow(ctx)
    killed: list[int] = []

    def look() -> None:
        if killed or not any(when(item) for item in follower.poll()):
            return
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):  # one that ends by itself while it is looked at
                if "integrations.alignment.train" in " ".join(process.cmdline()):
                    process.kill()
                    killed.append(process.pid)

    assert launch_code(launch, environment, ctx.attempt_dir, look, interval=0.005) != 0


@pytest.mark.parametrize(("kind", "step"), [("discriminator", 1), ("align", 4)])  # more in campaign/kill_alignment.py
def test_killed_and_resumed_it_ends_in_the_same_weights(
    kind: str,
    step: int,
    request: pytest.FixtureRequest,
    small_world: World,
    alignment_env: Environment,
    tmp_path: Path,
) -> None:
    straight: Finished = request.getfixturevalue("warmed_up" if kind == "discriminator" else "aligned")
    adapter = DiscriminatorAdapter() if kind == "discriminator" else AlignAdapter()
    given = {"parents": straight.ctx.parents}
    first = stage_context(tmp_path / "killed", small_world, straight.ctx.settings, **given)
    kill_at(adapter, first, alignment_env, lambda item: item.step >= step and item.phase == "training")
    # What a kill inside a checkpoint's write leaves.
    half = first.checkpoint_dir / ".step-000099.partial"
    half.mkdir()
    (half / "state.pt").write_bytes(random.Random(0).randbytes(1000))

    again = stage_context(tmp_path / "killed", small_world, straight.ctx.settings, **given)
    resumed = finished(adapter, again, alignment_env)
    assert not half.exists()
    assert resumed.news[0].step >= (step - 1) // 2 * 2, "it goes on from the checkpoint before the kill"
    assert hash_folder(again.model_dir) == hash_folder(straight.ctx.model_dir)
    assert resumed.result == straight.result
    if kind == "align":
        final = [sorted(ctx.checkpoint_dir.glob("step-*"))[-1] for ctx in (again, straight.ctx)]
        assert read_json(final[0] / "state.json") == read_json(final[1] / "state.json"), "the discriminator too"


def test_a_damaged_checkpoint_is_passed_over(
    aligned: Finished, small_world: World, alignment_env: Environment, tmp_path: Path
) -> None:
    root = tmp_path / "damaged"
    ctx = stage_context(root, small_world, GAME, parents=aligned.ctx.parents)
    shutil.copytree(aligned.ctx.checkpoint_dir, ctx.checkpoint_dir, dirs_exist_ok=True)
    shutil.rmtree(ctx.checkpoint_dir / "result")
    with (ctx.checkpoint_dir / "step-000006" / "state.pt").open("r+b") as stream:
        stream.seek(5000)
        stream.write(b"\0" * 100)
    repaired = finished(AlignAdapter(), ctx, alignment_env)
    assert "is damaged and is passed over" in (ctx.attempt_dir / "engine.log").read_text()
    assert repaired.news[0].step == 5
    assert hash_folder(ctx.model_dir) == hash_folder(aligned.ctx.model_dir)


def test_a_finished_stage_is_not_repeated(aligned: Finished, small_world: World) -> None:
    again = stage_context(aligned.ctx.stage_dir, small_world, GAME, parents=aligned.ctx.parents)
    assert AlignAdapter().render(again) == ()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"pool": "empty"}, "too few to hold 40 out"),
        ({"pool": "no image"}, "cannot read the image"),
        ({"policy": "another"}, "scores against another policy"),
        ({"held_out": 48}, "align holds 48 prompts out, the discriminator only 40"),
        ({"learning_rate": 1e30}, "not finite"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_foreseeable_trouble_is_one_clear_error(
    change: dict[str, Any],
    says: str,
    aligned: Finished,
    small_world: World,
    alignment_env: Environment,
    tmp_path: Path,
) -> None:
    data = tmp_path / "data"
    shutil.copytree(small_world.data, data)
    rows = [json.loads(line) for line in (data / "sft.jsonl").read_text().splitlines()]
    if change.get("pool") == "empty":
        rows = [row | {"response": "no blocks"} for row in rows]
    if change.get("pool") == "no image":
        rows = [row | {"images": ["images/none.png"]} for row in rows]
    (data / "sft.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    parents = dict(aligned.ctx.parents)
    if change.get("policy") == "another":
        parents["policy"] = small_world.model
    options = {name: value for name, value in change.items() if name in AlignSettings.model_fields}
    settings = GAME.model_copy(update=options | {"warmup_steps": 0})
    ctx = stage_context(tmp_path / "stage", World(data, small_world.model), settings, parents=parents)
    adapter = AlignAdapter()
    adapter.check_inputs(ctx)
    (launch,) = adapter.render(ctx)
    assert launch_code(launch, alignment_env, ctx.attempt_dir) != 0
    log = (ctx.attempt_dir / "engine.log").read_text()
    assert "Traceback" not in log
    assert says in (adapter.explain(ctx, log) or "")
    assert not (ctx.checkpoint_dir / "result").exists()
