"""The section on drift: perception against reasoning from stage to stage, and how responses are built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from benchmarks.drift import drift
from benchmarks.report import figures
from benchmarks.report.collect import Material
from benchmarks.report.page import Drawing, Fold, Heading, Notes, Part, Section, Table
from benchmarks.report.text import number, visible
from benchmarks.samples import Cell

MEASURED = {
    "correct": "Answers right",
    "perception": "Captions right",
    "logic": "Answer follows from the caption",
}
PROXIES = {
    "items": ("Things named in the caption", "number"),
    "steps": ("Steps of the reasoning", "number"),
    "caption_length": ("Caption", "characters"),
    "reasoning_length": ("Reasoning", "characters"),
    "response_length": ("Whole response", "characters"),
    "tokens": ("Whole response", "tokens"),
}
SPEECHLESS = 0.05
"""A stage of whose responses fewer have the paper's form says nothing about captions and is not drawn."""


def section(material: Material, cells: Sequence[Cell]) -> Section:
    """Drift over the evaluated stages.

    Args:
        cells: those to show; of one protocol, or the drawings become too many to read.
    """
    if not cells:
        return Section("drift", "Drift")
    found = drift(material.runs[0].folder if material.runs else None, cells)
    parts: list[Part] = []
    for group in found["groups"]:
        parts += _group(group, material, several=len(found["groups"]) > 1)
    parts.append(Notes([visible(note) for note in found["notes"]]))
    lead = ["From stage to stage: what a response sees against what it concludes, and how it is built."]
    return Section("drift", "Drift", lead, parts)


def _group(group: Mapping[str, Any], material: Material, several: bool) -> list[Part]:
    name = visible(f"{group['benchmark']}, {group['protocol']} decoding")
    slug = f"{group['benchmark']}-{group['protocol']}"
    chains, stages = _chains(group, material), group["stages"]
    measured = [m for m in MEASURED if m != "correct" and any(s["measured"].get(m) for s in stages.values())]
    parts: list[Part] = [Heading(name)] if several else []
    if measured:
        panels = [_panel(title, "percent", stages, _of(stages, "measured", m), 100) for m, title in MEASURED.items()]
        parts.append(_drawing(f"drift-{slug}", "Perception and reasoning by stage", panels, chains))
        parts.append(_rates(group))
    if transitions := _transitions(group, measured or ["correct"]):
        parts.append(transitions)
    parts.append(_drawing(f"proxies-{slug}", "How responses are built, by stage", _proxy_panels(group), chains))
    tables = [table for table in (_proxies(group), _distances(group)) if table is not None]
    return [*parts, Fold("The same as numbers, and distances to the demonstrations", tables)]


def _chains(group: Mapping[str, Any], material: Material) -> dict[str, list[str]]:
    """Evaluated stages by arm in order; every model by itself where no run tells."""
    arms = material.runs[0].arms if material.runs else {}
    chains = {arm: [name for name in names if name in group["stages"]] for arm, names in arms.items()}
    known = {name for chain in chains.values() for name in chain}
    return {arm: c for arm, c in chains.items() if c} | {n: [n] for n in group["stages"] if n not in known}


def _of(stages: Mapping[str, Any], what: str, name: str) -> dict[str, Mapping[str, Any]]:
    """One measure or proxy by stage, where there is one."""
    return {label: found for label, stage in stages.items() if (found := stage[what].get(name))}


def _panel(
    title: str,
    unit: str,
    stages: Mapping[str, Any],
    values: Mapping[str, Mapping[str, Any]],
    scale: float = 1,
    marks: Mapping[str, float] | None = None,
) -> figures.Panel:
    points = {}
    for label, stage in stages.items():
        found, form = values.get(label), stage["measured"].get("format")
        speechless = form is not None and form["value"] is not None and form["value"] < SPEECHLESS
        if found and found.get("value", found.get("mean")) is not None and not speechless:
            middle = found.get("value", found.get("mean"))
            points[label] = (scale * middle, scale * found["low"], scale * found["high"])
    return figures.Panel(title, unit, points, marks or {})


def _proxy_panels(group: Mapping[str, Any]) -> list[figures.Panel]:
    pools = group["supervision"]
    panels = []
    for name, (title, unit) in PROXIES.items():
        marks = {pool: facts["proxies"][name]["mean"] for pool, facts in pools.items() if facts["proxies"].get(name)}
        panels.append(_panel(title, unit, group["stages"], _of(group["stages"], "proxies", name), marks=marks))
    return [panel for panel in panels if panel.points]


def _drawing(name: str, title: str, panels: Sequence[figures.Panel], chains: Mapping[str, Sequence[str]]) -> Drawing:
    caption = "Each arm's line goes through its stages; bars are 95% intervals over items."
    if any(panel.marks for panel in panels):
        pools = list(dict.fromkeys(pool for panel in panels for pool in panel.marks))
        caption += f" Dotted: the mean of the demonstrations in {' and '.join(visible(pool) for pool in pools)}."
    left_out = {label for chain in chains.values() for label in chain} - {p for panel in panels for p in panel.points}
    if left_out:
        names = ", ".join(sorted(visible(label) for label in left_out))
        caption += f" Not drawn, as it does not answer in the paper's form yet: {names}."
    return Drawing(title, Markup(figures.by_stage(name, title, panels, chains)), caption)


def _rates(group: Mapping[str, Any]) -> Table:
    rows = []
    for label, stage in group["stages"].items():
        cells = [_rate(stage["measured"].get(m)) for m in MEASURED]
        rows.append([visible(label), visible(stage["parent"] or "–"), *(part for cell in cells for part in cell)])
    headers = ["Stage", "From", *(part for title in MEASURED.values() for part in (title, "95% interval"))]
    return Table("Perception and reasoning by stage, percent", headers, rows, range(2, len(headers)))


def _transitions(group: Mapping[str, Any], metrics: Sequence[str]) -> Table | None:
    rows = []
    for step in group["transitions"]:
        for metric in metrics:
            flips = step["flips"].get(metric)
            if flips:
                net = flips["net"]
                bounds = f"[{number(100 * net['low'], '+.1f')}, {number(100 * net['high'], '+.1f')}]"
                counts = [f"{flips['gained']:,}", f"{flips['lost']:,}", f"{flips['n']:,}"]
                rows.append(
                    [
                        f"{visible(step['from'])} → {visible(step['to'])}",
                        MEASURED[metric],
                        *counts,
                        number(100 * net["value"], "+.1f"),
                        bounds,
                    ]
                )
    headers = ["Step", "What", "Gained", "Lost", "Items", "Net, points", "95% interval"]
    caption = "What each stage gained and lost, item by item"
    return Table(caption, headers, rows, range(2, 7)) if rows else None


def _proxies(group: Mapping[str, Any]) -> Table:
    rows = [
        [visible(label), *(_mean(stage["proxies"].get(name)) for name in PROXIES)]
        for label, stage in group["stages"].items()
    ]
    rows += [
        [f"demonstrations: {visible(pool)}", *(_mean(facts["proxies"].get(name)) for name in PROXIES)]
        for pool, facts in group["supervision"].items()
    ]
    headers = ["Stage", *(f"{title}, {unit}" for title, unit in PROXIES.values())]
    return Table("Means", headers, rows, range(1, len(headers)))


def _distances(group: Mapping[str, Any]) -> Table | None:
    pool = group["reference"]
    names = [n for n in PROXIES if any(_distance(s, n, pool) for s in group["stages"].values())]
    if pool is None or not names:
        return None
    rows = []
    for label, stage in group["stages"].items():
        rows.append([visible(label), *(_told_distance(_distance(stage, name, pool)) for name in names)])
    headers = ["Stage", *(f"{PROXIES[name][0]}, {PROXIES[name][1]}" for name in names)]
    caption = f"Wasserstein distance from the demonstrations in {visible(pool)}, in their standard deviations"
    note = "° No larger than what a draw of as many demonstrations shows in 95 of 100 cases."
    return Table(caption, headers, rows, range(1, len(headers)), notes=[note])


def _told_distance(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "–"
    return number(found["value"], ".2f") + ("" if found["value"] > found["chance"] else " °")


def _distance(stage: Mapping[str, Any], name: str, pool: str | None) -> Mapping[str, Any] | None:
    found = ((stage["proxies"].get(name) or {}).get("distances") or {}).get(pool) or {}
    scaled = found.get("scaled")
    return scaled if scaled and scaled.get("value") is not None else None


def _rate(found: Mapping[str, Any] | None) -> tuple[str, str]:
    if not found or found["value"] is None:
        return "–", "–"
    bounds = f"[{number(100 * found['low'], '.1f')}, {number(100 * found['high'], '.1f')}]"
    return number(100 * found["value"], ".1f"), bounds


def _mean(found: Mapping[str, Any] | None) -> str:
    return number(found["mean"], ".2f") if found and found.get("mean") is not None else "–"
