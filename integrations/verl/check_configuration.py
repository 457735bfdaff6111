"""Does verl know every field that the rendered configuration sets, and can it use every prompt that this names?

    python -m integrations.verl.check_configuration --config-dir DIR --config-name NAME

Composes verl's own configuration and compares: hydra merges a file's unknown fields without a word, so a field that was
renamed or misspelt would change nothing and never be missed. Takes seconds, before Ray and the model are loaded. Runs
in verl's environment, and reads verl's configuration files without importing verl.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from integrations.common import error_line
from integrations.errors import PrismError, StageFailed
from integrations.verl import check_prompts

OPEN = {
    "actor_rollout_ref.actor.fsdp_config.mixed_precision",
    "actor_rollout_ref.model.override_config",
    "actor_rollout_ref.ref.fsdp_config.mixed_precision",
    "actor_rollout_ref.rollout.custom",
    "ray_kwargs.ray_init",
    "reward.custom_reward_function.reward_kwargs",
    "reward.reward_kwargs",
    "trainer.v1.sampler.sampler_kwargs",
}
"""Fields without content in verl's files: it goes on to torch, transformers, Ray, or our own plug-ins."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-dir", type=Path, required=True)
    parser.add_argument("--config-name", required=True)
    args = parser.parse_args()
    path = args.config_dir / f"{args.config_name}.yaml"
    try:
        if found := problems(path):
            told = "; ".join(found[:5])
            raise StageFailed(f"verl would not take its configuration: {told}", "this is a bug of prism")
        check_prompts.check(OmegaConf.to_container(OmegaConf.load(path), resolve=True))
    except PrismError as error:
        return error_line.tell(error)
    return 0


def problems(path: Path) -> list[str]:
    """What is wrong with a rendered configuration; empty when nothing is."""
    rendered: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    name = next(item for item in rendered.pop("defaults") if isinstance(item, str) and item != "_self_")
    rendered.pop("hydra", None)
    return [*_differences(rendered, published(name), "")]


@functools.cache
def published(name: str) -> dict[str, Any]:
    """verl's own configuration, composed."""
    package = importlib.util.find_spec("verl")
    assert package is not None
    assert package.submodule_search_locations is not None
    folder = Path(package.submodule_search_locations[0]) / "trainer" / "config"
    with initialize_config_dir(config_dir=str(folder), version_base=None):
        composed: Any = OmegaConf.to_container(compose(name), resolve=False)
    return dict(composed)


def _differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], above: str) -> Iterator[str]:
    for name, value in ours.items():
        path = f"{above}{name}"
        if path in OPEN:
            continue
        if name not in theirs:
            yield f"it has no field `{path}`"
        elif isinstance(value, Mapping) and isinstance(theirs[name], Mapping):
            yield from _differences(value, theirs[name], f"{path}.")
        elif not _same_kind(value, theirs[name]):
            yield f"`{path}` is {type(theirs[name]).__name__} there, not {type(value).__name__}"


def _same_kind(ours: Any, theirs: Any) -> bool:
    """Numbers may stand for each other; null and text that is interpolated may become anything."""
    if theirs is None or ours is None or (isinstance(theirs, str) and "${" in theirs):
        return True
    numbers = (int, float)
    if isinstance(theirs, numbers) and not isinstance(theirs, bool):
        return isinstance(ours, numbers) and not isinstance(ours, bool)
    return isinstance(ours, type(theirs))


if __name__ == "__main__":
    sys.exit(main())
