"""The transformers server as a process, started and found as an evaluation does it."""

from __future__ import annotations

import contextlib
import json
import shutil
import urllib.error
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from engine_stage import World
from served import ask, post, running

from integrations.alignment.serving import serve_launch
from integrations.contract import Launch, Machine
from integrations.errors import StageFailed
from prism_cli.engines.environments import Environment

pytestmark = pytest.mark.engine

GREEDY = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "max_new_tokens": 12}


def launch_for(model: Path, folder: Path, port: int = 0) -> Launch:
    folder.mkdir()
    return serve_launch(
        model, GREEDY, machine=Machine(threads=1), ready=folder / "ready.json", log=folder / "log.jsonl", port=port
    )


def test_served_until_it_is_stopped(small_world: World, alignment_env: Environment, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (small_world.data / "validation.jsonl").read_text().splitlines()]
    folder = tmp_path / "a server"
    with running(launch_for(small_world.model, folder), alignment_env, folder) as server:
        url = server.wait_ready()
        with ThreadPoolExecutor(len(rows)) as threads:
            together = list(threads.map(lambda row: post(url, ask(row, small_world.data)), rows))
        alone = [post(url, ask(row, small_world.data)) for row in rows[:3]]
        assert [one["choices"] for one in alone] == [one["choices"] for one in together[:3]]
        assert {one["prism"]["temperature"] for one in together} == {0.0}

        port = int(url.split(":")[2].removesuffix("/v1"))
        second = tmp_path / "second"
        with (
            running(launch_for(small_world.model, second, port), alignment_env, second) as rival,
            pytest.raises(StageFailed, match=f"cannot listen on 127.0.0.1:{port}"),
        ):
            rival.wait_ready()
        assert rival.code == 2

        # Stopped in the middle of a long answer: it is told so, and the process ends by itself.
        long = ask(rows[0], small_world.data) | {"max_tokens": 900, "temperature": 1.0, "seed": 1}
        with ThreadPoolExecutor(1) as threads:
            asked = threads.submit(post, url, long)
            with contextlib.suppress(TimeoutError):
                asked.exception(timeout=0.5)
            server.end.set()
            told = asked.exception(60)
    assert server.code == 0, server.log.read_text()
    assert "Traceback" not in server.log.read_text()
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert len(lines) == len(rows) + 3 + 1
    assert isinstance(told, urllib.error.HTTPError)
    assert told.code == lines[-1]["status"] == 503


def test_a_model_that_cannot_be_loaded_is_told(small_world: World, alignment_env: Environment, tmp_path: Path) -> None:
    model, folder = tmp_path / "model", tmp_path / "server"
    shutil.copytree(small_world.model, model)
    (model / "preprocessor_config.json").write_text("no json")
    (model / "processor_config.json").write_text("no json")
    with (
        running(launch_for(model, folder), alignment_env, folder) as server,
        pytest.raises(StageFailed, match=f"did not start: cannot load the checkpoint {model}"),
    ):
        server.wait_ready()
    assert server.code == 2
    assert "Traceback" not in server.log.read_text()
