"""What `prism data` shows a person: tables of 80 columns, and a line that counts while something takes long."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from prism_cli.datasets.check import REPEATS
from prism_cli.datasets.get import gigabytes
from prism_cli.ui.tables import print_table

PATIENCE = 2.0
"""Seconds before anything is said."""


def counter(what: str) -> Callable[[int], None]:
    """A line on standard error that counts, after two seconds and on a terminal only."""
    started = last = time.monotonic()
    quiet = not sys.stderr.isatty()

    def tick(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if quiet or now - started < PATIENCE or now - last < 0.2:
            return
        last = now
        print(f"\r{what}: {done:,} ({done / (now - started):,.0f} a second)\x1b[K", end="", file=sys.stderr, flush=True)

    return tick


def clear() -> None:
    """Take the counting line away."""
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def plans(told: Sequence[dict[str, Any]], own: Sequence[str], dry: bool) -> None:
    """What there is to fetch."""
    rows = []
    for one in told:
        state = "there" if one["done"] else gigabytes(one["to_fetch"])
        where = f"{one['repo']} at {one['revision'][:12]}"
        rows.append([one["name"], where, one["files"], gigabytes(one["bytes"]), state])
    print_table(["what", "from", "files", "size", "to fetch"], rows, numbers=[2, 3, 4])
    fetched, written = (sum(one[key] for one in told) for key in ("to_fetch", "to_write"))
    print(f"{gigabytes(fetched)} to fetch; about {gigabytes(written)} of rows and images will be made of it")
    if own:
        print(f"not published, yours to put in place: {', '.join(own)}")
    if dry:
        print("nothing was fetched (--dry-run)")


def receipts(done: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """What was made."""
    rows = []
    for target, receipt in done:
        left = sum(entry["rows"] for entry in receipt.get("left_out", {}).values())
        rows.append([target, receipt.get("rows"), left or None, receipt["revision"][:12]])
    print_table(["there now", "rows", "left out", "revision"], rows, numbers=[1, 2])
    for target, receipt in done:
        for reason, entry in receipt.get("left_out", {}).items():
            print(f"{target}: {entry['rows']} rows left out: {reason}; first {', '.join(entry['first'])}")


def report(told: dict[str, Any]) -> None:
    """What a check found."""
    clear()
    rate = told["rows"] / told["seconds"] if told["seconds"] else 0
    segments = told["segments"]
    print(f"{told['file']}: {told['rows']:,} rows, {told['usable']:,} usable ({rate:,.0f} rows a second)")
    print(f"  demonstrations {segments['demonstrations']:,}, with all segments {segments['complete']:,}")
    found = [
        [one["level"], one["field"], one["problem"], one["rows"], ", ".join(str(e["row"]) for e in one["examples"][:3])]
        for one in told["problems"]
    ]
    for kind, duplicate in told["duplicates"].items():
        if duplicate["rows"] and kind != "ids":
            first = ", ".join(f"{e['row']} (as {e['like']})" for e in duplicate["examples"][:2])
            found.append(["note", *REPEATS[kind], duplicate["rows"], first])
    if found:
        print_table(["level", "field", "what", "rows", "first rows"], found, numbers=[3])
    if told["leakage"] is not None:
        _leaks(told["leakage"])
    print("sound" if told["sound"] else "not sound: what a stage would refuse, or what is held out, is above")


def _leaks(leakage: dict[str, Any]) -> None:
    of = leakage["of"]
    print(f"held out: {of['questions']:,} questions ({of['short']:,} too short to be known by words alone)")
    print(f"  and {of['pictures']:,} pictures" + (f"; {of['unread']:,} more cannot be read" if of["unread"] else ""))
    kinds = {"pictures": "same picture", "texts": "same text", "wording": "same words, other picture"}
    rows = [
        [said if not place else "", example["row"], example["id"], example["held_out"]]
        for kind, said in kinds.items()
        for place, example in enumerate(leakage[kind]["examples"])
    ]
    for kind, said in kinds.items():
        print(f"  {said}: {leakage[kind]['rows']:,} rows")
    if rows:
        print_table(["", "row", "id", "held out as"], rows, numbers=[1])


def statistics(told: dict[str, Any]) -> None:
    """What a file holds."""
    print(f"{told['file']}: {told['rows']:,} rows, {gigabytes(told['bytes'])}; {told['complete']:,} with all segments")
    print(f"  sources: {', '.join(f'{name} {rows:,}' for name, rows in told['sources'].items())}")
    print(f"  images a row: {', '.join(f'{count}: {rows:,}' for count, rows in told['images_per_row'].items())}")
    rows = [[f"{name} (characters)", *_spread(one)] for name, one in told["characters"].items()]
    tokens = told.get("tokens")
    if tokens and tokens["rows"]:
        rows += [[f"{name} (tokens)", *_spread(tokens[name])] for name in ("prompt", "images", "response", "total")]
    print_table(["length", "mean", "5%", "50%", "95%", "99%", "longest"], rows, numbers=range(1, 7))
    if tokens and tokens["rows"]:
        _histogram(tokens)


def _spread(one: dict[str, float]) -> list[str]:
    return [f"{one[key]:,.0f}" for key in ("mean", "5", "50", "95", "99", "100")]


def _histogram(tokens: dict[str, Any]) -> None:
    most = max(one["rows"] for one in tokens["histogram"])
    rows = [
        [f"{one['least']:,} - {one['below'] - 1:,}", one["rows"], "#" * round(40 * one["rows"] / most)]
        for one in tokens["histogram"]
        if one["rows"]
    ]
    print_table(["tokens of a row", "rows", ""], rows, numbers=[1])
    print(f"{tokens['sum']:,} tokens, {tokens['image_share']:.0%} of them images'")
    if tokens["uncounted"]:
        print(f"{tokens['uncounted']:,} rows could not be counted; prism data check says why")
    if over := tokens.get("over"):
        print(f"{over['rows']:,} rows are longer than {over['limit']:,} tokens")
