"""Which adapter runs which kind of stage."""

from __future__ import annotations

from integrations.alignment.adapter import AlignAdapter, DiscriminatorAdapter
from integrations.contract import StageAdapter
from integrations.llamafactory.adapter import SftAdapter
from integrations.verl.adapter import RlvrAdapter
from prism_cli.pipeline.groundwork import FirstPolicy, World

_ADAPTERS: dict[str, StageAdapter] = {
    "data": World(),
    "model": FirstPolicy(),
    "sft": SftAdapter(),
    "discriminator": DiscriminatorAdapter(),
    "align": AlignAdapter(),
    "rlvr": RlvrAdapter(),
}


def adapter_for(kind: str) -> StageAdapter:
    """The adapter of a kind of stage; kinds come from a validated plan."""
    return _ADAPTERS[kind]
