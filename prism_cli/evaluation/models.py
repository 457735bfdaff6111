"""What `prism eval` can evaluate: a stage of a run, a folder, or a repository on the Hub.

A model is known by the hash of its bytes, never by the name of its folder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from integrations.common.files import hash_folder, hash_json
from integrations.errors import BadInput
from prism_cli.runs.store import RunStore

_HUB = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True)
class Model:
    """One checkpoint to evaluate."""

    label: str
    """For tables; equal for the same stage of several runs, which then count as training seeds of one model."""
    folder: Path | None
    """Where its files are; None where only a server has them."""
    weights_hash: str
    """sha256 over the folder's files."""
    store: Path
    """Folder for its cells."""
    training_seed: int | None = None
    pools: Path | None = None
    """Data pools of its run, for suites on the run's own world."""
    lineage: Mapping[str, Any] = field(default_factory=dict)
    """run, stage and algorithm, or repo and revision, as far as known."""

    @property
    def slug(self) -> str:
        """Name for folders: readable, and different for different weights."""
        return f"{re.sub(r'[^A-Za-z0-9._]+', '-', self.label).strip('-')}-{self.weights_hash[:8]}"

    @property
    def facts(self) -> dict[str, Any]:
        """The `model` part of a cell's facts."""
        return {"label": self.label, "weights_hash": self.weights_hash, **self.lineage}


def finished_arms(run: RunStore, every_stage: bool) -> list[str]:
    """Names of the last finished policy of each arm, or of every finished policy.

    Raises:
        BadInput: no arm has a finished policy.
    """
    names: list[str] = []
    for stages in run.manifest().get("arms", {}).values():
        done = [name for name in stages if _policy(run, name)]
        names += done if every_stage else done[-1:]
    if not names:
        raise BadInput(f"run `{run.name}` has no finished policy yet", "train it first: prism train")
    return list(dict.fromkeys(names))


def stage_model(run: RunStore, stage: str) -> Model:
    """A finished stage of a run.

    Raises:
        BadInput: the stage is unknown, unfinished, or trains no policy.
    """
    record = _policy(run, stage)
    if record is None:
        known = [name for name in run.manifest().get("stages", {}) if _policy(run, name)]
        raise BadInput(
            f"run `{run.name}` has no finished policy `{stage}`",
            f"it has {', '.join(known)}" if known else "train it first: prism train",
        )
    _require_weights(run.stage(stage).model_dir)
    manifest = run.manifest()
    lineage = {"run": run.name, "stage": stage, "algorithm": record.get("algorithm")}
    return Model(
        label=stage,
        folder=run.stage(stage).model_dir,
        weights_hash=record["hash"],
        store=run.root / "eval",
        training_seed=manifest.get("seed"),
        pools=run.root / "data" / "pools",
        lineage={key: value for key, value in lineage.items() if value is not None},
    )


def _policy(run: RunStore, stage: str) -> dict[str, Any] | None:
    """The record of a finished stage that trained the policy, else None."""
    record = run.stage(stage).done()
    return record if record and record.get("kind") in ("sft", "align", "rlvr") else None


def find_models(names: Sequence[str], runs: Sequence[RunStore], store: Path) -> list[Model]:
    """The models that arguments name; a stage's name means that stage of every given run.

    Args:
        runs: where stages are looked up; for a suite on a run's own world the first also lends its pools.
        store: folder for the cells of models that belong to no run.

    Raises:
        BadInput: a name is neither a stage, nor a folder with weights, nor a repository that can be fetched.
    """
    found: list[Model] = []
    for name in names:
        stages = [run for run in runs if _policy(run, name)]
        if stages:
            found += [stage_model(run, name) for run in stages]
        elif Path(name).expanduser().is_dir():
            found.append(_folder_model(Path(name).expanduser(), runs, store))
        elif _HUB.fullmatch(name) and not name.startswith((".", "/")):
            found.append(_hub_model(name, runs, store))
        else:
            raise BadInput(
                f"`{name}` is no finished stage of a run, no folder and no repository's name",
                "give e.g. prism/rlvr with --run, a folder with config.json, or owner/name on the Hub",
            )
    return _distinct(found)


def _folder_model(folder: Path, runs: Sequence[RunStore], store: Path) -> Model:
    _require_weights(folder)
    pools = runs[0].root / "data" / "pools" if runs else None
    return Model(folder.resolve().name, folder.resolve(), hash_folder(folder), store, pools=pools)


def _hub_model(name: str, runs: Sequence[RunStore], store: Path) -> Model:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HTTPError

    match = _HUB.fullmatch(name)
    assert match is not None
    try:
        folder = Path(snapshot_download(match["repo"], revision=match["revision"]))
    except (HTTPError, OSError, ValueError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise BadInput(
            f"`{name}` is no stage of the run and no folder, and cannot be fetched from the Hub: {first}",
            "check the name, the network and the stored login",
        ) from error
    _require_weights(folder)
    pools = runs[0].root / "data" / "pools" if runs else None
    lineage = {"repo": match["repo"], "revision": folder.name}  # the cache names a snapshot by its commit
    return Model(match["repo"], folder, hash_folder(folder), store, pools=pools, lineage=lineage)


def served_model(label: str, runs: Sequence[RunStore], store: Path) -> Model:
    """A model of which only a server's name for it is known; its weights cannot be checked."""
    pools = runs[0].root / "data" / "pools" if runs else None
    return Model(label, None, hash_json(["served", label]), store, pools=pools, lineage={"served": label})


def _require_weights(folder: Path) -> None:
    missing = next((f for f in ("config.json", "*.safetensors") if not any(folder.glob(f))), None)
    if missing:
        raise BadInput(f"{folder} holds no checkpoint (no {missing})", "give a folder in Hugging Face form")


def _distinct(models: list[Model]) -> list[Model]:
    """Models once each; different weights that would stand in one row get the hash into their label."""
    unique = list({(m.label, m.training_seed, m.weights_hash): m for m in models}.values())
    result = []
    for model in unique:
        twins = [m for m in unique if (m.label, m.training_seed) == (model.label, model.training_seed)]
        label = model.label if len(twins) == 1 else f"{model.label} ({model.weights_hash[:8]})"
        result.append(replace(model, label=label))
    return result
