"""Where the weights of a stage's last step are: verl's own checkpoint, or that with its adapters merged in."""

from __future__ import annotations

from pathlib import Path

from integrations.contract import Launch, StageContext
from integrations.errors import StageFailed


def saved(ctx: StageContext, step: int) -> Path:
    """What verl wrote in Hugging Face form."""
    return ctx.checkpoint_dir / f"global_step_{step}" / "actor" / "huggingface"


def merged(ctx: StageContext) -> Path:
    """What `merge` writes, whole or not at all."""
    return ctx.checkpoint_dir / "merged"


def merging(ctx: StageContext, last: int) -> list[Launch]:
    """The command that puts the adapters of the last step into the weights; none where nothing is to be merged."""
    adapters = ctx.settings.lora
    if adapters is None or merged(ctx).is_dir():
        return []
    scale = str(adapters.alpha / adapters.rank)
    argv = ["python", "-m", "integrations.verl.merge", "--folder", str(saved(ctx, last)), "--scale", scale]
    return [Launch("verl", [*argv, "--out", str(merged(ctx))], what="merging the adapters")]


def weights(ctx: StageContext, last: int) -> Path:
    """The folder with the stage's result.

    Raises:
        StageFailed: the adapters were not merged.
    """
    if ctx.settings.lora is None:
        return saved(ctx, last)
    if not merged(ctx).is_dir():
        raise StageFailed(f"{ctx.name}: its adapters were not merged", f"read {ctx.attempt_dir / 'engine.log'}")
    return merged(ctx)
