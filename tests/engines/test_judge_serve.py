"""`prism judge serve` with a real server: it answers, is checked by its own line, and ends with Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from engine_stage import World

from integrations.common.judge import Judge, Question, ask_all
from prism_cli.engines.environments import Environment

pytestmark = pytest.mark.engine


def test_it_serves_until_ctrl_c(small_world: World, alignment_env: Environment, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "prism_cli", "judge", "serve", "--model", str(small_world.model)]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "COLUMNS": "80"}
    with subprocess.Popen(
        [*command, "--engine", "transformers", "--port", "0"], stdout=subprocess.PIPE, text=True, env=environment
    ) as running:
        assert running.stdout is not None
        lines = iter(running.stdout.readline, "")
        url = next(match[1] for line in lines if (match := re.search(r"prism judge check --url (\S+)", line)))
        below = psutil.Process(running.pid).children(recursive=True)
        judge = Judge(url)
        assert re.fullmatch(r"model-[0-9a-f]{8}", judge.identity.model)
        replies = []
        ask_all(judge, [Question("What is 7 + 5?", "12", "12")], lambda index, reply: replies.append(reply))
        assert (replies[0].answered, replies[0].verdict) == (True, None)  # random weights give no verdict
        running.send_signal(signal.SIGINT)
        assert running.wait(60) == 0
        assert list(lines)[-1] == "stopped\n"
    assert below
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in below)
    assert list(tmp_path.glob("prism-judge-*")) == []
