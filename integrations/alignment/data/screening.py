"""Rows that cannot be trained on, found before the training starts and not at the step that first meets them.

A row is bad when its demonstration has not the three blocks (found where the pool is read), when an image is missing or
damaged, or when its prompt is too long. Images are decoded whole, since a truncated file opens like a good one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from integrations.alignment.data.pool import TeacherPool
from integrations.alignment.data.prompts import Encoder
from integrations.alignment.training.world import World
from integrations.common.rows import Row
from integrations.errors import BadInput

TOLD_EVERY = 2.0
"""Seconds between news."""


@dataclass(frozen=True)
class Limits:
    """The fields of both stages' settings with these names."""

    max_prompt_tokens: int
    bad_rows: str


def screen(
    pool: TeacherPool,
    encoder: Encoder,
    limits: Limits,
    *,
    threads: int,
    world: World,
    tell: Callable[[int, int], None],
) -> TeacherPool:
    """The pool without its bad rows, which are added to `dropped` with the reason.

    Which prompts are held out does not change: a bad one among them is not replaced.

    Args:
        threads: images decoded at once.
        world: each process looks at its share.
        tell: called every two seconds with the rows looked at and their number.

    Raises:
        BadInput: a row is bad and `bad_rows` is `refuse`, or too few rows are left.
    """
    rows = [*pool.held_out, *pool.train]
    shares = world.gather(_faults(world.mine(rows), encoder, limits.max_prompt_tokens, threads, tell))
    bad = pool.dropped | {name: reason for share in shares for name, reason in share.items()}
    if bad and limits.bad_rows == "refuse":
        name = next(iter(bad))
        raise BadInput(
            f"{name} of the teacher pool: {bad[name]} (bad rows in all: {len(bad)})",
            "correct or remove it, or set `bad_rows: skip`",
        )
    train, held_out = ([row for row in part if str(row["id"]) not in bad] for part in (pool.train, pool.held_out))
    if not train or 2 * len(held_out) < len(pool.held_out):
        raise BadInput(
            f"of the teacher pool only {len(train)} rows and {len(held_out)} of {len(pool.held_out)} held-out ones can "
            f"be used; the first bad one: {next(iter(bad.values()))}",
            "repair the data",
        )
    good = {row["id"]: pool.demonstrations[row["id"]] for row in (*train, *held_out)}
    return replace(pool, train=train, held_out=held_out, demonstrations=good, dropped=bad)


def _faults(
    rows: Sequence[Row], encoder: Encoder, longest: int, threads: int, tell: Callable[[int, int], None]
) -> dict[str, str]:
    """What is wrong with each bad row, by id."""
    found: dict[str, str] = {}
    told = time.monotonic()

    def sizes(row: Row) -> list[tuple[int, int]] | str:
        try:
            return [encoder.image(path).size for path in row["images"]]
        except BadInput as error:
            return error.problem

    with ThreadPoolExecutor(threads) as pool:
        for number, (row, seen) in enumerate(zip(rows, pool.map(sizes, rows), strict=True), 1):
            fault = seen if isinstance(seen, str) else _length_fault(row, seen, encoder, longest)
            if fault:
                found[str(row["id"])] = fault
            if time.monotonic() - told > TOLD_EVERY:
                tell(number, len(rows))
                told = time.monotonic()
    return found


def _length_fault(row: Row, sizes: Sequence[tuple[int, int]], encoder: Encoder, longest: int) -> str:
    """Empty for a prompt within the limit.

    Args:
        sizes: width and height of each image.
    """
    try:
        length = encoder.length(row, sizes)
    except BadInput as error:
        return error.problem
    return f"its prompt has {length} tokens, more than max_prompt_tokens ({longest})" if length > longest else ""
