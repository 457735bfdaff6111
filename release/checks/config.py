"""Configuration, tokenizer and code: what the JSON files say, without loading anything."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from release.checks.names import place
from release.checks.view import Check, Found, View, listed, shown

ARCHITECTURES = {
    "Qwen3VLForConditionalGeneration": "qwen3_vl",
    "Qwen3VLMoeForConditionalGeneration": "qwen3_vl_moe",
}
"""Classes of transformers that these engines train, and the `model_type` of each."""

_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)
_CODE = {"auto_map", "trust_remote_code", "custom_pipelines", "custom_object_save"}
_NAMES = ("_name_or_path", "name_or_path")


def _json(view: View) -> Found:
    for path in view.files:
        if path.endswith(".json") and not place(view, path) and (problem := view.document(path)[1]):
            yield path, f"is not JSON: {shown(problem)}"


def _keys(value: Any, place: str = "") -> Iterator[tuple[str, str, Any]]:
    """Every field of nested objects: place, name and value."""
    if isinstance(value, dict):
        for key, item in value.items():
            here = f"{place}.{key}" if place else str(key)
            yield here, str(key), item
            yield from _keys(item, here)
    elif isinstance(value, list):
        for item in value:
            yield from _keys(item, place)


def _configurations(view: View) -> Iterator[tuple[str, str, str, Any]]:
    """Path, and place, name and value of every field of every configuration."""
    for path in view.files:
        if path.endswith("config.json") and "/" not in path:
            for where, name, value in _keys(view.json(path)):
                yield path, where, name, value


def _remote_code(view: View) -> Found:
    for path, where, name, value in _configurations(view):
        if name in _CODE and value:
            yield f"{path}: {shown(where)}", "asks for code from the repository"


def _name_or_path(view: View) -> Found:
    for path, where, name, value in _configurations(view):
        if name in _NAMES and value and not (isinstance(value, str) and _REPO.fullmatch(value)):
            yield f"{path}: {shown(where)}", "names a folder instead of a model on the Hub"


def _architecture(view: View) -> Found:
    config = view.object("config.json")
    if not config:
        return
    told = config.get("architectures")
    if not isinstance(told, list) or len(told) != 1 or not isinstance(told[0], str) or told[0] not in ARCHITECTURES:
        yield "config.json: architectures", f"is not one of {listed(ARCHITECTURES)}"
    elif config.get("model_type") != ARCHITECTURES[told[0]]:
        yield "config.json: model_type", f"is not {ARCHITECTURES[told[0]]}, which `{told[0]}` needs"


def _vocabulary(view: View) -> Found:
    """Ids of tokens in configurations against the tokenizer, and the tokenizer against the embedding."""
    tokenizer = view.object("tokenizer.json")
    if not tokenizer:
        return
    known = _token_ids(tokenizer)
    inner = view.object("config.json").get("text_config")
    size = inner.get("vocab_size") if isinstance(inner, dict) else None
    if type(size) is int and known and max(known) >= size:
        yield "config.json: text_config.vocab_size", f"is {size}, the tokenizer has the id {max(known)}"
    for path, where, name, value in _configurations(view):
        if name.endswith(("_token_id", "_token_ids")):
            ids = value if isinstance(value, list) else [value]
            wrong = [item for item in ids if item is not None and (type(item) is not int or item not in known)]
            if wrong:
                yield f"{path}: {shown(where)}", f"{listed(wrong)} is no id of the tokenizer"
    yield from _added_tokens(view, known)


def _added_tokens(view: View, known: dict[int, str]) -> Found:
    told = view.object("tokenizer_config.json").get("added_tokens_decoder")
    if isinstance(told, dict):
        wrong = [
            number
            for number, token in told.items()
            if not (number.isdecimal() and isinstance(token, dict) and known.get(int(number)) == token.get("content"))
        ]
        if wrong:
            where = "tokenizer_config.json: added_tokens_decoder"
            yield where, f"and tokenizer.json disagree about {listed(wrong)}"


def _token_ids(tokenizer: dict[str, Any]) -> dict[int, str]:
    """Tokens by id, the added ones included."""
    model, added = tokenizer.get("model"), tokenizer.get("added_tokens")
    words = model.get("vocab") if isinstance(model, dict) else None
    known = {number: word for word, number in words.items() if type(number) is int} if isinstance(words, dict) else {}
    for token in added if isinstance(added, list) else ():
        if isinstance(token, dict) and type(token.get("id")) is int:
            known[token["id"]] = str(token.get("content"))
    return known


CHECKS = (
    Check(
        "json", "error", "JSON file that is damaged", "Every .json file: it parses, with no name twice in an object.",
        "assemble the folder again", _json,
    ),
    Check(
        "architecture", "error", "Architecture that is not known",
        "`architectures` and `model_type` of config.json: a class that released engines have.",
        "release a model that these engines train", _architecture,
    ),
    Check(
        "remote-code", "error", "Configuration that asks for code",
        "Every configuration: no `auto_map`, nothing that asks to trust code from the repository.",
        "remove the field; the model must load with a released transformers", _remote_code,
    ),
    Check(
        "config-path", "error", "Configuration that names a folder", "`_name_or_path` of every configuration.",
        "remove the field", _name_or_path,
    ),
    Check(
        "vocabulary", "error", "Tokens that do not fit",
        "Ids of special tokens in every configuration, the tokenizer's largest id, the size of the embedding.",
        "take tokenizer and configuration from the same model", _vocabulary,
    ),
)  # fmt: skip
