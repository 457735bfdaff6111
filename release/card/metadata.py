"""What the Hub reads: the card's front matter, and one file for each benchmark that the Hub keeps a table of."""

from __future__ import annotations

import re
from typing import Any

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCard, ModelCardData, eval_result_entries_to_yaml

from integrations.errors import BadInput
from release.card.results import SCORE, WORDS, ordered, protocol_name, row_of
from release.card.text import plain
from release.facts import Facts, Setup

PAPER = "2604.28123"
_TAGS = ["prism", "vision-language", f"arxiv:{PAPER}"]
"""The Hub links a model to the paper by the last one."""
TASK = "image-text-to-text"


def front_matter(facts: Facts) -> ModelCardData:
    """The card's metadata.

    Raises:
        ValueError: the client library does not take it.
    """
    parent = facts.base.repo or _parent(facts)
    discriminator = facts.kind == "discriminator"
    kind = {"sft": ["sft"], "align": ["prism-alignment"], "rlvr": ["rlvr", facts.algorithm or "rlvr"]}
    results = [] if discriminator else evaluations(facts)
    return ModelCardData(
        license=facts.licence,
        language=["en"],
        base_model=parent,
        base_model_relation="finetune" if parent else None,
        datasets=[facts.data.repo] if facts.data.repo else None,
        pipeline_tag="text-classification" if discriminator else TASK,  # as reward models have it
        library_name="prism-suite" if discriminator else "transformers",
        tags=[*_TAGS, *kind.get(facts.kind, [facts.kind]), *(["draft"] if facts.draft else [])],
        model_name=facts.name if results else None,
        eval_results=results or None,
    )


def _parent(facts: Facts) -> str | None:
    """The repository of the checkpoint that this one was trained from, where it is released too."""
    policy = next((parent.stage for parent in facts.own.parents if parent.role == "policy"), None)
    return next((member.repo for member in facts.family if member.stage == policy), None)


def evaluations(facts: Facts) -> list[EvalResult]:
    """Every score of the released model, in percent, for `model-index`."""
    found = []
    for comparison in ordered(facts.evaluation) if facts.evaluation else []:
        row = row_of(comparison, facts.stage)
        for benchmark in comparison["benchmarks"]:
            scores = (row or {}).get("scores", {}).get(benchmark["name"]) or {}
            for metric in comparison["metrics"]:
                if scores.get(metric):
                    found.append(_result(facts, comparison, benchmark, metric, scores[metric]))
    return found


def _result(facts: Facts, comparison: Any, benchmark: Any, metric: str, score: Any) -> EvalResult:
    setup = _setup(facts, benchmark["name"], comparison["protocol"])
    return EvalResult(
        task_type=TASK,
        dataset_type=(setup.dataset if setup else None) or facts.data.repo or f"prism-{benchmark['name']}",
        dataset_name=plain(benchmark["title"]),
        dataset_config=comparison["protocol"],
        dataset_revision=setup.dataset_revision if setup else None,
        metric_type="accuracy",
        metric_name=f"{WORDS[metric]}, {protocol_name(comparison)}",
        metric_value=_percent(score),
    )


def _percent(score: Any) -> float:
    return round(100 * float(score["value"]), 1)


def _setup(facts: Facts, benchmark: str, protocol: str) -> Setup | None:
    assert facts.evaluation is not None
    setups = facts.evaluation.setups
    return next((one for one in setups if (one.benchmark, one.protocol) == (benchmark, protocol)), None)


def eval_files(facts: Facts) -> dict[str, str]:
    """`.eval_results/<task>-<protocol>.yaml` for every task on a data set of the Hub."""
    found: dict[str, str] = {}
    for comparison in facts.evaluation.comparisons if facts.evaluation else []:
        row = row_of(comparison, facts.stage)
        for setup in facts.evaluation.setups if facts.evaluation else []:
            if setup.protocol != comparison["protocol"] or setup.suite != comparison["suite"]:
                continue
            dataset = setup.dataset or facts.data.repo
            scores = (row or {}).get("scores", {}).get(setup.benchmark) or {}
            value = (scores.get("tasks") or {}).get(setup.task)
            if dataset and value is not None:
                entry = _entry(facts, setup, dataset, value, scores.get(SCORE))
                name = re.sub(r"[^A-Za-z0-9_.-]", "-", f"{setup.task}-{setup.protocol}")
                found[f".eval_results/{name}.yaml"] = yaml.safe_dump(
                    eval_result_entries_to_yaml([entry]), sort_keys=False, allow_unicode=True
                )
    return found


def _entry(facts: Facts, setup: Setup, dataset: str, value: float, score: Any) -> EvalResultEntry:
    """One score; size, interval and settings stand in the notes, for which the format has no fields."""
    sampling = f"temperature {setup.temperature:g}, top-p {setup.top_p:g}, at most {setup.max_new_tokens} tokens"
    bounds = (
        f"; 95% interval of the benchmark {100 * score['ci'][0]:.1f} to {100 * score['ci'][1]:.1f}" if score else ""
    )
    return EvalResultEntry(
        dataset_id=dataset,
        task_id=setup.task,
        value=round(100 * float(value), 1),
        dataset_revision=setup.dataset_revision,
        date=setup.created[:10],
        source_url=f"https://huggingface.co/{facts.repo}/blob/{facts.tag}/provenance/comparison.json",
        source_name="provenance/comparison.json",
        notes=f"n = {setup.items}{bounds}; {sampling}; {setup.harness}; judged by {setup.judge}",
    )


_UNFILLED = re.compile(r"(?i:more information needed|\btodo\b|\bfixme\b)|\bNone\b|\bnan\b|\bUndefined\b")


def checked(content: str) -> str:
    """A whole card, after the client library's own validation of its front matter and a look for unfilled fields.

    Raises:
        BadInput: the metadata is not valid, or a field of the card was left unfilled.
    """
    try:
        data = ModelCard(content).data.to_dict()
    except (ValueError, yaml.YAMLError) as error:
        raise BadInput(f"README.md: its front matter is not valid: {error}", "look at names in the recipe") from error
    if not data.get("license"):
        raise BadInput("README.md: its front matter names no licence", "name one")
    if unfilled := _UNFILLED.search(content):
        line = content.count("\n", 0, unfilled.start()) + 1
        problem = f"README.md, line {line}: `{unfilled[0]}` stands where a fact belongs"
        raise BadInput(problem, "complete the run's records, or rename what is called so")
    return content
