"""Tokens as `prism data stats` counts them are those that LLaMA-Factory will train on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from engine_stage import World, run_launch

from integrations.contract import Launch
from prism_cli.__main__ import main
from prism_cli.engines.environments import Environment

pytestmark = pytest.mark.engine


def test_every_row_has_the_tokens_that_are_trained_on(
    small_world: World, llamafactory_env: Environment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data-dir", str(small_world.data), "--pool", "sft", "--model", str(small_world.model), "--out", "out"]
    words += ["--max-length", "4096", "--bad-rows", "refuse", "--workers", "1"]
    run_launch(
        Launch("llamafactory", ["python", "-m", "integrations.llamafactory.prepare", *words]),
        llamafactory_env,
        tmp_path,
    )
    trained = json.loads((tmp_path / "out" / "rows.json").read_text())
    file, drawing = small_world.data / "sft.jsonl", tmp_path / "h.png"
    capsys.readouterr()
    command = ["data", "stats", str(file), "--model", str(small_world.model), "--limit", "40", "--png", str(drawing)]
    assert main([*command, "--json"]) == 0
    tokens = json.loads(capsys.readouterr().out)["files"][0]["tokens"]
    assert (tokens["rows"], tokens["uncounted"]) == (trained["kept"], 0)
    assert (tokens["sum"], tokens["total"]["100"]) == (trained["tokens"], trained["longest"])
    assert 0 < tokens["over"]["rows"] < tokens["rows"]
    assert drawing.read_bytes().startswith(b"\x89PNG")

    broken = tmp_path / "broken.jsonl"
    lines = file.read_text().splitlines()[:3]
    broken.write_text("\n".join([lines[0], "{", json.dumps({**json.loads(lines[2]), "images": ["none.png"]})]) + "\n")
    (tmp_path / "images").symlink_to(small_world.data / "images")
    assert main(["data", "stats", str(broken), "--model", str(small_world.model), "--json"]) == 0
    tokens = json.loads(capsys.readouterr().out)["files"][0]["tokens"]
    assert (tokens["rows"], tokens["uncounted"]) == (1, 2)
