"""The sections that a run's own records fill: training, cost and provenance. No path, host or user name leaves here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from benchmarks.judging import identity_text
from benchmarks.report import figures
from benchmarks.report.collect import Material, Run
from benchmarks.report.page import Drawing, Fold, Heading, Part, Section, Table
from benchmarks.report.text import visible
from benchmarks.report.training import EVALUATION, History, histories
from benchmarks.samples import Cell
from benchmarks.summary import Summary, summarize

_KINDS = {
    "base": "Base stage",
    "sft": "Supervised fine-tuning",
    "discriminator": "Discriminator warm-up",
    "align": "PRISM alignment",
    "rlvr": "RLVR",
}
_UNDRAWN = ("epoch",)
_A_PAGE = 12
"""Panels in one drawing, so that it fits a printed page."""


def training(material: Material) -> Section:
    """When stages ran, and the curves of all of them."""
    found = [histories(run) for run in material.runs]
    parts: list[Part] = []
    for run, stages in zip(material.runs, found, strict=True):
        if stages:
            parts.append(_timeline(run, stages))
    begun = [*material.stage_names, *(n for run in found for n in run)]
    names = [n for n in dict.fromkeys(begun) if any(n in run for run in found) and not n.startswith(EVALUATION)]
    for kind in dict.fromkeys(name.rsplit("/", 1)[-1] for name in names):
        parts += _curves(kind, [name for name in names if name.rsplit("/", 1)[-1] == kind], found)
    lead = "Curves are what the engines reported while training, on training prompts unless named held out."
    if len(material.runs) > 1:
        lead += " Each line is the running mean of one run; runs differ in their training seed."
    else:
        lead += " The faint line is every report, the strong one its running mean."
    return Section("training", "Training", [lead], parts)


def _timeline(run: Run, stages: Mapping[str, History]) -> Drawing:
    attempts = sum(len(history.attempts) for history in stages.values())
    failures = sum(history.failures for history in stages.values())
    resumes = sum(len(history.attempts) - 1 for history in stages.values())
    caption = f"{run.name}: {len(stages)} stages, {attempts} attempts, {resumes} of them resumed, {failures} failed."
    svg = figures.timeline(f"time-{_slug(run.name)}", f"Timeline of {run.name}", stages)
    return Drawing(f"Timeline of {run.name}", Markup(svg), f"{caption} Evaluations are paler.")


def _curves(kind: str, stages: Sequence[str], runs: Sequence[Mapping[str, History]]) -> list[Part]:
    metrics = dict.fromkeys(m for run in runs for s in stages if s in run for m in run[s].metrics)
    drawn = [m for m in metrics if m not in _UNDRAWN]
    first = [m for m in figures.HEADLINE_METRICS if m in drawn]
    rest = [m for m in drawn if m not in first]
    title = _KINDS.get(kind, kind)
    parts: list[Part] = []
    if first:
        parts += [Heading(title), _panels(f"curves-{_slug(kind)}", title, stages, runs, first)]
    if rest:
        pages = [rest[start : start + _A_PAGE] for start in range(0, len(rest), _A_PAGE)]
        names = [f"more-{_slug(kind)}-{number}" for number in range(1, len(pages) + 1)]
        more = [_panels(n, f"{title}, further metrics", stages, runs, p) for n, p in zip(names, pages, strict=True)]
        count = "one further metric" if len(rest) == 1 else f"{len(rest)} further metrics"
        parts.append(Fold(f"{title}: {count}", more))
    return parts


def _panels(
    name: str, title: str, stages: Sequence[str], runs: Sequence[Mapping[str, History]], metrics: Sequence[str]
) -> Drawing:
    svg = figures.curves(name, f"Training curves: {title}", runs, stages, metrics)
    ends = [f"{stage} {_ends(stage, runs)}" for stage in stages]
    marked = "".join(f" {told}" for run in runs for stage in stages if stage in run and (told := _marks(run[stage])))
    return Drawing(f"Training curves: {title}", Markup(svg), f"Steps reached: {'; '.join(ends)}.{marked}")


def _marks(history: History) -> str:
    """What is marked on a stage's curves, in words."""
    told = [f"{mark} at step {', '.join(map(str, steps))}" for mark, steps in history.marks.items()]
    return f"{history.stage}: {'; '.join(told)}." if told else ""


def _ends(stage: str, runs: Sequence[Mapping[str, History]]) -> str:
    reached = [
        f"{max((max(points) for points in run[stage].metrics.values()), default=0):,} of {run[stage].total:,}"
        for run in runs
        if stage in run
    ]
    return ", ".join(dict.fromkeys(reached))


def cost(material: Material) -> Section:
    """Seconds and generated tokens of every stage, arm and evaluation."""
    summaries = [summarize(run.folder) for run in material.runs]
    parts: list[Part] = []
    if summaries:
        parts += [_stage_costs(summaries), _arm_costs(summaries)]
    if material.cells:
        order = {name: place for place, name in enumerate(material.stage_names)}
        cells = sorted(material.cells, key=lambda cell: order.get(cell.model, len(order)))
        parts.append(_evaluation_costs(cells))
    lead = "Wall-clock time on the machine named under provenance, over all attempts; stages may have run side by side."
    if len(summaries) > 1:
        lead += " Runs are separated by slashes, in the order of their seeds given there."
    return Section("cost", "Cost", [lead], parts)


def _stage_costs(summaries: Sequence[Summary]) -> Table:
    rows = []
    for name in dict.fromkeys(n for s in summaries for names in s.arms.values() for n in names):
        stages = [summary.stages[name] for summary in summaries]
        used = [arm for arm, names in summaries[0].arms.items() if name in names]
        minutes = " / ".join(f"{s.seconds / 60:.1f}" if s.status == "done" else "not finished" for s in stages)
        tokens = " / ".join(f"{s.generated_tokens:,}" if s.status == "done" else "–" for s in stages)
        rows.append([visible(name), visible(", ".join(used)), minutes, tokens])
    headers = ["Stage", "Used by", "Minutes", "Generated tokens"]
    return Table("Cost of each stage", headers, rows, numbers=(2, 3))


def _arm_costs(summaries: Sequence[Summary]) -> Table:
    rows = []
    for arm in summaries[0].arms:
        totals = [(*s.total(arm), "" if _finished(s, arm) else " so far") for s in summaries]
        minutes = " / ".join(f"{seconds / 60:.1f}{so_far}" for _, seconds, so_far in totals)
        rows.append([visible(arm), minutes, " / ".join(f"{tokens:,}{so_far}" for tokens, _, so_far in totals)])
    return Table("Totals of each arm, shared stages included", ["Arm", "Minutes", "Generated tokens"], rows, (1, 2))


def _finished(summary: Summary, arm: str) -> bool:
    return all(summary.stages[name].status == "done" for name in summary.arms[arm])


def _evaluation_costs(cells: Sequence[Cell]) -> Table:
    rows = []
    for model in dict.fromkeys(cell.model for cell in cells):
        own = [cell.facts for cell in cells if cell.model == model]
        seconds = sum(float(facts.get("seconds") or 0) for facts in own)
        tokens = sum(int(facts.get("generated_tokens") or 0) for facts in own)
        rows.append([visible(model), str(len(own)), f"{seconds / 60:.1f}", f"{tokens:,}"])
    headers = ["Model", "Cells", "Minutes", "Generated tokens"]
    return Table("Cost of the evaluation, all tasks, protocols and seeds", headers, rows, numbers=(1, 2, 3))


def provenance(material: Material) -> Section:
    """What the numbers were made from."""
    parts: list[Part] = []
    for run in material.runs:
        parts += [Heading(f"Run {visible(run.name)}"), _run_facts(run)]
        if stages := _lineage(run):
            parts.append(Fold("Weights and their parents", [stages]))
    if material.cells:
        parts += [Heading("Evaluation"), *_evaluation_facts(material.cells)]
    lead = "Hashes are SHA-256, shortened to their first twelve digits; the run's manifest.json has them whole."
    return Section("provenance", "Provenance", [lead], parts)


def _run_facts(run: Run) -> Table:
    manifest = run.manifest
    recipe, code, machine, data = (_mapping(manifest.get(key)) for key in ("recipe", "code", "machine", "data"))
    commit = f"commit {_short(code.get('commit'))}{' with changes' if code.get('dirty') else ''}"
    memory = machine.get("memory_bytes")
    rows = [
        ["Recipe", _listed(recipe.get("name"), f"profile {recipe['profile']}" if recipe.get("profile") else "")],
        ["Recipe hash", _short(recipe.get("hash"))],
        ["Changed fields", _listed(*(recipe.get("set") or [])) or "none"],
        ["Training seed", _listed(manifest.get("seed"))],
        ["Data hash", _short(data.get("hash"))],
        ["Rows", _listed(*(f"{pool} {count:,}" for pool, count in _mapping(data.get("rows")).items()))],
        ["Code", _listed(f"prism {code.get('prism', 'unknown')}", commit if code.get("commit") else "")],
        *(
            [f"Lock of {name}", _short(_mapping(engine).get("lock_sha256"))]
            for name, engine in _mapping(manifest.get("engines")).items()
        ),
        [
            "Machine",
            _listed(
                machine.get("system"),
                f"{machine['cores']} cores" if machine.get("cores") else "",
                machine.get("processor"),
                f"{memory / 2**30:.0f} GiB" if memory else "",
                *(machine.get("gpus") or ["no GPU"]),
            ),
        ],
        ["Python", _listed(machine.get("python"))],
    ]
    return Table(f"What {visible(run.name)} was made from", ["Fact", "Value"], rows)


def _lineage(run: Run) -> Table | None:
    rows = []
    for name, stage in _mapping(run.manifest.get("stages")).items():
        parents = _mapping(_mapping(stage).get("parents")).values()
        origin = ", ".join(f"{_mapping(p).get('stage')} {_short(_mapping(p).get('hash'))}" for p in parents)
        facts = _mapping(stage)
        rows.append(
            [name, _short(facts.get("hash")), origin or "none", str(facts.get("step")), str(facts.get("finished"))]
        )
    rows = [[visible(cell) for cell in row] for row in rows]
    headers = ["Stage", "Result", "Made from", "Steps", "Finished"]
    return Table("Stages and what they were made from", headers, rows, numbers=(3,)) if rows else None


def _evaluation_facts(cells: Sequence[Cell]) -> list[Part]:
    """How responses were made and scored; several values where cells differ."""
    facts = [cell.facts for cell in cells]
    protocols = [_mapping(f.get("protocol")) for f in facts]
    harnesses = [_mapping(f.get("harness")) for f in facts]
    servers = [_mapping(f.get("server")) for f in facts]
    rows = {
        "Protocol": [
            f"{p.get('name')} (T {p.get('temperature')}, top-p {p.get('top_p')}, {p.get('prompt')} prompt, "
            f"at most {p.get('max_new_tokens')} tokens)"
            for p in protocols
        ],
        "Decoding seeds": [str(f.get("decoding_seed")) for f in facts],
        "Responses per item": [str(f.get("samples_per_item")) for f in facts],
        "Harness": [f"{h.get('name')} {h.get('version')}, lock {_short(h.get('lock'))}" for h in harnesses],
        "Server": [_listed(*(s.get(key) for key in ("engine", "version", "dtype", "quantization"))) for s in servers],
        "Judge": [_judge(cell) for cell in cells],
    }
    body = [[name, visible("; ".join(dict.fromkeys(values)))] for name, values in rows.items()]
    tasks = dict.fromkeys((f["task"], f.get("items"), f.get("task_hash"), f.get("dataset_hash")) for f in facts)
    about = [[visible(str(t)), f"{n:,}" if n else "–", _short(h), _short(d)] for t, n, h, d in tasks]
    return [
        Table("How responses were made and scored", ["Fact", "Value"], body),
        Table("Tasks", ["Task", "Items", "Task hash", "Data hash"], about, numbers=(1,)),
    ]


def _judge(cell: Cell) -> str:
    judge = cell.facts.get("judge")
    return visible(identity_text(judge)) if judge else "none"


def _listed(*facts: Any) -> str:
    return visible(", ".join(str(fact) for fact in facts if fact is not None and fact != ""))


def _short(value: Any) -> str:
    return str(value)[:12] if value else "unknown"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _slug(name: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in name)
