"""A release is loaded by the engine, and what is wrong with one is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_stage import World, run_inside

from integrations.common.checkpoint import Tensor, read_tensors, write_shards
from prism_cli.engines.environments import Environment
from prism_cli.publication.probe import probe
from release.checks.loading import canary_difference

pytestmark = pytest.mark.engine


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Write the weights anew with other tensors."""
    tensors = read_tensors(folder)
    content = {name: np.array(tensor.read()) for name, tensor in tensors.items()}
    change(tensors)
    write_shards(folder, list(tensors.values()), lambda tensor: content[tensor.name])


def another_shape(tensors: dict[str, Tensor]) -> None:
    name = "model.language_model.embed_tokens.weight"
    old = tensors[name]
    tensors[name] = Tensor(name, old.dtype, old.shape[::-1], old.path, old.begin)


def broken_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.role }}\n")


def silent_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.role }}{% endfor %}")


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


BAD: dict[str, tuple[str, str, Callable[[Path], object]]] = {
    "shape": ("weights", "another shape", lambda folder: rewrite(folder, another_shape)),
    "missing": (
        "weights",
        "lacks tensors: model.language_model.norm.weight",
        lambda folder: rewrite(folder, lambda tensors: tensors.pop("model.language_model.norm.weight")),
    ),
    "layers": (
        "weights",
        "has unknown tensors",
        lambda folder: edit(folder / "config.json", lambda value: value["text_config"].update(num_hidden_layers=3)),
    ),
    "template": ("processor", "TemplateSyntaxError", broken_template),
    "silent": ("processor", "leaves out the message's text", silent_template),
    "pictures": ("processor", "", lambda folder: (folder / "preprocessor_config.json").unlink()),
}


def test_what_is_wrong_with_a_model_is_named_and_a_sound_one_answers_the_same_each_time(
    small_world: World, alignment_env: Environment, tmp_path: Path
) -> None:
    first = probe(small_world.model, tmp_path / "work")
    assert not any(first["problems"].values())
    canary = first["canary"]
    assert canary["dtype"] == "float32"
    assert canary["log_probability"] < -canary["tokens"]
    folders = {name: shutil.copytree(small_world.model, tmp_path / name) for name in ("same", "changed", *BAD)}
    for name, (_, _, spoil) in BAD.items():
        spoil(folders[name])
    norm = read_tensors(folders["changed"])["model.language_model.norm.weight"]
    with norm.path.open("r+b") as stream:
        stream.seek(norm.begin)
        stream.write(np.full(norm.nbytes // 4, 1.01, np.float32).tobytes())

    run_inside(alignment_env, "release_probes.py", list(folders.values()), tmp_path)
    told = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in folders}
    assert canary_difference(canary, told["same"]["canary"]) == ""
    assert "was recorded" in canary_difference(canary, told["changed"]["canary"])
    for name, (part, words, _) in BAD.items():
        problems = told[name]["problems"]
        assert [key for key, found in problems.items() if found] == [part], (name, problems)
        assert words in problems[part][0]
        assert told[name]["canary"] == {}
