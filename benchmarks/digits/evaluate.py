"""Score a checkpoint on held-out items of the digits world.

    python -m benchmarks.digits.evaluate --config evaluation.json

Runs in the alignment environment, in fp32 whatever the checkpoint was trained in, so that arms are compared in one
dtype. Each item is asked once per protocol. Sampled responses draw from a stream of their own for each item, the same
one for every checkpoint evaluated with the same seed, so that two checkpoints differ by what they learned and not by
their luck; results do not depend on how items are batched, up to rounding, and repeat exactly with the same `batch`
and `threads`.

The configuration is one JSON object:

    model            folder of the checkpoint
    data_dir         folder of the pools
    pool, limit      the items: the pool's first `limit` rows, null for all
    protocols        list of {"name", "temperature", "top_p"}; temperature 0 is greedy
    max_new_tokens   longest response in tokens; what has not ended by then is counted as truncated
    seed             of the sampled responses
    batch            items decoded together
    threads          CPU threads
    out              folder for the results: `<protocol>/items.parquet`, `<protocol>/scores.json` (benchmarks.scores),
                     and `progress.jsonl` with one {"step", "total"} per batch, in items over all protocols

Exit code 2 with one line when the configuration, the data or the checkpoint cannot be used.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from benchmarks import scores
from benchmarks.digits.world import score
from integrations.alignment.model import load_policy, load_processor
from integrations.alignment.prompts import Encoder
from integrations.alignment.rollout import Generation, Rollouts, Sampling
from integrations.alignment.seeds import derive
from integrations.common.rows import Row, read_rows
from integrations.errors import BadInput


def evaluate(config: Mapping[str, Any], report: Callable[[int, int], None]) -> dict[str, dict[str, Any]]:
    """Run every protocol; returns the content of each scores.json, by protocol.

    Args:
        config: see above.
        report: called with items done and items in all.

    Raises:
        BadInput: the pool or the checkpoint cannot be used.
    """
    torch.set_num_threads(config["threads"])
    torch.use_deterministic_algorithms(not torch.cuda.is_available())  # CUDA has no deterministic cumulative sum
    rows = load_items(Path(config["data_dir"]), config["pool"], config["limit"])
    rollouts = _load(Path(config["model"]), Path(config["data_dir"]))
    total = len(rows) * len(config["protocols"])
    results = {}
    for index, protocol in enumerate(config["protocols"]):
        started, before = time.perf_counter(), index * len(rows)
        generations: list[Generation] = []
        for batch in _batches(rows, config["batch"]):
            generations += _respond(rollouts, batch, config, protocol)
            report(before + len(generations), total)
        items = [judge(row, generation) for row, generation in zip(rows, generations, strict=True)]
        facts = _facts(config, protocol, items, time.perf_counter() - started)
        results[protocol["name"]] = scores.write(Path(config["out"]) / protocol["name"], items, facts)
    return results


def load_items(data_dir: Path, pool: str, limit: int | None) -> list[Row]:
    """The items of a pool, in file order.

    Raises:
        BadInput: no items, or rows that the digits world did not write.
    """
    path = data_dir / f"{pool}.jsonl"
    rows = list(islice(read_rows(path), limit))
    if not rows:
        raise BadInput(f"{path} holds no rows", "evaluate a pool that has some")
    for row in rows:
        if not {"kind", "level", "digits", "options"} <= {*(row.get("task") or ())}:
            raise BadInput(
                f"{path}: row {row['id']} has no `task` of the digits world, so it cannot be scored",
                "this evaluator scores the digits world only",
            )
    return rows


def judge(row: Row, generation: Generation) -> dict[str, Any]:
    """One item as a row of items.parquet."""
    verdict = score(row, generation.text)
    return {
        "id": row["id"],
        "kind": row["task"]["kind"],
        "level": str(row["task"]["level"]),
        "multiple_choice": row["task"]["options"] is not None,
        "prompt": row["prompt"],
        "response": generation.text,
        "tokens": len(generation.token_ids),
        "truncated": not generation.finished,
        **{metric: getattr(verdict, metric) for metric in scores.METRICS},
    }


def _load(model: Path, data_dir: Path) -> Rollouts:
    if not (model / "config.json").is_file():
        raise BadInput(f"{model} holds no checkpoint (no config.json)", "train the stage again")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return Rollouts(load_policy(model, device), Encoder(load_processor(model), data_dir))
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise BadInput(f"cannot load the checkpoint {model}: {first_line}", "train the stage again") from error


def _respond(
    rollouts: Rollouts, rows: Sequence[Row], config: Mapping[str, Any], protocol: Mapping[str, Any]
) -> list[Generation]:
    sampling = Sampling(protocol["temperature"], protocol["top_p"], config["max_new_tokens"])
    seeds = [derive(config["seed"], "evaluation", row["id"]) for row in rows]
    return [group[0] for group in rollouts.sample(rows, 1, sampling, seeds, len(rows))]


def _batches(rows: Sequence[Row], size: int) -> list[Sequence[Row]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _facts(
    config: Mapping[str, Any], protocol: Mapping[str, Any], items: Sequence[Mapping[str, Any]], seconds: float
) -> dict[str, Any]:
    """What a reader of scores.json needs to repeat the evaluation, and what it cost."""
    settings = {key: config[key] for key in ("model", "pool", "limit", "seed", "max_new_tokens", "batch", "threads")}
    return {
        "protocol": protocol["name"],
        "temperature": protocol["temperature"],
        "top_p": protocol["top_p"],
        **settings,
        "dtype": "float32",
        "evaluator": "benchmarks.digits.evaluate",
        "generated_tokens": sum(item["tokens"] for item in items),
        "seconds": round(seconds, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Score a checkpoint on held-out items of the digits world.")
    parser.add_argument("--config", type=Path, required=True, help="JSON file, see this module's documentation")
    config = json.loads(parser.parse_args().config.read_text(encoding="utf-8"))
    out = Path(config["out"])
    out.mkdir(parents=True, exist_ok=True)
    with (out / "progress.jsonl").open("w", encoding="utf-8") as progress:

        def report(done: int, total: int) -> None:
            progress.write(json.dumps({"step": done, "total": total}) + "\n")
            progress.flush()

        try:
            results = evaluate(config, report)
        except BadInput as error:
            sys.exit(_explain(error))
    for name, found in results.items():
        print(name, {metric: found[metric] for metric in (*scores.METRICS, "n")})


def _explain(error: BadInput) -> int:
    print(f"error: {error.problem}\n{error.fix}", file=sys.stderr)
    return error.exit_code


if __name__ == "__main__":
    main()
