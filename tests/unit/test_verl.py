"""The host side of RLVR: what is written for verl, which checkpoints are trusted, how the result is judged."""

from __future__ import annotations

import io
import json
import shlex
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from pydantic import ValidationError

from integrations.common.parquet_rows import convert
from integrations.contract import Machine, StageContext
from integrations.errors import BadInput, StageFailed
from integrations.verl import configuration as module
from integrations.verl.adapter import METRICS, RlvrAdapter, is_complete, read_metrics
from integrations.verl.reward import compute_score
from integrations.verl.settings import RlvrSettings

SETTINGS = RlvrSettings(
    data=["rlvr"], steps=10, prompts_per_step=2, group_size=4, max_prompt_length=512, max_image_pixels=9216
)


def safetensors(path: Path, values: dict[str, bytes]) -> None:
    """One F32 vector per name."""
    header, offset = {}, 0
    for name, data in values.items():
        header[name] = {"dtype": "F32", "shape": [len(data) // 4], "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(values.values()))


def picture(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height)).save(stream, "PNG")
    return stream.getvalue()


def row(number: int, **changes: Any) -> dict[str, Any]:
    return {"id": f"r{number}", "images": ["images/a.png"], "prompt": "How many?", "answer": "3"} | changes


@pytest.fixture
def stage(tmp_path: Path) -> StageContext:
    """A stage in a folder whose name has everything that a command line or YAML could trip over."""
    root = tmp_path / "a run=1, $x {y}: [z] 'q' #"
    model = root / "shared" / "model"
    safetensors(model / "model.safetensors", {"w": b"\0\0\x80\x3f" * 2})
    (model / "config.json").write_text('{"model_type": "qwen3_vl"}')
    (model / "tokenizer_config.json").write_text("{}")
    size = {"shortest_edge": 1024, "longest_edge": 16384}
    (model / "preprocessor_config.json").write_text(json.dumps({"size": size, "patch_size": 16, "merge_size": 2}))
    data = root / "data"
    (data / "images").mkdir(parents=True)
    (data / "images" / "a.png").write_bytes(picture(32, 32))
    stage_dir = root / "prism" / "rlvr"
    ctx = StageContext(
        name="prism/rlvr",
        settings=SETTINGS,
        stage_dir=stage_dir,
        attempt_dir=stage_dir / "attempt-1",
        checkpoint_dir=stage_dir / "checkpoints",
        model_dir=stage_dir / "model",
        parents={"policy": model},
        base_model=model,
        data_dir=data,
        seed=5,
        machine=Machine(threads=2),
    )
    ctx.attempt_dir.mkdir(parents=True)
    ctx.checkpoint_dir.mkdir()
    give(ctx, [row(number) for number in range(4)])
    return ctx


def give(ctx: StageContext, rows: list[dict[str, Any]]) -> None:
    (ctx.data_dir / "rlvr.jsonl").write_text("".join(json.dumps(item) + "\n" for item in rows))


def changed(ctx: StageContext, **changes: Any) -> StageContext:
    return StageContext(**{name: getattr(ctx, name) for name in ctx.__dataclass_fields__} | changes)


def configuration(ctx: StageContext) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ctx.attempt_dir / "rlvr.yaml").read_text())
    return loaded


def checkpoint(ctx: StageContext, step: int, weights: bytes = b"\0\0\x00\x40" * 2) -> Path:
    folder = ctx.checkpoint_dir / f"global_step_{step}"
    for name in (
        "actor/model_world_size_1_rank_0.pt",
        "actor/optim_world_size_1_rank_0.pt",
        "actor/extra_state_world_size_1_rank_0.pt",
        "data.pt",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.writestr("data", "x" * 1000)
    safetensors(folder / "actor" / "huggingface" / "model.safetensors", {"w": weights})
    return folder


def metrics(attempt: Path, steps: range, **changes: Any) -> None:
    attempt.mkdir(exist_ok=True)
    with (attempt / METRICS).open("a") as stream:
        for step in steps:
            values = {
                "prism/responses": 8.0,
                "prism/lost": 0.0,
                "prism/generated_tokens": 100.0 + step,
                "prism/reward": 0.5,
                "prism/accuracy": 0.4,
                "prism/format": 0.9,
                "prism/silent_groups": 0.0,
                "training/off_policy/trajectory_staleness_worst/max": 0,
                "actor/ppo_kl": -1e-8,
                "actor/entropy": float("nan"),
            }
            stream.write(json.dumps({"step": step, "data": values | changes}) + "\n")


# --- settings


def test_shares_of_the_reward_must_add_up() -> None:
    with pytest.raises(ValidationError, match=r"accuracy_weight \(0.5\) and format_weight \(0.2\) must add up to 1"):
        RlvrSettings(data=["rlvr"], accuracy_weight=0.5)


def test_warm_up_must_end_before_the_stage() -> None:
    with pytest.raises(ValidationError, match="warmup_steps"):
        RlvrSettings(data=["rlvr"], steps=5, warmup_steps=5)


def test_micro_batches_must_divide_a_step() -> None:
    with pytest.raises(ValidationError, match="must divide the 12 responses"):
        RlvrSettings(data=["rlvr"], prompts_per_step=3, group_size=4, micro_batch_size=8)
    RlvrSettings(data=["rlvr"], prompts_per_step=3, group_size=4, micro_batch_size=64)


def test_every_setting_is_documented() -> None:
    for name, field in RlvrSettings.model_fields.items():
        assert field.description, name


# --- inputs


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([row(0), row(1, answer=" ")], "row `r1`: `answer` is empty"),
        ([row(0), row(1, answer=None)], "row `r1`: `answer` is empty"),
        (
            [row(0), row(1, images=["images/none.png"])],
            r"rlvr\.jsonl, line 2, row `r1`: image images/none.png is missing",
        ),
        ([row(0), row(1, prompt="<image> what?")], "row `r1`: `prompt` contains <image>"),
        ([row(0), row(1, system="<video>")], "row `r1`: `system` contains <video>"),
        ([row(0), row(1, prompt=" ")], "row `r1`: `prompt` is missing or empty"),
        ([row(0), row(1, prompt=["hello"])], "row `r1`: `prompt` is missing or empty"),
        ([row(0), row(1, images="images/a.png")], "row `r1`: `images` is no list of paths"),
        (
            [row(0), row(1, answer=["3", "three"])],
            "row `r1`: `answer` is a list; write several accepted answers as one",
        ),
        ([row(0), row(1, answer=True)], "row `r1`: `answer` is neither text nor a number"),
        ([row(0), row(1, images=["rlvr.jsonl"])], "row `r1`: cannot read .*: no picture of a known kind"),
        ([row(0), row(1, images=["images/line.png"])], "line.png is 9 x 2000 pixels, more than 200 times as long"),
        ([row(0), row(1, images=["images/thin.png"])], "thin.png is 10 x 280 pixels, too narrow for tokens of 32 x 32"),
        ([row(0)], "hold 1 prompts, fewer than prompts_per_step"),
    ],
)
def test_rows_that_cannot_be_used_are_refused(stage: StageContext, rows: list[dict[str, Any]], problem: str) -> None:
    give(stage, rows)
    for name, size in {"line": (9, 2000), "thin": (10, 280)}.items():
        (stage.data_dir / "images" / f"{name}.png").write_bytes(picture(*size))
    with pytest.raises(BadInput, match=problem):
        RlvrAdapter().check_inputs(stage)


def test_references_that_no_answer_can_meet_are_named(stage: StageContext) -> None:
    give(stage, [row(number) for number in range(4)] + [row(4, answer="???")])
    with pytest.raises(BadInput, match=r"does not find 1 of 5 reference answers equal to themselves, e\.g\. row `r4`"):
        RlvrAdapter().check_inputs(stage)
    give(stage, [row(number) for number in range(60)] + [row(60, answer="???")])
    RlvrAdapter().check_inputs(stage)


def test_several_answers_are_accepted_from_the_pool_to_the_reward(stage: StageContext) -> None:
    several = json.dumps(["1/2", "half"])
    give(stage, [row(number, answer=several) for number in range(4)])
    RlvrAdapter().check_inputs(stage)
    RlvrAdapter().render(stage)
    truth = pq.read_table(stage.attempt_dir / "prompts.parquet")["reward_model"][0].as_py()["ground_truth"]
    said = "<caption>c</caption><think>t</think><answer>{}</answer>"
    assert [compute_score("x", said.format(a), truth)["accuracy"] for a in ("0.5", "half", "2")] == [1.0, 1.0, 0.0]
    assert json.loads((stage.attempt_dir / "prompts.json").read_text())["unreadable"] == []
    give(stage, [row(number, answer=json.dumps(["1/2", "???"])) for number in range(4)])
    with pytest.raises(BadInput, match="does not find 4 of 4"):
        RlvrAdapter().check_inputs(stage)


def test_a_missing_pool_is_refused(stage: StageContext) -> None:
    settings = SETTINGS.model_copy(update={"data": ["nothing"]})
    with pytest.raises(BadInput, match=r"nothing\.jsonl"):
        RlvrAdapter().check_inputs(changed(stage, settings=settings))


def test_a_damaged_policy_is_refused(stage: StageContext) -> None:
    with (stage.policy / "model.safetensors").open("r+b") as stream:
        stream.truncate(20)
    with pytest.raises(BadInput, match=r"model\.safetensors is corrupt or cut short"):
        RlvrAdapter().check_inputs(stage)


def test_responses_must_be_shared_evenly_by_gpus(stage: StageContext) -> None:
    with pytest.raises(BadInput, match="cannot be shared evenly by 3 GPUs"):
        RlvrAdapter().check_inputs(changed(stage, machine=Machine(threads=2, gpus=3)))


# --- what is written for verl


def test_prompts_hold_what_verl_reads(stage: StageContext) -> None:
    give(stage, [row(0, system="Be brief.", source="public"), row(1, images=[])])
    RlvrAdapter().render(stage)
    first, second = pq.read_table(stage.attempt_dir / "prompts.parquet").to_pylist()
    assert first["prompt"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "<image>How many?"},
    ]
    assert first["images"] == [{"bytes": picture(32, 32), "min_pixels": 1024, "max_pixels": 9216}]
    assert first["reward_model"] == {"style": "rule", "ground_truth": "3"}
    assert first["extra_info"] == {"index": 0, "id": "r0", "question": "How many?"}
    assert first["data_source"] == "public"
    assert second["prompt"] == [{"role": "user", "content": "How many?"}]
    assert second["images"] == []


def test_the_published_file_becomes_what_verl_reads(stage: StageContext, tmp_path: Path) -> None:
    """The columns of the paper's RLVR set, from its parquet file to ours."""
    published = {
        "data_source": "mm_gad",
        "prompt": [{"role": "system", "content": "Be exact."}, {"role": "user", "content": "<image>\nHow large?"}],
        "images": [{"bytes": picture(64, 32), "path": None}],
        "ability": "math",
        "reward_model": {"ground_truth": "1/2", "style": "rule", "equivalent_answers": ["50%"]},
        "extra_info": {"index": 7},
    }
    pq.write_table(pa.Table.from_pylist([published] * 3), tmp_path / "rl_training_data_filtered_2k.parquet")
    convert(tmp_path / "rl_training_data_filtered_2k.parquet", stage.data_dir, "rlvr")
    RlvrAdapter().check_inputs(stage)
    RlvrAdapter().render(stage)
    _, _, last = pq.read_table(stage.attempt_dir / "prompts.parquet").to_pylist()
    assert last["prompt"] == [published["prompt"][0], {"role": "user", "content": "<image>How large?"}]
    assert last["images"][0]["bytes"] == picture(64, 32)
    assert last["reward_model"] == {"style": "rule", "ground_truth": '["1/2", "50%"]'}
    assert (last["data_source"], last["extra_info"]["id"]) == ("mm_gad", "rlvr-000002")


def test_images_are_bounded_by_the_processor_and_the_settings(stage: StageContext) -> None:
    """verl resizes images before the processor does; both must come to the same size."""
    for pixels, expected in ((None, 16384), (10**6, 16384), (2048, 2048), (1024, 1024)):
        settings = SETTINGS.model_copy(update={"max_image_pixels": pixels})
        RlvrAdapter().render(changed(stage, settings=settings))
        (image,) = pq.read_table(stage.attempt_dir / "prompts.parquet")["images"][0].as_py()
        assert (image["min_pixels"], image["max_pixels"]) == (1024, expected)


def test_paths_and_seed_reach_verl(stage: StageContext) -> None:
    _, launch = RlvrAdapter().render(stage)
    written = configuration(stage)
    assert written["data"]["train_files"] == str(stage.attempt_dir / "prompts.parquet")
    assert written["trainer"]["default_local_dir"] == str(stage.checkpoint_dir)
    assert written["actor_rollout_ref"]["model"]["path"] == str(stage.policy)
    assert written["hydra"]["run"]["dir"] == str(stage.attempt_dir)
    assert written["data"]["seed"] == written["actor_rollout_ref"]["rollout"]["seed"] == 5
    assert launch.env["VERL_FILE_LOGGER_PATH"] == str(stage.attempt_dir / METRICS)
    assert launch.argv[-4:] == ["--config-dir", str(stage.attempt_dir), "--config-name", "rlvr"]


def test_an_interpolation_in_a_path_is_taken_literally(stage: StageContext) -> None:
    stage = changed(stage, checkpoint_dir=stage.stage_dir / "${HOME}")
    RlvrAdapter().render(stage)
    assert configuration(stage)["trainer"]["default_local_dir"] == str(stage.stage_dir / "\\${HOME}")


def test_settings_reach_verl(stage: StageContext) -> None:
    settings = SETTINGS.model_copy(
        update={"clip_low": 0.1, "clip_high": 0.3, "warmup_steps": 2, "adam_beta2": 0.9, "max_grad_norm": 0.5}
    )
    RlvrAdapter().render(changed(stage, settings=settings, gradient_steps=14))
    written = configuration(stage)
    actor = written["actor_rollout_ref"]["actor"]
    assert (actor["clip_ratio_low"], actor["clip_ratio_high"], actor["grad_clip"]) == (0.1, 0.3, 0.5)
    assert actor["optim"]["betas"] == [0.9, 0.9]
    assert actor["optim"]["lr_warmup_steps"] == 2
    assert actor["use_kl_loss"] is False
    assert written["trainer"]["total_training_steps"] == 14
    assert written["reward"]["custom_reward_function"]["reward_kwargs"] == {
        "accuracy_weight": 0.8,
        "format_weight": 0.2,
    }


@pytest.mark.parametrize(
    ("algorithm", "clips", "loss", "average", "filtering"),
    [
        ("grpo", (0.2, 0.2, 3.0), "vanilla", "token-mean", False),
        ("dapo", (0.2, 0.28, 10.0), "vanilla", "token-mean", True),
        ("gspo", (3e-4, 4e-4, 3.0), "gspo", "seq-mean-token-mean", False),
    ],
)
def test_an_algorithm_is_all_that_makes_it(
    stage: StageContext, algorithm: str, clips: tuple[float, ...], loss: str, average: str, filtering: bool
) -> None:
    settings = RlvrSettings(data=["rlvr"], algorithm=algorithm, prompts_per_step=2, group_size=4)  # type: ignore[arg-type]
    RlvrAdapter().render(changed(stage, settings=settings))
    written = configuration(stage)
    actor = written["actor_rollout_ref"]["actor"]
    assert (actor["clip_ratio_low"], actor["clip_ratio_high"], actor["clip_ratio_c"]) == clips
    assert (actor["policy_loss"]["loss_mode"], actor["loss_agg_mode"]) == (loss, average)
    assert written["algorithm"]["adv_estimator"] == "grpo"
    assert written["algorithm"]["filter_groups"]["enable"] is filtering
    told = written["trainer"]["v1"]["sampler"]["sampler_kwargs"]
    assert told["enable"] is filtering
    if filtering:
        assert written["algorithm"]["filter_groups"]["metric"] == told["metric"] == "accuracy"
        assert (told["max_inflight_gen_batches"], told["generation_limit"]) == (3, 30)
        buffer = written["reward"]["reward_kwargs"]["overlong_buffer_cfg"]
        assert (buffer["len"], written["reward"]["reward_manager"]["name"]) == (4096, "dapo")


def test_what_a_recipe_gives_goes_before_the_algorithms_own() -> None:
    given = RlvrSettings(data=["rlvr"], algorithm="dapo", clip_high=0.25, filter_groups=False)
    assert (given.clip_high, given.filter_groups, given.dual_clip) == (0.25, False, 10.0)
    assert RlvrSettings(data=["rlvr"], algorithm="gspo", steps=100, prompts_per_step=2).warmup_steps == 10
    assert RlvrSettings(data=["rlvr"], algorithm="gspo").warmup_steps == 75


def test_an_arm_may_have_an_algorithm_of_its_own() -> None:
    from prism_cli.recipes.load import dump, load
    from prism_cli.recipes.schema import Recipe

    for recipe in (load("digits", sets=["arms.control.set.rlvr.algorithm=gspo"]).recipe,):
        again = Recipe.model_validate(yaml.safe_load(dump(recipe)))
        for one in (recipe, again):
            arm = one.stage_of("control", "rlvr")
            assert isinstance(arm, RlvrSettings)
            assert (arm.algorithm, arm.clip_high, arm.loss_average) == ("gspo", 4e-4, "responses")
            assert arm.warmup_steps == 5, "the recipe gives it"
            assert one.stage_of("prism", "rlvr") == recipe.stages["rlvr"]


def test_without_a_gpu_the_plug_in_is_used(stage: StageContext) -> None:
    _, launch = RlvrAdapter().render(stage)
    written = configuration(stage)
    assert written["actor_rollout_ref"]["rollout"]["name"] == "transformers_cpu"
    assert written["actor_rollout_ref"]["model"]["external_lib"] == "integrations.verl.cpu.rollout"
    assert launch.env["VERL_PLATFORM"] == "cpu"
    socket = launch.argv[3]
    worker = shlex.split(written["ray_kwargs"]["ray_init"]["runtime_env"]["py_executable"])
    assert worker[-1] == socket
    assert Path(worker[-2]).is_file()


def test_with_gpus_verl_runs_as_published(stage: StageContext) -> None:
    _, launch = RlvrAdapter().render(changed(stage, machine=Machine(threads=2, gpus=4)))
    written = configuration(stage)
    assert launch.argv[:3] == ["python", "-m", "verl.trainer.main_ppo"]
    assert "VERL_PLATFORM" not in launch.env
    assert written["trainer"]["device"] == "cuda"
    assert written["trainer"]["n_gpus_per_node"] == 4
    rollout, data = written["actor_rollout_ref"]["rollout"], written["data"]
    assert rollout["max_model_len"] == data["max_prompt_length"] + data["max_response_length"]
    assert written["actor_rollout_ref"]["rollout"]["name"] == "vllm"
    assert "external_lib" not in written["actor_rollout_ref"]["model"]
    assert "cpu" not in json.dumps(written["ray_kwargs"])


def test_sockets_stay_short_and_apart(stage: StageContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of a Unix socket may have 107 characters, and two stages may run at once."""
    monkeypatch.setattr(module.tempfile, "gettempdir", lambda: "/a/very/long/folder/for/temporary/files/" * 2)
    other = changed(stage, attempt_dir=stage.stage_dir / "attempt-2")
    other.attempt_dir.mkdir()
    folders = {configured["ray_kwargs"]["ray_init"]["_temp_dir"] for configured in map(rendered, (stage, other))}
    assert len(folders) == 2
    for folder in folders:
        assert len(f"{folder}/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store.1") < 107


def rendered(ctx: StageContext) -> dict[str, Any]:
    RlvrAdapter().render(ctx)
    return configuration(ctx)


def test_the_cluster_has_a_secret_of_its_own(stage: StageContext) -> None:
    _, launch = RlvrAdapter().render(stage)
    token = Path(launch.env["RAY_AUTH_TOKEN_PATH"])
    assert token.parent == stage.attempt_dir
    assert token.stat().st_mode & 0o077 == 0
    assert len(token.read_text()) == 64
    assert token.read_text() not in json.dumps([list(launch.argv), dict(launch.env)])


@pytest.mark.parametrize(("longest", "filtered"), [(512, False), (64, True)])
def test_prompts_are_only_measured_when_one_may_be_too_long(stage: StageContext, longest: int, filtered: bool) -> None:
    """Measuring needs the processor, and takes verl longer than a step."""
    settings = SETTINGS.model_copy(update={"max_prompt_length": longest})
    assert rendered(changed(stage, settings=settings))["data"]["filter_overlong_prompts"] is filtered


# --- checkpoints


@pytest.mark.parametrize(
    "name",
    [
        "data.pt",
        "actor/model_world_size_1_rank_0.pt",
        "actor/optim_world_size_1_rank_0.pt",
        "actor/extra_state_world_size_1_rank_0.pt",
        "actor/huggingface/model.safetensors",
    ],
)
def test_a_checkpoint_with_a_missing_or_cut_file_is_not_whole(stage: StageContext, name: str) -> None:
    whole = checkpoint(stage, 4)
    assert is_complete(whole)
    with (whole / name).open("r+b") as stream:
        stream.truncate(100)
    assert not is_complete(whole)
    (whole / name).unlink()
    assert not is_complete(whole)


def test_verl_is_pointed_at_the_newest_whole_checkpoint(stage: StageContext) -> None:
    for step in (2, 4, 6):
        checkpoint(stage, step)
    (checkpoint(stage, 8) / "data.pt").unlink()
    (stage.checkpoint_dir / "latest_checkpointed_iteration.txt").write_text("8")
    assert len(RlvrAdapter().render(stage)) == 2
    assert (stage.checkpoint_dir / "latest_checkpointed_iteration.txt").read_text() == "6"
    assert sorted(path.name for path in stage.checkpoint_dir.glob("global_step_*")) == [
        "global_step_4",
        "global_step_6",
    ]


def test_without_a_whole_checkpoint_verl_starts_anew(stage: StageContext) -> None:
    (checkpoint(stage, 8) / "data.pt").unlink()
    (stage.checkpoint_dir / "latest_checkpointed_iteration.txt").write_text("8")
    RlvrAdapter().render(stage)
    assert list(stage.checkpoint_dir.iterdir()) == []


def test_nothing_is_launched_when_the_last_step_is_reached(stage: StageContext) -> None:
    checkpoint(stage, 10)
    assert RlvrAdapter().render(stage) == []
    assert len(RlvrAdapter().render(changed(stage, gradient_steps=12))) == 2


# --- progress and result


def test_progress_counts_on_from_earlier_attempts(stage: StageContext) -> None:
    metrics(stage.stage_dir / "attempt-1", range(1, 6))
    second = changed(stage, attempt_dir=stage.stage_dir / "attempt-2")
    follower = RlvrAdapter().follow(second)
    assert follower.poll() == []
    metrics(second.attempt_dir, range(4, 6), **{"prism/generated_tokens": 10.0})
    with (second.attempt_dir / METRICS).open("a") as stream:
        stream.write('{"step": 6, "da')
    news = follower.poll()
    assert [(item.step, item.total) for item in news] == [(4, 10), (5, 10)]
    assert [item.generated_tokens for item in news] == [101 + 102 + 103 + 10, 101 + 102 + 103 + 10 + 10]
    assert news[0].metrics == {"reward": 0.5, "accuracy": 0.4, "format": 0.9, "silent_groups": 0.0}


def test_the_last_attempt_at_a_step_counts(stage: StageContext) -> None:
    for number in (1, 2, 10):
        metrics(stage.stage_dir / f"attempt-{number}", range(number, 12), **{"prism/reward": number / 10})
    rewards = {step: line["prism/reward"] for step, line in read_metrics(stage.stage_dir).items()}
    assert rewards == {1: 0.1, **dict.fromkeys(range(2, 10), 0.2), 10: 1.0, 11: 1.0}


def test_a_finished_stage_publishes_its_last_weights(stage: StageContext) -> None:
    RlvrAdapter().render(stage)
    for step in (6, 8, 10):
        checkpoint(stage, step)
    metrics(stage.attempt_dir, range(1, 11))
    result = RlvrAdapter().finish(stage)
    assert (result.step, result.generated_tokens) == (10, sum(range(101, 111)))
    assert result.rows == {"given": 4, "trained": 4, "dropped": 0}
    assert result.metrics["reward"] == 0.5
    assert result.notes == []
    assert (stage.model_dir / "config.json").read_bytes() == (stage.base_model / "config.json").read_bytes()
    assert sorted(path.name for path in stage.checkpoint_dir.glob("*_*")) == [
        "global_step_10",
        "global_step_8",
        "latest_checkpointed_iteration.txt",
    ]
    assert sorted(path.name for path in stage.attempt_dir.iterdir()) == [METRICS, "prompts.json", "rlvr.yaml"]


def test_prompts_left_out_for_their_length_are_reported(stage: StageContext) -> None:
    checkpoint(stage, 10)
    metrics(stage.attempt_dir, range(1, 11))
    (stage.attempt_dir / "engine.log").write_text("(TaskRunner pid=1) dataset len: 4\n(x) filter dataset len: 3\n")
    checked = {"prompts": 4, "longest": 600, "over": [{"id": "r2", "tokens": 600}], "transparent": []}
    (stage.attempt_dir / "checked.json").write_text(json.dumps(checked))
    follower = RlvrAdapter().follow(stage)
    (first, *steps), later = follower.poll(), follower.poll()
    told = "1 of 4 prompts are longer than max_prompt_length (512), row `r2` with 600; verl omits them"
    assert (first.step, first.alarms, len(steps), later) == (0, [told], 10, [])
    result = RlvrAdapter().finish(stage)
    assert result.rows == {"given": 4, "trained": 3, "dropped": 1}
    assert result.notes == ["1 of 4 prompts are longer than max_prompt_length and were left out, e.g. r2"]


def test_answers_that_no_response_can_meet_are_reported(stage: StageContext) -> None:
    rows = [row(number) for number in range(60)]
    give(stage, [*rows, row(60, answer="???"), row(61, answer=r"\frac{1}{"), row(62, answer="a cat")])
    checkpoint(stage, 10)
    metrics(stage.attempt_dir, range(1, 11))
    RlvrAdapter().render(stage)
    never, as_text = RlvrAdapter().finish(stage).notes
    assert never == "1 reference answers can never be met: row `r60`: '???'"
    assert as_text.endswith(r"only the same text earns the reward: row `r61`: '\\frac{1}{'")


def test_an_engine_that_ended_early_has_failed(stage: StageContext) -> None:
    checkpoint(stage, 8)
    metrics(stage.attempt_dir, range(1, 9))
    with pytest.raises(StageFailed, match="without a whole checkpoint of step 10"):
        RlvrAdapter().finish(stage)
    assert not stage.model_dir.exists()


def test_weights_that_did_not_change_fail_the_stage(stage: StageContext) -> None:
    checkpoint(stage, 10, weights=b"\0\0\x80\x3f" * 2)
    metrics(stage.attempt_dir, range(1, 11))
    with pytest.raises(StageFailed, match="no weight changed"):
        RlvrAdapter().finish(stage)


@pytest.mark.parametrize(("lost", "fails"), [(0.0, False), (1.0, False), (2.0, True)])
def test_lost_responses_are_counted_and_judged(stage: StageContext, lost: float, fails: bool) -> None:
    """verl itself ends with exit code 0; 2% are allowed, here of 80 responses."""
    checkpoint(stage, 10)
    metrics(stage.attempt_dir, range(1, 10))
    metrics(stage.attempt_dir, range(10, 11), **{"prism/lost": lost, "prism/responses": 8.0 - lost})
    if fails:
        with pytest.raises(StageFailed, match="2 of 80 responses were lost to errors"):
            RlvrAdapter().finish(stage)
    else:
        notes = RlvrAdapter().finish(stage).notes
        assert notes == ([f"{lost:.0f} of 80 responses were lost to errors"] if lost else [])


@pytest.mark.parametrize(
    "sign", [{"training/off_policy/trajectory_staleness_worst/max": 1}, {"actor/ppo_kl": 0.01}, {"actor/ppo_kl": -0.01}]
)
def test_responses_from_other_weights_fail_the_stage(stage: StageContext, sign: dict[str, float]) -> None:
    checkpoint(stage, 10)
    metrics(stage.attempt_dir, range(1, 10))
    metrics(stage.attempt_dir, range(10, 11), **sign)
    with pytest.raises(StageFailed, match="came from other weights"):
        RlvrAdapter().finish(stage)


def test_groups_that_teach_nothing_are_reported(stage: StageContext) -> None:
    checkpoint(stage, 10)
    metrics(stage.attempt_dir, range(1, 11), **{"prism/silent_groups": 0.75})
    (note,) = RlvrAdapter().finish(stage).notes
    assert note.startswith("75% of the groups had equal rewards")


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        (
            "RuntimeError: Ray actor died: agent_loop_worker_0_1f",
            "a Ray worker died: agent_loop_worker_0_1f; the same command resumes",
        ),
        ("ray.exceptions.ActorDiedError: The actor died unexpectedly before finishing", "a Ray worker died"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried", "the machine ran out of memory"),
        ("1 Workers (tasks / actors) killed due to memory pressure (OOM)", "the machine ran out of memory"),
        ("OSError: [Errno 28] No space left on device", "the disk is full"),
        (
            "RuntimeError: Sync replay buffer selected terminal groups with no materializable trajectories.",
            "every resp",
        ),
        ("Exception: The current node timed out during startup. Failed to start the raylet", "Ray did not start in"),
        ("ValueError: Multimodal prompt produced 300 tokens, exceeding rollout.prompt_length=256.", "a prompt is long"),
    ],
)
def test_known_failures_are_explained(stage: StageContext, log: str, cause: str) -> None:
    explained = RlvrAdapter().explain(stage, f"first line\n{log}\nlast line\n")
    assert explained is not None
    assert explained.startswith(cause)


def test_an_unknown_failure_is_not_explained(stage: StageContext) -> None:
    assert RlvrAdapter().explain(stage, "KeyError: 'something new'") is None
