"""RLVR on a Ray cluster that runs already, of two nodes on this machine."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from engine_stage import World, run_stage, stage_context
from test_verl import LEARNING

from integrations.contract import Machine
from integrations.verl.adapter import RlvrAdapter, read_metrics
from prism_cli.engines.environments import Environment

pytestmark = pytest.mark.engine

NODES = 2


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def end_all(token: Path) -> None:
    """Kill what knows the cluster's secret, but for this process: `ray stop` would end other people's clusters too."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get("RAY_AUTH_TOKEN_PATH") == str(token):
                process.kill()


@pytest.fixture
def cluster(verl_env: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A head and another node, each with one logical GPU, behind a secret of their own."""
    token = tmp_path / "token"
    token.write_text(secrets.token_hex(32))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    address = f"127.0.0.1:{free_port()}"
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:  # sockets need a short path
        size = ["--num-cpus=8", "--num-gpus=1", "--object-store-memory=268435456", "--disable-usage-stats"]
        head = ["--head", f"--port={address.split(':')[1]}", "--include-dashboard=false", f"--temp-dir={folder}"]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_raylet_start_wait_time_s": "120"}
        # Ray starts as many idle workers as there are processors, and refuses to be told otherwise later.
        env |= {"RAY_enable_worker_prestart": "0", "RAY_prestart_worker_first_driver": "0"}
        env |= {"PATH": f"{verl_env.bin}{os.pathsep}{os.environ['PATH']}"}
        try:
            for node in (head, [f"--address={address}"]):
                argv = [str(verl_env.bin / "ray"), "start", *node, *size]
                subprocess.run(argv, env=env, check=True, capture_output=True)
            yield address
        finally:
            end_all(token)


def test_two_nodes_of_a_running_cluster_train_one_policy(
    small_world: World, half_trained: Path, verl_env: Environment, cluster: str, tmp_path: Path
) -> None:
    settings = LEARNING.model_copy(update={"steps": 2, "kl_coefficient": 0.0})
    machine = Machine(threads=1, ray_address=cluster, nodes=NODES)
    ctx = stage_context(tmp_path / "stage", small_world, settings, parents={"policy": half_trained}, machine=machine)
    adapter = RlvrAdapter()
    news = run_stage(adapter, ctx, verl_env)
    assert [item.step for item in news] == [1, 2]
    result = adapter.finish(ctx)
    assert result.step == 2
    shards = sorted(path.name for path in ctx.checkpoint_dir.glob("global_step_2/actor/model_*.pt"))
    assert shards == [f"model_world_size_{NODES}_rank_{rank}.pt" for rank in range(NODES)]
    assert all(row["prism/responses"] == 16 for row in read_metrics(ctx.stage_dir).values())
