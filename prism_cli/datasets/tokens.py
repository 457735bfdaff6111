"""Tokens of every row of a pool, counted in LLaMA-Factory's environment, which has the tokenizer."""

from __future__ import annotations

import os
import tempfile
import threading
from pathlib import Path
from typing import Any

from integrations.common import error_line
from integrations.common.image_tokens import image_policy
from integrations.contract import Launch
from integrations.errors import BadInput, StageFailed
from prism_cli.datasets.convert import News
from prism_cli.datasets.leakage import Tick
from prism_cli.engines import environments, process

ENGINE = "llamafactory"


def count(file: Path, model: Path, jobs: int, news: News, tick: Tick = lambda done: None) -> Any:
    """(rows, 4) integers, as `integrations.llamafactory.lengths` writes them.

    Args:
        file: JSON lines as in `integrations.common.rows`.
        model: folder whose tokenizer and image processor count.
        jobs: threads of the tokenizer.

    Raises:
        BadInput: the file is no pool, or the folder lacks one of the two.
        StageFailed: the environment cannot be built, or the job died.
    """
    import numpy as np

    if file.suffix != ".jsonl":
        raise BadInput(f"{file} is no pool of JSON lines", "tokens are counted of pools; `prism data get` makes them")
    if not (model / "tokenizer.json").is_file():
        raise BadInput(f"{model} has no tokenizer.json", "name a model's folder with --model")
    image_policy(model)  # refuses settings that cannot be read, before anything is started
    environment = environments.ensure(ENGINE, news)
    with tempfile.TemporaryDirectory(prefix="prism-data-") as folder:
        top = Path(folder)
        out, log = top / "lengths.npy", top / "log.txt"
        argv = ["python", "-m", "integrations.llamafactory.lengths", "--file", str(file.absolute())]
        argv += ["--model", str(model.absolute()), "--out", str(out)]
        env = {"RAYON_NUM_THREADS": str(jobs), "TOKENIZERS_PARALLELISM": "true", "OMP_NUM_THREADS": "1"}
        launch = Launch(ENGINE, argv, env, what=f"counting tokens of {file.name}")
        code = process.run(
            launch,
            environment,
            cwd=top,
            log=log,
            import_root=top / "import",
            tick=lambda: tick(_done(log)),
            stop=threading.Event(),
        )
        if code == 0 and out.is_file():
            return np.load(out)
        said = log.read_text(errors="replace")
        told = error_line.told(said)
        if told is not None:
            raise BadInput(*told)
        raise StageFailed(f"counting tokens of {file} ended with code {code}:\n{said.strip()[-2000:]}", "")


def _done(log: Path) -> int:
    """Rows that the job said it has done."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - 200))
            words = stream.read().split()
    except OSError:
        return 0
    return next((int(word) for word in reversed(words) if word.isdigit()), 0)
