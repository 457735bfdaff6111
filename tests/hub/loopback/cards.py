"""What the Hub refuses in the front matter of a README.md, as far as it is known."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

LICENSES = set(Path(__file__).with_name("licenses.txt").read_text(encoding="utf-8").split())
"""Identifiers that the Hub knows."""
RELATIONS = {"finetune", "adapter", "merge", "quantized"}
_REPO = re.compile(r"([\w.-]{1,96}/)?[\w.-]{1,96}")
_LISTS = ("datasets", "tags", "metrics", "language")


def problems(content: str, type: str = "model") -> tuple[list[str], list[str]]:
    """Errors and warnings of a whole README.md."""
    match = re.match(r"\s*---\r?\n(.*?\r?\n)?---\s*(\r?\n|$)", content, re.DOTALL)
    if match is None:
        return [], ["empty or missing yaml metadata in repo card"]
    try:
        told = yaml.safe_load(match[1] or "")
    except yaml.YAMLError as error:
        return [f"YAML Metadata Error: {error}"], []
    if told is None:
        return [], ["empty or missing yaml metadata in repo card"]
    if not isinstance(told, dict):
        return ["YAML Metadata Error: not a mapping"], []
    return list(_wrong(told, type)), []


def _wrong(told: dict[str, Any], type: str) -> Iterator[str]:
    licenses = told.get("license", [])
    for license in licenses if isinstance(licenses, list) else [licenses]:
        if license not in LICENSES:
            yield f'"license" must be one of the known identifiers, not {license!r}'
    if licenses == "other" and not (told.get("license_name") and told.get("license_link")):
        yield '"license_name" and "license_link" are required with license: other'
    for key in _LISTS:
        value = told.get(key, [])
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(item, str) and item for item in values):
            yield f'"{key}" must be a string or a list of strings'
    for key in ("pipeline_tag", "library_name", "model_name", "pretty_name", "license_name", "license_link"):
        if key in told and not isinstance(told[key], str):
            yield f'"{key}" must be a string'
    if type == "model":
        yield from _wrong_for_a_model(told)


def _wrong_for_a_model(told: dict[str, Any]) -> Iterator[str]:
    bases = told.get("base_model", [])
    for base in bases if isinstance(bases, list) else [bases]:
        if not isinstance(base, str) or not _REPO.fullmatch(base):
            yield f'"base_model" with value {base!r} is not valid. Use a model id from the Hub.'
    if told.get("base_model_relation", "finetune") not in RELATIONS:
        yield f'"base_model_relation" must be one of {sorted(RELATIONS)}'
    index = told.get("model-index", [])
    if not isinstance(index, list):
        yield '"model-index" must be an array'
        return
    for n, model in enumerate(index):
        yield from _wrong_in_index(f'"model-index[{n}]', model)


def _wrong_in_index(where: str, model: Any) -> Iterator[str]:
    if not isinstance(model, dict) or not isinstance(model.get("name"), str):
        yield f'{where}.name" is required'
        return
    results = model.get("results")
    if not isinstance(results, list):
        yield f'{where}.results" must be an array'
        return
    for m, result in enumerate(results):
        at = f"{where}.results[{m}]"
        if not isinstance(result, dict):
            yield f'{at}" must be a mapping'
            continue
        for group, keys in (("task", ("type",)), ("dataset", ("type", "name"))):
            for key in keys:
                if not isinstance((result.get(group) or {}).get(key), str):
                    yield f'{at}.{group}.{key}" is required'
        metrics = result.get("metrics")
        if not isinstance(metrics, list) or not metrics:
            yield f'{at}.metrics" must be an array with at least one metric'
            continue
        for k, metric in enumerate(metrics):
            if not isinstance(metric.get("type"), str) or metric.get("value") is None:
                yield f'{at}.metrics[{k}]" needs a type and a value'
