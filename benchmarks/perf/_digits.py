"""A small digits world with its untrained model, for measurements in the alignment environment."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.perf._timing import Options
from integrations.alignment.data.prompts import Encoder
from integrations.alignment.forward.model import load_policy, load_processor
from integrations.common.rows import Row, read_rows


def prepare(options: Options, prompts: int) -> tuple[Any, Encoder, list[Row], Path]:
    """The model, an encoder, the first rows of the teacher pool, and the checkpoint's folder."""
    # Imported here because not every measurement has a world, whose scans come with scikit-learn.
    from benchmarks.digits.build_model import build as build_model
    from benchmarks.digits.build_world import build as build_world

    data, checkpoint = options.work / "data", options.work / "model"
    build_world(SimpleNamespace(**options.digits["world"]), 0, data)
    build_model(SimpleNamespace(**options.digits["model"]), data, checkpoint)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_policy(checkpoint, device)
    encoder = Encoder(load_processor(checkpoint), data)
    rows = list(islice(read_rows(data / "teacher.jsonl"), prompts))
    return model, encoder, rows, checkpoint


def machine() -> dict[str, Any]:
    """What the times were taken on."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__}


def synchronize() -> None:
    """Wait for the device, so that a time covers the work and not its launch."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
