"""The folder that is released, and its manifest."""

import hashlib
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from integrations.common.checkpoint import INDEX, Tensor, read_tensors, write_shards
from integrations.common.files import hash_folder
from integrations.errors import BadInput
from release.folder import add, assemble, assemble_texts, left_out
from release.manifest import NAME, Entry, Manifest, differences, entry, read, scan, unsafe, write

CANARY = {"prompt": "p", "response": "r", "log_probability": -3.5, "tolerance": 1e-3, "dtype": "float32"}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    values = np.arange(60, dtype=np.float32)
    bytes_of = {f"part.{number}": values[20 * number : 20 * number + 20] for number in range(3)}
    tensors = [Tensor(name, "F32", (4, 5), folder, 0) for name in bytes_of]
    write_shards(folder, tensors, lambda tensor: bytes_of[tensor.name].view(np.uint8))
    (folder / "config.json").write_text("{}\n")
    (folder / "optimizer.pt").write_bytes(b"state")
    return folder


def test_a_scan_reads_each_byte_once_and_names_files_as_the_hub_does(model: Path) -> None:
    (model / "empty.txt").write_bytes(b"")
    os.mkfifo(model / "pipe")
    (model / "link").symlink_to("/etc/passwd")
    (model / NAME).parent.mkdir()
    (model / NAME).write_text("{}")
    seen: dict[str, bytes] = {}
    told: list[tuple[int, int]] = []

    def chunk(path: str, piece: memoryview) -> None:
        seen[path] = seen.get(path, b"") + bytes(piece)

    found = scan(model, chunk, lambda done, total: told.append((done, total)))
    names = ["config.json", "empty.txt", "model.safetensors", "optimizer.pt"]
    assert sorted(found.files) == names
    for name in names:
        content = (model / name).read_bytes()
        git = subprocess.run(["git", "hash-object", "--stdin"], input=content, capture_output=True, check=True)
        wanted = Entry(len(content), hashlib.sha256(content).hexdigest(), git.stdout.decode().strip())
        assert found.files[name] == wanted == entry(model / name)
        assert seen[name] == content
    total = sum(len(content) for content in seen.values())
    assert told[-1] == (total, total)
    again = scan(model, only={"config.json"})
    assert list(again.files) == ["config.json"]
    assert found.joined(again).files == found.files


def test_a_manifest_comes_back_as_it_was_written(model: Path) -> None:
    assert read(model) is None
    manifest = Manifest(scan(model).files, CANARY)
    write(model, manifest)
    first = (model / NAME).read_bytes()
    assert read(model) == manifest
    write(model, manifest)
    assert (model / NAME).read_bytes() == first


@pytest.mark.parametrize(
    "change",
    [
        lambda told: told.update(format=2),
        lambda told: told.update(more=1),
        lambda told: told.pop("canary"),
        lambda told: told["files"].update({"../up": told["files"]["config.json"]}),
        lambda told: told["files"].update({"/etc/passwd": told["files"]["config.json"]}),
        lambda told: told["files"].update({"a\x1b[31m": told["files"]["config.json"]}),
        lambda told: told["files"]["config.json"].update(size=-1),
        lambda told: told["files"]["config.json"].update(size=True),
        lambda told: told["files"]["config.json"].update(sha256="0" * 63),
        lambda told: told["files"]["config.json"].update(more=1),
        lambda told: told["files"].update({"config.json": []}),
        lambda told: told["canary"].pop("tolerance"),
        lambda told: told["canary"].update(log_probability=float("nan")),
        lambda told: told["canary"].update(prompt=1),
    ],
)
def test_a_damaged_manifest_is_refused(model: Path, change) -> None:
    write(model, Manifest(scan(model).files, CANARY))
    told = json.loads((model / NAME).read_text())
    change(told)
    (model / NAME).write_text(json.dumps(told))
    with pytest.raises(BadInput, match=r"manifest\.json"):
        read(model)


@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b'{"a": 1, "a": 1}', b"\xff", b"[]", b"1" * 5000])
def test_a_file_that_is_no_manifest_is_refused(model: Path, content: bytes) -> None:
    (model / NAME).parent.mkdir()
    (model / NAME).write_bytes(content)
    with pytest.raises(BadInput, match=r"manifest\.json"):
        read(model)


def test_a_manifest_with_a_name_that_could_not_be_read_back_is_not_written(model: Path) -> None:
    with pytest.raises(BadInput, match="out of the folder"):
        write(model, Manifest({"../x": Entry(0, "0" * 64, "0" * 40)}))
    assert not (model / NAME).exists()


def test_what_differs_is_named(model: Path) -> None:
    manifest = scan(model)
    same = {path: (item.size, item.sha256, None) for path, item in manifest.files.items()}
    assert differences(manifest, same | {".gitattributes": (1, None, "0" * 40), NAME: (1, None, "0" * 40)}) == []
    size, sha256, _ = same["config.json"]
    other = {
        "config.json": (size + 1, sha256, None),
        "model.safetensors": (same["model.safetensors"][0], None, "0" * 40),
        "optimizer.pt": (5, None, None),
        "new": (1, None, None),
    }
    assert differences(manifest, other) == [
        f"config.json has {size + 1} bytes, not {size}",
        "model.safetensors has another content",
        "optimizer.pt has no known hash to compare",
        "new is not of the release",
    ]
    del other["config.json"]
    assert differences(manifest, other)[0] == "config.json is missing"


@pytest.mark.parametrize(
    "path", ["", "/a", "a//b", "./a", "a/../b", "a\\b", "c:a", "a\n", "a\u202eb", "e\u0301", "a ", "a.", "x" * 256]
)
def test_paths_that_no_release_has(path: str) -> None:
    assert unsafe(path)


def test_a_folder_holds_known_files_and_texts_and_is_the_same_each_time(model: Path, tmp_path: Path) -> None:
    extra = {"README.md": "# Model\n", ".eval_results/digits.yaml": "[]\n", "images/scores.png": b"\x89PNG"}
    first = assemble(model, tmp_path / "one", extra)
    second = assemble(model, tmp_path / "two", extra)
    assert hash_folder(first) == hash_folder(second)
    assert sorted(scan(first).files) == [
        ".eval_results/digits.yaml", "README.md", "config.json", "images/scores.png", "model.safetensors",
    ]  # fmt: skip
    assert left_out(model) == ["optimizer.pt"]
    assert (first / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    assert all(path.stat().st_nlink == 1 for path in first.rglob("*") if path.is_file())
    (first / "stray").write_text("")
    assemble(model, first, extra)
    assert hash_folder(first) == hash_folder(second)


def test_large_weights_are_written_anew_as_shards(model: Path, tmp_path: Path) -> None:
    before = read_tensors(model)
    folder = assemble(model, tmp_path / "out", {}, shard_bytes=160)
    names = sorted(path.name for path in folder.iterdir())
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert names == sorted(["config.json", INDEX, *shards])
    after = read_tensors(folder)
    assert list(after) == list(before)
    assert all(np.array_equal(after[name].read(), before[name].read()) for name in before)
    index = json.loads((folder / INDEX).read_text())
    assert index["metadata"]["total_size"] == 240
    assert hash_folder(assemble(folder, tmp_path / "again", {}, shard_bytes=160)) == hash_folder(folder)


@pytest.mark.parametrize("path", ["../README.md", "model.safetensors.bak", "evil.py", "provenance/../x.json", "a\nb"])
def test_a_text_of_another_name_is_refused(model: Path, tmp_path: Path, path: str) -> None:
    with pytest.raises(BadInput, match="a release"):
        assemble(model, tmp_path / "out", {path: "x"})
    assert [item.name for item in tmp_path.iterdir()] == ["model"]


def test_a_link_in_the_source_is_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("{}")
    (model / "generation_config.json").symlink_to(tmp_path / "secret")
    with pytest.raises(BadInput, match="no file of its own"):
        assemble(model, tmp_path / "out", {})


def test_texts_can_be_added_later(model: Path, tmp_path: Path) -> None:
    folder = assemble(model, tmp_path / "out", {"README.md": "draft"})
    add(folder, {"README.md": "final", "provenance/facts.json": "{}"})
    assert (folder / "README.md").read_text() == "final"
    assert sorted(path.name for path in folder.rglob("*") if path.is_file())[:2] == ["README.md", "config.json"]


def test_a_data_set_is_a_folder_without_a_model(tmp_path: Path) -> None:
    files = {"README.md": "# Data\n", "data/train.parquet": b"PAR1"}
    out = assemble_texts(tmp_path / "out", files)
    assert sorted(scan(out).files) == ["README.md", "data/train.parquet"]
    with pytest.raises(BadInput, match="a release holds no file named"):
        assemble_texts(out, {"data/train.pkl": b""})
    assert not out.exists()
