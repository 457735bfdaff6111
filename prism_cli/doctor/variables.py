"""Environment variables that change what an engine does, and that nobody remembers having set.

Engines see few of the user's variables (`prism_cli.engines.process`), so only those that reach them are looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prism_cli.doctor.diagnosis import Diagnosis, Level

BITE: dict[str, tuple[Level, str, str]] = {
    "CUDA_LAUNCH_BLOCKING": ("warning", "every kernel waits for the one before: several times slower", "unset it"),
    "NCCL_P2P_DISABLE": ("warning", "GPUs exchange data through the host", "unset it unless the peer access is broken"),
    "NCCL_SHM_DISABLE": ("warning", "processes of one machine exchange data over the network", "unset it"),
    "NCCL_DEBUG": ("note", "NCCL writes into every log", "unset it once what you look for is found"),
    "HF_ENDPOINT": ("note", "models, data and releases go to that Hub, not to huggingface.co", "unset it if not meant"),
    "HF_HUB_OFFLINE": ("warning", "nothing is downloaded or released", "unset it where the Hub is wanted"),
    "HF_HUB_DISABLE_XET": ("note", "uploads and downloads take the older and slower way", "unset it if not needed"),
    "LD_LIBRARY_PATH": ("warning", "engines find those libraries before their own (CUDA, NCCL)", "unset it"),
    "CUDA_HOME": ("note", "kernels that compile themselves use that CUDA", "unset it if it is not the driver's"),
}
"""Variable, how bad, what it does, what to do. Values are never shown: some hold addresses."""
OFF = ("", "0", "false", "no", "off")


def examine(environ: Mapping[str, str]) -> Iterator[Diagnosis]:
    """Which of the user's variables will bite?"""
    found = [
        Diagnosis("variables", level, f"{name} is set: {what}", fix)
        for name, (level, what, fix) in BITE.items()
        if environ.get(name, "").lower() not in OFF
    ]
    if environ.get("HF_TOKEN") is not None and environ["HF_TOKEN"].strip() != environ["HF_TOKEN"]:
        found.append(Diagnosis("variables", "error", "HF_TOKEN has white space around it", "set it without"))
    if environ.get("HF_TOKEN") == "":
        found.append(Diagnosis("variables", "warning", "HF_TOKEN is empty, which hides a stored login", "unset it"))
    yield from found or [Diagnosis("variables", "ok", "none that changes what engines do")]
