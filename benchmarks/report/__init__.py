"""One self-contained HTML file about runs and their evaluation, to be read, sent and kept.

    made = report([Path("runs/digits-s0"), Path("runs/digits-s1")])
    made.html                       the file's text; opens from disk, loads nothing, sends nothing
    made.to_json()                  what it shows, without drawings and responses

It shows what is there: half-finished runs, runs of several training seeds, or a folder of cells without a run; what is
missing is named. All numbers come from `benchmarks.compare` and `benchmarks.drift`, so they are those of the terminal's
tables. Drawings are matplotlib's, as SVG; responses of models are untrusted text and are never read as markup.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.compare import Comparison, compare_all
from benchmarks.report import drift, record, results
from benchmarks.report.collect import Material, collect
from benchmarks.report.gallery import Gallery, gallery
from benchmarks.report.page import Browser, Page, Section, render
from benchmarks.report.text import visible
from benchmarks.samples import Cell


@dataclass(frozen=True)
class Report:
    """A finished report."""

    page: Page
    html: str
    comparisons: Sequence[Comparison]

    def to_json(self) -> dict[str, Any]:
        shown = self.page.gallery
        return {
            "title": self.page.title,
            "headline": list(self.page.headline),
            "missing": list(self.page.missing),
            "bytes": len(self.html.encode()),
            "items": {"shown": len(shown["items"]), "evaluated": shown["total"]} if shown else None,
            "comparisons": [comparison.to_json() for comparison in self.comparisons],
        }


def report(folders: Sequence[Path], say: Callable[[str], None] = lambda what: None) -> Report:
    """Make a report of runs and folders of cells.

    Args:
        folders: see `benchmarks.report.collect.collect`.
        say: called with what is being done, for people who wait.

    Raises:
        BadInput: a folder holds nothing to report, or the runs do not belong together.
    """
    say("reading")
    material = collect(folders)
    say("comparing models")
    found = compare_all(material.cells, strict=False) if material.cells else []
    say("packing responses")
    shown = _gallery(material, found)
    say("measuring drift")
    drifted = drift.section(material, _main_cells(material, found))
    say("drawing")
    sections = [
        Section("summary", "Summary"),
        results.scores(found),
        results.differences(found),
        _responses(shown),
        drifted,
        record.training(material),
        record.cost(material),
        record.provenance(material),
    ]
    page = Page(
        title=_title(material),
        kicker=_kicker(material),
        headline=results.headline(found),
        cards=results.cards(found[0]) if found else [],
        missing=_missing(material, found),
        sections=[section for section in sections if section.id == "summary" or section.parts],
        version=version("prism-suite"),
        made=time.strftime("%d %B %Y, %H:%M UTC", time.gmtime()),
        gallery=shown.to_json() if shown else None,
    )
    return Report(page, render(page), found)


def _title(material: Material) -> str:
    runs = material.runs
    if not runs:
        return "Evaluation without a run"
    return visible(runs[0].name if len(runs) == 1 else f"{_recipe(material)} over {len(runs)} training seeds")


def _recipe(material: Material) -> str:
    return str(material.runs[0].manifest.get("recipe", {}).get("name", "unknown"))


def _kicker(material: Material) -> str:
    seeds = [str(run.seed) for run in material.runs]
    parts = []
    if len(seeds) == 1:
        parts.append(visible(f"Recipe {_recipe(material)}, training seed {seeds[0]}"))
    elif seeds:
        parts.append(visible(f"Runs {', '.join(run.name for run in material.runs)}; training seeds {', '.join(seeds)}"))
    models = len(dict.fromkeys(cell.model for cell in material.cells))
    parts.append(f"{models} models, {len(material.cells)} evaluation cells")
    return "; ".join(parts)


def _missing(material: Material, found: Sequence[Comparison]) -> list[str]:
    """What a reader could expect and does not get."""
    missing = []
    if not material.runs:
        missing.append(
            "Training curves, cost of training and provenance of weights: these cells belong to no run here."
        )
    for run in material.runs:
        done = run.manifest.get("stages", {})
        open_stages = [n for n in dict.fromkeys(n for names in run.arms.values() for n in names) if n not in done]
        if open_stages:
            missing.append(f"{run.name}: not finished: {', '.join(open_stages)}.")
        evaluated = {cell.model for cell in material.cells if cell.facts["training_seed"] == run.seed}
        last = [names[-1] for names in run.arms.values() if names[-1] in done and names[-1] not in evaluated]
        if last:
            missing.append(f"{run.name}: trained but not evaluated: {', '.join(last)} (`prism eval` does that).")
    if not material.cells:
        missing.append("Scores, differences and responses: nothing is evaluated yet (`prism eval` does that).")
    for comparison in found:
        for row in comparison.rows:
            if row.missing:
                missing.append(
                    f"{row.label}, {comparison.protocol}: no complete evaluation of {', '.join(row.missing)}."
                )
        missing += [f"Left out: {refusal}" for refusal in comparison.refused]
    return [visible(line) for line in missing]


def _gallery(material: Material, found: Sequence[Comparison]) -> Gallery | None:
    if not found:
        return None
    main = found[0]
    titles = {b.column.name: visible(b.column.title) for b in main.benchmarks}
    place = {row.stage: index for index, row in enumerate(main.rows)}
    cells = sorted(_main_cells(material, found), key=lambda cell: place.get(cell.model, len(place)))
    return gallery(cells, main.baseline or "", main.treated or "", titles, material.previews)


def _main_cells(material: Material, found: Sequence[Comparison]) -> list[Cell]:
    """Cells of the first comparison's suite and protocol."""
    kinds = [(comparison.suite, comparison.protocol) for comparison in found[:1]]
    return [cell for cell in material.cells if (cell.facts["suite"], cell.protocol) in kinds]


def _responses(shown: Gallery | None) -> Section:
    if shown is None:
        return Section("responses", "Responses")
    lead = ["One response of each model to each item, two side by side: the first sample of the lowest decoding seed."]
    if len(shown.items) < shown.total:
        lead.append(
            f"{len(shown.items):,} of {shown.total:,} items are here, as many as a small file can carry: first those "
            "on which the two models of the headline differ, then others in an order that prefers none."
        )
    lead.append("Control and other invisible characters are shown as escapes, such as \\x1b and \\u202e.")
    return Section("responses", "Responses", lead, [Browser()])
