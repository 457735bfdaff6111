"""The samples store: every response that was scored, in one folder per cell.

A cell is one model on one task with one decoding seed. Everything that tables, comparisons, the report and a later
re-scoring need is in it, so that nothing but new responses ever needs inference again.

    <cell>/samples.parquet   one row per response, columns as in SCHEMA
    <cell>/cell.json         what was asked of which model and how, written last: a cell without it is not finished

Runs in prism's own process and in the engines' environments (pyarrow only).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from integrations.common.files import read_json, write_json

FORMAT = 1
"""Version of SCHEMA and of cell.json. A reader refuses a newer one and can read every older one."""

SAMPLES = "samples.parquet"
CELL = "cell.json"

COLUMNS: dict[str, tuple[pa.DataType, str]] = {
    "item_id": (pa.string(), "The item, unique in its task."),
    "group_id": (
        pa.string(),
        "Items that share a figure or a problem, the clusters of the bootstrap; null: on its own.",
    ),
    "subset": (pa.string(), "A part that the benchmark reports apart, e.g. MathVerse's problem version; null: none."),
    "sample": (pa.int32(), "Which of the item's responses this is, from 0."),
    "prompt_hash": (pa.string(), "sha256 of the messages sent, images included."),
    "question": (pa.string(), "The question with its options, without the instructions around it."),
    "reference": (pa.string(), "The reference answer."),
    "images": (pa.list_(pa.string()), "Names of previews in the store's `images` folder, <content hash>.<suffix>."),
    "response": (pa.string(), "The whole response as it came: untrusted text."),
    "caption": (pa.string(), "What <caption> holds; null without it."),
    "reasoning": (pa.string(), "What <think> holds; null without it."),
    "answer": (pa.string(), "The answer taken from the response; null: unparseable, which counts as wrong."),
    "correct": (pa.bool_(), "The verdict that counts."),
    "rule": (pa.string(), "What decided: a rule's name, `unparseable`, or `judge`."),
    "rule_correct": (pa.bool_(), "What the rules alone say."),
    "judged": (pa.string(), "What the judge said: `correct`, `wrong` or `error`; null: it was not asked."),
    "format": (pa.bool_(), "The response has the paper's form."),
    "perception": (pa.bool_(), "The caption is right; null where that cannot be measured."),
    "logic": (pa.bool_(), "The answer follows from the response's own caption; null where that cannot be measured."),
    "tokens": (pa.int32(), "Generated tokens."),
    "truncated": (pa.bool_(), "The token limit cut the response."),
    "training_seed": (pa.int64(), "Seed of the run that trained the model; null: unknown or not trained here."),
    "decoding_seed": (pa.int64(), "Seed of the decoding; 0 in greedy decoding."),
}
"""Columns of samples.parquet with their types and meanings, in order."""

SCHEMA = pa.schema([(name, kind) for name, (kind, _) in COLUMNS.items()])


@dataclass(frozen=True)
class Cell:
    """One finished cell."""

    folder: Path
    facts: Mapping[str, Any]
    """cell.json as written; see `cell_facts` for its fields."""
    table: pa.Table
    """samples.parquet, columns of SCHEMA."""

    @property
    def model(self) -> str:
        """The model's label: the same for every training seed of one stage."""
        return str(self.facts["model"]["label"])

    @property
    def benchmark(self) -> str:
        return str(self.facts["benchmark"])

    @property
    def task(self) -> str:
        return str(self.facts["task"])

    @property
    def protocol(self) -> str:
        return str(self.facts["protocol"]["name"])


def cell_facts(
    *,
    model: Mapping[str, Any],
    suite: str,
    benchmark: str,
    task: str,
    protocol: Mapping[str, Any],
    decoding_seed: int,
    training_seed: int | None,
    samples_per_item: int,
    limit: int | None,
    task_hash: str,
    harness: Mapping[str, Any],
    server: Mapping[str, Any],
) -> dict[str, Any]:
    """The part of cell.json that is known before the first response.

    Args:
        model: `label` (for tables, e.g. `prism/rlvr`), `weights_hash`, and as far as known `run`, `stage`,
            `algorithm`, `repo`, `revision`. No path of this machine.
        protocol: `name`, `temperature`, `top_p`, `top_k` (0: all), `max_new_tokens`, `prompt` (`format` or `native`).
        task_hash: of the task's files and of the code that scores it.
        harness: `name`, `version` and `lock` (sha256 of the environment's lock).
        server: `engine`, and what else of it can change a response (dtype, quantization).

    Returns:
        The fields above, to which the harness adds `dataset_hash`, `items`, `seconds`, `generated_tokens` and
        `created`, and a judge `judge` (None without one).
    """
    return {
        "format": FORMAT,
        "model": dict(model),
        "suite": suite,
        "benchmark": benchmark,
        "task": task,
        "protocol": dict(protocol),
        "decoding_seed": decoding_seed,
        "training_seed": training_seed,
        "samples_per_item": samples_per_item,
        "limit": limit,
        "task_hash": task_hash,
        "harness": dict(harness),
        "server": dict(server),
        "judge": None,
    }


def write_cell(folder: Path, rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> None:
    """Write both files, cell.json last.

    The folder changes only once the new rows are on the disk: a full disk leaves an earlier cell as it was.

    Args:
        folder: created.
        rows: one mapping per response; a column that is left out is null.
        facts: the whole content of cell.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{SAMPLES}.{os.getpid()}.tmp"
    try:
        pq.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema=SCHEMA), temporary, compression="zstd")
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        (folder / CELL).unlink(missing_ok=True)
        os.replace(temporary, folder / SAMPLES)
    finally:
        temporary.unlink(missing_ok=True)
    write_json(folder / CELL, dict(facts))


def read_cell(folder: Path, columns: Sequence[str] | None = None) -> Cell | None:
    """The cell in a folder, or None when it is missing, unfinished, damaged or of a newer format.

    Args:
        columns: of SCHEMA, to read no more than these: responses are most of a cell's bytes. None: all.
    """
    facts = read_json(folder / CELL)
    if not isinstance(facts, dict) or not isinstance(facts.get("format"), int) or facts["format"] > FORMAT:
        return None
    try:
        with pq.ParquetFile(folder / SAMPLES) as file:
            names = file.schema_arrow.names
            table = file.read(columns=None if columns is None else list(columns))
    except (OSError, pa.ArrowException):
        return None
    if names != SCHEMA.names or table.num_rows != facts.get("items", -1) * facts["samples_per_item"]:
        return None
    return Cell(folder, facts, table)


def find_cells(root: Path, columns: Sequence[str] | None = None) -> list[Cell]:
    """Every finished cell below a folder, in path order; what was moved aside (`.old-`) is left out.

    Args:
        columns: as for `read_cell`.
    """
    folders = sorted(path.parent for path in root.rglob(CELL) if ".old-" not in path.as_posix())
    return [cell for folder in folders if (cell := read_cell(folder, columns)) is not None]
