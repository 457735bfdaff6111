"""From a finished stage to a folder that may be published, and what is to be said against it.

    prepared = prepare(run, chosen, "prism-vlm/digits", asked)
    prepared.findings                                       # nothing is published while one is an error

The folder is built anew each time, in the run's `release/<NAME>`; equal runs give equal bytes, so a release that is on
the Hub already is recognised by its hashes. Nothing here talks to the Hub.
"""

from __future__ import annotations

import getpass
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from prism_cli.publication import data
from prism_cli.publication.dataset import gather_dataset, pool_files
from prism_cli.publication.evaluation import Measured
from prism_cli.publication.facts import gather
from prism_cli.publication.probe import probe
from prism_cli.publication.stages import Chosen
from prism_cli.runs.store import RunStore
from release import manifest as manifests
from release.card.dataset import render_dataset
from release.card.render import render
from release.checks import CheckContext, Numbers, run_checks
from release.facts import Change, DatasetFacts, Facts
from release.finding import Finding
from release.folder import add, assemble, assemble_texts
from release.manifest import Manifest

ORDINARY = frozenset({"root", "user", "admin", "ubuntu", "runner", "localhost", "nobody", "home", "test", "prism"})
"""User and host names that are words: finding one of them in a text says nothing."""
SHORTEST_NAME = 5
"""Letters of a user's or host's name from which it is looked for; shorter ones stand inside other words."""


@dataclass(frozen=True)
class Asked:
    """What is asked of every release of a family."""

    tag: str
    family: Mapping[str, str]
    """Repository by stage."""
    draft: bool = False
    what: str = "First release."
    """What changed with this one."""
    data_repo: str | None = None
    tell: Callable[[str], None] = lambda text: None
    stop: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Prepared:
    """A folder and what is known of it."""

    repo: str
    folder: Path
    manifest: Manifest
    facts: Facts | DatasetFacts
    findings: Sequence[Finding]

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == "error"]


def prepare(
    run: RunStore, chosen: Chosen, repo: str, asked: Asked, measured: Measured, changelog: Sequence[Change]
) -> Prepared:
    """Build one release's folder and look at it.

    Args:
        changelog: earlier releases, oldest first.

    Raises:
        BadInput: the stage is not finished or not evaluated, or the folder cannot be written.
        StageFailed: the engine that loads the model gave no answer.
    """
    out = run.root / "release" / repo.split("/")[1]
    asked.tell(f"{repo}: copying and reading {chosen.stage}")
    record = run.stage(chosen.stage).done() or {}
    assemble(run.stage(chosen.stage).model_dir, out, {}, expected=record.get("hash"))
    numbers = Numbers()
    own = manifests.scan(out, on_chunk=numbers)
    asked.tell(f"{repo}: loading the model")
    answer = probe(out, run.root / "release" / "work", tell=asked.tell, stop=asked.stop)
    asked.tell(f"{repo}: writing the card, looking at every file")
    facts = gather(
        run,
        chosen.stage,
        repo,
        asked.family,
        asked.tag,
        measured=measured,
        draft=asked.draft,
        changelog=changelog,
        what=asked.what,
        data_repo=asked.data_repo,
    )
    texts = render(facts, own.files, data.pictures(run))
    add(out, texts)
    manifest = replace(own.joined(manifests.scan(out, only=texts)), canary=answer["canary"])
    manifests.write(out, manifest)
    context = CheckContext.of(facts, probe=answer, numbers=numbers, private=private_names(run))
    return Prepared(repo, out, manifest, facts, run_checks(out, manifest, context))


def prepare_dataset(run: RunStore, repo: str, asked: Asked, changelog: Sequence[Change]) -> Prepared:
    """Build the folder with a run's pools, pictures inside, and look at it.

    Raises:
        BadInput: the pools are not prism's own to publish, are missing, or the folder cannot be written.
    """
    out = run.root / "release" / repo.split("/")[1]
    facts = gather_dataset(run, repo, asked.tag, asked.family, changelog=changelog, what=asked.what)
    asked.tell(f"{repo}: writing the pools of {run.name} with their pictures")
    assemble_texts(out, pool_files(run))
    own = manifests.scan(out)
    asked.tell(f"{repo}: writing the card, looking at every file")
    texts = render_dataset(facts, own.files)
    add(out, texts)
    manifest = own.joined(manifests.scan(out, only=texts))
    manifests.write(out, manifest)
    context = CheckContext(licence=facts.licence, repo_type="dataset", private=private_names(run))
    return Prepared(repo, out, manifest, facts, run_checks(out, manifest, context))


def private_names(run: RunStore) -> list[str]:
    """Names that have no place in a release: of the user, the host, and the folder that holds the runs."""
    found = [_user(), socket.gethostname(), str(run.root.parent)]
    return [name for name in found if len(name) >= SHORTEST_NAME and name.lower() not in ORDINARY]


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user id without a name, as containers have
        return ""


def canary_findings(folder: Path, recorded: Mapping[str, Any], answer: Mapping[str, Any]) -> list[Finding]:
    """What is wrong with a downloaded model: it does not load, or it answers otherwise than is recorded.

    Args:
        recorded: the manifest's canary.
        answer: what the engine said of the folder.
    """
    from release.checks.loading import canary_difference

    fix = "do not use it; tell its publisher, and take a revision that verifies"
    wrong = [problem for part in answer["problems"].values() for problem in part]
    if not wrong and (difference := canary_difference(recorded, answer["canary"])):
        wrong = [difference]
    return [Finding("loading", "error", "", problem, fix) for problem in wrong]
