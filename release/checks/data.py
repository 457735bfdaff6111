"""A data set's tables: whether they can be read, and the texts in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from release.checks.view import Check, Found, View

_ROWS = 4096


def table_texts(path: Path) -> Iterator[str]:
    """The texts of a Parquet file, some thousand rows at a time; pictures and numbers are left out.

    Raises:
        ValueError: it is damaged.
    """
    import pyarrow.parquet as pq

    with _reading(), pq.ParquetFile(path) as table:
        columns = [table.schema.column(index) for index in range(len(table.schema))]
        named = [column.path for column in columns if column.logical_type.type == "STRING"]
        told = table.schema_arrow.metadata or {}
        yield "\n".join(part.decode(errors="replace") for pair in told.items() for part in pair)
        for batch in table.iter_batches(_ROWS, columns=named) if named else ():
            yield "\n".join(text for row in batch.to_pylist() for text in strings(row))


@contextmanager
def _reading() -> Iterator[None]:
    """Any of the ways in which a damaged file shows, as one."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise ValueError("it cannot be read as Parquet") from error


def strings(value: Any) -> Iterator[str]:
    """Every text in a value of lists and mappings, the names in it included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield str(key)
            yield from strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)


def _tables(view: View) -> Found:
    for path in view.files:
        if path.endswith(".parquet"):
            try:
                _read(view.folder / path)
            except ValueError as error:
                yield path, str(error)


def _read(path: Path) -> None:
    import pyarrow.parquet as pq

    with _reading(), pq.ParquetFile(path) as table:
        for _ in table.iter_batches(_ROWS):
            pass


CHECKS = (
    Check(
        "table", "error", "Table that is damaged", "Every Parquet file of a data set: each row can be read.",
        "write the data again", _tables,
    ),
)  # fmt: skip
