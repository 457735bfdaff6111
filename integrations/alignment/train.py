"""Stage 2 as a process: `python -m integrations.alignment.train --config config.json`.

The adapter writes the configuration (`job.Job`). The same command after a kill goes on from the newest checkpoint and
ends in the same weights, bit for bit, on CPU with the same number of threads.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

# cuBLAS repeats its results only with a fixed workspace, which it reads when it starts.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch

from integrations.alignment import checkpoints, game, warmup
from integrations.alignment.job import read_job
from integrations.common import error_line
from integrations.errors import PrismError, StageFailed


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    job = read_job(parser.parse_args(arguments).config)
    torch.set_num_threads(job.threads)
    torch.use_deterministic_algorithms(True, warn_only=job.device != "cpu")
    torch.manual_seed(job.seed)
    checkpoints.clear_partial(job.checkpoint_dir)
    try:
        (warmup if job.settings.kind == "discriminator" else game).run(job)
    except PrismError as error:
        return error_line.tell(error)
    except OSError as error:
        return error_line.tell(StageFailed(str(error), "free disk space or make the run's folder writable"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
