"""The content of the page's sample browser: items with every model's response, as much as the page may carry.

One response for each item and model is taken: the first sample of the lowest decoding seed, under the protocol of the
headline. Items come in this order until the budget is spent: those on which the baseline and the headline's model
differ, then the others, each group in the order of a hash of their names, so that no benchmark and no part of one is
preferred. Equal responses of several models to one item are kept once, and so are images.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.report.pictures import data_uri
from benchmarks.report.text import visible
from benchmarks.samples import Cell

BUDGET = 3_600_000
"""Characters that items and images may take on the page."""
LONGEST_TEXT = 20_000
"""Characters of one response; longer ones are cut, and say so."""

CORRECT, UNPARSEABLE, TRUNCATED, MALFORMED = 1, 2, 4, 8
PERCEPTION_KNOWN, PERCEPTION, LOGIC_KNOWN, LOGIC = 16, 32, 64, 128
"""Bits of a verdict."""

Model = tuple[str, int | None]
"""Label and training seed."""


@dataclass
class Gallery:
    """What page.js is given."""

    models: list[Model]
    first: int
    """Index of the model on the left: the baseline."""
    second: int
    benchmarks: list[str]
    total: int
    """Items there are; `items` holds those that fit."""
    items: list[dict[str, Any]] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    rules: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Items: `i` id, `b` benchmark, `s` subset, `q` question, `r` reference, `m` images, `t` distinct texts
        [response, answer], `v` by model [text, bits, tokens, rule, judge's word] or null."""
        return {
            "models": [model_title(*model) for model in self.models],
            "first": self.first,
            "second": self.second,
            "benchmarks": self.benchmarks,
            "total": self.total,
            "items": self.items,
            "images": self.images,
            "rules": self.rules,
        }


def model_title(label: str, seed: int | None) -> str:
    return visible(label) if seed is None else f"{visible(label)} · seed {seed}"


def gallery(
    cells: Sequence[Cell],
    baseline: str,
    ours: str,
    titles: Mapping[str, str],
    previews: Sequence[Path],
    budget: int = BUDGET,
) -> Gallery | None:
    """Choose and pack items.

    Args:
        cells: of one protocol.
        baseline, ours: labels of the two models shown first.
        titles: of benchmarks, by name.
        previews: folders of images.
        budget: characters.

    Returns:
        None without cells.
    """
    chosen = _lowest_seed(cells)
    if not chosen:
        return None
    models = list(dict.fromkeys((cell.model, cell.facts["training_seed"]) for cell in chosen))
    names = list(dict.fromkeys(cell.benchmark for cell in chosen))
    found: dict[tuple[int, str, str], dict[int, dict[str, Any]]] = defaultdict(dict)
    for cell in chosen:
        model = models.index((cell.model, cell.facts["training_seed"]))
        for row in cell.table.to_pylist():
            if row["sample"] == 0:
                found[names.index(cell.benchmark), cell.task, row["item_id"]][model] = row
    first, second = _index(models, baseline, 0), _index(models, ours, len(models) - 1)
    shown = Gallery(models, first, second, [titles.get(name, name) for name in names], len(found))
    packer = _Packer(shown, previews)
    spent = 0
    for key in sorted(found, key=lambda key: _order(key, found[key], first, second)):
        item, cost = packer.pack(key, found[key])
        if spent + cost > budget:
            break
        spent += cost
        packer.keep(item)
    shown.items.sort(key=lambda item: (item["b"], item["i"]))
    return shown


class _Packer:
    """Turns rows into the page's form; images and rules are shared by all items."""

    def __init__(self, shown: Gallery, previews: Sequence[Path]) -> None:
        self._shown = shown
        self._previews = previews
        self._pending: list[str] = []
        self._images: dict[str, int] = {}
        self._rules: dict[str, int] = {}

    def pack(self, key: tuple[int, str, str], rows: Mapping[int, Mapping[str, Any]]) -> tuple[dict[str, Any], int]:
        """An item, with its images' names still in place of their numbers, and its cost in characters."""
        any_row = next(iter(rows.values()))
        texts: dict[tuple[str, str | None], int] = {}
        verdicts = [self._verdict(rows[m], texts) if m in rows else None for m in range(len(self._shown.models))]
        item: dict[str, Any] = {
            "i": visible(key[2]),
            "b": key[0],
            "s": visible(any_row["subset"] or ""),
            "q": visible(any_row["question"] or ""),
            "r": visible(any_row["reference"] or ""),
            "m": list(any_row["images"] or ()),
            "t": [list(text) for text in texts],
            "v": verdicts,
        }
        cost = len(json.dumps(item, ensure_ascii=True, separators=(",", ":")))
        self._pending = []
        for name in item["m"]:
            if name not in self._images and (uri := data_uri(name, self._previews)) is not None:
                self._pending += [name, uri]
                cost += len(uri)
        return item, cost

    def keep(self, item: dict[str, Any]) -> None:
        """Add the item that was packed last."""
        for name, uri in zip(self._pending[::2], self._pending[1::2], strict=True):
            if name not in self._images:
                self._images[name] = len(self._shown.images)
                self._shown.images.append(uri)
        item["m"] = [self._images.get(name, -1) for name in item["m"]]
        self._shown.items.append(item)

    def _verdict(self, row: Mapping[str, Any], texts: dict[tuple[str, str | None], int]) -> list[Any]:
        answer = None if row["answer"] is None else visible(row["answer"])
        number = texts.setdefault((_shortened(visible(row["response"] or "")), answer), len(texts))
        rule = self._rules.setdefault(visible(row["rule"] or ""), len(self._rules))
        if rule == len(self._shown.rules):
            self._shown.rules.append(visible(row["rule"] or ""))
        return [number, _bits(row), row["tokens"], rule, visible(row["judged"] or "")]


def _bits(row: Mapping[str, Any]) -> int:
    bits = CORRECT if row["correct"] else 0
    bits |= UNPARSEABLE if row["answer"] is None else 0
    bits |= TRUNCATED if row["truncated"] else 0
    bits |= MALFORMED if row["format"] is False else 0
    for column, known, right in (("perception", PERCEPTION_KNOWN, PERCEPTION), ("logic", LOGIC_KNOWN, LOGIC)):
        if row[column] is not None:
            bits |= known | (right if row[column] else 0)
    return bits


def _shortened(text: str) -> str:
    if len(text) <= LONGEST_TEXT:
        return text
    return f"{text[:LONGEST_TEXT]}\n[cut here: {len(text) - LONGEST_TEXT} more characters are in the samples store]"


def _lowest_seed(cells: Sequence[Cell]) -> list[Cell]:
    lowest: dict[tuple[str, int | None, str], Cell] = {}
    for cell in cells:
        key = (cell.model, cell.facts["training_seed"], cell.task)
        if key not in lowest or cell.facts["decoding_seed"] < lowest[key].facts["decoding_seed"]:
            lowest[key] = cell
    return list(lowest.values())


def _index(models: Sequence[Model], label: str, otherwise: int) -> int:
    return next((index for index, model in enumerate(models) if model[0] == label), otherwise)


def _order(
    key: tuple[int, str, str], rows: Mapping[int, Mapping[str, Any]], first: int, second: int
) -> tuple[bool, str]:
    both = first in rows and second in rows
    flipped = both and rows[first]["correct"] != rows[second]["correct"]
    return not flipped, hashlib.sha256("\0".join(map(str, key)).encode()).hexdigest()
