"""What is looked at before a byte of a release moves.

    numbers = Numbers()
    manifest = scan(folder, on_chunk=numbers)
    findings = run_checks(folder, manifest, CheckContext.of(facts, numbers=numbers, probe=probe(folder, work)))

    names.py      which files, of which kind, how large
    texts.py      tokens, folders of a machine, private hosts, e-mail addresses (rules: secrets.py)
    weights.py    headers, index, dtypes, NaN and zeros (headers.py, numbers.py)
    data.py       a data set's tables
    config.py     configuration, tokenizer, code
    licence.py    base model and licences
    card.py       the card's front matter, gaps and links
    loading.py    what the engine said when it loaded the folder

`CHECKS` is every check with its id, severity and fix. Checks never load, import or run anything from the folder, and
follow no link; what they read in it may have been made to mislead them.
"""

from __future__ import annotations

from pathlib import Path

from release.checks import card, config, data, licence, loading, names, texts, weights
from release.checks.numbers import Numbers
from release.checks.view import Check, CheckContext, View
from release.finding import Finding
from release.manifest import Manifest

CHECKS: tuple[Check, ...] = (
    *names.CHECKS,
    *texts.CHECKS,
    *weights.CHECKS,
    *data.CHECKS,
    *config.CHECKS,
    *licence.CHECKS,
    *card.CHECKS,
    *loading.CHECKS,
)
"""In the order in which they are shown; ids are unique and stable."""


def run_checks(folder: Path, manifest: Manifest, context: CheckContext) -> list[Finding]:
    """Everything that is wrong with a release's folder, in the order of `CHECKS`; empty for one that may be published.

    Raises:
        OSError: the folder itself cannot be read.
    """
    view = View(folder, manifest, context)
    return [finding for check in CHECKS for finding in check.findings(view)]


__all__ = ["CHECKS", "Check", "CheckContext", "Numbers", "run_checks"]
