"""A run's data as a release: what it says about itself, and its pools as parquet with the pictures inside.

    facts = gather_dataset(run, "prism-vlm/digits-data", "v1.0", models)
    add(folder, {**pool_files(run), **render_dataset(facts, ...)})

Parquet, because thousands of small pictures are too many files for a repository, and because the Hub shows its rows.
The columns are those that `integrations.common.parquet_rows` reads, so that a recipe of one's own can name the files.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from integrations.common.files import hash_file, read_json
from integrations.common.rows import Row, read_rows
from integrations.errors import BadInput
from prism_cli.publication import data
from prism_cli.publication.facts import code_facts, read_recipe, recipe_facts
from prism_cli.publication.stages import titles
from prism_cli.runs.store import RunStore
from release.facts import Change, DatasetFacts, Member, Pool

LICENCE = "cc-by-4.0"
"""Of data made from the scans: that of the scans."""


def gather_dataset(
    run: RunStore,
    repo: str,
    tag: str,
    models: Mapping[str, str] | None = None,
    *,
    changelog: Sequence[Change] = (),
    what: str = "First release.",
) -> DatasetFacts:
    """What a release of a run's data says.

    Args:
        models: repositories of checkpoints that were trained on it, by stage.
        changelog: earlier releases, oldest first.

    Raises:
        BadInput: the run has no data yet, or data whose licence is not known.
    """
    recipe, manifest = read_recipe(run), run.manifest()
    record = run.stage("data").done()
    if record is None:
        raise BadInput(f"run `{run.name}` has no finished data", "train it: prism train")
    described = data.describe(run, recipe, repo)
    if not described.sources:
        raise BadInput(
            f"run `{run.name}` was trained on data of your own, whose licence is not known here",
            "publish them yourself, with what their owners ask for",
        )
    created = str(record["finished"])[:10]
    named = titles(run)
    world = read_json(data.pools_of(run) / "world.json") or {}
    quality = {kind: told["all"] for kind, told in (world.get("demonstrations") or {}).items()}
    return DatasetFacts(
        repo=repo,
        tag=tag,
        created=created,
        run=run.name,
        seed=manifest["seed"],
        recipe=recipe_facts(manifest["recipe"], recipe),
        data=described,
        pools=[_pool(path, described.held_out) for path in _paths(run)],
        quality=quality,
        models=[
            Member(repo=name, stage=stage, title=named[stage], line=named[stage])
            for stage, name in (models or {}).items()
        ],
        code=code_facts(manifest.get("code") or {}),
        licence=LICENCE,
        changelog=[*changelog, Change(tag=tag, date=created, what=what)],
    )


def pool_files(run: RunStore) -> dict[str, bytes]:
    """`data/<pool>.parquet` of every pool; equal pools give equal bytes."""
    return {f"data/{path.stem}.parquet": _parquet(path) for path in _paths(run)}


def _paths(run: RunStore) -> list[Path]:
    """The pools' files, in the order in which the run lists them."""
    listed = (run.manifest().get("data") or {}).get("rows") or {}
    return [path for name in listed if (path := data.pools_of(run) / f"{name}.jsonl").is_file()]


def _pool(path: Path, held_out: Sequence[str]) -> Pool:
    rows = list(read_rows(path))
    return Pool(
        name=path.stem,
        rows=len(rows),
        images=len({image for row in rows for image in row["images"]}),
        demonstrations=sum(row.get("response") is not None for row in rows),
        sources=dict(Counter(str(row.get("source") or path.stem) for row in rows).most_common()),
        held_out=path.stem in held_out,
        hash=hash_file(path),
    )


def _parquet(path: Path) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist([_record(row, path.parent) for row in read_rows(path)], schema=_schema())
    stream = io.BytesIO()
    pq.write_table(table, stream, compression="zstd", row_group_size=1000)
    return stream.getvalue()


def _schema() -> Any:
    """Columns, with the note by which the `datasets` library decodes the pictures."""
    import pyarrow as pa

    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    turn = pa.struct([("role", pa.string()), ("content", pa.string())])
    columns = {
        "id": pa.string(),
        "images": pa.list_(image),
        "prompt": pa.list_(turn),
        "teacher_response": pa.string(),
        "answer": pa.string(),
        "data_source": pa.string(),
        "task": pa.string(),
    }
    text = {"dtype": "string", "_type": "Value"}
    features: dict[str, Any] = dict.fromkeys(columns, text)
    features["images"] = {"feature": {"_type": "Image"}, "_type": "List"}
    features["prompt"] = {"feature": {"role": text, "content": text}, "_type": "List"}
    note = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema(list(columns.items()), metadata=note)


def _record(row: Row, folder: Path) -> dict[str, Any]:
    system = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    return {
        "id": row["id"],
        "images": [{"bytes": (folder / name).read_bytes(), "path": Path(name).name} for name in row["images"]],
        "prompt": [*system, {"role": "user", "content": row["prompt"]}],
        "teacher_response": row.get("response"),
        "answer": row["answer"],
        "data_source": row.get("source"),
        "task": json.dumps(row["task"], ensure_ascii=False) if row.get("task") else None,
    }
