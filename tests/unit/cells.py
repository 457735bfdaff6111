"""Finished cells with made-up responses, written as the harness writes them, for tests of what reads them."""

import hashlib
import random

from benchmarks.samples import cell_facts, read_cell, write_cell
from benchmarks.suites import PROTOCOLS

HARNESS = {"name": "lmms-eval", "version": "0.7.3", "lock": hashlib.sha256(b"lock").hexdigest()}


def make_cell(
    store,
    label="prism/rlvr",
    task="prism_digits",
    *,
    benchmark=None,
    suite="digits",
    protocol="greedy",
    training_seed=0,
    decoding_seed=0,
    items=40,
    samples=1,
    accuracy=0.5,
    correct=None,
    groups=None,
    subsets=None,
    perception=None,
    logic=None,
    unparseable=0.05,
    truncated=0.02,
    tokens=60,
    rows=None,
    facts=None,
    model=None,
    shuffle=False,
):
    """Write one finished cell below `store` and read it back.

    Args:
        label, training_seed: of the model; with the same pair it has the same weights hash.
        benchmark: the task's name without `prism_` by default.
        correct: [items] or [items][samples] verdicts; drawn by default, with `accuracy` and with difficulties of the
            items that every model shares.
        groups, subsets: [items] group_id and subset.
        perception, logic: rates of columns that only digits have; None: null.
        unparseable, truncated: rates among wrong responses.
        tokens: mean response length.
        rows: called with each row before it is written, returning the row to write.
        facts, model: fields of cell.json, and of its `model`, to write instead of the usual ones.
        shuffle: write the items in another order.
    """
    weights = digest("weights", label, training_seed)
    described = {"label": label, "weights_hash": weights, "run": f"run-s{training_seed}", "stage": label}
    described |= {"algorithm": "grpo"} if label.endswith("/rlvr") else {}
    content = cell_facts(
        model={**described, **(model or {})},
        suite=suite,
        benchmark=benchmark or task.removeprefix("prism_"),
        task=task,
        protocol={"name": protocol, **PROTOCOLS[protocol], "max_new_tokens": 96, "prompt": "format"},
        decoding_seed=decoding_seed,
        training_seed=training_seed,
        samples_per_item=samples,
        limit=None,
        task_hash=digest("task", task),
        harness=HARNESS,
        server={"engine": "transformers", "version": "5.17.0", "dtype": "float32"},
    )
    content |= {
        "dataset_hash": digest("data", task),
        "items": items,
        "seconds": 12.5,
        "created": "2026-01-02T03:04:05Z",
    }
    written = []
    for index in range(items):
        for sample in range(samples):
            chance = random.Random(f"{label} {task} {training_seed} {decoding_seed} {index} {sample}")
            right = _verdict(correct, index, sample, chance, task, accuracy)
            row = _row(task, index, sample, right, chance, unparseable, truncated, tokens)
            row |= {"group_id": groups[index] if groups else None, "subset": subsets[index] if subsets else None}
            row["perception"] = None if perception is None else chance.random() < perception
            row["logic"] = None if logic is None else chance.random() < logic
            row |= {"training_seed": training_seed, "decoding_seed": decoding_seed}
            written.append(rows(row) if rows else row)
    if shuffle:
        random.Random(1).shuffle(written)
    content["generated_tokens"] = sum(row["tokens"] for row in written)
    content |= facts or {}
    slug = label.replace("/", "-")
    folder = store / f"{slug}-{content['model']['weights_hash'][:8]}" / task / f"{protocol}-s{decoding_seed}"
    write_cell(folder, written, content)
    return read_cell(folder)


def digest(*parts):
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()


def _verdict(correct, index, sample, chance, task, accuracy):
    if correct is None:
        easy = random.Random(f"{task} {index}").random()
        return chance.random() < min(1.0, max(0.0, accuracy + 0.6 * (easy - 0.5)))
    given = correct[index]
    return bool(given[sample] if hasattr(given, "__len__") else given)


def _row(task, index, sample, right, chance, unparseable, truncated, tokens):
    reference = str(10 + 7 * index % 89)
    readable = right or chance.random() >= unparseable
    cut = not right and chance.random() < truncated
    answer = reference if right else str(int(reference) + 1)
    response = "<caption>The strip reads 4, 7.</caption><think>4 plus 7 is 11.</think>"
    response += f"<answer>{answer}</answer>" if readable else ""
    return {
        "item_id": f"{task}-{index:05d}",
        "sample": sample,
        "prompt_hash": digest("prompt", task, index),
        "question": f"What is sum number {index}?",
        "reference": reference,
        "images": [],
        "response": response,
        "caption": "The strip reads 4, 7.",
        "reasoning": "4 plus 7 is 11.",
        "answer": answer if readable else None,
        "correct": right,
        "rule": "exact" if readable else "unparseable",
        "rule_correct": right,
        "judged": None,
        "format": readable,
        "tokens": max(1, round(chance.gauss(tokens, tokens / 6))),
        "truncated": cut,
    }
