"""`prism eval`: ask checkpoints a suite of benchmarks, keep every response, and compare."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from integrations.common.judge import Judge
    from prism_cli.evaluation.cells import Ask
    from prism_cli.evaluation.models import Model
    from prism_cli.evaluation.run import Outcome
    from prism_cli.evaluation.servers import ServerChoice
    from prism_cli.runs.store import RunStore
    from prism_cli.ui.view import View

WHAT, HOW, JUDGE, WHERE, OUTPUT = "What to evaluate", "How", "Judge", "Where", "Output"


def evaluate(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help="A run's stage (`prism/rlvr`), a folder, or `owner/name[@revision]` on the Hub. "
            "[default: every finished arm of the run]",
        ),
    ] = None,
    suite: Annotated[
        str, typer.Option(help="digits, smoke, multimodal-reasoning, or a YAML file.", rich_help_panel=WHAT)
    ] = "digits",
    run: Annotated[
        list[str] | None,
        typer.Option(help="The run, or several that differ in their seed. [default: the latest]", rich_help_panel=WHAT),
    ] = None,
    all_stages: Annotated[
        bool,
        typer.Option("--all-stages", help="Every finished policy, not each arm's last.", rich_help_panel=WHAT),
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first N items of each task.", rich_help_panel=WHAT)
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder with local copies of the data sets, instead of the Hub.", rich_help_panel=WHAT),
    ] = None,
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            help="paper (T=1, top-p 0.7), sample (T=1) or greedy; may be repeated. [default: the suite's]",
            rich_help_panel=HOW,
        ),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Responses to each item.", rich_help_panel=HOW)] = 1,
    seeds: Annotated[str, typer.Option(help="Decoding seeds, e.g. 0,1,2.", rich_help_panel=HOW)] = "0",
    prompt: Annotated[
        str,
        typer.Option(help="format (the paper's form) or native (each benchmark's wording).", rich_help_panel=HOW),
    ] = "format",
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Instead of each benchmark's own limit.", rich_help_panel=HOW)
    ] = None,
    server: Annotated[
        str, typer.Option(help="auto, transformers, vllm, or the URL of a server that runs.", rich_help_panel=HOW)
    ] = "auto",
    served_name: Annotated[
        str | None, typer.Option(help="The model's name on a server at a URL.", rich_help_panel=HOW)
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests in flight.", rich_help_panel=HOW)] = 64,
    jobs: Annotated[int, typer.Option(min=1, help="Checkpoints evaluated at the same time.", rich_help_panel=HOW)] = 1,
    rescore: Annotated[
        bool, typer.Option("--rescore", help="Score the kept responses anew; no inference.", rich_help_panel=HOW)
    ] = False,
    judge: Annotated[
        str | None,
        typer.Option(help="URL of an OpenAI-compatible judge (`prism judge`).", rich_help_panel=JUDGE),
    ] = None,
    judge_model: Annotated[
        str | None, typer.Option(help="The judge's name on its server.", rich_help_panel=JUDGE)
    ] = None,
    judge_key_env: Annotated[
        str | None,
        typer.Option(help="Environment variable with its key. [default: OPENAI_API_KEY]", rich_help_panel=JUDGE),
    ] = None,
    rules_only: Annotated[
        bool, typer.Option("--rules-only", help="No judge: rules alone decide.", rich_help_panel=JUDGE)
    ] = False,
    baseline: Annotated[
        str | None,
        typer.Option(help="Row to compare with. [default: baseline/rlvr]", rich_help_panel=OUTPUT),
    ] = None,
    runs_dir: Annotated[
        Path, typer.Option(envvar="PRISM_RUNS", help="Folder that holds the runs.", rich_help_panel=WHERE)
    ] = Path("runs"),
    out: Annotated[
        Path, typer.Option(help="Folder for results of models that belong to no run.", rich_help_panel=WHERE)
    ] = Path("evals"),
    json_: Annotated[
        bool, typer.Option("--json", help="Print one JSON object at the end and nothing else.", rich_help_panel=OUTPUT)
    ] = False,
) -> None:
    """Ask checkpoints a suite of benchmarks and compare them with the baseline.

    Runs lmms-eval's tasks with one inference server per checkpoint. What is done is not asked again: a cell (model,
    task, seed) is skipped when its weights, task, data, protocol and harness are unchanged, and a killed one goes on
    where it stopped. Every response is kept, see `prism compare` and `prism report`.

    Exit codes: 0 done, 1 a model failed, 2 bad input, 3 another evaluation is at work, 130 interrupted.
    """
    from benchmarks.suites import load_suite
    from integrations.errors import BadInput
    from prism_cli.evaluation.cells import Ask
    from prism_cli.evaluation.servers import choose
    from prism_cli.pipeline.lineage import gpu_names
    from prism_cli.ui.view import choose_view

    if prompt not in ("format", "native"):
        raise BadInput(f"`{prompt}` is no prompt", "give --prompt format or --prompt native")
    chosen = load_suite(suite)
    ask = Ask(
        suite=chosen,
        protocols=_protocols(protocol) or tuple(chosen.protocols),
        seeds=_seeds(seeds),
        samples=samples,
        limit=limit,
        prompt=prompt,
        max_new_tokens=max_new_tokens,
        data=data,
    )
    choice = choose(server, served_name, concurrency, len(gpu_names()))
    if jobs > 1 and choice.engine == "vllm" and not rescore:
        raise BadInput(f"--jobs {jobs}: each checkpoint's vLLM takes the whole machine", "leave --jobs out")
    judging = _judge(chosen, judge, judge_model, judge_key_env, rules_only)
    runs = _runs(runs_dir, run, needed=not models)
    found = _models(models or [], runs, out, server, served_name, all_stages)
    if baseline is not None and baseline not in {model.label for model in found}:
        raise BadInput(
            f"there is no model `{baseline}` among those to evaluate",
            f"it is one of {', '.join(m.label for m in found)}",
        )
    view = choose_view(json_)
    try:
        outcomes = _carry_out(ask, found, choice, jobs, view, rescore)
        _apply_judge(judging, rules_only, outcomes, view)
    finally:
        view.close()
    _report(ask, outcomes, baseline, json_)


def _protocols(names: Sequence[str] | None) -> tuple[str, ...]:
    from benchmarks.suites import PROTOCOLS
    from integrations.errors import BadInput

    for name in names or ():
        if name not in PROTOCOLS:
            raise BadInput(f"there is no protocol `{name}`", f"give one of {', '.join(PROTOCOLS)}")
    return tuple(dict.fromkeys(names or ()))


def _seeds(text: str) -> tuple[int, ...]:
    from integrations.errors import BadInput

    words = [word.strip() for word in text.split(",")]
    if not all(word.isdigit() for word in words):
        raise BadInput(f"--seeds {text}: not a list of seeds", "give whole numbers with commas, e.g. 0,1,2")
    return tuple(dict.fromkeys(int(word) for word in words))


def _judge(suite: Any, url: str | None, model: str | None, key_env: str | None, rules_only: bool) -> Judge | None:
    """The judge that was asked for, tried on golden items before anything else is done; None for rules only."""
    from integrations.errors import BadInput

    wanting = [b.title for b in suite.benchmarks if b.judge]
    if url is None:
        if wanting and not rules_only:
            raise BadInput(
                f"{', '.join(wanting)} {'wants' if len(wanting) == 1 else 'want'} a judge for what rules cannot decide",
                "give one with --judge URL --judge-model NAME (see `prism judge`), or take --rules-only",
            )
        return None
    if rules_only:
        raise BadInput("--judge and --rules-only exclude each other", "leave one of them out")
    from integrations.common.judge import Judge
    from integrations.common.judge_golden import preflight

    judge = Judge(url, model, key_variable=key_env)
    preflight(judge)
    return judge


def _runs(runs_dir: Path, names: Sequence[str] | None, needed: bool) -> list[RunStore]:
    from prism_cli.runs.overview import find_or_latest, find_run, list_runs

    if names:
        return [find_run(runs_dir, name) for name in dict.fromkeys(names)]
    return [find_or_latest(runs_dir, None)] if needed or list_runs(runs_dir) else []


def _models(
    names: Sequence[str], runs: Sequence[RunStore], out: Path, server: str, served_name: str | None, all_stages: bool
) -> list[Model]:
    from prism_cli.evaluation.models import find_models, finished_arms, served_model, stage_model

    store = out.absolute()
    if names:
        return find_models(names, runs, store)
    if served_name and server.startswith("http"):
        return [served_model(served_name, runs, store)]
    return [stage_model(run, stage) for run in runs for stage in finished_arms(run, all_stages)]


def _carry_out(
    ask: Ask, models: Sequence[Model], choice: ServerChoice, jobs: int, view: View, rescore: bool
) -> list[Outcome]:
    from integrations.contract import Machine
    from prism_cli.evaluation.run import Evaluator
    from prism_cli.pipeline.execute import stop_signals
    from prism_cli.pipeline.lineage import gpu_names

    cores = len(os.sched_getaffinity(0))
    machine = Machine(threads=max(1, cores // jobs), gpus=len(gpu_names()))
    evaluator = Evaluator(ask, choice, machine, jobs, view)
    with stop_signals(evaluator.stop):
        return evaluator.rescore(models) if rescore else evaluator.run(models)


def _apply_judge(judge: Judge | None, rules_only: bool, outcomes: Sequence[Outcome], view: View) -> None:
    """Ask the judge about every finished cell that wants one, or take back what a judge said where none is wanted."""
    from benchmarks.judging import clear_judge, judge_cells
    from benchmarks.samples import Cell, read_cell

    by_store: dict[Path, list[Cell]] = {}
    for outcome in outcomes:
        cell = read_cell(outcome.cell.folder) if outcome.status != "failed" else None
        if cell is not None:
            by_store.setdefault(outcome.cell.store, []).append(cell)
    for store, cells in by_store.items():
        if judge is not None:
            view.stage_started("judge", 0, 1)
            judge_cells(
                cells,
                judge,
                store / "verdicts.jsonl",
                lambda done, total: view.stage_progress("judge", done, total, {}, 0, "judging"),
            )
            view.stage_finished("judge", "done", 0.0, "")
        elif rules_only:
            for cell in cells:
                clear_judge(cell)


def _report(ask: Ask, outcomes: Sequence[Outcome], baseline: str | None, as_json: bool) -> None:
    """Print the comparison, then what failed; the exit code says whether everything is there."""
    from benchmarks.compare import compare_all
    from benchmarks.samples import read_cell

    cells = [cell for o in outcomes if o.status != "failed" and (cell := read_cell(o.cell.folder)) is not None]
    found = compare_all(cells, baseline, strict=False) if cells else []
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "suite": ask.suite.name,
                    "cells": [_outcome_json(outcome) for outcome in outcomes],
                    "comparisons": [comparison.to_json() for comparison in found],
                },
                indent=2,
            )
        )
    else:
        from rich.console import Console

        console = Console()
        for comparison in found:
            comparison.render(console)
        for outcome in failed:
            console.print(f"{outcome.cell.title}: failed: {outcome.problem}", style="red", markup=False)
    if failed:
        raise typer.Exit(1)


def _outcome_json(outcome: Outcome) -> dict[str, Any]:
    facts = outcome.cell.facts
    return {
        "model": facts["model"]["label"],
        "weights_hash": facts["model"]["weights_hash"],
        "training_seed": facts["training_seed"],
        "benchmark": facts["benchmark"],
        "task": facts["task"],
        "protocol": facts["protocol"]["name"],
        "decoding_seed": facts["decoding_seed"],
        "status": outcome.status,
        "problem": outcome.problem or None,
        "folder": str(outcome.cell.folder),
    }
