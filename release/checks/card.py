"""The card, in so far as the folder shows it: front matter, gaps, links. Its numbers are held by its own tests."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

import yaml

from release.checks.licence import KNOWN
from release.checks.view import Check, Found, View, listed, shown

_FRONT = re.compile(r"---\r?\n(.*?\r?\n)---\r?\n", re.DOTALL)
_FRONT_LIMIT = 1 << 20
_FENCE = re.compile(r"^(```|~~~).*?^\1[ \t]*$", re.DOTALL | re.MULTILINE)
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z]{2,4})?|code|multilingual")
_LINK = re.compile(r"\]\(\s*<?([^)\s>]+)|<(?:img|a)\b[^>]{0,400}?\b(?:src|href)\s*=\s*[\"']([^\"']+)")
_OUTSIDE = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:|//|#")
_GAPS = (
    (re.compile(r"more information needed", re.IGNORECASE), "More Information Needed"),
    (re.compile(r"\b(?:TODO|FIXME|TBD|XXX)\b|lorem ipsum"), "a note of what is still to be written"),
    (re.compile(r"\{%.{0,400}?%\}|\{\{-?\s+[\w.\[\]]{1,200}\s*(?:\|[^{}]{0,200})?\s+-?\}\}"), "an unfilled field"),
    (re.compile(r"\|\s*(?:None|nan|NaN|null|undefined|inf)\s*(?=\|)"), "a table cell without a value"),
)
_UNFILLED = re.compile(r"\{\{-?\s*[A-Za-z_][\w.]{0,200}\s*-?\}\}")


def front_matter(text: str) -> dict[str, Any] | None:
    """The card's YAML head; None when there is none that parses to a mapping."""
    match = _FRONT.match(text[:_FRONT_LIMIT])
    if match is None:
        return None
    value = strict_yaml(match[1])
    return value if isinstance(value, dict) else None


class _Loader(yaml.SafeLoader):
    """Plain values only; a name twice in a mapping is refused, as the Hub's reader does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        value = super().construct_mapping(node, deep)
        if len(value) != len(node.value):
            raise yaml.YAMLError("a name stands twice in one mapping")
        return value


def strict_yaml(text: str) -> Any:
    """A YAML document's value; None for what is none."""
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return None  # the library raises any of these for a value that does not have the form of its tag


def _metadata(view: View) -> Found:
    text = view.text("README.md")
    if not text:
        return
    head = front_matter(text)
    if head is None:
        yield "README.md", "has no front matter, or one that is not YAML"
        return
    licence = head.get("license")
    if licence != view.context.licence:
        yield "README.md: license", f"is {shown(licence)}, the release's licence is {shown(view.context.licence)}"
    elif licence in KNOWN and licence == "other" and not (head.get("license_name") and head.get("license_link")):
        yield "README.md: license", "is `other` without `license_name` and `license_link`"
    languages = head.get("language", [])
    languages = languages if isinstance(languages, list) else [languages]
    wrong = [item for item in languages if not isinstance(item, str) or not _LANGUAGE.fullmatch(item)]
    if wrong:
        yield "README.md: language", f"{listed(wrong)} is no language id"
    if view.is_model:
        yield from _of_a_model(view, head)


def _of_a_model(view: View, head: dict[str, Any]) -> Found:
    if absent := [name for name in ("library_name", "pipeline_tag") if not head.get(name)]:
        yield "README.md", f"has no {listed(absent)} in its front matter"
    told, base = head.get("base_model"), view.context.base_model
    if base and base not in (told if isinstance(told, list) else [told]):
        yield "README.md: base_model", f"is not {shown(base)}, the model that this one was made from"


def _gaps(view: View) -> Found:
    """What a template or its author left open."""
    text = view.text("README.md")
    prose = _FENCE.sub(lambda match: "\n" * match[0].count("\n"), text)
    for where, pattern, what in (
        *((text, pattern, what) for pattern, what in _GAPS),
        (prose, _UNFILLED, "an unfilled field"),
    ):
        match = pattern.search(where)
        if match:
            yield f"README.md: line {where.count(chr(10), 0, match.start()) + 1}", f"holds {what}"
            return


def _links(view: View) -> Found:
    text = _FENCE.sub("", view.text("README.md"))
    targets = {first or second for first, second in _LINK.findall(text)}
    absent = []
    for target in sorted(targets):
        if _OUTSIDE.match(target):
            continue
        path = unquote(re.split(r"[?#]", target)[0]).removeprefix("./").rstrip("/")
        folder = any(name.startswith(f"{path}/") for name in view.files)
        if not (view.has(path) or folder or path == "provenance/manifest.json"):
            absent.append(target)
    if absent:
        yield "README.md", f"links to {listed(absent)}, which the release does not have"


def _results(view: View) -> Found:
    for path in view.files:
        if not (path.startswith(".eval_results/") and path.endswith(".yaml")):
            continue
        value = strict_yaml(view.text(path))
        if not isinstance(value, list) or not all(
            isinstance(item, dict) and isinstance(item.get("dataset"), dict) and "value" in item for item in value
        ):
            yield path, "is not a list of results with `dataset` and `value`"


_RENDER = "render the card again from the run's facts"

CHECKS = (
    Check(
        "card", "error", "Card that the Hub cannot read",
        "README.md: front matter, licence and language ids, base model, library and task.", _RENDER, _metadata,
    ),
    Check(
        "card-gap", "error", "Gap in the card",
        "README.md: nothing still to be written, no unfilled field, no empty table cell.", _RENDER, _gaps,
    ),
    Check(
        "card-link", "error", "Link to a file that is not there", "README.md: every link inside the release.", _RENDER,
        _links,
    ),
    Check(
        "eval-results", "error", "Results that the Hub cannot read", "`.eval_results/*.yaml`: lists of results.",
        _RENDER, _results,
    ),
)  # fmt: skip
