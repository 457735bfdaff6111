"""LLaMA-Factory itself, a dozen steps on a tiny model: killed and resumed, with bad rows and half checkpoints."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from engine_stage import FINE_TUNING, FineTuned, World, launch_code, run_inside, run_stage, stage_context

from integrations.common.checkpoint import publish, read_tensors
from integrations.common.files import hash_folder, read_json
from integrations.contract import StageContext
from integrations.errors import StageFailed
from integrations.llamafactory.adapter import SftAdapter, complete
from prism_cli.engines.environments import Environment

pytestmark = pytest.mark.engine


def losses(log: Path) -> dict[int, float]:
    """Loss by step; a step that a resumed run repeats must repeat its loss."""
    result: dict[int, float] = {}
    for line in log.read_text().splitlines():
        entry = json.loads(line)
        if "loss" in entry:
            assert result.setdefault(entry["current_steps"], entry["loss"]) == entry["loss"]
    return result


def log_of(ctx: StageContext) -> Path:
    return ctx.checkpoint_dir / "output" / "trainer_log.jsonl"


def test_it_trains_every_row_and_reports_every_step(fine_tuned: FineTuned, small_world: World) -> None:
    assert fine_tuned.result.step == 12
    assert fine_tuned.result.rows == {"given": 136, "trained": 136, "dropped": 0}
    assert [item.step for item in fine_tuned.news] == [2, 4, 6, 8, 10, 12]
    assert {item.total for item in fine_tuned.news} == {12}
    assert fine_tuned.news[-1].metrics["loss"] < fine_tuned.news[0].metrics["loss"] - 0.5
    assert fine_tuned.result.metrics["loss"] == fine_tuned.news[-1].metrics["loss"]


def test_a_whole_checkpoint_can_be_evaluated_and_half_a_one_is_not_named(fine_tuned: FineTuned, tmp_path: Path) -> None:
    ctx = replace(fine_tuned.ctx, checkpoint_dir=tmp_path / "checkpoints")
    shutil.copytree(fine_tuned.ctx.checkpoint_dir / "output", ctx.checkpoint_dir / "output")
    half = ctx.checkpoint_dir / "output" / "checkpoint-10"
    shutil.copytree(ctx.checkpoint_dir / "output" / "checkpoint-12", half)
    (half / "trainer_state.json").unlink()  # written last
    found = SftAdapter().intermediate(ctx)
    assert [step for step, _ in found] == [8, 12]
    hashes = [publish(weights, ctx.base_model, tmp_path / str(step)) for step, weights in found]
    assert hashes[1] == hash_folder(ctx.model_dir) != hashes[0]


def test_it_trains_what_is_not_frozen(fine_tuned: FineTuned, small_world: World) -> None:
    before, after = read_tensors(small_world.model), read_tensors(fine_tuned.ctx.model_dir)
    changed = {name for name in before if not np.array_equal(before[name].read(), after[name].read())}
    frozen = {name for name in before if ".visual." in name and ".merger." not in name}
    assert changed == before.keys() - frozen


def test_everything_but_the_weights_is_the_base_models(fine_tuned: FineTuned, small_world: World) -> None:
    for path in small_world.model.iterdir():
        same = (fine_tuned.ctx.model_dir / path.name).read_bytes() == path.read_bytes()
        assert same == (path.suffix != ".safetensors")


def test_the_engine_sees_the_processors_tokens_and_pixels(
    fine_tuned: FineTuned,
    small_world: World,
    llamafactory_env: Environment,
    alignment_env: Environment,
    tmp_path: Path,
) -> None:
    """Also for an image that the processor has to make smaller: the engine must not do it first, in its own way."""
    from pyarrow import ipc

    pool = tmp_path / "pool.jsonl"
    given = [json.loads(line) for line in (small_world.data / "sft.jsonl").read_text().splitlines()[:6]]
    (tmp_path / "images").mkdir()
    for row in given:
        for image in row["images"]:
            shutil.copy(small_world.data / image, tmp_path / image)
    (tmp_path / "images" / "large.png").write_bytes(png(500, 333))
    large = given[0] | {"id": "large", "images": ["images/large.png"]}
    pool.write_text("".join(json.dumps(row) + "\n" for row in [*given, large]))

    run_inside(alignment_env, "encode.py", ["transformers", small_world.model, pool, tmp_path / "a.npz"], tmp_path)
    config = fine_tuned.ctx.attempt_dir / "train.yaml"
    arguments = ["llamafactory", small_world.model, pool, tmp_path / "b.npz", config]
    run_inside(llamafactory_env, "encode.py", arguments, tmp_path)
    expected, seen = np.load(tmp_path / "a.npz"), np.load(tmp_path / "b.npz")
    for number in range(len(given) + 1):
        np.testing.assert_array_equal(seen[f"grid-{number}"], expected[f"grid-{number}"])
        np.testing.assert_array_equal(seen[f"pixels-{number}"], expected[f"pixels-{number}"])
    assert expected["grid-6"].tolist() == [[1, 4, 6]]

    arrow = next((fine_tuned.ctx.checkpoint_dir / "tokenized" / "train").glob("*.arrow"))
    rows = ipc.open_stream(arrow).read_all().slice(0, len(given)).to_pylist()
    for number, row in enumerate(rows):
        assert row["input_ids"] == expected[f"ids-{number}"].tolist()
        response = expected[f"response-{number}"].tolist()
        assert row["labels"] == [-100] * (len(row["input_ids"]) - len(response)) + response


def test_its_loss_is_the_models_loss(
    small_world: World, llamafactory_env: Environment, alignment_env: Environment, tmp_path: Path
) -> None:
    """One step over eight rows of all kinds in one batch: padding, positions, images and labels are as they should."""
    data = tmp_path / "data"
    shutil.copytree(small_world.data, data)
    (data / "images" / "large.png").write_bytes(png(500, 333))
    rows = [json.loads(line) for line in (data / "sft.jsonl").read_text().splitlines()[:8]]
    rows[1] |= {"images": ["images/large.png"]}
    rows[2] |= {"images": rows[2]["images"] + ["images/large.png"] + rows[3]["images"]}
    rows[4] |= {"images": [], "system": "Be exact."}
    rows[5] |= {"system": "Look at the picture, then answer."}
    (data / "sft.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    settings = FINE_TUNING.model_copy(update={"data": ["sft"], "steps": 1, "log_every": 1, "warmup_ratio": 0.0})
    ctx = stage_context(tmp_path / "stage", World(data, small_world.model), settings)
    (news,) = run_stage(SftAdapter(), ctx, llamafactory_env)
    run_inside(alignment_env, "loss.py", [small_world.model, data / "sft.jsonl", tmp_path / "loss.json"], tmp_path)
    expected = json.loads((tmp_path / "loss.json").read_text())
    assert news.metrics["loss"] == pytest.approx(expected["loss"], rel=1e-5)


def test_killed_and_resumed_it_ends_in_the_same_weights_and_log(
    fine_tuned: FineTuned, small_world: World, llamafactory_env: Environment, tmp_path: Path
) -> None:
    adapter = SftAdapter()
    first = stage_context(tmp_path / "killed", small_world, FINE_TUNING)
    adapter.check_inputs(first)
    *others, train = adapter.render(first)
    for launch in others:
        assert launch_code(launch, llamafactory_env, first.attempt_dir) == 0
    follower = adapter.follow(first)

    def kill_in_the_middle() -> None:
        if any(item.step >= 6 for item in follower.poll()):
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):  # one that has ended since
                    if "llamafactory-cli" in " ".join(process.cmdline()):
                        process.kill()

    assert launch_code(train, llamafactory_env, first.attempt_dir, kill_in_the_middle, interval=0.02) == -9
    with pytest.raises(StageFailed, match=r"stopped at step (4|8) of 12"):
        adapter.finish(first)
    output = first.checkpoint_dir / "output"
    newest = max(output.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    half = output / "checkpoint-11"
    shutil.copytree(newest, half)
    (half / "trainer_state.json").unlink()
    with (half / "model.safetensors").open("r+b") as stream:
        stream.truncate(100_000)

    again = stage_context(tmp_path / "killed", small_world, FINE_TUNING)
    news = run_stage(adapter, again, llamafactory_env)
    assert (again.checkpoint_dir / "damaged" / "checkpoint-11").is_dir()
    adapter.finish(again)
    assert {path.name for path in again.checkpoint_dir.iterdir()} == {"data", "tokenized", "output"}
    assert "Resuming training from" in (again.attempt_dir / "engine.log").read_text()
    assert [item.step for item in news] == [step for step in (8, 10, 12) if step >= news[0].step]
    assert hash_folder(again.model_dir) == hash_folder(fine_tuned.ctx.model_dir)
    assert losses(log_of(again)) == losses(log_of(fine_tuned.ctx))


def in_bf16(model: Path, folder: Path) -> Path:
    """A copy of a model with its weights cut down to bf16."""
    shutil.copytree(model, folder)
    tensors, header, offset = read_tensors(model), {}, 0
    for name, tensor in tensors.items():
        span = [offset, offset + tensor.nbytes // 2]
        header[name] = {"dtype": "BF16", "shape": tensor.shape, "data_offsets": span}
        offset = span[1]
    text = json.dumps(header).encode()
    cut = [(tensor.read().view("<u4") >> 16).astype("<u2").tobytes() for tensor in tensors.values()]
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"".join(cut))
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"float32"', '"bfloat16"'))
    return folder


def test_a_model_in_bf16_stays_in_bf16(small_world: World, llamafactory_env: Environment, tmp_path: Path) -> None:
    """The engine trains in fp32 and saves a mixture; what is frozen must come back bit for bit."""
    world = World(small_world.data, in_bf16(small_world.model, tmp_path / "base"))
    settings = FINE_TUNING.model_copy(update={"steps": 2, "precision": "bf16", "log_every": 1})
    ctx = stage_context(tmp_path / "stage", world, settings)
    run_stage(SftAdapter(), ctx, llamafactory_env)
    SftAdapter().finish(ctx)
    before, after = read_tensors(world.model), read_tensors(ctx.model_dir)
    assert {tensor.dtype for tensor in after.values()} == {"BF16"}
    changed = {name for name in before if not np.array_equal(before[name].read(), after[name].read())}
    trained = {name for name in before if ".visual." not in name or ".merger." in name}
    # A norm's weight of 1 moves by less than bf16 can tell in two steps.
    assert {name for name in trained if "norm" not in name} <= changed <= trained


def test_a_finished_training_is_not_repeated(fine_tuned: FineTuned, small_world: World) -> None:
    again = stage_context(fine_tuned.ctx.stage_dir, small_world, FINE_TUNING)
    assert SftAdapter().render(again) == ()
    assert SftAdapter().finish(again) == fine_tuned.result


ROTATED = bytes.fromhex("4d4d002a00000008 0001 011200030000000100060000 00000000")
"""Exif data that say: show the picture turned by a quarter."""


def png(width: int, height: int, whole: bool = True, exif: bytes = b"") -> bytes:
    """A grey picture with a gradient."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    lines = b"".join(b"\0" + bytes((x + 2 * y) % 256 for x in range(width)) for y in range(height))
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    data = zlib.compress(lines)
    body = chunk(b"IDAT", data) if whole else chunk(b"IDAT", data)[: len(data) // 2]
    body = (chunk(b"eXIf", exif) if exif else b"") + body
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + (chunk(b"IEND", b"") if whole else b"")


def broken_pool(folder: Path, world: World) -> World:
    """A copy of the world whose `sft` pool has one row of each kind that only the engine's libraries can judge."""
    data = folder / "data"
    shutil.copytree(world.data, data)
    rows = [json.loads(line) for line in (data / "sft.jsonl").read_text().splitlines()][:20]
    pictures = {
        "cut": png(64, 32, whole=False),
        "thin": png(64, 20),
        "text": b"no image",
        "turned": png(64, 32, exif=ROTATED),
        "endless": png(6000, 29),
    }
    for name, content in pictures.items():
        (data / "images" / f"{name}.png").write_bytes(content)
        rows.append(rows[0] | {"id": name, "images": [f"images/{name}.png"]})
    rows.append(rows[0] | {"id": "long", "response": rows[0]["response"] * 20})
    (data / "sft.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return World(data, world.model)


def test_bad_rows_are_refused_by_name(small_world: World, llamafactory_env: Environment, tmp_path: Path) -> None:
    settings = FINE_TUNING.model_copy(update={"data": ["sft"]})
    ctx = stage_context(tmp_path / "stage", broken_pool(tmp_path, small_world), settings)
    adapter = SftAdapter()
    adapter.check_inputs(ctx)
    prepare, _ = adapter.render(ctx)
    assert launch_code(prepare, llamafactory_env, ctx.attempt_dir) != 0
    cause = adapter.explain(ctx, "")
    assert cause is not None
    for part in (
        "6 rows cannot be trained on",
        "cut (sft.jsonl, line 21): image images/cut.png cannot be read",
        "thin (sft.jsonl, line 22): image images/thin.png is 64 x 20 pixels",
        "text (sft.jsonl, line 23): image images/text.png cannot be read",
        "turned (sft.jsonl, line 24): image images/turned.png is to be shown rotated",
        "endless (sft.jsonl, line 25): image images/endless.png is 6000 x 29 pixels",
        "and 1 more",
        "bad_rows: drop",
    ):
        assert part in cause


def test_bad_rows_are_dropped_by_name_and_nothing_is_written_outside(
    small_world: World, llamafactory_env: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
        (tmp_path / name).mkdir()
    changes = {"data": ["sft"], "steps": 2, "checkpoint_every": 2, "bad_rows": "drop"}
    ctx = stage_context(
        tmp_path / "stage", broken_pool(tmp_path, small_world), FINE_TUNING.model_copy(update=changes), seed=3
    )
    before = {path: path.stat().st_mtime_ns for path in ctx.data_dir.rglob("*")}
    run_stage(SftAdapter(), ctx, llamafactory_env)
    assert not [path for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME") for path in (tmp_path / name).iterdir()]
    assert {path: path.stat().st_mtime_ns for path in ctx.data_dir.rglob("*")} == before

    result = SftAdapter().finish(ctx)
    assert result.rows == {"given": 26, "trained": 20, "dropped": 6}
    assert "cut (sft.jsonl, line 21)" in result.notes[0]
    told = (ctx.attempt_dir / "engine.log").read_text()
    assert "dropped: thin (sft.jsonl, line 22)" in told
    assert re.search(r"dropped: long \(sft\.jsonl, line 26\): \d+ tokens, more than max_length 256", told)
    assert complete(ctx.checkpoint_dir / "output" / "checkpoint-2")

    report = ctx.checkpoint_dir / "data" / "rows.json"
    report.write_text(json.dumps(read_json(report) | {"kept": 19}))
    with pytest.raises(StageFailed, match=r"19 rows of .* tokens were given, the engine trained on 20 rows"):
        SftAdapter().finish(ctx)
