"""SIGKILL the alignment stages at random moments, go on by the same command, and compare with an uninterrupted run.

    python tests/campaign/kill_alignment.py --run runs/digits [--kills 24] [--seed 0] [--folder DIR]

Both stages, in one process and in two, on the data and the fine-tuned policy of a finished `digits` run. A kill comes
some time after the start, within a step, while a checkpoint or the result is being written (its `.partial` folder
exists), or to one of the two processes alone. Prints a line for each kill and a table: the weights of policy and
discriminator and everything else that a checkpoint holds must have the same bytes as without kills.
Exits with 1 when they have not. Takes about a quarter of an hour.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from integrations.alignment.adapter import AlignAdapter, DiscriminatorAdapter, publish_discriminator
from integrations.alignment.settings import AlignSettings, DiscriminatorSettings, RolloutSettings
from integrations.common.files import hash_folder, read_json
from integrations.contract import Machine, StageContext
from prism_cli.engines import environments, process

STEPS = 5
COMMON: dict[str, Any] = {
    "held_out": 16,
    "steps": STEPS,
    "prompts_per_step": 4,
    "check_every": 2,
    "checkpoint_every": 1,
    "rollout": RolloutSettings(max_new_tokens=64),
}
STAGES: dict[str, tuple[Any, Any]] = {
    "discriminator": (DiscriminatorAdapter(), DiscriminatorSettings(samples=2, pretrain_steps=2, **COMMON)),
    "align": (AlignAdapter(), AlignSettings(group_size=4, micro_prompts=3, kl=0.01, keep="best", **COMMON)),
}
MOMENTS = ("any", "step", "checkpoint", "checkpoint", "result", "one of them")
TRAINER = "integrations.alignment.train"


@dataclass
class Case:
    """One stage in a number of processes: an uninterrupted run and what is killed."""

    kind: str
    processes: int
    folder: Path
    parents: Mapping[str, Path]
    data: Path
    seconds: float = 0.0
    """Of the uninterrupted run."""
    rounds: int = 0
    killed: list[str] = field(default_factory=list)
    same: bool = True

    def context(self, name: str) -> StageContext:
        """A new attempt of the run `name`."""
        root = self.folder / name
        attempt = root / f"attempt-{1 + len(list(root.glob('attempt-*')))}"
        for folder in (attempt, root / "checkpoints"):
            folder.mkdir(parents=True, exist_ok=True)
        settings = STAGES[self.kind][1].model_copy(update={"processes": self.processes})
        return StageContext(
            name=f"campaign/{self.kind}",
            settings=settings,
            stage_dir=root,
            attempt_dir=attempt,
            checkpoint_dir=root / "checkpoints",
            model_dir=root / "model",
            parents=self.parents,
            base_model=self.parents["policy"],
            data_dir=self.data,
            seed=7,
            machine=Machine(threads=self.processes),
        )


class Killer:
    """Kills a stage once, at the moment it was made for."""

    def __init__(self, case: Case, ctx: StageContext, moment: str, rng: random.Random) -> None:
        self.ctx, self.moment, self.rng = ctx, moment, rng
        self.follower = STAGES[case.kind][0].follow(ctx)
        self.began, self.reached = time.monotonic(), 0
        self.at = self.began + rng.uniform(0.1, 1.0) * case.seconds if moment == "any" else float("inf")
        self.step = rng.randint(1, STEPS)
        self.lag = rng.uniform(0, 0.4 if moment in ("step", "one of them") else 0.02)
        self.told = ""

    def __call__(self) -> None:
        if self.told:
            return
        self.reached = max([self.reached, *(news.step for news in self.follower.poll())])
        partials = [path.name for path in self.ctx.checkpoint_dir.glob(".*.partial")]
        if self.at == float("inf") and self._due(partials):
            self.at = time.monotonic() + self.lag
        if time.monotonic() >= self.at:
            self._kill()

    def _due(self, partials: list[str]) -> bool:
        if self.moment == "checkpoint":
            return self.reached >= self.step - 1 and any(name.startswith(".step-") for name in partials)
        if self.moment == "result":
            return ".result.partial" in partials
        return self.reached >= self.step

    def _kill(self) -> None:
        """The whole stage from its first process down, or one trainer of several."""
        with contextlib.suppress(psutil.Error):  # it may end while it is looked at
            family = [p for p in psutil.Process().children(recursive=True) if TRAINER in " ".join(p.cmdline())]
            trainers = [p for p in family if "guardian.py" not in " ".join(p.cmdline())]
            if not trainers:
                return
            partials = sorted(path.name for path in self.ctx.checkpoint_dir.glob(".*.partial"))
            # The launcher of several comes before the processes it starts.
            victim = self.rng.choice(trainers[1:]) if self.moment == "one of them" and trainers[1:] else trainers[0]
            victim.kill()
            self.told = f"{self.moment}, after step {self.reached}" + (f", writing {partials[0]}" if partials else "")


def run(case: Case, name: str, killer: str | None, rng: random.Random) -> tuple[bool, str]:
    """Start the stage, or go on; whether it came to its end, and what was killed."""
    adapter, ctx = STAGES[case.kind][0], case.context(name)
    adapter.check_inputs(ctx)
    launches = adapter.render(ctx)
    hand = Killer(case, ctx, killer, rng) if killer else None
    for launch in launches:
        code = process.run(
            launch,
            environments.ensure(launch.engine, print),
            cwd=ctx.attempt_dir,
            log=ctx.attempt_dir / "engine.log",
            import_root=ctx.attempt_dir / "import",
            tick=hand or (lambda: None),
            interval=0.003,
            stop=threading.Event(),
        )
        if code != 0:
            if hand is None or not hand.told:
                sys.exit(f"{ctx.attempt_dir / 'engine.log'}: exit code {code}, and nothing was killed")
            return False, hand.told
    return True, hand.told if hand else ""


def outcome(case: Case, name: str) -> tuple[Any, ...]:
    """What must be the same: hashes of the result and of the last checkpoint."""
    checkpoints = case.folder / name / "checkpoints"
    last = sorted(checkpoints.glob("step-*"))[-1]
    return hash_folder(checkpoints / "result"), read_json(last / "state.json")


def campaign(case: Case, kills: int, rng: random.Random) -> None:
    """Kill and go on until it has been killed often enough and has come to its end."""
    began = time.monotonic()
    run(case, "straight", None, rng)
    case.seconds = time.monotonic() - began
    wanted = outcome(case, "straight")
    moments = [one for one in MOMENTS if case.processes > 1 or one != "one of them"]
    while len(case.killed) < kills:
        case.rounds += 1
        name, ended = f"killed-{case.rounds}", False
        while not ended:
            rest = len(case.killed) < kills
            ended, told = run(case, name, rng.choice(moments) if rest else None, rng)
            if told:
                case.killed.append(told)
                print(f"-- {case.kind}, {case.processes} processes: killed {told}", flush=True)
        same = outcome(case, name) == wanted
        case.same &= same
        print(f"-- {case.kind}, {case.processes} processes: {name} ended in {'the same' if same else 'OTHER'} bytes")
        if same:
            shutil.rmtree(case.folder / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a finished run of the digits recipe")
    parser.add_argument("--kills", type=int, default=24, help="over all four cases")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, help="where the stages run; a temporary folder by default")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="alignment kills "))
    rng, run_dir = random.Random(options.seed), options.run.resolve()
    policy, data = run_dir / "shared" / "sft" / "model", run_dir / "data" / "pools"
    parents, cases = {"policy": policy}, []
    for kind in STAGES:
        for processes in (1, 2):
            case = Case(kind, processes, folder / f"{kind}-{processes}", dict(parents), data)
            campaign(case, options.kills // 4, rng)
            cases.append(case)
        if kind == "discriminator":
            result = cases[0].folder / "straight" / "checkpoints" / "result"
            parents["discriminator"] = folder / "discriminator"
            publish_discriminator(result, policy, parents["discriminator"])
    print(f"\n{'stage':16} {'processes':>9} {'kills':>6} {'runs':>5} {'seconds':>8}  bytes")
    for case in cases:
        counts = f"{case.kind:16} {case.processes:>9} {len(case.killed):>6} {case.rounds:>5} {case.seconds:>8.1f}"
        print(f"{counts}  {'the same' if case.same else 'OTHER'}")
    sys.exit(0 if all(case.same for case in cases) else 1)


if __name__ == "__main__":
    main()
