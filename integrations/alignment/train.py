"""Stage 2 as a process: `python -m integrations.alignment.train --config config.json`.

The adapter writes the configuration (`job.Job`). The same command after a kill goes on from the newest checkpoint and
ends in the same weights, bit for bit, on CPU with the same number of threads. In several processes, one for each GPU:

    python -m torch.distributed.run --standalone --nproc-per-node 8 -m integrations.alignment.train --config config.json
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

# cuBLAS repeats its results only with a fixed workspace, which it reads when it starts.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch

from integrations.alignment.game import game, warmup
from integrations.alignment.job import Job, read_job
from integrations.alignment.training import checkpoints
from integrations.alignment.training.world import World, open_world
from integrations.common import error_line
from integrations.errors import PrismError, StageFailed


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    job = read_job(parser.parse_args(arguments).config)
    torch.set_num_threads(job.threads)
    torch.use_deterministic_algorithms(True, warn_only=job.device != "cpu")
    torch.manual_seed(job.seed)
    world = open_world(job.device)
    return conclude(lambda: train(job, world), world)


def train(job: Job, world: World) -> None:
    """Run the stage to its end, from its newest checkpoint."""
    if world.first:
        checkpoints.clear_partial(job.checkpoint_dir)
    (warmup if job.settings.kind == "discriminator" else game).run(job, world)


def conclude(work: Callable[[], None], world: World) -> int:
    """Do the work; the exit code.

    An error is told to the user once: by the first of the processes that meet it. Those that only lose the connection
    to one that has ended say nothing; one that goes on waiting is ended by torchrun.
    """
    try:
        work()
    except PrismError as error:
        return _tell(error, world)
    except OSError as error:
        return _tell(StageFailed(str(error), "free disk space or make the run's folder writable"), world)
    except RuntimeError:
        code = world.failed()
        if code is None:
            raise
        return code
    world.close()
    return 0


def _tell(error: PrismError, world: World) -> int:
    return error_line.tell(error) if world.speaks(error.exit_code) else error.exit_code


if __name__ == "__main__":
    sys.exit(main())
