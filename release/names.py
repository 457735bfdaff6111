"""Names that leave the machine: repositories, tags, collections, and what each checkpoint of a family is called.

Everything that a user types is checked here before it reaches an address, a file name or a card. What is not plainly a
name is refused: markup, control characters, `..`, leading dashes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from integrations.errors import BadInput

LONGEST_REPO = 96
"""Characters of NS/NAME that the Hub takes."""
LONGEST_COLLECTION = 60
_PART = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?")
_TAG = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._+-]{0,61}[A-Za-z0-9])?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PULL_REQUEST = re.compile(r"refs/pr/[1-9][0-9]{0,6}")
_COLLECTION = re.compile(r"[^\W_](?:[\w .,:()&'+-]*[\w.)])?")
_RESERVED_TAGS = ("main", "master", "head")
_WORDS = {"sft": "SFT", "align": "PRISM", "discriminator": "discriminator"}


@dataclass(frozen=True)
class Member:
    """One checkpoint of a run, as its name is made from it."""

    arm: str
    """The arm's name in the recipe."""
    stage: str
    """The stage's name in the recipe."""
    kinds: tuple[str, ...]
    """Kinds of the arm's stages up to this one, in order: `sft`, `discriminator`, `align`, `rlvr`."""
    algorithm: str = "grpo"
    """Of the last `rlvr` stage."""


def repo(text: str) -> str:
    """`text` where it is a repository's name, NS/NAME.

    Raises:
        BadInput: it is not, or the Hub would not take it.
    """
    parts = text.split("/")
    plain = len(parts) == 2 and all(_PART.fullmatch(part) for part in parts)
    if not plain or ".." in text or "--" in text or parts[1].lower().endswith((".git", ".ipynb")):
        raise BadInput(
            f"{_shown(text)} is not a repository's name.",
            "Give NAMESPACE/NAME of letters, digits, `-`, `_` and `.`, without `--` or `..`, e.g. prism-vlm/digits.",
        )
    if len(text) > LONGEST_REPO:
        raise BadInput(f"{_shown(text)} has {len(text)} characters.", f"The Hub takes {LONGEST_REPO}: shorten it.")
    return text


def tag(text: str) -> str:
    """`text` where it can be a tag.

    Raises:
        BadInput: it cannot, or could be taken for a branch or a commit.
    """
    unfit = not _TAG.fullmatch(text) or ".." in text or text.endswith(".lock")
    if unfit or text.lower() in _RESERVED_TAGS or re.fullmatch(r"[0-9a-f]{7,40}", text):
        raise BadInput(f"{_shown(text)} cannot be a tag.", "Give a version such as v1.0: letters, digits, `.` and `-`.")
    return text


def revision(text: str) -> str:
    """`text` where it names a commit, a tag, a pull request (`refs/pr/3`) or `main`.

    Raises:
        BadInput: it does not.
    """
    if text == "main" or _COMMIT.fullmatch(text) or _PULL_REQUEST.fullmatch(text):
        return text
    try:
        return tag(text)
    except BadInput:
        fix = "Give a tag, a whole commit (40 digits), `main`, or a pull request (refs/pr/3)."
        raise BadInput(f"{_shown(text)} names no revision.", fix) from None


def collection(text: str) -> str:
    """`text` where it can be a collection's title.

    Raises:
        BadInput: it cannot.
    """
    if not _COLLECTION.fullmatch(text) or not text.isprintable() or ".." in text:
        raise BadInput(f"{_shown(text)} cannot be a collection's title.", "Give words of letters and digits.")
    if len(text) > LONGEST_COLLECTION:
        raise BadInput(f"{_shown(text)} has {len(text)} characters.", f"A title has up to {LONGEST_COLLECTION}.")
    return text


def not_a_twin(name: str, existing: Iterable[str], what: str) -> None:
    """Names that differ only in case are one name to some file systems and readers.

    Raises:
        BadInput: `existing` has one.
    """
    for other in existing:
        if other != name and other.casefold() == name.casefold():
            raise BadInput(f"The {what} {_shown(name)} exists, spelled {_shown(other)}.", "Use that spelling.")


def member(base: str, kinds: Sequence[str], algorithm: str = "grpo") -> str:
    """The repository of one checkpoint: `base` followed by what was done to the policy.

    NAME-SFT, NAME-SFT-PRISM, NAME-SFT-PRISM-GRPO, NAME-SFT-GRPO for the baseline, NAME-SFT-discriminator. A kind that
    follows itself counts once; the discriminator shows only where it is the checkpoint.
    """
    words: list[str] = []
    for position, kind in enumerate(kinds):
        if kind == "discriminator" and position < len(kinds) - 1:
            continue
        word = _WORDS.get(kind, algorithm.upper())
        if words[-1:] != [word]:
            words.append(word)
    return "-".join((base, *words))


def family(base: str, members: Sequence[Member]) -> dict[Member, str]:
    """The repository of each checkpoint that is released together, all different in any case.

    Where two would share a name, the first arm's longest way keeps it; the other gets its arm's name, or its stage's
    within the same arm.

    Raises:
        BadInput: a name is longer than the Hub takes.
    """
    arms = list(dict.fromkeys(each.arm for each in members))
    named: dict[Member, str] = {}
    holders: dict[str, Member] = {}
    for each in sorted(members, key=lambda m: (arms.index(m.arm), -len(m.kinds))):
        name = member(base, each.kinds, each.algorithm)
        holder = holders.get(name.casefold())
        if holder is not None:
            name = f"{name}-{each.stage if holder.arm == each.arm else each.arm}"
        if name.casefold() in holders:
            name = f"{name}-{each.stage}"
        named[each] = repo(name)
        holders[name.casefold()] = each
    if len(holders) != len(named):
        raise BadInput(f"Two checkpoints of the family {base} would share a name.", "Release them one at a time.")
    return {each: named[each] for each in members}


def _shown(text: str) -> str:
    """A name in a message: without control characters, without markup, not endless."""
    plain = "".join(c if c.isprintable() and c not in "[]<>" else "?" for c in text)
    return f"`{plain[:80]}{'...' if len(plain) > 80 else ''}`"
