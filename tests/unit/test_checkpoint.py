"""A published model is the engine's weights and, byte for byte, everything else of the base model."""

import json
import resource
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from integrations.common import checkpoint
from integrations.common.checkpoint import check_model_folder, publish, read_tensors
from integrations.common.files import hash_folder
from integrations.errors import BadInput, StageFailed

EMBEDDING = "model.language_model.embed_tokens.weight"
VISION = "model.visual.blocks.0.weight"
NAMES = {"<f4": "F32", "<f8": "F64", "<f2": "F16", "<u2": "BF16"}
Weights = dict[str, np.ndarray[Any, Any]]


def save(path: Path, weights: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """A safetensors file as the format's description has it; arrays of uint16 stand for bf16."""
    header, offset = {}, 0
    for name, array in weights.items():
        span = [offset, offset + array.nbytes]
        header[name] = {"dtype": NAMES[array.dtype.str], "shape": list(array.shape), "data_offsets": span}
        offset = span[1]
    text = json.dumps(header).encode()
    body = b"".join(array.tobytes() for array in weights.values())
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def load(folder: Path) -> Weights:
    dtypes = {name: dtype for dtype, name in NAMES.items()}
    return {t.name: t.read().view(dtypes[t.dtype]).reshape(t.shape) for t in read_tensors(folder).values()}


def some_weights(seed: int = 0) -> Weights:
    random = np.random.default_rng(seed)
    shapes = {EMBEDDING: (8, 4), "model.language_model.norm.weight": (4,), VISION: (2, 3, 4)}
    return {name: random.standard_normal(shape).astype("<f4") for name, shape in shapes.items()}


def model(folder: Path, weights: Weights, tied: bool = True) -> Path:
    folder.mkdir()
    save(folder / "model.safetensors", weights)
    (folder / "config.json").write_text(json.dumps({"tie_word_embeddings": tied}))
    (folder / "tokenizer_config.json").write_text('{"padding_side":   "left"}')
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "README.md").write_text("the base model's own card")
    (folder / ".cache").write_text("hidden")
    return folder


def engine_result(folder: Path, weights: Weights) -> Path:
    folder.mkdir()
    save(folder / "model.safetensors", weights)
    (folder / "config.json").write_text('{"written": "by the engine"}')
    (folder / "optimizer.pt").write_bytes(b"moments")
    return folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return model(tmp_path / "base model", some_weights())


def test_weights_come_from_the_engine_and_the_rest_from_the_base(base: Path, tmp_path: Path) -> None:
    trained = some_weights(1)
    shuffled = dict(reversed(trained.items()))
    result = publish(engine_result(tmp_path / "out", shuffled), base, tmp_path / "run" / "model", parent=base)
    folder = tmp_path / "run" / "model"
    assert {p.name for p in folder.iterdir()} == {
        "model.safetensors",
        "config.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    }
    for name in ("config.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (folder / name).read_bytes() == (base / name).read_bytes()
    assert list(load(folder)) == list(load(base))
    for name, array in load(folder).items():
        np.testing.assert_array_equal(array, trained[name])
    assert result == hash_folder(folder)
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["model"]


def test_the_same_weights_give_the_same_bytes_however_they_were_saved(base: Path, tmp_path: Path) -> None:
    trained = some_weights(1)
    one = engine_result(tmp_path / "one", trained)
    two = engine_result(tmp_path / "two", dict(reversed(trained.items())))
    assert publish(one, base, tmp_path / "a") == publish(two, base, tmp_path / "b")


def test_an_older_result_in_the_place_is_replaced(base: Path, tmp_path: Path) -> None:
    publish(engine_result(tmp_path / "one", some_weights(1)), base, tmp_path / "model")
    (tmp_path / "model" / "stale").touch()
    publish(engine_result(tmp_path / "two", some_weights(2)), base, tmp_path / "model")
    np.testing.assert_array_equal(load(tmp_path / "model")[VISION], some_weights(2)[VISION])
    assert not (tmp_path / "model" / "stale").exists()


def test_shards_are_read_and_written(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = some_weights(1)
    out = tmp_path / "out"
    out.mkdir()
    weight_map = {}
    for number, (name, array) in enumerate(trained.items()):
        weight_map[name] = f"model-{number}.safetensors"
        save(out / weight_map[name], {name: array})
    (out / checkpoint.INDEX).write_text(json.dumps({"weight_map": weight_map}))
    monkeypatch.setattr(checkpoint, "SHARD_BYTES", 150)
    publish(out, base, tmp_path / "model")
    files = sorted(p.name for p in (tmp_path / "model").glob("*.safetensors"))
    assert files == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = json.loads((tmp_path / "model" / checkpoint.INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in trained.values())
    assert index["weight_map"].keys() == trained.keys()
    for name, array in load(tmp_path / "model").items():
        np.testing.assert_array_equal(array, trained[name])


def test_a_tied_output_embedding_that_the_base_leaves_out_is_left_out(base: Path, tmp_path: Path) -> None:
    trained = some_weights(1)
    out = engine_result(tmp_path / "out", {**trained, "lm_head.weight": trained[EMBEDDING]})
    publish(out, base, tmp_path / "model")
    assert load(tmp_path / "model").keys() == trained.keys()


def test_a_tied_output_embedding_that_the_base_has_is_added(tmp_path: Path) -> None:
    weights = some_weights()
    base = model(tmp_path / "base", {**weights, "lm_head.weight": weights[EMBEDDING]})
    trained = some_weights(1)
    publish(engine_result(tmp_path / "out", trained), base, tmp_path / "model")
    np.testing.assert_array_equal(load(tmp_path / "model")["lm_head.weight"], trained[EMBEDDING])


def test_an_output_embedding_that_came_apart_is_refused(base: Path, tmp_path: Path) -> None:
    trained = some_weights(1)
    out = engine_result(tmp_path / "out", {**trained, "lm_head.weight": trained[EMBEDDING] + 1})
    with pytest.raises(StageFailed, match="differ though the model ties them"):
        publish(out, base, tmp_path / "model")


def test_an_untied_model_needs_its_own_output_embedding(tmp_path: Path) -> None:
    weights = some_weights()
    base = model(tmp_path / "base", {**weights, "lm_head.weight": weights[EMBEDDING]}, tied=False)
    with pytest.raises(StageFailed, match=r"lacks tensors: lm_head\.weight"):
        publish(engine_result(tmp_path / "out", some_weights(1)), base, tmp_path / "model")


def bf16(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """bf16 nearest to each value, ties to even, by search: exact and slow."""
    candidates = np.arange(2**16, dtype=np.uint32)
    with np.errstate(invalid="ignore"):
        values = (candidates << 16).view("<f4").astype("f8")
    finite = np.isfinite(values)
    result = []
    for value in array.ravel():
        distance = np.where(finite, np.abs(values - float(value)), np.inf)
        nearest = candidates[distance == distance.min()]
        even = nearest[nearest % 2 == 0]
        sign = [c for c in (even if len(even) else nearest) if bool(c >> 15) == bool(np.signbit(value))]
        result.append(sign[0])
    return np.array(result, "<u2").reshape(array.shape)


def test_wider_weights_are_rounded_to_the_nearest_of_the_base_dtype(tmp_path: Path) -> None:
    ties = np.array([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 1 + 2**-8 + 2**-20, 3.0e38, -1e-40, 0.1, 65504], "<f4")
    base = model(tmp_path / "base", {"w": np.zeros(8, "<u2")})
    publish(engine_result(tmp_path / "out", {"w": ties}), base, tmp_path / "model")
    np.testing.assert_array_equal(load(tmp_path / "model")["w"], bf16(ties))


@given(
    st.lists(
        st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**127), max_value=2.0**127),
        max_size=6,
    )
)
def test_rounding_to_bf16_is_to_nearest(values: list[float]) -> None:
    array = np.array(values, "<f4")
    rounded = checkpoint._rounded(array.view(np.uint8), "F32", "BF16").view("<u2")
    np.testing.assert_array_equal(rounded, bf16(array).astype("<u2"))


def test_weights_that_overflow_the_base_dtype_are_refused(tmp_path: Path) -> None:
    base = model(tmp_path / "base", {"w": np.zeros(2, "<f2")})
    with pytest.raises(StageFailed, match="NaN or infinity"):
        publish(engine_result(tmp_path / "out", {"w": np.array([1e6, 1], "<f4")}), base, tmp_path / "model")


def test_weights_in_a_narrower_dtype_are_refused(base: Path, tmp_path: Path) -> None:
    trained = some_weights(1)
    narrow: Weights = {**trained, VISION: bf16(trained[VISION])}
    with pytest.raises(StageFailed, match="saved as BF16, the base model has F32"):
        publish(engine_result(tmp_path / "out", narrow), base, tmp_path / "model")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_and_named(base: Path, tmp_path: Path, value: float) -> None:
    trained = some_weights(1)
    trained[VISION][1, 2, 3] = value
    with pytest.raises(StageFailed, match=rf"`{VISION}` holds NaN or infinity"):
        publish(engine_result(tmp_path / "out", trained), base, tmp_path / "model")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base model", "out"]


def test_bf16_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    base = model(tmp_path / "base", {"w": np.array([0x3F80, 0x3F80], "<u2")})
    with pytest.raises(StageFailed, match="NaN or infinity"):
        publish(engine_result(tmp_path / "out", {"w": np.array([0x3F80, 0xFF80], "<u2")}), base, tmp_path / "model")


def test_nothing_but_zeros_is_refused(base: Path, tmp_path: Path) -> None:
    zeros = {name: np.zeros_like(array) for name, array in some_weights().items()}
    with pytest.raises(StageFailed, match="are zero"):
        publish(engine_result(tmp_path / "out", zeros), base, tmp_path / "model")


def test_weights_that_did_not_change_are_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match="no weight changed"):
        publish(engine_result(tmp_path / "out", some_weights()), base, tmp_path / "model", parent=base)


def test_frozen_weights_must_be_the_parents(base: Path, tmp_path: Path) -> None:
    trained = {**some_weights(1), VISION: some_weights()[VISION]}
    publish(engine_result(tmp_path / "one", trained), base, tmp_path / "model", parent=base, frozen=["visual.blocks"])
    trained[VISION] = np.nextafter(trained[VISION], np.float32(9))
    with pytest.raises(StageFailed, match=rf"`{VISION}` was to stay frozen"):
        publish(engine_result(tmp_path / "two", trained), base, tmp_path / "m2", parent=base, frozen=["visual.blocks"])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda w: w.pop(VISION), f"lacks tensors: {VISION}"),
        (lambda w: w.update(extra=w[VISION]), "has unknown tensors: extra"),
        (lambda w: w.update({VISION: w[VISION][:1]}), "has shape"),
    ],
)
def test_other_tensors_than_the_bases_are_refused(base: Path, tmp_path: Path, change: Any, problem: str) -> None:
    trained = some_weights(1)
    change(trained)
    with pytest.raises(StageFailed, match=problem):
        publish(engine_result(tmp_path / "out", trained), base, tmp_path / "model")


@given(st.data())
def test_a_file_cut_short_or_with_a_broken_header_is_named(tmp_path_factory: Any, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("cut")
    path = folder / "model.safetensors"
    save(path, some_weights())
    whole = path.read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    if data.draw(st.booleans()):
        path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    else:
        path.write_bytes(b"\xff" * data.draw(st.integers(1, header)) + whole)
    with pytest.raises(BadInput, match=r"model\.safetensors is corrupt or cut short"):
        read_tensors(folder)


def test_extra_bytes_behind_the_weights_are_noticed(base: Path) -> None:
    with (base / "model.safetensors").open("ab") as stream:
        stream.write(b"\0")
    with pytest.raises(BadInput, match="corrupt or cut short"):
        read_tensors(base)


def test_a_header_of_another_kind_is_noticed(tmp_path: Path) -> None:
    for entries in ([], {"w": 3}, {"w": {"dtype": "F33", "shape": [1], "data_offsets": [0, 4]}}):
        text = json.dumps(entries).encode()
        (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
        with pytest.raises(BadInput, match="its header makes no sense"):
            read_tensors(tmp_path)


def test_a_corrupt_result_fails_the_stage_not_the_input(base: Path, tmp_path: Path) -> None:
    out = engine_result(tmp_path / "out", some_weights(1))
    data = (out / "model.safetensors").read_bytes()
    (out / "model.safetensors").write_bytes(data[:-7])
    with pytest.raises(StageFailed, match=r"unusable: .* cut short"):
        publish(out, base, tmp_path / "model")


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    (tmp_path / checkpoint.INDEX).write_text('{"weight_map": {"w": "model-1.safetensors"}}')
    with pytest.raises(BadInput, match=r"model-1\.safetensors"):
        read_tensors(tmp_path)


def test_a_folder_without_configuration_is_no_model(base: Path) -> None:
    check_model_folder(base)
    (base / "config.json").write_text("{")
    with pytest.raises(BadInput, match=r"config\.json is not JSON"):
        check_model_folder(base)
    (base / "config.json").unlink()
    with pytest.raises(BadInput, match=r"config\.json is missing"):
        check_model_folder(base)


def test_a_place_that_cannot_be_written_is_named_and_nothing_is_left(base: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StageFailed, match="cannot write"):
        publish(engine_result(tmp_path / "out", some_weights(1)), base, tmp_path / "file" / "model")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base model", "file", "out"]


def test_a_full_disk_is_told_and_nothing_is_left(base: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk: the write fails in the middle of the weights."""
    out = engine_result(tmp_path / "out", some_weights(1))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, before[1]))
    try:
        with pytest.raises(StageFailed, match=f"cannot write {tmp_path / 'model'}: File too large"):
            publish(out, base, tmp_path / "model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base model", "out"]
