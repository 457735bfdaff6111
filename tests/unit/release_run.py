"""A made-up run with everything that a release is made from, for tests of facts and cards.

Weights are a few numbers, responses are drawn, and hashes are those of names; only the form is a real run's.
"""

import hashlib
import json
import struct

import yaml
from cells import make_cell
from PIL import Image

from benchmarks.digits.world import KINDS
from prism_cli.runs.store import RunStore

ARMS = {
    "prism": ["shared/base", "shared/sft", "prism/discriminator", "prism/align", "prism/rlvr"],
    "baseline": ["shared/base", "shared/sft", "baseline/rlvr"],
    "control": ["shared/base", "control/sft", "control/rlvr"],
}
EVALUATED = ("shared/sft", "prism/align", "prism/rlvr", "baseline/rlvr", "control/rlvr")
ACCURACY = {"shared/sft": 0.35, "prism/align": 0.5, "prism/rlvr": 0.8, "baseline/rlvr": 0.45, "control/rlvr": 0.9}
SUITE = ("mathvista", "mathverse", "mathvision")
REVISION = "0123456789abcdef0123456789abcdef01234567"
SETTINGS = {
    "sft": {"data": ["sft"], "batch_size": 16, "learning_rate": 0.0015, "schedule": "cosine", "precision": "fp32"},
    "discriminator": {"teacher": "teacher", "mode": "prism", "experts": 4, "learning_rate": 0.001},
    "align": {"teacher": "teacher", "mode": "prism", "group_size": 8, "learning_rate": 0.0001, "alpha": 0.5},
    "rlvr": {"data": ["rlvr"], "algorithm": "grpo", "group_size": 8, "learning_rate": 4e-05, "temperature": 1.0},
}
MEASURED = {
    "held_out_pair_accuracy_perception": 0.6125,
    "held_out_pair_accuracy_perception_low": 0.4875,
    "held_out_pair_accuracy_perception_high": 0.7198,
    "held_out_right_over_wrong_reasoning": 0.8832,
}


def make_release_run(root, *, name="digits-s0", hub=False, evaluated=EVALUATED, items=120):
    """A finished run.

    Args:
        hub: it started from a published model, and was evaluated on three benchmarks; else a digits run.
    """
    run = RunStore(root / name)
    run.root.mkdir(parents=True)
    stages = list(dict.fromkeys(stage for names in ARMS.values() for stage in names))
    for number, stage in enumerate(stages):
        make_stage(run, stage, number)
    make_stage(run, "shared/init", 9, kind="model")
    (run.root / "recipe.yaml").write_text(yaml.safe_dump(recipe(hub)))
    (run.root / "manifest.json").write_text(json.dumps(manifest(run, stages)))
    make_pools(run)
    if hub:
        published_base(run)
    for stage in evaluated:
        evaluate(run, stage, hub, items)
    return run


def kind_of(stage):
    return {"base": "sft"}.get(stage.split("/")[1], stage.split("/")[1])


def digest(*parts):
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()


def weights(stage):
    return digest("weights", stage, 0)


def make_stage(run, stage, number, kind=None):
    kind = kind or kind_of(stage)
    folder = run.root / stage
    (folder / "model").mkdir(parents=True)
    write_model(folder / "model")
    parents = {}
    for names in ARMS.values():
        if stage in names and names.index(stage):
            before = [name for name in names[: names.index(stage)] if kind_of(name) != "discriminator"][-1]
            parents["policy"] = {"stage": before, "hash": weights(before)}
            if kind == "align":
                parents["discriminator"] = {"stage": "prism/discriminator", "hash": weights("prism/discriminator")}
    if stage == "shared/base":
        parents["policy"] = {"stage": "shared/init", "hash": weights("shared/init")}
    settings = {"kind": kind, **SETTINGS.get(kind, {})}
    if stage == "shared/base":
        settings["data"] = ["base"]
    (folder / "inputs.json").write_text(json.dumps({"kind": kind, "settings": settings, "engine": "0123456789ab"}))
    record = {
        "stage": stage,
        "kind": kind,
        "seconds": 61.5 + 100 * number,
        "result": {
            "step": 90 + number,
            "generated_tokens": 1000 * number + 7,
            "rows": {"given": 1500, "trained": 1436, "held_out": 64},
            "metrics": MEASURED if kind == "discriminator" else {"accuracy": 0.75},
            "notes": ["3 of 480 groups gave no signal"] if kind == "align" else [],
        },
        "hash": weights(stage),
        "parents": parents,
        "finished": f"2026-01-0{1 + number % 9}T03:04:05Z",
    }
    (folder / "DONE").write_text(json.dumps(record))


def write_model(folder):
    header = json.dumps({"a.weight": {"dtype": "F32", "shape": [123, 4], "data_offsets": [0, 1968]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(1968))
    config = {"architectures": ["Qwen3VLForConditionalGeneration"], "model_type": "qwen3_vl"}
    (folder / "config.json").write_text(json.dumps({**config, "transformers_version": "5.17.0"}))


def recipe(hub):
    world = {"kind": "files", "path": "/home/alice/data/prism"} if hub else {"kind": "digits", "world_seed": 0}
    model = {"kind": "hub", "repo": "Qwen/Qwen3-VL-4B-Instruct"} if hub else {"kind": "tiny-qwen3-vl", "seed": 0}
    return {
        "format": 1,
        "name": "digits",
        "description": "A small one.",
        "world": world,
        "model": model,
        "stages": {kind: {"kind": kind, **settings} for kind, settings in SETTINGS.items()},
        "arms": {arm: {"stages": [s.split("/")[1] for s in names], "set": {}} for arm, names in ARMS.items()},
        "evaluation": {"suite": None if hub else "digits", "pool": "test", "max_new_tokens": None},
        "machine": {"ray_address": "10.1.2.3:6379", "threads": 2},
    }


def manifest(run, stages):
    return {
        "format": 1,
        "run": run.name,
        "seed": 0,
        "recipe": {
            "name": "digits",
            "hash": digest("recipe"),
            "profile": "quick",
            "set": ["machine.threads=2", "stages.rlvr.steps=90", "stages.discriminator.init_from=/home/alice/d"],
        },
        "arms": ARMS,
        "stages": {stage: {"kind": kind_of(stage), "hash": weights(stage)} for stage in stages},
        "data": {
            "hash": digest("data"),
            "rows": {"base": 15000, "sft": 9000, "teacher": 1500, "rlvr": 3000, "test": 8},
        },
        "engines": {"alignment": {"key": "0123456789ab", "lock_sha256": digest("lock")}},
        "code": {"prism": "0.1.0", "commit": "3002096b160d" + "0" * 28, "dirty": True},
        "machine": {
            "system": "Linux",
            "processor": "A Processor",
            "cores": 4,
            "gpus": [],
            "memory_bytes": 2**34,
            "python": "3.11.7",
        },
    }


def make_pools(run):
    folder = run.root / "data" / "pools"
    (folder / "images").mkdir(parents=True)
    for pool, count in {"sft": 4, "teacher": 3, "test": 8}.items():
        rows = []
        for index in range(count):
            image = f"images/{pool}{index}.png"
            Image.new("RGB", (64, 32), (index, 0, 0)).save(folder / image)
            rows.append(
                {
                    "id": f"{pool}-{index}",
                    "images": [image],
                    "system": None,
                    "prompt": "What is the sum?",
                    "response": None if pool == "test" else "<caption>1 2</caption><think>3</think><answer>3</answer>",
                    "answer": "3",
                    "source": pool,
                    "task": {"kind": KINDS[0], "digits": [1, 2]},
                }
            )
        (folder / f"{pool}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def published_base(run):
    """What the client leaves of a published model beside its weights."""
    folder = run.root / "shared" / "init" / "model"
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n\n# A model\n")
    note = folder / ".cache" / "huggingface" / "download" / "config.json.metadata"
    note.parent.mkdir(parents=True)
    note.write_text(f"{REVISION}\netag\n1.0\n")


def evaluate(run, stage, hub, items):
    if hub:
        for benchmark in SUITE:
            task = f"prism_{benchmark}_testmini"
            options = {"benchmark": benchmark, "suite": "multimodal-reasoning", "protocol": "paper"}
            make_cell(run.root / "eval", stage, task, accuracy=ACCURACY[stage], items=items, **options)
        return
    for protocol in ("greedy", "sample"):
        make_cell(
            run.root / "eval",
            stage,
            benchmark="digits",
            protocol=protocol,
            items=items,
            accuracy=ACCURACY[stage] - (0.1 if protocol == "sample" else 0),
            perception=ACCURACY[stage],
            logic=0.9,
        )
