"""What a plan has to take on trust: lengths, speeds, sizes of pools. Each can be given: `--assume NAME=VALUE`.

`prism doctor --bench` measures those that depend on the machine.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace

from integrations.errors import BadInput

GIB = 2.0**30
ROWS = {"public": 1_260_000, "curated": 107_000, "teacher": 5_978, "rlvr": 2_000, "rlvr-10k": 10_000}
"""Rows of the published pools (README; the alignment file's own count), where a pool is not in place to be counted."""


@dataclass(frozen=True)
class Assumptions:
    """Typical lengths in tokens decide time and the limits of the recipe decide memory."""

    prompt_tokens: float = 1000
    """Of a typical prompt, image included."""
    image_tokens: float = 800
    """Of these, from images: 800 tokens are 900 x 900 pixels (32 x 32 pixels each)."""
    response_tokens: float = 1500
    """Of a typical response or demonstration; the paper's Figure 5 has 1,800 to 2,900 after RLVR on benchmarks."""
    tail: float = 1.5
    """A batch of responses ends with its longest: this many times the typical length."""
    most_tokens: float = 1.0
    """Share of the recipe's longest length that a micro-batch is planned for; 1 plans for rows at the limit."""
    sft_utilisation: float = 0.35
    """Share of the GPU's peak that SFT reaches (published figures of tuned dense training: 0.2 to 0.45)."""
    align_utilisation: float = 0.35
    """The same for both players of the alignment."""
    rlvr_utilisation: float = 0.25
    """The same for verl without flash attention; a published run of verl on images and eight H800 reached 0.03."""
    bandwidth_utilisation: float = 0.7
    """Share of the memory's bandwidth that decoding reaches."""
    generation_excess: float = 1.6
    """Responses sampled for each one trained on where groups are filtered (DAPO)."""
    context_gib: float = 1.0
    """CUDA context, libraries and NCCL's buffers of one process."""
    fragmentation: float = 0.05
    """Share of what comes and goes (activations, logits, gradients) that the allocator cannot reuse."""
    process_gib: float = 4.0
    """Main memory of one training process besides what is shown: interpreter, libraries, data."""
    rows: Mapping[str, int] = field(default_factory=dict)
    """Rows of a pool, as `rows.POOL=N`."""


def given(changes: Iterable[str]) -> Assumptions:
    """The defaults with `name=value` changes.

    Raises:
        BadInput: no such assumption, or not a positive number.
    """
    found = Assumptions()
    names = [item.name for item in fields(Assumptions) if item.name != "rows"]
    for change in changes:
        name, _, raw = change.partition("=")
        try:
            value = float(raw)
        except ValueError:
            value = -1.0
        if value <= 0 and not (value == 0 and name == "fragmentation"):
            raise BadInput(f"--assume {change}: not NAME=NUMBER", "e.g. --assume response_tokens=2500")
        if name.startswith("rows."):
            found = replace(found, rows={**found.rows, name.removeprefix("rows."): int(value)})
        elif name in names:
            found = Assumptions(**{**vars(found), name: value})
        else:
            close = difflib.get_close_matches(name, names, 1)
            meant = f", did you mean `{close[0]}`?" if close else ""
            raise BadInput(f"--assume {change}: there is no `{name}`{meant}", f"one of rows.POOL, {', '.join(names)}")
    return found
