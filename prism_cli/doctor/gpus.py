"""GPUs: which, how many, with how much memory, and whether the driver carries the engines' CUDA.

Everything is read from `nvidia-smi`, which belongs to the driver: nothing here initialises a GPU.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prism_cli.doctor.diagnosis import Diagnosis

FIELDS = "name,memory.total,memory.used,driver_version,compute_cap,mig.mode.current"
LEAST_CAPABILITY = 8.0
"""bf16 and the attention kernels need compute capability 8.0 (Ampere)."""
DRIVERS = {11: 450, 12: 525, 13: 580}
"""Oldest driver for each major CUDA version, with its minor-version compatibility (NVIDIA, CUDA Compatibility)."""


@dataclass(frozen=True)
class Gpu:
    """One GPU as its driver describes it."""

    name: str
    memory: int
    """MiB."""
    used: int
    """MiB, by whoever."""
    driver: str
    capability: float
    mig: bool = False


def examine(cuda: Mapping[str, int]) -> Iterator[Diagnosis]:
    """Look at this machine's GPUs.

    Args:
        cuda: major CUDA version of each engine's environment.
    """
    listed = _nvidia_smi(f"--query-gpu={FIELDS}", "--format=csv,noheader,nounits")
    if listed is None:
        hidden = " (CUDA_VISIBLE_DEVICES is empty)" if os.environ.get("CUDA_VISIBLE_DEVICES") == "" else ""
        found = f"none{hidden}: stages run on the CPU, which the digits world is made for"
        yield Diagnosis("GPUs", "note", found)
        return
    gpus = parse(listed)
    if not gpus:
        found = f"nvidia-smi lists no GPU: {listed.strip()[:80]}"
        yield Diagnosis("GPUs", "warning", found, "reload the driver, or restart the machine")
        return
    yield from judge(gpus, cuda)
    yield compiler(shutil.which("gcc") or shutil.which("cc"), Path(sysconfig.get_path("include"), "Python.h"))
    if len(gpus) > 1:
        yield peers(_nvidia_smi("topo", "-p2p", "r") or "")


def parse(listed: str) -> list[Gpu]:
    """GPUs from nvidia-smi's lines of comma-separated FIELDS; lines of another form are left out."""
    found = []
    for line in listed.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        try:
            name, memory, used, driver, capability, mig = cells
            found.append(Gpu(name, int(memory), int(used), driver, float(capability), mig == "Enabled"))
        except ValueError:
            continue
    return found


def judge(gpus: Sequence[Gpu], cuda: Mapping[str, int]) -> Iterator[Diagnosis]:
    """What these GPUs can carry, with engines of these CUDA versions."""
    kinds = sorted({(gpu.name, gpu.memory) for gpu in gpus})
    told = ", ".join(f"{sum((g.name, g.memory) == k for g in gpus)} x {k[0]} ({k[1] / 1024:.0f} GiB)" for k in kinds)
    if len(kinds) > 1:
        fix = "choose equal ones with CUDA_VISIBLE_DEVICES: the smallest sets the pace and the memory of all"
        yield Diagnosis("GPUs", "warning", f"different ones: {told}", fix)
    else:
        yield Diagnosis("GPUs", "ok", told)
    old = sorted({gpu.name for gpu in gpus if gpu.capability < LEAST_CAPABILITY})
    if old:
        found = f"{', '.join(old)}: compute capability below {LEAST_CAPABILITY}"
        yield Diagnosis("GPUs", "error", found, "bf16 training needs an A100, H100 or newer; hide the old ones")
    if any(gpu.mig for gpu in gpus):
        yield Diagnosis("GPUs", "warning", "MIG is on: a GPU is split", "NCCL does not connect parts of one GPU")
    busy = [f"{gpu.used} MiB" for gpu in gpus if gpu.used > max(1024, gpu.memory // 50)]
    if busy:
        fix = "see nvidia-smi for whose it is; a plan counts on empty GPUs"
        yield Diagnosis("GPU memory", "warning", f"already in use: {', '.join(busy)}", fix)
    yield from driver(gpus[0].driver, cuda)


def driver(version: str, cuda: Mapping[str, int]) -> Iterator[Diagnosis]:
    """Does the driver carry the CUDA that each engine brings?"""
    major = int(re.match(r"\d+", version).group()) if re.match(r"\d+", version) else 0  # type: ignore[union-attr]
    late = {engine: wanted for engine, wanted in cuda.items() if major < DRIVERS.get(wanted, 0)}
    for engine, wanted in late.items():
        found = f"{version} is too old for CUDA {wanted} of the {engine} environment"
        yield Diagnosis("driver", "error", found, f"install driver {DRIVERS[wanted]} or newer")
    if not late:
        yield Diagnosis("driver", "ok", f"{version}, new enough for every engine")


def compiler(gcc: str | None, header: Path) -> Diagnosis:
    """Can Triton, whose kernels vLLM and compiled models use, build the small extension that launches them?"""
    if gcc is None or not header.exists():
        found = "Triton builds its launcher on first use and finds no " + ("C compiler" if gcc is None else "Python.h")
        return Diagnosis("compiler", "error", found, "install gcc and the headers of this Python (python3-dev)")
    return Diagnosis("compiler", "ok", f"{gcc} and the headers of this Python")


def peers(matrix: str) -> Diagnosis:
    """Do the GPUs read each other's memory?

    Args:
        matrix: what `nvidia-smi topo -p2p r` prints: OK where a pair does.
    """
    rows = [line.split() for line in matrix.splitlines() if re.match(r"\s*GPU\d+\s+(X|OK|NS|CNS|TNS|GNS|DR|U)\b", line)]
    if not rows:
        return Diagnosis("peer access", "note", "nvidia-smi does not tell")
    without = sum(cell not in ("OK", "X") for row in rows for cell in row[1:])
    if without:
        found = f"{without} pairs of GPUs cannot read each other's memory"
        return Diagnosis("peer access", "warning", found, "training works and exchanges gradients through the host")
    return Diagnosis("peer access", "ok", "every GPU reads every other's memory")


def _nvidia_smi(*words: str) -> str | None:
    """What nvidia-smi prints; None where there is none or GPUs are hidden from this process."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return None
    try:
        done = subprocess.run(["nvidia-smi", *words], capture_output=True, text=True, timeout=30, check=False)
    except FileNotFoundError:
        return None
    except (OSError, subprocess.TimeoutExpired):
        return "nvidia-smi does not answer"
    return done.stdout or done.stderr
