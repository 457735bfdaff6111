"""Pass a run's figures on to a tracker as they come: TensorBoard, Weights & Biases or trackio.

    python -m integrations.trackers.follow --run digits-s0 --events events.jsonl --folder tracking \
        --to wandb --project prism --end END

Every stage with steps becomes one run of the tracker, named `<run>/<stage>` in a group named after the run. Steps and
figures are all that is passed on: no settings, paths, host or user names, and the trackers are told to collect nothing
themselves. What was passed on is kept in `<folder>/state.json`, so a resumed run goes on where it stopped. Ends once
the file END exists and everything before it has been passed on. Runs in the trackers' environment.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from integrations.common.files import read_json, write_json

INTERVAL = 1.0
"""Seconds between two looks at the file."""


class Sink(Protocol):
    """One stage's place in a tracker."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Figures of one step."""

    def close(self) -> None:
        """Everything is written, and sent where it is to be sent."""


class TensorBoard:
    """Event files in `<folder>/<stage>`."""

    def __init__(self, run: str, stage: str, folder: Path, project: str) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(logdir=str(folder / "tensorboard" / stage))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WandB:
    """A run of Weights & Biases; the login is the user's own (WANDB_API_KEY, or `wandb login`)."""

    def __init__(self, run: str, stage: str, folder: Path, project: str) -> None:
        import wandb

        settings = wandb.Settings(
            console="off", disable_code=True, disable_git=True, disable_job_creation=True, host="prism",
            program="prism", silent=True, x_disable_machine_info=True, x_disable_meta=True, x_disable_stats=True,
            x_save_requirements=False,
        )  # fmt: skip
        name = f"{run}/{stage}"
        self._run = wandb.init(
            project=project, name=name, id=re.sub(r"[^\w-]", "-", name), group=run, dir=str(folder), resume="allow",
            reinit="create_new", settings=settings,
        )  # fmt: skip

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class Trackio:
    """A run of trackio, in its own folder (TRACKIO_DIR) on this machine."""

    def __init__(self, run: str, stage: str, folder: Path, project: str) -> None:
        import trackio

        self._run = trackio.init(
            project=project, name=f"{run}/{stage}", group=run, resume="allow", embed=False, auto_log_gpu=False,
            auto_log_cpu=False,
        )  # fmt: skip

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


SINKS: dict[str, Callable[[str, str, Path, str], Sink]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "trackio": Trackio,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True)
    parser.add_argument("--events", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--to", choices=sorted(SINKS), required=True)
    parser.add_argument("--project", required=True)
    parser.add_argument("--end", type=Path, required=True)
    args = parser.parse_args()

    def open_sink(stage: str) -> Sink:
        return SINKS[args.to](args.run, stage, args.folder, args.project)

    follow(args.events, args.folder / "state.json", args.to, open_sink, args.end)


def follow(events: Path, state: Path, to: str, open_sink: Callable[[str], Sink], end: Path) -> None:
    """Pass figures on until the end is announced.

    Args:
        state: where the position in `events` is kept, by tracker.
        open_sink: makes the place of a stage, by its name.
    """
    sinks: dict[str, Sink] = {}
    positions = read_json(state) or {}
    try:
        while True:
            last = end.exists()  # before reading: what is written before the end is announced is passed on
            for position, stage, step, values in news(events, positions.get(to, 0)):
                if stage is not None and stage not in sinks:
                    sinks[stage] = open_sink(stage)
                if stage is not None:
                    sinks[stage].log(step, values)
                positions[to] = position
            write_json(state, positions)
            if last:
                return
            time.sleep(INTERVAL)
    finally:
        for sink in sinks.values():
            sink.close()


def news(events: Path, position: int) -> Iterator[tuple[int, str | None, int, dict[str, float]]]:
    """Whole lines after a position.

    Yields:
        The position after the line, the stage (None for a line without figures), its step, and its figures.
    """
    with events.open("rb") as stream:
        stream.seek(position)
        for line in stream:
            if not line.endswith(b"\n"):
                return  # still being written
            position += len(line)
            yield (position, *figures(json.loads(line)))


def figures(event: Mapping[str, Any]) -> tuple[str | None, int, dict[str, float]]:
    """Stage, step and figures of one event."""
    if event.get("event") == "progress":
        values = {name: value for name, value in event["metrics"].items() if isinstance(value, int | float)}
        return event["stage"], event["step"], values | {"generated_tokens": event["tokens"]}
    if event.get("event") == "intermediate_evaluation":
        scores = {f"validation/{name}": value for name, value in event["scores"].items()}
        return event["stage"], event["step"], {k: v for k, v in scores.items() if isinstance(v, int | float)}
    return None, 0, {}


if __name__ == "__main__":
    main()
