"""The discriminator that a stage begins with: upcycled from a dense model, or taken from a folder (`init_from`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoConfig, AutoTokenizer

from integrations.alignment.discriminators import published, storage
from integrations.alignment.discriminators.description import Description, differences, read_description
from integrations.alignment.discriminators.discriminator import Discriminator, new_heads
from integrations.alignment.discriminators.upcycle import copy_dense, upcycle
from integrations.alignment.forward.model import load_policy
from integrations.alignment.training.session import Session
from integrations.common.files import hash_file, hash_folder
from integrations.errors import BadInput


def build(session: Session) -> Discriminator:
    """The discriminator that the settings ask for, before its first step.

    Raises:
        BadInput: the folder of `init_from` lacks a part, or reads or scores otherwise than the settings say; it, or
            that of `upcycle_from`, has another vocabulary than the policy.
    """
    job, settings = session.job, session.job.settings
    description = describe(session)
    if job.init_from is not None:
        backbone, heads = _taken_over(job.init_from, description, session)
    elif job.upcycle_from != job.policy:
        _same_vocabulary("upcycle_from", job.upcycle_from, job.base_model)
        backbone, heads = _grown(load_policy(job.upcycle_from, job.device), session)
    else:
        backbone, heads = _grown(session.policy, session)
    reference = session.policy if settings.score == "likelihood_ratio" else None
    return Discriminator(backbone, description, session.banned_V, reference=reference, heads=heads)


def describe(session: Session) -> Description:
    """What the settings ask, as a description."""
    job, settings = session.job, session.job.settings
    dense = settings.architecture == "dense"
    return Description(
        architecture=settings.architecture,
        inputs=settings.inputs,
        positions=settings.positions,
        score=settings.score,
        heads=settings.heads,
        reasoning=settings.reasoning,
        terminator=settings.terminator,
        routing="free" if dense else settings.routing,
        experts=1 if dense else settings.experts,
        top_k=1 if dense else settings.top_k,
        teacher_tokens=settings.teacher_tokens,
        reference=hash_folder(job.policy),
        tokenizer=hash_file(job.base_model / "tokenizer.json"),
        held_out=settings.held_out,
    )


def _grown(dense: Any, session: Session) -> tuple[Any, nn.ModuleDict | None]:
    job, settings = session.job, session.job.settings
    if settings.architecture == "dense":
        backbone = copy_dense(dense)
    else:
        backbone = upcycle(
            dense,
            experts=settings.experts,
            top_k=settings.top_k,
            noise=settings.noise,
            router_std=settings.router_std,
            seed=job.seed,
        )
    if settings.score != "head":
        return backbone, None
    return backbone, new_heads(backbone.config.text_config.hidden_size, job.seed, settings.heads, job.device)


def _taken_over(folder: Path, wanted: Description, session: Session) -> tuple[Any, nn.ModuleDict | None]:
    foreign = published.is_published(folder)
    description = published.describe(folder) if foreign else read_description(folder)
    differing = differences(description, wanted)
    if differing:
        name, (has, asked) = next(iter(differing.items()))
        raise BadInput(
            f"`init_from`: the discriminator in {folder} has `{name}: {has}`, the stage asks for `{asked}`",
            "set " + ", ".join(f"`{name}: {has}`" for name, (has, _) in differing.items()),
        )
    _same_vocabulary("init_from", folder, session.job.base_model)
    device = session.job.device
    backbone = storage.load_backbone(folder, description.architecture, [published.HEAD] if foreign else [])
    if description.score != "head":
        return backbone.to(device).eval(), None
    width = backbone.config.text_config.hidden_size
    heads = published.load_head(folder, width) if foreign else storage.load_heads(folder, description, width)
    return backbone.to(device).eval(), heads.to(device)


def _same_vocabulary(field: str, folder: Path, base_model: Path) -> None:
    """Compared token by token: the same vocabulary may be written in other bytes.

    Raises:
        BadInput: they differ, or leave room for different numbers of tokens.
    """
    one, other = (AutoTokenizer.from_pretrained(path).get_vocab() for path in (folder, base_model))
    fix = "take a model of the same family"
    if one != other:
        odd = min(one.items() ^ other.items())[0]
        raise BadInput(f"`{field}`: {folder} has another vocabulary than {base_model} (token {odd!r})", fix)
    sizes = [AutoConfig.from_pretrained(path).text_config.vocab_size for path in (folder, base_model)]
    if sizes[0] != sizes[1]:
        raise BadInput(f"`{field}`: {folder} has {sizes[0]} rows of embeddings, {base_model} {sizes[1]}", fix)
