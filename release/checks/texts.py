"""Every text of a release against what must not be read in it. What was found is never repeated, only its place."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice

from release.checks import secrets
from release.checks.data import strings, table_texts
from release.checks.names import place
from release.checks.view import Check, Found, View

VOCABULARIES = {"tokenizer.json", "vocab.json", "merges.txt"}
_WORD = 24
"""Longest entry of a vocabulary, characters, that is taken for a word."""
_MOST = 1000
"""Places of one kind that are counted in a text."""

Lines = Callable[[str], Iterator[tuple[str, int]]]


def texts(view: View) -> Iterator[tuple[str, str]]:
    """Path and text of everything that can be read: texts and pictures whole, headers of weights, rows of tables."""
    for path in view.files:
        if place(view, path):
            continue
        if path.endswith(".parquet"):
            with suppress(ValueError):  # the check `table` tells
                yield from ((path, text) for text in table_texts(view.folder / path))
        elif path.endswith(".safetensors"):
            yield path, "\n".join(f"{key}={value}" for key, value in view.headers[path].metadata.items())
        else:
            yield path, view.text(path)


def _prose(view: View, path: str, text: str) -> str:
    """A text without the words of a vocabulary, which look like anything."""
    if path not in VOCABULARIES:
        return text
    if path == "merges.txt":
        return "\n".join(line for line in text.splitlines() if len(line) > 2 * _WORD)
    value = view.json(path)
    if not isinstance(value, dict):
        return text
    model = value.get("model") if path == "tokenizer.json" else {"vocab": value}
    words = model.get("vocab") if isinstance(model, dict) else None
    named = [word for word in words if isinstance(word, str) and len(word) > _WORD] if isinstance(words, dict) else []
    rest = {key: item for key, item in value.items() if key != "model"} if path == "tokenizer.json" else {}
    return "\n".join([*named, *strings(rest)])


def _places(view: View, *kinds: tuple[Lines, bool]) -> Found:
    """Findings of several kinds of lines; each with whether it is looked for in vocabularies too."""
    found: dict[tuple[str, str], set[int]] = {}
    for path, text in texts(view):
        prose = _prose(view, path, text)
        for lines, everywhere in kinds:
            for spelling in secrets.spellings(text if everywhere else prose):
                for what, line in islice(lines(spelling), _MOST):
                    found.setdefault((path, what), set()).add(line)
    for (path, what), numbers in found.items():
        more = f" and in {len(numbers) - 1} more" if len(numbers) > 1 else ""
        where = "" if path.endswith(".parquet") else f" in line {min(numbers)}{more}"
        yield path, f"holds {what}{where}"


def _secrets(view: View) -> Found:
    return _places(view, (secrets.token_lines, True), (secrets.secret_lines, False))


def _paths(view: View) -> Found:
    return _places(view, (secrets.path_lines, False))


def _hosts(view: View) -> Found:
    return _places(view, (secrets.host_lines, False))


def _mail(view: View) -> Found:
    return _places(view, (secrets.mail_lines, False))


def _private(view: View) -> Found:
    words = sorted({word for word in view.context.private if len(word) >= 4})
    if not words:
        return ()
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)", re.IGNORECASE)

    def lines(text: str) -> Iterator[tuple[str, int]]:
        for match in pattern.finditer(text):
            yield "a name of the machine, its user or an account", text.count("\n", 0, match.start()) + 1

    return _places(view, (lines, False))


_LEAVE_OUT = "take it out of the file that it comes from, and assemble the folder again"

CHECKS = (
    Check(
        "secret", "error", "Token, key or password",
        "Every text and the metadata of weights, escapes and base64 undone: tokens of the Hub and other services, "
        "private keys, passwords in addresses.",
        "withdraw it where it was issued, then take it out of the file that it comes from", _secrets,
    ),
    Check(
        "local-path", "error", "Folder of a machine", "Every text: no path of a home or another folder of a machine.",
        _LEAVE_OUT, _paths,
    ),
    Check(
        "private-host", "error", "Private host", "Every text: no host or address of a private network.", _LEAVE_OUT,
        _hosts,
    ),
    Check(
        "private-name", "error", "Name of the machine or its user",
        "Every text: neither the host, its user, the run's folder nor an account is named.", _LEAVE_OUT, _private,
    ),
    Check(
        "email", "warning", "E-mail address", "Every text: addresses of people.",
        "take it out, unless its owner wants to be written to", _mail,
    ),
)  # fmt: skip
