"""A made-up run with everything that a report shows, for tests that read reports."""

import hashlib
import json
from itertools import pairwise

from cells import make_cell
from PIL import Image

ITEMS = 24
ARMS = {
    "prism": ["shared/sft", "prism/discriminator", "prism/align", "prism/rlvr"],
    "baseline": ["shared/sft", "baseline/rlvr"],
    "control": ["shared/sft", "control/rlvr"],
}
BASELINE = [index % 2 == 0 for index in range(ITEMS)]
OURS = [index % 3 != 0 for index in range(ITEMS)]
GAINED = sum(ours and not theirs for ours, theirs in zip(OURS, BASELINE, strict=True))
LOST = sum(theirs and not ours for ours, theirs in zip(OURS, BASELINE, strict=True))
VERDICTS = {"baseline/rlvr": BASELINE, "prism/rlvr": OURS}


def make_run(folder, *, seed=0, rows=None, evaluated=("shared/sft", "prism/rlvr", "baseline/rlvr"), trained=None):
    """A run's folder with manifest, events, records, cells and images.

    Args:
        rows: called with each row of every cell, see `make_cell`.
        evaluated: stages with a cell of greedy decoding.
        trained: finished stages; all by default.
    """
    trained = trained if trained is not None else list(dict.fromkeys(n for names in ARMS.values() for n in names))
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps(manifest(folder.name, seed, trained)))
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events(trained)))
    for index, stage in enumerate(trained):
        (folder / stage).mkdir(parents=True)
        record = {"seconds": 60.0 * (index + 1), "result": {"generated_tokens": 1000 * index, "step": 10}}
        (folder / stage / "DONE").write_text(json.dumps(record))
    images = make_images(folder / "eval" / "images")

    def with_image(row):
        row = row | {"images": [images[int(row["item_id"][-5:]) % len(images)]]}
        return rows(row) if rows else row

    for stage in evaluated:
        make_cell(
            folder / "eval",
            stage,
            benchmark="digits",
            items=ITEMS,
            training_seed=seed,
            correct=VERDICTS.get(stage),
            perception=0.8,
            logic=0.9,
            rows=with_image,
        )
    return folder


def make_images(folder):
    """Three previews; returns their names."""
    folder.mkdir(parents=True)
    names = []
    for shade in (0, 100, 200):
        Image.new("RGB", (96, 32), (shade, shade, shade)).save(folder / "new.png")
        names.append(hashlib.sha256((folder / "new.png").read_bytes()).hexdigest() + ".png")
        (folder / "new.png").rename(folder / names[-1])
    return names


def manifest(name, seed, trained):
    parents = {}
    for arm in ARMS.values():
        parents |= {stage: {"policy": {"stage": before, "hash": "cd" * 32}} for before, stage in pairwise(arm)}
    return {
        "format": 1,
        "run": name,
        "seed": seed,
        "recipe": {"name": "digits", "hash": "ab" * 32, "source": "digits", "profile": None, "set": []},
        "arms": ARMS,
        "stages": {
            stage: {"kind": "sft", "hash": "cd" * 32, "parents": parents.get(stage, {}), "step": 10}
            for stage in trained
        },
        "data": {"hash": "ef" * 32, "rows": {"sft": 1000}},
        "engines": {"verl": {"key": "05407a647187", "lock_sha256": "12" * 32}},
        "code": {"prism": "0.1.0", "commit": "3002096b160d" + "0" * 28, "dirty": False},
        "machine": {"system": "Linux", "cores": 4, "gpus": [], "memory_bytes": 2**34, "python": "3.11.7"},
    }


def events(trained):
    """Every stage of ten steps; `prism/rlvr` fails at its fifth step and is resumed from its fourth."""
    for index, stage in enumerate(trained):
        yield event(index, 0, "stage_started", stage, attempt=1, steps=10)
        last = 5 if stage == "prism/rlvr" else 10
        for step in range(1, last + 1):
            yield progress(index, step, stage, 1 / step)
        if stage == "prism/rlvr":
            yield event(index, 6, "stage_failed", stage, problem="/home/someone/run is full", fix="")
            yield event(index, 20, "stage_started", stage, attempt=2, steps=10)
            for step in range(4, 11):
                yield progress(index, 17 + step, stage, 2 / step)
        yield event(index, 40, "stage_done", stage, seconds=60.0, step=10)


def progress(index, second, stage, value):
    step = second if second <= 10 else second - 17
    return event(
        index, second, "progress", stage, step=step, total=10, metrics={"reward": value, "entropy": 0.1 * value}
    )


def event(minute, second, kind, stage, **fields):
    return {"time": f"2026-01-02T03:{minute:02d}:{second:02d}Z", "event": kind, "stage": stage, **fields}
