"""How many processes an alignment stage runs in, seen from prism's own: what is started, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from integrations.alignment.adapter import AlignAdapter, DiscriminatorAdapter
from integrations.alignment.settings import AlignSettings, DiscriminatorSettings
from integrations.contract import Machine, StageContext
from integrations.errors import BadInput
from tests.unit.test_alignment_adapter import context


def on(machine: Machine, root: Path, **settings: Any) -> StageContext:
    return replace(context(root, AlignSettings(**settings)), machine=machine)


@pytest.mark.parametrize(
    ("machine", "asked", "processes", "threads"),
    [
        (Machine(threads=8), None, 1, 8),
        (Machine(threads=8), 2, 2, 4),
        (Machine(threads=1), 2, 2, 1),
        (Machine(threads=8, gpus=1), None, 1, 8),
        (Machine(threads=8, gpus=4), None, 4, 2),
        (Machine(threads=8, gpus=4), 1, 1, 8),
    ],
)
def test_one_process_for_each_gpu_unless_said_otherwise(
    machine: Machine, asked: int | None, processes: int, threads: int, tmp_path: Path
) -> None:
    ctx = on(machine, tmp_path, processes=asked)
    AlignAdapter().check_inputs(ctx)
    (launch,) = AlignAdapter().render(ctx)
    trainer = ["-m", "integrations.alignment.train", "--config", str(ctx.attempt_dir / "config.json")]
    together = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    assert launch.argv == ["python", *(together if processes > 1 else []), *trainer]
    assert launch.env["OMP_NUM_THREADS"] == str(threads)
    assert json.loads((ctx.attempt_dir / "config.json").read_text())["threads"] == threads


@pytest.mark.parametrize(
    ("machine", "settings", "says"),
    [
        (Machine(threads=8, gpus=4), {"prompts_per_step": 3}, "4 processes cannot share 3 prompts"),
        (Machine(threads=8, gpus=2), {"processes": 4}, "`processes` is 4, and this machine has 2 GPUs"),
    ],
    ids=["too few prompts", "too few GPUs"],
)
def test_what_cannot_be_shared_is_refused(
    machine: Machine, settings: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=says):
        AlignAdapter().check_inputs(on(machine, tmp_path, **settings))


def test_the_warm_up_is_shared_like_the_game(tmp_path: Path) -> None:
    ctx = replace(context(tmp_path, DiscriminatorSettings(processes=3, prompts_per_step=2)), machine=Machine(threads=4))
    with pytest.raises(BadInput, match="3 processes cannot share 2 prompts"):
        DiscriminatorAdapter().check_inputs(ctx)
