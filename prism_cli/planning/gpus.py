"""GPUs by name: how many, how large, how fast.

A specification is `8xH100-80GB`, `1xH200-141GB`, or over nodes `2x8xH100-80GB`; `cpu` stands for none.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass, replace

from integrations.errors import BadInput


@dataclass(frozen=True)
class Card:
    """One kind of GPU. Speeds are the data sheets'; `gib` is what CUDA reports as usable, a little below the name's."""

    name: str
    gib: float
    teraflops: float
    """Dense bf16, 10^12 operations a second."""
    bandwidth: float
    """Of its memory, 10^12 bytes a second."""
    host_link: float
    """To main memory, 10^9 bytes a second each way."""


CARDS = {
    card.name: card
    for card in (
        Card("A100-40GB", 39.4, 312, 1.56, 25),
        Card("A100-80GB", 79.2, 312, 2.04, 25),
        Card("H100-80GB", 79.1, 989, 3.35, 50),
        Card("H100-PCIE-80GB", 79.1, 756, 2.04, 50),
        Card("H100-NVL-94GB", 93.0, 835, 3.94, 50),
        Card("H20-96GB", 95.1, 148, 4.0, 50),
        Card("H800-80GB", 79.1, 989, 3.35, 50),
        Card("H200-141GB", 139.8, 989, 4.8, 50),
        Card("B200-180GB", 178.3, 2250, 7.7, 50),
        Card("L40S-48GB", 44.4, 362, 0.864, 25),
        Card("RTX4090-24GB", 23.5, 165, 1.01, 25),
    )
}
"""What is known, from NVIDIA's data sheets (bf16 without sparsity)."""

_SPEC = re.compile(r"(?:(?P<nodes>\d+)x)?(?P<gpus>\d+)x(?P<card>[A-Za-z][\w-]*)", re.ASCII)
CPU = "cpu"


@dataclass(frozen=True)
class Gpus:
    """So many equal GPUs on each of so many nodes; `per_node` 0 is a machine without GPUs."""

    card: Card
    per_node: int
    nodes: int = 1

    @property
    def total(self) -> int:
        return self.per_node * self.nodes

    def __str__(self) -> str:
        if not self.per_node:
            return CPU
        nodes = f"{self.nodes}x" if self.nodes > 1 else ""
        return f"{nodes}{self.per_node}x{self.card.name}"


NONE = Gpus(Card(CPU, 0.0, 0.0, 0.0, 0.0), 0)


def parse(spec: str, nodes: int | None = None) -> Gpus:
    """The GPUs that a specification names.

    Args:
        nodes: as `--nodes` says; must agree with the specification where both do.

    Raises:
        BadInput: not a specification, an unknown kind, or several kinds.
    """
    if spec.strip().lower() == CPU:
        return NONE
    fix = f"write COUNTxKIND, e.g. 8xH100-80GB; kinds: {', '.join(CARDS)}"
    if re.search(r"[,+;/]|\band\b", spec):
        raise BadInput(f"--gpus {spec}: GPUs of several kinds cannot share a stage", "name GPUs of one kind")
    match = _SPEC.fullmatch(spec.strip())
    if match is None:
        raise BadInput(f"--gpus {spec}: not a number of GPUs of a kind", fix)
    card = next((card for name, card in CARDS.items() if name.lower() == match["card"].lower()), None)
    if card is None:
        raise BadInput(f"--gpus {spec}: the kind `{match['card']}` is not known", fix)
    given = int(match["nodes"]) if match["nodes"] else None
    if given is not None and nodes is not None and given != nodes:
        raise BadInput(f"--gpus {spec} says {given} nodes, --nodes says {nodes}", "say it once")
    gpus = Gpus(card, int(match["gpus"]), given or nodes or 1)
    if not gpus.total:
        raise BadInput(f"--gpus {spec}: that is no GPU", f"write `{CPU}` for a machine without one")
    return gpus


def from_names(names: list[str], gib: float) -> Gpus:
    """The GPUs of this machine.

    Args:
        names: as the driver gives them, e.g. `NVIDIA H100 80GB HBM3`.
        gib: memory of the smallest.

    Raises:
        BadInput: they are of several kinds, or of none that is known.
    """
    if not names:
        return NONE
    if len({*names}) > 1:
        raise BadInput(f"this machine has GPUs of several kinds: {', '.join(sorted({*names}))}", _ASK)
    words = names[0].upper().replace(" ", "-")
    fitting = [card for card in CARDS.values() if card.name.split("-")[0] in words and abs(card.gib - gib) < 4]
    if not fitting:
        raise BadInput(f"this machine's GPU `{names[0]}` with {gib:.0f} GiB is not among those known", _ASK)
    return Gpus(fitting[0], len(names))


def this_machine(nodes: int = 1) -> Gpus:
    """The GPUs here, on each of so many nodes.

    Raises:
        BadInput: they are of several kinds, or of none that is known.
    """
    from prism_cli.pipeline.lineage import gpu_names

    names = gpu_names()
    if not names:
        return NONE
    asked = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    told = subprocess.run(asked, stdout=subprocess.PIPE, text=True, check=False).stdout.split()
    return replace(from_names([*names], min(map(float, told), default=0.0) / 1024), nodes=nodes)


_ASK = "name the GPUs to plan for with --gpus, e.g. --gpus 8xH100-80GB"
