"""Holds the matcher against answers that people have judged: precision and recall, overall and by type.

A file of JSON lines, each with `type`, `prediction`, `reference` (a text, or a list of accepted ones) and `expected`
(true or false). Precision: of the answers called right, the share that is. Recall: of the right ones, the share called
so. Where the matcher reached no verdict the answer is listed as an error, and counts as called wrong.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from integrations.errors import BadInput
from integrations.verl.reward.match import decide


@dataclass
class Counts:
    """Answers of one type."""

    answers: int = 0
    right: int = 0
    called_right: int = 0
    both: int = 0
    errors: int = 0

    def told(self) -> dict[str, Any]:
        """Counts and shares; a share of nothing is 1."""
        return {
            "answers": self.answers,
            "errors": self.errors,
            "precision": self.both / self.called_right if self.called_right else 1.0,
            "recall": self.both / self.right if self.right else 1.0,
        }


@dataclass
class Report:
    """What `prism reward check` prints."""

    total: Counts = field(default_factory=Counts)
    by_type: dict[str, Counts] = field(default_factory=dict)
    disagreements: list[dict[str, Any]] = field(default_factory=list)

    def told(self) -> dict[str, Any]:
        """As JSON."""
        by_type = {name: counts.told() for name, counts in sorted(self.by_type.items())}
        return {**self.total.told(), "by_type": by_type, "disagreements": self.disagreements}


def read_pairs(path: Path) -> list[dict[str, Any]]:
    """The labelled answers of a file.

    Raises:
        BadInput: the file cannot be read, or a line is not what it must be.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read: {error}", "give a file of JSON lines") from None
    pairs = [_pair(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1) if line.strip()]
    if not pairs:
        raise BadInput(f"{path} holds no answers", "write one JSON object per line")
    return pairs


def _pair(line: str, where: str) -> dict[str, Any]:
    shape = "each line needs `prediction`, `reference` (a text or a list of texts) and `expected` (true or false)"
    try:
        pair = json.loads(line)
    except ValueError as error:
        raise BadInput(f"{where}: not JSON ({error})", shape) from None
    if not isinstance(pair, dict) or "prediction" not in pair or "reference" not in pair:
        raise BadInput(f"{where}: `prediction` or `reference` is missing", shape)
    if not isinstance(pair.get("expected"), bool):
        raise BadInput(f"{where}: `expected` is neither true nor false", shape)
    reference = pair["reference"]
    accepted = [str(one) for one in reference] if isinstance(reference, list) else str(reference)
    if not accepted:
        raise BadInput(f"{where}: `reference` is empty", shape)
    prediction = "" if pair["prediction"] is None else str(pair["prediction"])
    return {**pair, "type": str(pair.get("type", "any")), "prediction": prediction, "reference": accepted}


def check(pairs: Iterable[dict[str, Any]], tick: Callable[[int], None] = lambda done: None) -> Report:
    """The matcher's verdicts against the labels. `tick` is called with the number of answers judged so far."""
    report = Report()
    for done, pair in enumerate(pairs, start=1):
        verdict = decide(pair["prediction"], pair["reference"])
        for counts in (report.total, report.by_type.setdefault(pair["type"], Counts())):
            counts.answers += 1
            counts.right += pair["expected"]
            counts.called_right += verdict.correct
            counts.both += verdict.correct and pair["expected"]
            counts.errors += bool(verdict.error)
        if verdict.correct != pair["expected"]:
            said = {"said": verdict.correct, "rule": verdict.rule, "kind": verdict.type, "error": verdict.error}
            kept = ("type", "prediction", "reference", "expected", "note")
            report.disagreements.append({key: pair[key] for key in kept if key in pair} | said)
        tick(done)
    return report
