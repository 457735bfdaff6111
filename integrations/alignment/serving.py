"""The host's side of the transformers server (`serve.py`): the command that starts it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from integrations.common.checkpoint import check_model_folder
from integrations.common.serving import LOCALHOST, SERVED_NAME
from integrations.contract import Launch, Machine


def serve_launch(
    model: Path,
    protocol: Mapping[str, float | int],
    *,
    machine: Machine,
    ready: Path,
    log: Path,
    batch: int = 64,
    port: int = 0,
    name: str = SERVED_NAME,
    max_image_pixels: int | None = None,
) -> Launch:
    """The command that serves a checkpoint, in fp32. Wait for it with `integrations.common.serving.wait_ready`.

    Args:
        model: Hugging Face folder.
        protocol: `temperature`, `top_p`, `top_k`, and if wanted `max_new_tokens` and `seed`: what the server takes for
            whatever a request leaves out.
        ready: written by the server once it answers; what is there now is removed.
        log: receives one JSON object per request, with the parameters really used.
        batch: most responses decoded together.
        port: 0 is any free one.
        max_image_pixels: larger images are made smaller; None is the checkpoint's own limit.

    Raises:
        BadInput: the folder holds no whole model.
    """
    check_model_folder(model)
    ready.unlink(missing_ok=True)
    options: dict[str, object] = {
        "model": model,
        "name": name,
        "host": LOCALHOST,
        "port": port,
        **protocol,
        "max-batch": batch,
        "threads": machine.threads,
        "device": "cuda" if machine.gpus else "cpu",
        "ready": ready,
        "log": log,
    }
    if max_image_pixels is not None:
        options["max-image-pixels"] = max_image_pixels
    argv = ["python", "-m", "integrations.alignment.serve"]
    argv += [f"--{option.replace('_', '-')}={value}" for option, value in options.items()]
    threads = str(machine.threads)
    return Launch("alignment", argv, {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}, what="serving")
