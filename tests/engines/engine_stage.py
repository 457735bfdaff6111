"""What the tests of real engines need to run a command or a stage in an engine's environment."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from integrations.contract import Launch, Machine, Progress, StageAdapter, StageContext, StageResult
from integrations.llamafactory.settings import SftSettings
from prism_cli.engines import process
from prism_cli.engines.environments import Environment

INSIDE = Path(__file__).with_name("inside")
"""Scripts that run in an engine's environment."""


FINE_TUNING = SftSettings(
    data=["sft", "teacher"],
    steps=12,
    batch_size=8,
    max_length=256,
    learning_rate=1e-3,
    final_learning_rate=0.05,
    freeze_vision=True,
    freeze_projector=False,
    precision="fp32",
    checkpoint_every=4,
    keep_checkpoints=2,
    log_every=2,
)
"""A dozen steps, everything on but the vision tower."""


@dataclass(frozen=True)
class World:
    """Folders of a built world."""

    data: Path
    model: Path


@dataclass(frozen=True)
class FineTuned:
    """A stage that LLaMA-Factory finished."""

    ctx: StageContext
    result: StageResult
    news: list[Progress]


def run_launch(launch: Launch, environment: Environment, cwd: Path, tick: Callable[[], None] = lambda: None) -> None:
    """Run a command that must succeed; its log is shown when it does not."""
    assert launch_code(launch, environment, cwd, tick) == 0, (cwd / "engine.log").read_text()[-4000:]


def launch_code(
    launch: Launch, environment: Environment, cwd: Path, tick: Callable[[], None] = lambda: None, interval: float = 0.5
) -> int:
    return process.run(
        launch,
        environment,
        cwd=cwd,
        log=cwd / "engine.log",
        import_root=cwd / "import",
        tick=tick,
        interval=interval,
        stop=threading.Event(),
        extra_env={"OMP_NUM_THREADS": "1"},
    )


def run_inside(environment: Environment, script: str, arguments: Sequence[str | Path], cwd: Path) -> None:
    """Run one of the scripts in `inside/` that must succeed."""
    argv = ["python", str(INSIDE / script), *map(str, arguments)]
    run_launch(Launch(environment.name, argv), environment, cwd)


def stage_context(root: Path, world: World, settings: Any, **changes: Any) -> StageContext:
    """A stage of its own folder below `root`, starting from the world's model; call again for another attempt."""
    attempt = root / f"attempt-{1 + len(list(root.glob('attempt-*')))}"
    for folder in (attempt, root / "checkpoints"):
        folder.mkdir(parents=True, exist_ok=True)
    given: dict[str, Any] = {
        "name": "test/stage",
        "settings": settings,
        "stage_dir": root,
        "attempt_dir": attempt,
        "checkpoint_dir": root / "checkpoints",
        "model_dir": root / "model",
        "parents": {"policy": world.model},
        "base_model": world.model,
        "data_dir": world.data,
        "seed": 7,
        "machine": Machine(threads=1),
    }
    return StageContext(**given | changes)


def run_stage(adapter: StageAdapter, ctx: StageContext, environment: Environment) -> list[Progress]:
    """Check, render and run a stage to its end; `finish` is the caller's."""
    adapter.check_inputs(ctx)
    launches = adapter.render(ctx)
    follower = adapter.follow(ctx)
    news: list[Progress] = []
    for launch in launches:
        run_launch(launch, environment, ctx.attempt_dir, lambda: news.extend(follower.poll()))
    return news
