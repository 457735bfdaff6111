"""Look at every row of a data file: its fields, its segments, rows that come twice, and what is held out elsewhere.

    report = check(Path("data/prism/teacher.jsonl"), use="teacher", held_out=held_out, jobs=4)
    report.told()           # JSON: rows, problems with counts and examples, duplicates, leakage

Rows stream; what is kept of each are three hashes of 64 bits, so 1.4 million rows need some 100 MB.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from integrations.common.response import parse
from prism_cli.datasets.leakage import HeldOut, Look, Picture, Tick, looking
from prism_cli.datasets.reading import Item, items
from prism_cli.datasets.schema import problems
from prism_cli.datasets.texts import digest, words

EXAMPLES = 5
"""Rows named for each finding."""
AT_ONCE = 512
"""Pictures that wait to be looked at together."""
REPEATS = {
    "ids": ("id", "occurs twice"),
    "exact": ("row", "is repeated as it stands"),
    "normalised": ("prompt", "is asked again of the same images"),
}
"""Kinds of duplicates, each with the field that is repeated and how."""


@dataclass
class Finding:
    """How often something was found, and where first."""

    rows: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)

    def add(self, **example: Any) -> None:
        """One more row; the first few are kept."""
        self.rows += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(example)

    def told(self) -> dict[str, Any]:
        return {"rows": self.rows, "examples": self.examples}


@dataclass
class Report:
    """What is known of a file after it was looked at."""

    file: str
    use: str | None
    rows: int = 0
    faulty: int = 0
    """Rows with at least one error."""
    demonstrations: int = 0
    complete: int = 0
    """Demonstrations with caption, reasoning and answer."""
    found: dict[tuple[str, str, str], Finding] = field(default_factory=dict)
    """By level, field, and what is wrong."""
    duplicates: dict[str, Finding] = field(default_factory=dict)
    leaks: dict[str, Finding] | None = None
    """`pictures`: a held-out picture; `texts`: a held-out question without a picture; `wording`: the words of one, with
    pictures that are not its own, which is for a person to read. None: nothing was held out to compare with."""
    held_out: dict[str, int] | None = None
    """What it was compared with: `questions`, `pictures`, those too `short` to be told by their text, and pictures that
    could not be read (`unread`)."""
    pictures: int = 0
    """Different pictures that were opened."""
    seconds: float = 0.0

    def add(self, level: str, name: str, wrong: str, item_row: int, name_of_row: object) -> None:
        finding = self.found.setdefault((level, name, wrong), Finding())
        finding.add(row=item_row, id=str(name_of_row))

    @property
    def errors(self) -> int:
        """Findings that a stage would refuse, or that spoil an evaluation."""
        leaks = self.leaks or {}
        refused = sum(level == "error" for level, _, _ in self.found)
        return (
            refused + sum(bool(leaks[kind].rows) for kind in ("pictures", "texts") if kind in leaks) + (not self.rows)
        )

    def told(self) -> dict[str, Any]:
        """Everything as JSON."""
        ordered = sorted(self.found.items(), key=lambda entry: (entry[0][0], -entry[1].rows))
        return {
            "file": self.file,
            "use": self.use,
            "rows": self.rows,
            "usable": self.rows - self.faulty,
            "segments": {"demonstrations": self.demonstrations, "complete": self.complete},
            "problems": [
                {"level": level, "field": name, "problem": wrong, **finding.told()}
                for (level, name, wrong), finding in ordered
            ],
            "duplicates": {kind: finding.told() for kind, finding in self.duplicates.items()},
            "leakage": None
            if self.leaks is None
            else {k: v.told() for k, v in self.leaks.items()} | {"of": self.held_out},
            "pictures": self.pictures,
            "seconds": round(self.seconds, 2),
            "sound": not self.errors,
        }


def check(
    file: Path,
    use: str | None = None,
    held_out: HeldOut | None = None,
    pictures: bool = False,
    jobs: int = 1,
    tick: Tick = lambda done: None,
) -> Report:
    """Look at a whole file.

    Args:
        use: what the rows are for, one of `schema.USES`, or None.
        held_out: questions and pictures that must not be among the rows.
        pictures: open every picture; without it only texts are compared with what is held out.
        jobs: processes that open pictures.
        tick: told how many rows are done.

    Raises:
        BadInput: the file cannot be read, or is of no known form.
    """
    started = time.monotonic()
    report = Report(str(file), use)
    hashes = {kind: array("Q") for kind in REPEATS}
    if held_out is not None:
        report.leaks = {"pictures": Finding(), "texts": Finding(), "wording": Finding()}
        report.held_out = {"questions": len(held_out.names), "pictures": len(held_out.pictures)}
        report.held_out |= {"short": held_out.texts.short, "unread": held_out.unread}
    with looking(jobs if pictures else 1, held_out.pictures.outlines if held_out else None) as looker:
        album = _Album(report, file.parent, held_out, looker) if pictures else None
        for item in items(file):
            _take(report, item, file.parent, hashes, held_out)
            if album is not None:
                album.add(item)
            if report.rows % 1000 == 0:
                tick(report.rows)
        if album is not None:
            album.look()
    tick(report.rows)
    _repeats(report, hashes)
    report.seconds = time.monotonic() - started
    return report


def _take(report: Report, item: Item, folder: Path, hashes: dict[str, array[int]], held_out: HeldOut | None) -> None:
    row, name = item.row, item.row.get("id")
    report.rows += 1
    faulty = False
    for level, where, wrong in problems(item, folder, report.use):
        report.add(level, where, wrong, item.number, name)
        faulty |= level == "error"
    report.faulty += faulty
    prompt, response = str(row.get("prompt") or ""), row.get("response")
    images = row.get("images") if isinstance(row.get("images"), list) else []
    if isinstance(response, str) and response:
        report.demonstrations += 1
        report.complete += parse(response) is not None
    shown = "\0".join(map(str, images or ()))
    found = words(prompt)
    # A line that could not be read is like no other: its number stands for what it does not say.
    unread = "" if row else str(item.number)
    hashes["ids"].append(digest(unread, str(name)))
    hashes["exact"].append(digest(unread, prompt, str(response), str(row.get("answer")), shown))
    hashes["normalised"].append(digest(unread, " ".join(found), shown))
    if held_out is not None and report.leaks is not None:
        place = held_out.texts.find(found)
        if place is not None:
            kind = "wording" if images and held_out.pictured[place] else "texts"
            report.leaks[kind].add(row=item.number, id=str(name), held_out=held_out.names[place])


class _Album:
    """The file's different pictures, opened some at a time."""

    def __init__(self, report: Report, folder: Path, held_out: HeldOut | None, looker: Any) -> None:
        self._report, self._folder, self._held_out, self._looker = report, folder, held_out, looker
        self._seen: set[int] = set()
        self._waiting: list[tuple[int, str, Picture]] = []

    def add(self, item: Item) -> None:
        for image, picture in _pictures(item, self._folder):
            key = digest(image)
            if key not in self._seen:
                self._seen.add(key)
                self._waiting.append((item.number, str(item.row.get("id")), picture))
        if len(self._waiting) >= AT_ONCE:
            self.look()

    def look(self) -> None:
        """Open those that wait."""
        looks = self._looker.look([picture for _, _, picture in self._waiting])
        for (number, name, _), look in zip(self._waiting, looks, strict=True):
            self._note(number, name, look)
        self._report.pictures += len(self._waiting)
        self._waiting.clear()

    def _note(self, number: int, name: str, look: Look) -> None:
        if look.problem is not None:
            self._report.add("error", "images", look.problem, number, name)
        if look.print is None or self._held_out is None or self._report.leaks is None:
            return
        place = self._held_out.pictures.find(look.print)
        if place is not None:
            held_out = self._held_out.picture_names[place]
            self._report.leaks["pictures"].add(row=number, id=name, held_out=held_out)


def _pictures(item: Item, folder: Path) -> Iterator[tuple[str, Picture]]:
    images = item.row.get("images")
    for image in images if isinstance(images, list) else []:
        if image in item.embedded:
            yield image, item.embedded[image]
        elif isinstance(image, str) and (folder / image).is_file():
            yield image, folder / image


def _repeats(report: Report, hashes: dict[str, array[int]]) -> None:
    """Rows with a hash that an earlier row has; an id that occurs twice is an error, the rest is for a person."""
    import numpy as np

    for kind, values in hashes.items():
        finding = report.duplicates[kind] = Finding()
        own = np.frombuffer(values, np.uint64) if values else np.empty(0, np.uint64)
        order = np.argsort(own, kind="stable")
        again: np.ndarray[Any, Any] = np.flatnonzero(own[order][1:] == own[order][:-1]) + 1
        first = order[np.searchsorted(own[order], own[order[again]])]
        pairs = sorted(zip(order[again].tolist(), first.tolist(), strict=True))
        for later, earlier in pairs[:EXAMPLES]:
            finding.examples.append({"row": later + 1, "like": earlier + 1})
        finding.rows = len(pairs)
        if kind == "ids" and pairs:
            field_, wrong = REPEATS[kind]
            examples = [{"row": example["row"], "id": f"as in row {example['like']}"} for example in finding.examples]
            report.found["error", field_, wrong] = Finding(len(pairs), examples)
