"""`prism release`: publish a finished run's models on the Hugging Face Hub, and verify what is there."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from integrations.errors import EXIT_STAGE_FAILED

if TYPE_CHECKING:
    from prism_cli.publication.prepare import Prepared
    from prism_cli.publication.stages import Chosen
    from prism_cli.runs.store import RunStore
    from release.finding import Finding
    from release.hub.publish import Preview, Receipt, Target

app = typer.Typer(help="Publish checked models with their cards on the Hugging Face Hub, and verify what is there.")

WHAT, WHERE, OUTPUT = "What to release", "Where", "Output"
Repo = Annotated[str, typer.Option("--repo", metavar="NS/NAME", help="The repository on the Hub.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.", rich_help_panel=OUTPUT)]
Tell = Callable[[str], None]


@app.callback(invoke_without_command=True)
def release(
    ctx: typer.Context,
    repo: Annotated[
        str | None, typer.Option("--repo", metavar="NS/NAME", help="The repository on the Hub.", rich_help_panel=WHERE)
    ] = None,
    run: Annotated[
        str | None, typer.Option(help="The run. [default: the last active one]", rich_help_panel=WHAT)
    ] = None,
    arm: Annotated[
        str | None,
        typer.Option(help="The arm. [default: prism; for `--stage all` the baseline too]", rich_help_panel=WHAT),
    ] = None,
    stage: Annotated[
        str,
        typer.Option(
            metavar="rlvr|align|sft|discriminator|all",
            help="`all`: each checkpoint in a repository of its own, linked and in one collection.",
            rich_help_panel=WHAT,
        ),
    ] = "rlvr",
    dataset: Annotated[
        bool,
        typer.Option("--dataset", help="The run's pools with their pictures, as a dataset.", rich_help_panel=WHAT),
    ] = False,
    tag: Annotated[str, typer.Option(help="Set on the commit.", rich_help_panel=WHAT)] = "v1.0",
    message: Annotated[
        str | None, typer.Option(help="What changed with this release, for its changelog.", rich_help_panel=WHAT)
    ] = None,
    draft: Annotated[
        bool, typer.Option("--draft", help="Release what was not evaluated; its card says so.", rich_help_panel=WHAT)
    ] = False,
    public: Annotated[
        bool,
        typer.Option("--public", help="Make it public once all else has succeeded.", rich_help_panel=WHERE),
    ] = False,
    create_pr: Annotated[
        bool,
        typer.Option("--create-pr", help="Open a pull request; no tag, no visibility.", rich_help_panel=WHERE),
    ] = False,
    collection: Annotated[
        str | None,
        typer.Option(
            metavar="TITLE", help="Collection to gather it in. [default: NAME for `all`]", rich_help_panel=WHERE
        ),
    ] = None,
    runs_dir: Annotated[
        Path, typer.Option(envvar="PRISM_RUNS", help="Folder that holds the runs.", rich_help_panel=WHAT)
    ] = Path("runs"),
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Show files, findings and what would be uploaded; touch nothing.", rich_help_panel=OUTPUT
        ),
    ] = False,
    json_: Json = False,
) -> None:
    """Publish checked models with their cards on the Hugging Face Hub, and verify what is there.

    Builds each folder from the run's own records, looks at it before a byte moves, uploads, commits once, compares
    every hash, tags it, and only then, if asked, makes it public. Repositories are private until then. Running the same
    command again completes what was cut off, and does nothing where all is done.

    The token is HF_TOKEN or the stored login (`hf auth login`).

    Exit codes: 0 done, 1 a check or the Hub failed, 2 bad input, 3 the run is in use, 130 interrupted.
    """
    if ctx.invoked_subcommand is not None:
        return
    from integrations.errors import BadInput
    from prism_cli.publication.stages import stages_to_release
    from prism_cli.runs.overview import find_or_latest
    from release import names
    from release.hub.client import connect
    from release.hub.publish import Target, check_rights

    if repo is None:
        raise BadInput("--repo is missing", "name the repository, e.g. --repo prism-vlm/digits")
    names.repo(repo)
    names.tag(tag)
    if collection is not None:
        names.collection(collection)
    store = find_or_latest(runs_dir, run)
    chosen = [] if dataset else stages_to_release(store, arm, stage)
    repos = names.family(repo, [one.member for one in chosen]) if stage == "all" else {c.member: repo for c in chosen}
    kind: Literal["model", "dataset"] = "dataset" if dataset else "model"
    target = Target(repo, kind, tag, public, create_pr, message or f"Release {tag}")
    with store.locked(), _telling(json_) as tell:
        if not dry_run:
            check_rights(connect(), target)  # before minutes are spent on folders that could not be published
        if dataset:
            made = [_prepare_dataset(store, target, message, tell)]
        else:
            made = _prepare_all(store, chosen, repos, target, message, draft, tell)
        wrong = [finding for one in made for finding in one.errors]
        if dry_run or wrong:
            told, url = [_foreseen(one, target, bool(wrong)) for one in made], None
        else:
            told = _publish_all(store, made, target, tell)
            title = collection or (repo.split("/")[1] if stage == "all" and not dataset else None)
            url = _gather(title, made, public, tell) if title and not create_pr else None
    if json_:
        print(json.dumps({"releases": told, "collection": url, "published": not (dry_run or wrong)}, indent=2))
    else:
        _show(made, told, url, dry_run)
    if wrong:
        raise typer.Exit(EXIT_STAGE_FAILED)


@app.command()
def verify(
    repo: Repo,
    revision: Annotated[str, typer.Option(help="A tag, commit or pull request (refs/pr/3).")] = "main",
    dataset: Annotated[bool, typer.Option("--dataset", help="It is a dataset's repository.")] = False,
    load: Annotated[bool, typer.Option(help="Load the model and ask it what it was asked before.")] = True,
    folder: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep the download here. [default: a temporary folder]")
    ] = None,
    json_: Json = False,
) -> None:
    """Download a release anew, compare every hash with its manifest, load it, and ask it its canary.

    Trusts nothing that is on this machine. The canary is a fixed picture, question and response: the model has to give
    the response the log-probability that is recorded in the release.

    Exit codes: 0 it is what it says, 1 it is not, 2 bad input.
    """
    from release.hub.verify import verify as compare

    with tempfile.TemporaryDirectory(prefix="prism-verify-") as fresh, _telling(json_) as tell:
        work = Path(fresh)
        probe = _prober(work, tell) if load else None
        kind: Literal["model", "dataset"] = "dataset" if dataset else "model"
        findings = compare(repo, revision, kind, folder or work / "download", probe, tell)
    wrong = any(finding.severity == "error" for finding in findings)
    if json_:
        told = {"repo": repo, "revision": revision, "verified": not wrong, "loaded": load and not dataset}
        print(json.dumps(told | {"findings": [finding.to_json() for finding in findings]}, indent=2))
    else:
        if findings:
            _show_findings(findings)
        print(f"{repo} at {revision} {'is NOT what it says' if wrong else 'is what it says'}.")
    if wrong:
        raise typer.Exit(EXIT_STAGE_FAILED)


def _prepare_all(
    store: RunStore,
    chosen: Sequence[Chosen],
    repos: Mapping[Any, str],
    target: Target,
    message: str | None,
    draft: bool,
    tell: Tell,
) -> list[Prepared]:
    """Every folder, built and looked at."""
    from prism_cli.publication.evaluation import Measured
    from prism_cli.publication.history import history
    from prism_cli.publication.prepare import Asked, prepare

    tell(f"reading what was measured in {store.name}")
    measured = Measured(store)
    family = {one.stage: repos[one.member] for one in chosen}
    made = []
    for one in chosen:
        earlier, own = history(repos[one.member], target.tag or "")
        asked = Asked(tag=target.tag or "", family=family, draft=draft, what=message or own, tell=tell)
        made.append(prepare(store, one, repos[one.member], asked, measured, earlier))
    return made


def _prepare_dataset(store: RunStore, target: Target, message: str | None, tell: Tell) -> Prepared:
    from prism_cli.publication.history import history
    from prism_cli.publication.prepare import Asked, prepare_dataset

    earlier, own = history(target.repo, target.tag or "", "dataset")
    asked = Asked(tag=target.tag or "", family={}, what=message or own, tell=tell)
    return prepare_dataset(store, target.repo, asked, earlier)


def _publish_all(store: RunStore, made: Sequence[Prepared], target: Target, tell: Tell) -> list[dict[str, Any]]:
    """Publish each; of several, none is made public before all are there."""
    from release.hub.publish import preview

    def publish_one(one: Prepared, public: bool) -> Receipt:
        return _publish(store, one, target, public, tell)

    if len(made) == 1:
        return [_told(made[0], publish_one(made[0], target.public))]
    receipts = {}
    for one in made:
        already = target.public and preview(one.folder, one.manifest, _of(target, one, False)).public is True
        receipts[one.repo] = publish_one(one, already)
    if target.public:
        receipts = {one.repo: publish_one(one, True) for one in made}
    return [_told(one, receipts[one.repo]) for one in made]


def _of(target: Target, one: Prepared, public: bool) -> Target:
    from dataclasses import replace

    return replace(target, repo=one.repo, public=public)


def _publish(store: RunStore, one: Prepared, target: Target, public: bool, tell: Tell) -> Receipt:
    from release.hub.publish import publish

    warnings = [finding for finding in one.findings if finding.severity == "warning"]
    receipts = store.root / "release" / "receipts"
    receipt = publish(one.folder, one.manifest, _of(target, one, public), tell, receipts, warnings)
    store.event("released", stage=_stage(one), repo=receipt.repo, commit=receipt.commit, tag=receipt.tag)
    return receipt


def _gather(title: str, made: Sequence[Prepared], public: bool, tell: Tell) -> str:
    from release.hub.collections import Item, gather

    items = [Item(one.repo, _kind(one), _title(one)) for one in made]
    return gather(title, made[0].repo.split("/")[0], items, public, tell)


def _foreseen(one: Prepared, target: Target, refused: bool) -> dict[str, Any]:
    """What would be published where nothing is."""
    from release.hub.publish import preview

    there: Preview | None = None if refused else preview(one.folder, one.manifest, _of(target, one, target.public))
    files = [{"path": path, **vars(entry)} for path, entry in sorted(one.manifest.files.items())]
    card = (one.folder / "README.md").read_text(encoding="utf-8")
    told = {"repo": one.repo, "stage": _stage(one), "tag": target.tag, "files": files, "card": card}
    found = [finding.to_json() for finding in one.findings]
    return told | {"findings": found, "hub": there.to_json() if there else None}


def _told(one: Prepared, receipt: Receipt) -> dict[str, Any]:
    """What was published."""
    told = {key: value for key, value in receipt.to_json().items() if key not in ("format", "states", "warnings")}
    return {"stage": _stage(one), **told, "findings": [finding.to_json() for finding in one.findings]}


def _prober(work: Path, tell: Tell) -> Any:
    from prism_cli.publication.prepare import canary_findings
    from prism_cli.publication.probe import probe

    def ask(folder: Path, recorded: Mapping[str, Any]) -> list[Finding]:
        return canary_findings(folder, recorded, probe(folder, work / "probe", tell=tell))

    return ask


@contextmanager
def _telling(quiet: bool) -> Iterator[Tell]:
    """What is being done: a changing line on a terminal, lines on standard error elsewhere, nothing beside `--json`."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True, highlight=False)
    if quiet:
        yield lambda text: None
    elif not console.is_terminal:
        yield lambda text: print(text, file=sys.stderr, flush=True)
    else:
        with console.status("starting") as status:

            def tell(text: str) -> None:
                console.print(text, style="dim", markup=False)
                status.update(escape(text))

            yield tell


def _show(made: Sequence[Prepared], told: Sequence[Mapping[str, Any]], collection: str | None, dry_run: bool) -> None:
    wrong = any(one.errors for one in made)
    for one, facts in zip(made, told, strict=True):
        print(f"\n{one.repo}: {_title(one)}")
        _show_findings(one.findings)
        if dry_run:
            _show_files(one, facts["hub"])
        elif not wrong:
            _show_receipt(facts)
    if wrong:
        print("\nNothing was published: an error has to be mended first.")
    elif dry_run:
        print(f"\nNothing was published. Cards are in {made[0].folder.parent}, each as README.md.")
    if collection:
        print(f"\ncollection: {collection}")


def _stage(one: Prepared) -> str | None:
    return getattr(one.facts, "stage", None)


def _kind(one: Prepared) -> Literal["model", "dataset"]:
    return "dataset" if _stage(one) is None else "model"


def _title(one: Prepared) -> str:
    from release.facts import Facts

    if isinstance(one.facts, Facts):
        return f"{one.facts.title}, {one.facts.weights.parameters:,} parameters"
    return f"{sum(pool.rows for pool in one.facts.pools):,} rows in {len(one.facts.pools)} pools"


def _show_findings(findings: Sequence[Finding]) -> None:
    from prism_cli.ui.tables import print_table
    from release.checks import CHECKS

    if not findings:
        print(f"{len(CHECKS)} checks, nothing found")
        return
    rows = [[one.severity, one.check, one.path, f"{one.problem}; {one.fix}"] for one in findings]
    print_table(["level", "check", "where", "what, and what to do"], rows)


def _show_files(one: Prepared, hub: Mapping[str, Any] | None) -> None:
    from prism_cli.ui.tables import print_table
    from release.manifest import NAME

    there = set(hub["there"]) if hub else set()
    rows = [
        [path, f"{entry.size:,}", entry.sha256[:12], "there" if path in there else "upload"]
        for path, entry in sorted(one.manifest.files.items())
    ]
    print_table(["file", "bytes", "sha256", ""], [*rows, [NAME, "", "", ""]], numbers=[1])
    for path in hub["delete"] if hub else ():
        print(f"would be deleted there: {path}")
    for problem in hub["problems"] if hub else ():
        print(f"in the way: {problem}")


def _show_receipt(facts: Mapping[str, Any]) -> None:
    new = facts["uploaded"] and not facts["repeated"]
    done = f"{len(facts['uploaded'])} files uploaded" if new else "there already, nothing to do"
    where = facts["pull_request"] or facts["url"]
    seen = "public" if facts["public"] else "private"
    print(f"{where}\n{done}, commit {facts['commit'][:12]}, tag {facts['tag'] or 'none'}, {seen}, every hash compared")
    option = " --dataset" if facts["repo_type"] == "dataset" else ""
    revision = facts["tag"] or facts["commit"]
    print(f"verify it: prism release verify --repo {facts['repo']} --revision {revision}{option}")
