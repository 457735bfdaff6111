"""The host's side of supervised fine-tuning: what it refuses, renders, follows and accepts, without the engine."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pydantic import ValidationError

from integrations.contract import Machine, StageContext
from integrations.errors import BadInput, StageFailed
from integrations.llamafactory import memory, rows
from integrations.llamafactory.adapter import SftAdapter, SftFollower, complete, set_damaged_aside
from integrations.llamafactory.settings import SftSettings

SETTINGS: dict[str, Any] = {"data": ["sft"], "steps": 20, "batch_size": 4, "precision": "fp32", "checkpoint_every": 5}
ROW: dict[str, Any] = {"id": "a", "images": [], "system": None, "prompt": "2+2?", "response": "4", "answer": "4"}


def settings(**changes: Any) -> SftSettings:
    return SftSettings(**SETTINGS | changes)


def weights(path: Path, dtype: str = "F32", cut: int = 0) -> None:
    header = json.dumps({"w": {"dtype": dtype, "shape": [8], "data_offsets": [0, 8 * (4 if dtype == "F32" else 2)]}})
    body = np.ones(8, "<f4" if dtype == "F32" else "<u2").tobytes()
    data = len(header).to_bytes(8, "little") + header.encode() + body
    path.write_bytes(data[: len(data) - cut])


def write_pool(folder: Path, *given: dict[str, Any], name: str = "sft") -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given))


def context(root: Path, chosen: SftSettings | None = None, **changes: Any) -> StageContext:
    model, data = root / "base model", root / "data"
    if not model.exists():
        model.mkdir()
        weights(model / "model.safetensors")
        (model / "config.json").write_text('{"model_type": "qwen3_vl"}')
        (model / "tokenizer_config.json").write_text("{}")
    if not (data / "sft.jsonl").exists():
        write_pool(data, *[ROW | {"id": str(number)} for number in range(10)])
    for folder in (root / "attempt-1", root / "checkpoints"):
        folder.mkdir(exist_ok=True)
    given: dict[str, Any] = {
        "name": "shared/sft",
        "settings": chosen or settings(),
        "stage_dir": root,
        "attempt_dir": root / "attempt-1",
        "checkpoint_dir": root / "checkpoints",
        "model_dir": root / "model",
        "parents": {"policy": model},
        "base_model": model,
        "data_dir": data,
        "seed": 7,
        "machine": Machine(threads=2),
    }
    return StageContext(**given | changes)


def checkpoint(output: Path, step: int) -> Path:
    """A whole checkpoint as the engine leaves it."""
    folder = output / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    weights(folder / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.writestr("data.pkl", b"state" * 100)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": []}))
    return folder


def rendered(ctx: StageContext) -> dict[str, Any]:
    SftAdapter().render(ctx)
    return yaml.safe_load((ctx.attempt_dir / "train.yaml").read_text())


# Settings


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"epochs": 1.0}, "give either `steps` or `epochs`"),
        ({"steps": None}, "give either `steps` or `epochs`"),
        ({"gradient_accumulation": 3}, "must divide"),
        ({"final_learning_rate": 0.1, "schedule": "linear"}, "needs `schedule: cosine`"),
        ({"learning_rat": 1e-3}, "Extra inputs are not permitted"),
        ({"data": []}, "at least 1 item"),
    ],
)
def test_contradictory_settings_are_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        settings(**changes)


def test_every_setting_says_what_it_does() -> None:
    assert [name for name, field in SftSettings.model_fields.items() if not field.description] == ["kind"]


# Steps


def test_epochs_count_every_batch_of_every_pass(tmp_path: Path) -> None:
    adapter = SftAdapter()
    assert adapter.total_steps(context(tmp_path)) == 20
    assert adapter.total_steps(context(tmp_path, settings(steps=None, epochs=1))) == 3
    assert adapter.total_steps(context(tmp_path, settings(steps=None, epochs=2.5))) == 8
    assert adapter.total_steps(context(tmp_path, gradient_steps=11)) == 11


# Inputs


def test_good_inputs_pass(tmp_path: Path) -> None:
    SftAdapter().check_inputs(context(tmp_path))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"response": None}, "`response` is missing or empty"),
        ({"response": "  "}, "`response` is missing or empty"),
        ({"prompt": ""}, "`prompt` is missing or empty"),
        ({"system": 3}, "`system` is neither text nor null"),
        ({"prompt": "look at <image>"}, "`prompt` contains <image>"),
        ({"response": "a <|im_end|>"}, r"`response` contains <\|im_end\|>"),
        ({"images": "a.png"}, "`images` is no list of paths"),
        ({"images": ["images/none.png"]}, r"image images/none\.png is missing"),
    ],
)
def test_a_bad_row_is_refused_by_name(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    write_pool(tmp_path / "data", ROW, ROW | {"id": "b"} | change)
    with pytest.raises(BadInput, match=rf"shared/sft: 1 row cannot be trained on: b \(sft\.jsonl, line 2\): {problem}"):
        SftAdapter().check_inputs(context(tmp_path))


def test_bad_rows_may_be_dropped_unless_all_are_bad(tmp_path: Path) -> None:
    write_pool(tmp_path / "data", ROW, ROW | {"response": None})
    SftAdapter().check_inputs(context(tmp_path, settings(bad_rows="drop")))
    write_pool(tmp_path / "data", ROW | {"response": None})
    with pytest.raises(BadInput, match="no row to train on in sft"):
        SftAdapter().check_inputs(context(tmp_path, settings(bad_rows="drop")))


def test_of_many_bad_rows_a_few_are_named(tmp_path: Path) -> None:
    write_pool(tmp_path / "data", *[ROW | {"id": f"row-{n}", "response": ""} for n in range(9)], ROW)
    with pytest.raises(BadInput) as caught:
        SftAdapter().check_inputs(context(tmp_path))
    assert caught.value.problem.count("row-") == 5
    assert caught.value.problem.endswith("; and 4 more")


def test_a_missing_pool_is_named(tmp_path: Path) -> None:
    ctx = context(tmp_path, settings(data=["sft", "teacher"], steps=None, epochs=1))
    for refuse in (SftAdapter().check_inputs, SftAdapter().total_steps):
        with pytest.raises(BadInput, match=r"teacher\.jsonl"):
            refuse(ctx)


def test_a_corrupt_parent_is_named(tmp_path: Path) -> None:
    ctx = context(tmp_path)
    weights(ctx.policy / "model.safetensors", cut=5)
    with pytest.raises(BadInput, match=r"base model/model\.safetensors is corrupt or cut short"):
        SftAdapter().check_inputs(ctx)


def test_an_unknown_kind_of_model_is_refused(tmp_path: Path) -> None:
    ctx = context(tmp_path)
    (ctx.policy / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(BadInput, match="`model_type` 'llama' is not supported"):
        SftAdapter().check_inputs(ctx)


def test_fp32_needs_weights_stored_in_fp32(tmp_path: Path) -> None:
    ctx = context(tmp_path)
    weights(ctx.policy / "model.safetensors", "BF16")
    with pytest.raises(BadInput, match="needs weights stored in F32"):
        SftAdapter().check_inputs(ctx)
    SftAdapter().check_inputs(context(tmp_path, settings(precision="bf16")))


def test_a_batch_must_divide_among_gpus(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"`batch_size` 4 does not divide into 8 parts \(1 accumulated x 8 GPUs\)"):
        SftAdapter().check_inputs(context(tmp_path, machine=Machine(threads=2, gpus=8)))


def test_deepspeed_needs_gpus_and_a_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="needs GPUs"):
        SftAdapter().check_inputs(context(tmp_path, settings(deepspeed="/ds.json")))
    machine = Machine(threads=2, gpus=2)
    with pytest.raises(BadInput, match="is no JSON file"):
        SftAdapter().check_inputs(context(tmp_path, settings(deepspeed=str(tmp_path / "ds.json")), machine=machine))
    (tmp_path / "ds.json").write_text("{}")
    SftAdapter().check_inputs(context(tmp_path, settings(deepspeed=str(tmp_path / "ds.json")), machine=machine))


# Rendering


def test_the_configuration_is_what_the_settings_say(tmp_path: Path) -> None:
    ctx = context(tmp_path, settings(gradient_accumulation=2, warmup_ratio=0.11, freeze_projector=True))
    config = rendered(ctx)
    expected = {
        "model_name_or_path": str(ctx.policy),
        "template": "qwen3_vl_nothink",
        "max_steps": 20,
        "warmup_steps": 3,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "lr_scheduler_type": "cosine",
        "freeze_vision_tower": True,
        "freeze_multi_modal_projector": True,
        "use_cpu": True,
        "full_determinism": True,
        "bf16": False,
        "seed": 7,
        "data_seed": 7,
        "report_to": "none",
        "save_strategy": "steps",
        "save_steps": 5,
    }
    assert {name: config[name] for name in expected} == expected
    assert "overwrite_output_dir" not in config  # with it the engine would not resume
    assert "deepspeed" not in config
    assert "lr_scheduler_kwargs" not in config


def test_a_cosine_may_end_above_zero(tmp_path: Path) -> None:
    config = rendered(context(tmp_path, settings(final_learning_rate=0.05)))
    assert (config["lr_scheduler_type"], config["lr_scheduler_kwargs"]) == ("cosine_with_min_lr", {"min_lr_rate": 0.05})


def test_paths_with_spaces_and_letters_of_all_kinds_survive(tmp_path: Path) -> None:
    root = tmp_path / "a folder: with #all 'kinds' of näme"
    root.mkdir()
    ctx = context(root)
    config = rendered(ctx)
    assert config["media_dir"] == str(ctx.data_dir)
    assert config["output_dir"] == str(ctx.checkpoint_dir / "output")


def test_one_process_on_cpu_and_torchrun_on_several_gpus(tmp_path: Path) -> None:
    _, train = SftAdapter().render(context(tmp_path))
    assert "FORCE_TORCHRUN" not in train.env
    machine = Machine(threads=2, gpus=4)
    ctx = context(tmp_path, settings(deepspeed=None), machine=machine)
    _, train = SftAdapter().render(ctx)
    assert (train.env["FORCE_TORCHRUN"], train.env["NPROC_PER_NODE"]) == ("1", "4")
    assert not any(" " in argument for argument in train.argv)
    config = rendered(ctx)
    assert (config["per_device_train_batch_size"], config["use_cpu"], config["full_determinism"]) == (1, False, False)


def test_it_sees_as_many_gpus_as_it_may_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def visible(gpus: int) -> str:
        return (
            SftAdapter().render(context(tmp_path, machine=Machine(threads=1, gpus=gpus)))[1].env["CUDA_VISIBLE_DEVICES"]
        )

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [visible(gpus) for gpus in (0, 1, 2)] == ["", "0", "0,1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    assert [visible(gpus) for gpus in (0, 1, 2)] == ["", "4", "4,5"]


def test_the_engines_caches_stay_in_the_stage(tmp_path: Path) -> None:
    ctx = context(tmp_path)
    _, train = SftAdapter().render(ctx)
    for name in ("HF_HOME", "HF_DATASETS_CACHE", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"):
        assert Path(train.env[name]).is_relative_to(ctx.checkpoint_dir)


def test_half_tokenized_rows_are_cleared(tmp_path: Path) -> None:
    ctx = context(tmp_path)
    folder = ctx.checkpoint_dir / "tokenized" / "train"
    folder.mkdir(parents=True)
    (folder / "data-00000-of-00001.arrow").write_bytes(b"half")
    SftAdapter().render(ctx)
    assert not folder.exists()
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text("{}")
    SftAdapter().render(ctx)
    assert folder.exists()


# Checkpoints


@pytest.mark.parametrize(
    "name", ["trainer_state.json", "model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"]
)
@pytest.mark.parametrize("damage", ["gone", "empty", "cut"])
def test_a_checkpoint_with_a_damaged_file_is_not_complete(tmp_path: Path, name: str, damage: str) -> None:
    folder = checkpoint(tmp_path, 5)
    assert complete(folder)
    path = folder / name
    data = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(b"" if damage == "empty" else data[:-3])
    assert not complete(folder)


def test_a_checkpoint_of_another_step_than_its_name_is_not_complete(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 5)
    assert not complete(folder.rename(tmp_path / "checkpoint-6"))


def test_damaged_checkpoints_are_set_aside_and_the_rest_stays(tmp_path: Path) -> None:
    output = tmp_path / "output"
    for step in (5, 10, 15):
        checkpoint(output, step)
    (output / "checkpoint-15" / "optimizer.pt").unlink()
    (output / "trainer_log.jsonl").touch()
    assert set_damaged_aside(output, tmp_path / "damaged") == [output / "checkpoint-15"]
    assert sorted(path.name for path in output.iterdir()) == ["checkpoint-10", "checkpoint-5", "trainer_log.jsonl"]
    checkpoint(output, 15)
    (output / "checkpoint-15" / "trainer_state.json").unlink()
    set_damaged_aside(output, tmp_path / "damaged")
    assert [path.name for path in (tmp_path / "damaged").iterdir()] == ["checkpoint-15"]


def test_nothing_is_launched_when_the_last_checkpoint_is_there(tmp_path: Path) -> None:
    ctx = context(tmp_path)
    checkpoint(ctx.checkpoint_dir / "output", 20)
    assert SftAdapter().render(ctx) == ()


def test_a_stage_that_stopped_early_fails_and_says_where(tmp_path: Path) -> None:
    ctx = context(tmp_path)
    checkpoint(ctx.checkpoint_dir / "output", 10)
    (checkpoint(ctx.checkpoint_dir / "output", 20) / "trainer_state.json").unlink()
    with pytest.raises(StageFailed, match="shared/sft stopped at step 10 of 20"):
        SftAdapter().finish(ctx)


# Progress


def log(path: Path, *entries: dict[str, Any]) -> None:
    with path.open("a") as stream:
        for entry in entries:
            stream.write(json.dumps({"total_steps": 20, "lr": 1e-3, "epoch": 0.5} | entry) + "\n")


def test_progress_is_told_once_per_step(tmp_path: Path) -> None:
    path = tmp_path / "trainer_log.jsonl"
    follower = SftFollower(path)
    assert follower.poll() == []
    log(path, {"current_steps": 10, "loss": 2.0})
    (first,) = follower.poll()
    assert (first.step, first.total, first.metrics["loss"]) == (10, 20, 2.0)
    log(path, {"current_steps": 20, "loss": 1.0}, {"current_steps": 20})
    assert [item.step for item in follower.poll()] == [20]
    assert follower.poll() == []


def test_a_resumed_attempt_tells_only_what_is_new(tmp_path: Path) -> None:
    path = tmp_path / "trainer_log.jsonl"
    log(path, {"current_steps": 10, "loss": 2.0}, {"current_steps": 12, "loss": 1.9})
    follower = SftFollower(path)
    log(path, {"current_steps": 12, "loss": 1.9}, {"current_steps": 14, "loss": 1.8})
    assert [item.step for item in follower.poll()] == [14]


def test_a_loss_that_is_not_finite_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "trainer_log.jsonl"
    path.write_text('{"current_steps": 2, "total_steps": 20, "loss": NaN, "lr": 0.001}\n')
    follower = SftFollower(tmp_path / "none")
    follower._lines.path = path
    (item,) = follower.poll()
    assert item.step == 2
    assert item.metrics.keys() == {"learning_rate"}


# Failures


@pytest.mark.parametrize(
    ("tail", "cause"),
    [
        (
            "SafetensorError: Error while serializing: I/O error: No space left on device (os error 28)",
            "disk is full",
        ),
        ("RuntimeError: basic_ios::clear: iostream error", "disk is full"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", "GPU memory ran out"),
        (
            "RuntimeError: [enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory",
            "main memory ran out",
        ),
        ("ValueError: Can't find a valid checkpoint at /x/checkpoint-8", "corrupt or cut short"),
        ("PIL.UnidentifiedImageError: cannot identify image file '/x.png'", "an image cannot be read"),
        ("ValueError: Image features and image tokens do not match, tokens: 0, features: 4", "raise `max_length`"),
        ("PermissionError: [Errno 13] Permission denied: '/proc/x'", "cannot be written"),
        ("RuntimeError: PyTorch and TorchAudio were compiled with different CUDA versions.", "do not match"),
    ],
)
def test_known_last_words_are_explained(tmp_path: Path, tail: str, cause: str) -> None:
    told = SftAdapter().explain(context(tmp_path), f"Traceback (most recent call last):\n{tail}\n")
    assert told is not None
    assert cause in told


def test_unknown_last_words_are_left_to_the_log(tmp_path: Path) -> None:
    assert SftAdapter().explain(context(tmp_path), "KeyError: 'surprise'") is None


# Lengths


def test_a_row_is_laid_out_as_chat(tmp_path: Path) -> None:
    row = ROW | {"system": "Be exact.", "images": ["a", "b"]}
    source, response = rows.turn_texts(row, [2, 1])
    pads = "<|vision_start|><|image_pad|><|image_pad|><|vision_end|><|vision_start|><|image_pad|><|vision_end|>"
    assert source == (
        f"<|im_start|>system\nBe exact.<|im_end|>\n<|im_start|>user\n{pads}2+2?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert response == "4<|im_end|>\n"


# Adapters, sharding and offload


def shared(**changes: Any) -> SftSettings:
    return settings(precision="bf16", **changes)


def options(ctx: StageContext) -> dict[str, Any]:
    SftAdapter().render(ctx)
    return dict(yaml.safe_load((ctx.attempt_dir / "train.yaml").read_text()))


def test_weights_are_trained_whole_unless_asked_otherwise(tmp_path: Path) -> None:
    found = options(context(tmp_path))
    assert found["finetuning_type"] == "full"
    assert not {"fsdp", "deepspeed", "lora_rank"} & found.keys()


def test_fsdp_deals_out_by_layer_and_saves_whole_states(tmp_path: Path) -> None:
    ctx = context(tmp_path, shared(sharding="fsdp"), machine=Machine(threads=2, gpus=2))
    found = options(ctx)
    assert (found["fsdp"], found["fsdp_config"]["fsdp_version"]) == ("full_shard auto_wrap", 2)
    assert found["fsdp_config"]["transformer_layer_cls_to_wrap"] == memory.LAYERS
    launch = SftAdapter().render(ctx)[1]
    assert launch.env["FSDP_STATE_DICT_TYPE"] == "FULL_STATE_DICT"
    assert launch.env["NPROC_PER_NODE"] == "2"
    offloaded = context(tmp_path, shared(sharding="fsdp", offload=True), machine=Machine(threads=2, gpus=2))
    assert options(offloaded)["fsdp"] == "full_shard auto_wrap offload"


@pytest.mark.parametrize(("name", "stage"), [("zero2", 2), ("zero3", 3)])
@pytest.mark.parametrize("offload", [False, True])
def test_zero_is_written_as_deepspeed_reads_it(tmp_path: Path, name: str, stage: int, offload: bool) -> None:
    found = options(context(tmp_path, shared(sharding=name, offload=offload), machine=Machine(threads=2, gpus=2)))
    written = json.loads(Path(found["deepspeed"]).read_text())
    assert written["zero_optimization"]["stage"] == stage
    assert ("offload_optimizer" in written["zero_optimization"]) == offload
    assert ("offload_param" in written["zero_optimization"]) == (offload and stage == 3)
    assert written["train_micro_batch_size_per_gpu"] == "auto"


@pytest.mark.parametrize(
    "changes",
    [
        {"offload": True},
        {"sharding": "fsdp", "precision": "fp32"},
        {"sharding": "zero2", "deepspeed": "/etc/ds.json", "precision": "bf16"},
        {"lora": {"rank": 0}},
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        settings(**changes)


def test_sharding_without_gpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="needs GPUs"):
        SftAdapter().check_inputs(context(tmp_path, shared(sharding="fsdp")))


def test_a_checkpoint_of_fsdp_is_whole_with_its_own_optimizer(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 5)
    (folder / "optimizer.pt").rename(folder / "optimizer.bin")
    assert complete(folder)
    (folder / "optimizer.bin").write_bytes(b"cut")
    assert not complete(folder)


def test_adapters_are_merged_once_the_last_step_is_there(tmp_path: Path) -> None:
    ctx = context(tmp_path, settings(lora={"rank": 8, "alpha": 16}))
    launches = SftAdapter().render(ctx)
    assert [launch.what for launch in launches] == ["looking at the rows", "training", "merging the adapters"]
    found = yaml.safe_load((ctx.attempt_dir / "train.yaml").read_text())
    assert [found[f"lora_{name}"] for name in ("rank", "alpha", "target")] == [8, 16, "all"]
    merge = yaml.safe_load((ctx.attempt_dir / "merge.yaml").read_text())
    last = checkpoint(ctx.checkpoint_dir / "output", 20)
    assert merge["adapter_name_or_path"] == str(last)
    assert SftAdapter().intermediate(ctx) == []
    [again] = SftAdapter().render(ctx)
    assert again.argv == ["llamafactory-cli", "export", "merge.yaml"]
    (ctx.checkpoint_dir / "data").mkdir()
    rows = {"kept": 0, "tokens": 0, "given": 0, "dropped": []}
    (ctx.checkpoint_dir / "data" / "rows.json").write_text(json.dumps(rows))
    with pytest.raises(StageFailed, match="were not merged"):
        SftAdapter().finish(ctx)
    folder = memory.merged(ctx)
    folder.mkdir()
    for name in ("config.json", "tokenizer_config.json"):
        (folder / name).write_text("{}")
    weights(folder / "model.safetensors")
    assert SftAdapter().render(ctx) == ()
