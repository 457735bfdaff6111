"""The sections that a run's own records fill: training, cost and provenance. No path, host or user name leaves here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

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


def training(material: Material) -> Section:
    """When stages ran, and the curves of all of them."""
    found = [histories(run) for run in material.runs]
    parts: list[Part] = []
    for run, stages in zip(material.runs, found, strict=True):
        if stages:
            parts.append(_timeline(run, stages))
    names = [name for name in dict.fromkeys(n for run in found for n in run) if not name.startswith(EVALUATION)]
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
        more = _panels(f"more-{_slug(kind)}", f"{title}, further metrics", stages, runs, rest)
        parts.append(Fold(f"{title}: {len(rest)} further metrics", [more]))
    return parts


def _panels(
    name: str, title: str, stages: Sequence[str], runs: Sequence[Mapping[str, History]], metrics: Sequence[str]
) -> Drawing:
    svg = figures.curves(name, f"Training curves: {title}", runs, stages, metrics)
    ends = [f"{stage} {_ends(stage, runs)}" for stage in stages]
    return Drawing(f"Training curves: {title}", Markup(svg), f"Steps reached: {'; '.join(ends)}.")


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
        parts.append(_evaluation_costs(material.cells))
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
        rows.append([visible(name), ", ".join(used), minutes, tokens])
    headers = ["Stage", "Used by", "Minutes", "Generated tokens"]
    return Table("Cost of each stage", headers, rows, numbers=(2, 3))


def _arm_costs(summaries: Sequence[Summary]) -> Table:
    rows = []
    for arm in summaries[0].arms:
        totals = [summary.total(arm) for summary in summaries]
        minutes = " / ".join(f"{seconds / 60:.1f}" for _, seconds in totals)
        rows.append([visible(arm), minutes, " / ".join(f"{tokens:,}" for tokens, _ in totals)])
    return Table("Totals of each arm, shared stages included", ["Arm", "Minutes", "Generated tokens"], rows, (1, 2))


def _evaluation_costs(cells: Sequence[Cell]) -> Table:
    totals: dict[tuple[str, str], list[float]] = {}
    for cell in cells:
        total = totals.setdefault((cell.model, cell.protocol), [0, 0.0, 0])
        total[0] += 1
        total[1] += float(cell.facts.get("seconds") or 0)
        total[2] += int(cell.facts.get("generated_tokens") or 0)
    rows = [
        [visible(model), protocol, f"{count:.0f}", f"{seconds / 60:.1f}", f"{tokens:,.0f}"]
        for (model, protocol), (count, seconds, tokens) in totals.items()
    ]
    headers = ["Model", "Protocol", "Cells", "Minutes", "Generated tokens"]
    return Table("Cost of the evaluation", headers, rows, numbers=(2, 3, 4))


def provenance(material: Material) -> Section:
    """What the numbers were made from."""
    parts: list[Part] = []
    for run in material.runs:
        parts += [Heading(f"Run {visible(run.name)}"), _run_facts(run)]
        if stages := _lineage(run):
            parts.append(Fold("Weights and their parents", [stages]))
    if material.cells:
        parts += [Heading("Evaluation"), _evaluation_facts(material.cells)]
    lead = "Hashes are SHA-256, shortened to their first twelve digits; the run's manifest.json has them whole."
    return Section("provenance", "Provenance", [lead], parts)


def _run_facts(run: Run) -> Table:
    manifest = run.manifest
    recipe, code, machine, data = (_mapping(manifest.get(key)) for key in ("recipe", "code", "machine", "data"))
    commit = f"commit {_short(code.get('commit'))}{' with changes' if code.get('dirty') else ''}"
    memory = machine.get("memory_bytes")
    rows = [
        ["Recipe", _listed(recipe.get("name"), recipe.get("profile") and f"profile {recipe['profile']}")],
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
                machine.get("cores") and f"{machine['cores']} cores",
                machine.get("processor"),
                memory and f"{memory / 2**30:.0f} GiB",
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


def _evaluation_facts(cells: Sequence[Cell]) -> Table:
    rows: dict[tuple[str, ...], set[str]] = {}
    for cell in cells:
        protocol, harness, server = (_mapping(cell.facts.get(key)) for key in ("protocol", "harness", "server"))
        facts = (
            cell.task,
            f"{cell.protocol}: T {protocol.get('temperature')}, top-p {protocol.get('top_p')}, "
            f"{protocol.get('max_new_tokens')} tokens, {protocol.get('prompt')} prompt",
            f"{harness.get('name')} {harness.get('version')} ({_short(harness.get('lock'))})",
            _listed(server.get("engine"), server.get("version"), server.get("dtype")),
            _short(cell.facts.get("task_hash")),
            _short(cell.facts.get("dataset_hash")),
            _judge(cell),
        )
        rows.setdefault(facts, set()).add(cell.model)
    headers = ["Task", "Protocol", "Harness (lock)", "Server", "Task hash", "Data hash", "Judge", "Models"]
    body = [[*(visible(fact) for fact in facts), str(len(models))] for facts, models in rows.items()]
    return Table("How responses were made and scored", headers, body, numbers=(7,))


def _judge(cell: Cell) -> str:
    judge = cell.facts.get("judge")
    if not judge:
        return "none"
    return _listed(judge.get("model"), judge.get("revision")) if isinstance(judge, dict) else str(judge)


def _listed(*facts: Any) -> str:
    return visible(", ".join(str(fact) for fact in facts if fact not in (None, "", False)))


def _short(value: Any) -> str:
    return str(value)[:12] if value else "unknown"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _slug(name: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in name)
