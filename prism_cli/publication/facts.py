"""From a run's own files to what a release says about itself.

    measured = Measured(run)                                            once for a family: reads every sample
    facts = gather(run, "prism/rlvr", "prism-vlm/digits", family={}, tag="v1.0", measured=measured)
    files = release.card.render.render(facts, manifest.files, pictures(run))

Reads the run only, and nothing of the machine: what is not named here does not get into a release.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from integrations.common.checkpoint import read_tensors
from integrations.common.files import hash_file, read_json
from integrations.errors import BadInput
from prism_cli.publication import cleaning, data
from prism_cli.publication.evaluation import Measured
from prism_cli.publication.limitations import found_in
from prism_cli.publication.stages import algorithm_of, inputs_of, kind_of, titles
from prism_cli.runs.store import RunStore
from release.facts import (
    Base,
    Change,
    Code,
    Engine,
    Evaluation,
    Facts,
    Machine,
    Member,
    Parent,
    Recipe,
    Stage,
    Weights,
)

LICENCE = "apache-2.0"
"""Of what prism trains, where the base model's licence allows it."""
_ENGINES = {"sft": "llamafactory", "discriminator": "alignment", "align": "alignment", "rlvr": "verl"}
_PACKAGES = ("torch", "torchvision", "transformers", "llamafactory", "verl", "lmms-eval", "vllm")
_SETTINGS = {
    "sft": ("batch_size", "gradient_accumulation", "learning_rate", "schedule", "epochs", "max_length", "precision"),
    "discriminator": (
        *("mode", "architecture", "experts", "top_k", "score", "wording", "prompts_per_step", "samples"),
        *("learning_rate", "pretrain_steps"),
    ),
    "align": (
        *("mode", "prompts_per_step", "group_size", "learning_rate", "discriminator_learning_rate", "alpha", "kl"),
        *("credit", "normalise", "invalid", "format_penalty"),
    ),
    "rlvr": (
        *("algorithm", "prompts_per_step", "group_size", "learning_rate", "clip_low", "clip_high", "kl_coefficient"),
        *("accuracy_weight", "format_weight", "temperature", "max_response_length"),
    ),
}
"""Settings worth a line in a card; the recipe has all."""
_LINES = {
    "sft": "Supervised fine-tuning on demonstrations; what both arms start from.",
    "discriminator": "Tells the policy's captions and reasoning from a teacher's; no model to chat with.",
    "align": "SFT, then adversarial alignment with the teacher's demonstrations, before any RLVR.",
    "rlvr": "The whole pipeline: SFT, alignment, reinforcement learning with verifiable rewards.",
    "baseline": "The same SFT and RLVR without alignment in between; what the pipeline is compared with.",
}


def gather(
    run: RunStore,
    stage: str,
    repo: str,
    family: Mapping[str, str],
    tag: str,
    *,
    measured: Measured | None = None,
    draft: bool = False,
    changelog: Sequence[Change] = (),
    what: str = "First release.",
    data_repo: str | None = None,
) -> Facts:
    """What a release of one finished stage says.

    Args:
        stage: its name in the run, e.g. `prism/rlvr`.
        family: repository of every stage that is released with it, this one included or not.
        measured: the run's samples, where they have been read before.
        draft: allow a policy that was not evaluated.
        changelog: earlier releases, oldest first.
        what: what changed with this one.
        data_repo: dataset repository with the run's pools.

    Raises:
        BadInput: the stage is not finished, was not evaluated (without `draft`), or the run's records are damaged.
    """
    record = run.stage(stage).done()
    if record is None:
        raise BadInput(f"stage `{stage}` of run `{run.name}` is not finished", "train it: prism train")
    manifest, recipe = run.manifest(), read_recipe(run)
    measured = measured or Measured(run)
    named = titles(run)
    chain = [_stage(run, name, named) for name in _chain(run, stage)]
    ends = [names[-1] for names in manifest["arms"].values()]
    evaluation = measured.of(stage, [*ends, *family, *(one.name for one in chain)], named)
    policy = record["kind"] != "discriminator"
    if evaluation is None and policy and not draft:
        raise BadInput(
            f"`{stage}` of run `{run.name}` has not been evaluated", "run `prism eval` first, or release it as a draft"
        )
    created, base = _day(record, evaluation), _base(run, recipe)
    return Facts(
        repo=repo,
        tag=tag,
        created=created,
        draft=draft,
        title=named[stage],
        run=run.name,
        seed=manifest["seed"],
        arm=stage.split("/", 1)[0],
        stage=stage,
        kind=record["kind"],
        algorithm=algorithm_of(run, stage),
        arms=manifest["arms"],
        weights=_weights(run, stage, record["hash"]),
        base=base,
        recipe=recipe_facts(manifest["recipe"], recipe),
        chain=chain,
        data=data.describe(run, recipe, data_repo),
        evaluation=evaluation,
        paper=_paper(base.repo),
        family=_family(run, family, named),
        engines=_engines(manifest),
        code=code_facts(manifest.get("code") or {}),
        machine=_machine(manifest.get("machine") or {}),
        licence=LICENCE,
        limitations=found_in(chain, evaluation, stage, manifest, named),
        example=data.example(run, recipe, measured, stage, evaluation) if policy else None,
        changelog=[*changelog, Change(tag=tag, date=created, what=what)],
    )


def _day(record: Mapping[str, Any], evaluation: Evaluation | None) -> str:
    """The day of the newest thing that a release holds: the same run makes the same release whenever it is asked."""
    setups = evaluation.setups if evaluation else []
    return max(str(moment)[:10] for moment in (record["finished"], *(setup.created for setup in setups)))


def read_recipe(run: RunStore) -> dict[str, Any]:
    """A run's resolved recipe.

    Raises:
        BadInput: the file is missing or holds none.
    """
    try:
        value = yaml.safe_load((run.root / "recipe.yaml").read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        value = None
    if not isinstance(value, dict):
        raise BadInput(f"{run.root / 'recipe.yaml'} is no recipe", "train the run again")
    return value


def recipe_facts(told: Mapping[str, Any], resolved: dict[str, Any]) -> Recipe:
    """The recipe as it may be published.

    Args:
        told: the manifest's `recipe`.
    """
    return Recipe(
        name=told["name"],
        hash=told["hash"],
        profile=told.get("profile"),
        changes=cleaning.changes(told.get("set") or []),
        resolved=json.loads(json.dumps(cleaning.published(resolved))),
    )


def _chain(run: RunStore, stage: str) -> list[str]:
    """Every stage that this one was made from, by the records of what was made from what; itself last."""
    found: list[str] = []

    def visit(name: str) -> None:
        for parent in (run.stage(name).done() or {}).get("parents", {}).values():
            if parent["stage"] not in found:
                visit(parent["stage"])
        if kind_of(run, name) in _ENGINES:
            found.append(name)

    visit(stage)
    return found


def _stage(run: RunStore, name: str, named: Mapping[str, str]) -> Stage:
    record, inputs = run.stage(name).done(), inputs_of(run, name)
    if record is None:
        raise BadInput(f"stage `{name}` of run `{run.name}` is not finished", "train it: prism train")
    settings, result, kind = inputs.get("settings", {}), record["result"], record["kind"]
    kept = {key: cleaning.clean(settings[key], key) for key in _SETTINGS[kind] if settings.get(key) is not None}
    pools = settings.get("data") or ([settings["teacher"]] if settings.get("teacher") else [])
    return Stage(
        name=name,
        title=named.get(name, name),
        kind=kind,
        engine=_ENGINES[kind],
        environment=str(inputs.get("engine") or ""),
        steps=result["step"],
        seconds=record["seconds"],
        generated_tokens=result.get("generated_tokens", 0),
        rows=result.get("rows", {}),
        pools=pools,
        settings=kept,
        measured={key: value for key, value in result.get("metrics", {}).items() if isinstance(value, int | float)},
        notes=[cleaning.text(note) for note in result.get("notes", [])],
        parents=[Parent(role=role, **parent) for role, parent in record["parents"].items()],
        hash=record["hash"],
        finished=record["finished"],
    )


def _weights(run: RunStore, stage: str, digest: str) -> Weights:
    folder = run.stage(stage).model_dir
    config = read_json(folder / "config.json") or {}
    tensors = read_tensors(folder).values()
    return Weights(
        architecture=str((config.get("architectures") or ["unknown"])[0]),
        model_type=str(config.get("model_type", "unknown")),
        parameters=sum(math.prod(tensor.shape) for tensor in tensors),
        dtypes=sorted({tensor.dtype for tensor in tensors}),
        transformers=config.get("transformers_version"),
        hash=digest,
    )


def _base(run: RunStore, recipe: Mapping[str, Any]) -> Base:
    """Where the first policy came from; its commit and licence as the downloaded files tell them."""
    model = recipe.get("model") or {}
    folder = run.root / "shared" / "init" / "model"
    digest = (run.stage("shared/init").done() or {}).get("hash")
    if model.get("kind") != "hub":
        return Base(origin="random", hash=digest)
    return Base(
        origin="hub" if model.get("repo") else "folder",
        repo=model.get("repo"),
        revision=_commit(folder) or model.get("revision"),
        licence=_licence(folder / "README.md"),
        hash=digest,
    )


def _commit(folder: Path) -> str | None:
    """The commit that the client notes beside what it downloads."""
    note = folder / ".cache" / "huggingface" / "download" / "config.json.metadata"
    try:
        return note.read_text(encoding="utf-8").splitlines()[0].strip()
    except (OSError, IndexError):
        return None


def _licence(card: Path) -> str | None:
    """The licence in a model card's front matter."""
    from huggingface_hub import ModelCard

    try:
        licence = ModelCard(card.read_text(encoding="utf-8"), ignore_metadata_errors=True).data.to_dict().get("license")
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return licence if isinstance(licence, str) else None


def _engines(manifest: Mapping[str, Any]) -> list[Engine]:
    return [
        Engine(name=name, lock_sha256=told["lock_sha256"], versions=_versions(name, told["lock_sha256"]))
        for name, told in (manifest.get("engines") or {}).items()
    ]


def _versions(engine: str, digest: str) -> dict[str, str]:
    """Of main packages, from the lock; none where it is another one than the run's."""
    from prism_cli.engines.environments import lock_file, names

    if engine not in names() or hash_file(lock_file(engine)) != digest:
        return {}
    pins = (line.split(" ", 1)[0].split("==") for line in lock_file(engine).read_text().splitlines() if "==" in line)
    known = {pin[0]: pin[1] for pin in pins if len(pin) == 2}
    return {name: known[name] for name in _PACKAGES if name in known}


def code_facts(told: Mapping[str, Any]) -> Code:
    """The manifest's `code`."""
    return Code(version=told.get("prism", "unknown"), commit=told.get("commit"), dirty=bool(told.get("dirty")))


def _machine(told: Mapping[str, Any]) -> Machine:
    return Machine(
        system=told.get("system", "unknown"),
        processor=told.get("processor", "unknown"),
        cores=told.get("cores"),
        memory_bytes=told.get("memory_bytes"),
        gpus=list(told.get("gpus") or []),
        python=told.get("python", "unknown"),
    )


def _family(run: RunStore, family: Mapping[str, str], named: Mapping[str, str]) -> list[Member]:
    def line(stage: str) -> str:
        kind = kind_of(run, stage)
        return _LINES["baseline" if kind == "rlvr" and "PRISM" not in named[stage] else kind]

    return [Member(repo=repo, stage=stage, title=named[stage], line=line(stage)) for stage, repo in family.items()]


def _paper(base: str | None) -> dict[str, Any] | None:
    """The paper's table for the base model; None where it has none."""
    from benchmarks.compare.paper import load

    quoted = load()
    for table in quoted["tables"]:
        if base is not None and table["title"] in base:
            return {"source": quoted["source"], "url": quoted["url"], "benchmarks": quoted["benchmarks"], **table}
    return None
