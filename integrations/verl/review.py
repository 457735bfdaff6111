"""What rules and judge said of a run's answers, read from its stages' folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from integrations.common.jsonl import JsonlTail
from integrations.verl.adapter import read_metrics
from integrations.verl.configuration import JUDGE, REVIEWS

_FIELDS = ("question", "reference", "answer", "rules", "rule", "judge")


@dataclass(frozen=True)
class Review:
    """One stage."""

    stage: str
    judged: int
    """Answers with the judge's verdict, of all steps that were done; a step done again counts once."""
    agreed: int
    differ: list[dict[str, Any]]
    """Each difference once: `question`, `reference`, `answer`, `rules` and `judge` (`correct` or `wrong`), `rule`."""


def stages_with_judge(run: Path) -> list[Review]:
    """The run's stages that a judge rewarded, by name."""
    folders = sorted(path.parent for path in run.glob(f"*/*/{JUDGE}") if path.is_dir())
    return [_read(run, folder) for folder in folders]


def _read(run: Path, folder: Path) -> Review:
    steps = read_metrics(folder)
    differ = {
        (item["reference"], item["answer"], item["rules"], item["judge"]): item
        for item in JsonlTail(folder / JUDGE / REVIEWS).poll()
        if all(isinstance(item.get(name), str) for name in _FIELDS)
    }
    return Review(
        folder.relative_to(run).as_posix(),
        int(sum(row.get("prism/judged", 0) for row in steps.values())),
        int(sum(row.get("prism/agreed", 0) for row in steps.values())),
        [*differ.values()],
    )
