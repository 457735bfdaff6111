"""What a run itself shows about the limits of what may be claimed for it, in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from release.facts import Evaluation, Stage


def found_in(
    chain: Sequence[Stage],
    evaluation: Evaluation | None,
    stage: str,
    manifest: Mapping[str, Any],
    named: Mapping[str, str],
) -> list[str]:
    """Sentences, the weightiest first."""
    told: list[str] = []
    if chain[-1].kind == "discriminator":
        told.append("The discriminator was measured on held-out prompts of its own teacher pool only.")
    elif evaluation is None:
        told.append("The model was not evaluated: nothing is known of how well it does.")
    for comparison in evaluation.comparisons if evaluation else ():
        told += _of_comparison(comparison, stage, named)
    told += [f"{one.title}, {one.name}: {note}." for one in chain for note in one.notes]
    return list(dict.fromkeys(told)) + _of_run(chain, manifest)


def _of_comparison(comparison: Mapping[str, Any], stage: str, named: Mapping[str, str]) -> list[str]:
    told = []
    treated, baseline = comparison["treated"], comparison["baseline"]
    how = f"{comparison['suite']}, {comparison['protocol']}"
    if treated and baseline and comparison["conclusion"]:
        told += _not_ahead(comparison, how, named)
        told += _control(comparison, how, named)
    told += list(comparison["notes"])
    told += [f"Left out of the comparison ({how}): {one['model']} on {one['task']}." for one in comparison["refused"]]
    return told


_WORDS = {"correct": "answers", "perception": "captions", "logic": "reasoning"}


def _not_ahead(comparison: Mapping[str, Any], how: str, named: Mapping[str, str]) -> list[str]:
    """Benchmarks and measures on which the pipeline is not ahead of the baseline."""
    row = _row(comparison, comparison["treated"])
    several = len(comparison["benchmarks"]) > 1
    behind: list[str] = []
    level: list[str] = []
    for benchmark in comparison["benchmarks"]:
        for metric in [name for name in _WORDS if name in comparison["metrics"]]:
            found = (row["differences"].get(benchmark["name"]) or {}).get(metric)
            if found and found["ci"][0] <= 0:
                what = f"{benchmark['title']} ({_WORDS[metric]})" if several else _WORDS[metric]
                (behind if found["ci"][1] < 0 else level).append(what)
    first, second = (named.get(comparison[name], comparison[name]) for name in ("treated", "baseline"))
    told = [f"{first} is behind {second} in {', '.join(behind)} ({how})."] if behind else []
    return told + ([f"{first} is not shown to differ from {second} in {', '.join(level)} ({how})."] if level else [])


def _control(comparison: Mapping[str, Any], how: str, named: Mapping[str, str]) -> list[str]:
    """A control that got the teacher's demonstrations as SFT data and does no worse takes the ground from a claim."""
    controls = [model for model in comparison["models"] if model["label"].startswith("control/")]
    treated = _value(_row(comparison, comparison["treated"]))
    told = []
    for control in controls:
        value = _value(control)
        last = control["stage"] == comparison["baseline"].replace("baseline/", "control/")
        if last and value is not None and treated is not None and value >= treated:
            told.append(
                f"The control, which gets the alignment's demonstrations as SFT data, does no worse ({how}): "
                f"{100 * value:.1f}% against {100 * treated:.1f}% of {named.get(comparison['treated'])}."
            )
    return told


def _value(row: Mapping[str, Any]) -> float | None:
    """The macro-average, or the score on the only benchmark."""
    macro = (row["macro"] or {}).get("correct")
    return None if macro is None else float(macro["value"])


def _row(comparison: Mapping[str, Any], label: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(model for model in comparison["models"] if model["label"] == label)
    return found


def _of_run(chain: Sequence[Stage], manifest: Mapping[str, Any]) -> list[str]:
    told = []
    engines = manifest.get("engines") or {}
    other = [s.title for s in chain if s.environment and s.environment != engines.get(s.engine, {}).get("key")]
    if other:
        told.append(
            f"Trained in an earlier version of its engine's environment than the one named: {', '.join(other)}."
        )
    if (manifest.get("code") or {}).get("dirty"):
        told.append("The code had changes that no commit holds, so the commit alone does not reproduce this release.")
    return told
