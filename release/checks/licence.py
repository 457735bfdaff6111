"""Whose model it was before, and whether this release may have the licence it has.

The table says what the texts of common licences allow for weights made from other weights. It is no legal advice; where
it does not know a licence, the release may only repeat it.
"""

from __future__ import annotations

import re

from release.checks.view import Check, Found, View, shown

_FREE = frozenset({"apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0",
                   "cc-by-nc-sa-4.0", "gpl-3.0", "agpl-3.0", "other"})  # fmt: skip
ALLOWED: dict[str, frozenset[str]] = {
    "apache-2.0": _FREE & {"apache-2.0", "gpl-3.0", "agpl-3.0"},
    "mit": _FREE,
    "bsd-2-clause": _FREE,
    "bsd-3-clause": _FREE,
    "isc": _FREE,
    "unlicense": _FREE | {"unlicense"},
    "cc0-1.0": _FREE | {"cc0-1.0"},
    "cc-by-4.0": frozenset({"cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0"}),
    "cc-by-sa-4.0": frozenset({"cc-by-sa-4.0"}),
    "cc-by-nc-4.0": frozenset({"cc-by-nc-4.0", "cc-by-nc-sa-4.0"}),
    "cc-by-nc-sa-4.0": frozenset({"cc-by-nc-sa-4.0"}),
}
"""Licences that a model made from one under the key may have; one that is not here allows itself only."""
KNOWN = _FREE | ALLOWED.keys() | {
    "afl-3.0", "artistic-2.0", "bigscience-bloom-rail-1.0", "bigscience-openrail-m", "bsd", "bsd-3-clause-clear",
    "cc", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-nc-3.0", "cc-by-nc-nd-4.0", "cc-by-nd-4.0", "cc-by-sa-3.0",
    "cdla-permissive-2.0", "creativeml-openrail-m", "deepfloyd-if-license", "ecl-2.0", "epl-2.0", "gemma", "gpl",
    "gpl-2.0", "lgpl-2.1", "lgpl-3.0", "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "llama4", "mpl-2.0",
    "ms-pl", "ncsa", "odbl", "odc-by", "ofl-1.1", "openrail", "openrail++", "osl-3.0", "pddl", "postgresql",
    "unknown", "wtfpl", "zlib",
}  # fmt: skip
"""Licence ids of the Hub."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_WORDS = {
    "apache-2.0": "Apache License",
    "mit": "Permission is hereby granted",
    "bsd-3-clause": "Redistribution and use",
    "bsd-2-clause": "Redistribution and use",
    "cc-by-4.0": "Attribution 4.0",
}
"""What the text of a licence holds."""


def _base(view: View) -> Found:
    context = view.context
    if not view.is_model or context.origin == "random":
        return
    if not context.base_model:
        yield "", "does not say which model on the Hub it was made from"
    elif not context.base_revision or not _COMMIT.fullmatch(context.base_revision):
        yield "", f"does not say which commit of {shown(context.base_model)} it was made from"


def _licence(view: View) -> Found:
    context = view.context
    if context.licence not in KNOWN or context.licence == "unknown":
        yield "README.md: license", f"{shown(context.licence)} is no licence id of the Hub"
        return
    if not view.is_model or context.origin == "random":
        return
    base = context.base_licence
    if not base or base == "unknown":
        yield "", "does not say under which licence the base model is"
    elif context.licence not in ALLOWED.get(base, {base}):
        yield "README.md: license", f"is {context.licence}, which the base model's {shown(base)} does not allow"


def _files(view: View) -> Found:
    text = view.text("LICENSE")
    if not text.strip():
        yield "LICENSE", "is missing or empty"
    elif (words := _WORDS.get(view.context.licence)) and words not in " ".join(text.split()):
        yield "LICENSE", f"is not the text of {view.context.licence}"
    named = view.context.base_model
    if view.is_model and named and view.context.base_licence == "apache-2.0" and named not in view.text("NOTICE"):
        yield "NOTICE", f"does not say that this is a changed {shown(named)}, which its licence asks for"


CHECKS = (
    Check(
        "base-model", "error", "Base model not recorded", "What the run started from: repository and commit.",
        "name the base model with its commit in the recipe", _base,
    ),
    Check(
        "licence", "error", "Licence that cannot be",
        "The release's licence id, and whether the base model's licence allows it.",
        "choose a licence that the base model's allows", _licence,
    ),
    Check(
        "licence-file", "error", "Licence text missing",
        "LICENSE, and NOTICE where the base model's licence asks for it.",
        "put the licence's text and the notice of change into the release", _files,
    ),
)  # fmt: skip
