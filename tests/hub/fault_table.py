"""Releases through everything that can go wrong: what it leaves on the Hub, and what the same command does next.

    program = library(tmp_path / "release")
    row = run("commit: reply lost", "2.x", tmp_path, program)
    assert not row.wrong
    print(*table([row]), sep="\\n")

Each case publishes in a process of its own, with real HTTP and the real client, has one thing go wrong, and then runs
the same command again without it. Whatever went wrong, main holds afterwards either what it held before or the whole
release; nobody sees it who should not yet; the second run completes it, sends nothing that has arrived before and
makes no second commit; and what it completed is downloaded and compared.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from loopback import (
    FOREVER,
    WRITE_TOKEN,
    Call,
    Hub,
    client_env,
    cut,
    delay,
    drop,
    hang,
    hook,
    hub,
    lose,
    status,
    trickle,
)
from loopback.faults import Effect
from loopback.store import Repo

from release import manifest

REPO, TAG = "prism-vlm/quick", "v2.0"
CARD = b"---\nlicense: apache-2.0\n---\n# Quick\n"
PART = 400_000
RELEASE = {
    "README.md": CARD + b"Better.\n",
    "config.json": b'{"model_type": "quick"}\n',
    "model-00001-of-00002.safetensors": b"1" * 1_000_000,
    "model-00002-of-00002.safetensors": b"2" * 300_000,
    "tokenizer.json": b"{}\n",
}
"""Its first file goes up in parts, the second whole, the others within the commit."""
EARLIER: dict[str, bytes | None] = {"README.md": CARD, "config.json": b"{}\n", "model.safetensors": b"0" * 300_000}
"""What main holds before an update; its weights must go."""
PATIENCE = {"PRISM_HUB_TIMEOUT": "5", "PRISM_HUB_ATTEMPTS": "3", "PRISM_HUB_WAIT": "5"}
LIMIT = 600
"""Seconds that a run may take."""
RETRIED = frozenset({"preupload", "batch", "put", "part", "complete", "verify"})
"""Calls that the client library itself repeats."""


@dataclass(frozen=True)
class Program:
    """What publishes."""

    command: Sequence[str | Path]
    release: Path
    """Folder with the files that main must hold in the end."""
    downloads: bool = True
    """It takes `--verify DIR`, to download and compare what it published."""


def library(folder: Path, files: Mapping[str, bytes] | None = None, tag: str = TAG) -> Program:
    """The release package on some files (default: `RELEASE`), which it puts into `folder`."""
    folder.mkdir(parents=True)
    for name, content in (RELEASE if files is None else files).items():
        (folder / name).write_bytes(content)
    manifest.write(folder, manifest.scan(folder))
    publisher = Path(__file__).with_name("publisher.py")
    receipts = folder.with_name(f"{folder.name} receipts")
    return Program([sys.executable, publisher, folder, REPO, receipts, "--tag", tag, "--public"], folder)


def command_line(run: str, runs: Path, folder: Path) -> Program:
    """`prism release` of a finished run. What it must publish is what it publishes when nothing goes wrong."""
    command = [sys.executable, "-m", "prism_cli", "release", "--repo", REPO, "--tag", TAG, "--public"]
    program = Program([*command, "--run", run, "--runs-dir", runs.absolute()], folder / "release", downloads=False)
    with hub(folder / "hub") as server:
        subprocess.run(program.command, env=environment(server, "2.x"), check=True, stdout=subprocess.DEVNULL)
        repo = server.repo(REPO)
        for name in set(repo.files()) - {".gitattributes"}:
            (program.release / name).parent.mkdir(parents=True, exist_ok=True)
            (program.release / name).write_bytes(repo.read(name))
    return program


def environment(server: Hub, line: str) -> dict[str, str]:
    """Of a publisher's process."""
    env = {**os.environ, **server.env(), **client_env(line), **PATIENCE}
    root = str(Path(__file__).parents[2])
    return env | {"PYTHONPATH": os.pathsep.join(filter(None, [env.get("PYTHONPATH"), root]))}


@dataclass
class Scene:
    """One Hub and one publisher."""

    server: Hub
    folder: Path
    program: Program
    line: str
    update: bool
    before: str | None = None
    """Head of main before the release; None: no repository."""
    others: set[str] = field(default_factory=set)
    """Commits by somebody else."""
    process: subprocess.Popen[str] | None = None

    def publish(self, full_disk: bool = False, address: str | None = None) -> tuple[int, str]:
        """Run the command to its end. Returns its exit code (-9: killed) and what it wrote."""
        env = {**environment(self.server, self.line), **({"HF_ENDPOINT": address} if address else {})}
        shutil.rmtree(self.folder / "download", ignore_errors=True)
        command = [*self.program.command]
        command += ["--verify", self.folder / "download"] if self.program.downloads else []
        self.process = subprocess.Popen(
            command,
            env=env,
            cwd=self.folder,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=_no_room if full_disk else None,
        )
        try:
            output, _ = self.process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return -1, f"still running after {LIMIT} s"
        return self.process.returncode, output

    def kill(self, call: Call) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def intrude(self, call: Call) -> None:
        """Somebody else commits a file of their own."""
        self.others.add(self.server.push(REPO, {"notes.txt": b"not ours"}))

    def intrude_with_weights(self, call: Call) -> None:
        self.others.add(self.server.push(REPO, {"model.safetensors": os.urandom(1000)}))

    def repo(self) -> Repo | None:
        return self.server.repo(REPO) if REPO in self.server.repos() else None

    def made(self) -> list[str]:
        """Commits on main that the publisher made, newest first."""
        repo = self.repo()
        history = repo.history() if repo else []
        first = {self.before} if self.before else {history[-1]} if history else set()
        return [oid for oid in history[: history.index(next(iter(first)))] if oid not in self.others] if first else []

    def stored(self) -> set[str]:
        """sha256 of the large files that have arrived."""
        folder = self.server.store.place("model", REPO) / "lfs"
        return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def _no_room() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


@dataclass(frozen=True)
class Case:
    """One thing that goes wrong."""

    arrange: Callable[[Scene], object] = lambda scene: None
    rides: bool | None = None
    """Whether the first run must complete in spite of it (True), must not (False), or may (None)."""
    update: bool = True
    """Into a repository with an earlier release, or (False) into none."""
    full_disk: bool = False
    gone: bool = False
    """No server answers."""


@dataclass
class Row:
    """What became of a case."""

    name: str
    line: str
    first: str = ""
    left: str = ""
    again: str = ""
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)
    """What must not be."""
    said: str = ""
    """What the first run wrote last."""


def run(name: str, line: str, folder: Path, program: Program) -> Row:
    """Have it go wrong, then run the same command again."""
    case, row, began = CASES[name], Row(name, line), time.monotonic()
    with hub(folder / "hub", part_size=PART) as server:
        scene = Scene(server, folder, program, line, case.update)
        if case.update:
            server.store.create("model", REPO, private=False, author="prism-bot")
            scene.before = server.push(REPO, EARLIER, "earlier release")
        case.arrange(scene)
        code, output = scene.publish(case.full_disk, "http://127.0.0.1:9" if case.gone else None)
        try:
            server.settle()
        except TimeoutError as error:
            row.wrong.append(str(error))
        row.first, row.said = _ended(code), output.strip().splitlines()[-1] if output.strip() else ""
        row.left = _left(scene, row.wrong)
        if case.rides is not None and (code == 0) != case.rides:
            row.wrong.append(f"the first run {row.first}: {row.said}")
        _look_at_output(code, output, row)
        _again(scene, row)
        if any(call.authorized for call in server.calls if call.origin == "blobs"):
            row.wrong.append("a token reached the other origin")
        if any(call.kind == "unknown" for call in server.calls):
            row.wrong.append("an address that the server does not know")
    row.seconds = time.monotonic() - began
    return row


def _ended(code: int) -> str:
    return {0: "done", -9: "killed", -1: "hangs"}.get(code, f"stops ({code})")


def _look_at_output(code: int, output: str, row: Row) -> None:
    if code not in (0, 1, 2, -9):
        row.wrong.append(f"exit code {code}: {output[-300:]}")
    if "Traceback" in output:
        row.wrong.append(f"a traceback: {output[-300:]}")
    if WRITE_TOKEN in output:
        row.wrong.append("the token is in the output")
    if code > 0 and "." not in output:
        row.wrong.append("it does not say why it stopped")
    if code == 0 and row.left != "whole, tagged":
        row.wrong.append(f"it says that it is done, and the Hub holds: {row.left}")


def _left(scene: Scene, wrong: list[str]) -> str:
    """What is on the Hub, in two words. A half release, or one that is seen too early, is wrong."""
    repo, made = scene.repo(), scene.made()
    if repo is None:
        return "nothing"
    if not scene.update and not repo.private and repo.tags.get(TAG) is None:
        wrong.append("public before it is complete")
    broken = [oid for oid in made if not whole(repo, oid, scene.program.release)]
    if broken:
        wrong.append(f"half a release: commit {broken[0]}")
        return "HALF"
    tagged = repo.tags.get(TAG)
    if tagged is not None:
        if not whole(repo, tagged, scene.program.release):
            wrong.append("the tag names something else")
        return "whole, tagged" if not repo.private else "whole, private"
    return "whole, untagged" if made else "untouched"


def whole(repo: Repo, commit: str, folder: Path) -> bool:
    """Whether a commit holds the release and no other weights."""
    files = repo.files(commit)
    names = {path for path, _ in manifest.walk(folder)}
    same = all(name in files and repo.read(name, commit) == (folder / name).read_bytes() for name in names)
    return same and not [name for name in files if name.endswith(".safetensors") and name not in names]


def _again(scene: Scene, row: Row) -> None:
    """The same command without the trouble."""
    scene.server.clear_faults()
    had, before = scene.stored(), len(scene.server.calls)
    code, output = scene.publish()
    calls = scene.server.calls[before:]
    sent = {call.path.split("/")[5] for call in calls if call.kind in ("put", "part")}
    row.again = f"{_ended(code)}, {len(sent)} sent"
    left = _left(scene, row.wrong)
    if code != 0 or left != "whole, tagged":
        row.wrong.append(f"run again it {_ended(code)} and the Hub holds: {left}; {output[-300:]}")
    if sent & had:
        row.wrong.append("it sends again what had arrived")
    if len(scene.made()) != 1:
        row.wrong.append(f"{len(scene.made())} commits")


def table(rows: Sequence[Row]) -> list[str]:
    """Lines of at most 80 columns."""
    lines = [f"{'what goes wrong':34} {'hub':3} {'first run':9} {'left on main':15} {'run again':14}", "-" * 79]
    for row in rows:
        mark = "" if not row.wrong else " WRONG"
        lines.append(f"{row.name:34} {row.line:3} {row.first:9} {row.left:15} {row.again:14}{mark}")
        lines += [f"    {text}" for text in row.wrong]
    return lines


# What goes wrong


def fault(kind: str, effect: Effect, times: float = 1, rides: bool | None = None, **more: bool) -> Case:
    return Case(lambda scene: scene.server.fault(kind, effect, times), rides, **more)


def killed(kind: str, effect: Effect, after: bool = False) -> Case:
    """SIGKILL at a call: before the server does the work (which it then does, or with `drop` does not), or after."""

    def arrange(scene: Scene) -> None:
        chosen = replace(effect, after=scene.kill) if after else replace(effect, before=scene.kill)
        scene.server.fault(kind, chosen)

    return Case(arrange, rides=False)


def by_another(kind: str, intrude: Callable[[Scene, Call], None], after: bool = False) -> Case:
    def arrange(scene: Scene) -> None:
        def act(call: Call) -> None:
            intrude(scene, call)

        scene.server.fault(kind, hook(after=act) if after else hook(before=act))

    return Case(arrange)


def _cases() -> Mapping[str, Case]:
    reads, writes = ("whoami", "info", "tree", "refs"), ("batch", "put", "part", "complete", "verify")
    calls = [*reads, "validate", "preupload", *writes, "commit", "tag", "create", "settings"]
    cases: dict[str, Case] = {"nothing": Case(rides=True), "nothing, a new repository": Case(rides=True, update=False)}
    passing = {"500": status(500), "503, wait 1 s": status(503, 1), "429, wait 1 s": status(429, 1), "dropped": drop()}
    passing |= {"reply lost": lose(), "0.5 s late": delay(0.5)}
    for kind in calls:
        new = kind in ("create", "settings")
        for name, effect in passing.items():
            cases[f"{kind}: {name}"] = fault(kind, effect, rides=True, update=not new)
        for code in (401, 403, 404, 409, 412, 413, 507):
            cases[f"{kind}: {code}"] = fault(kind, status(code), update=not new)
        harmless = kind == "verify"  # what it would confirm has arrived, and the next attempt is told so
        cases[f"{kind}: 500 for ever"] = fault(kind, status(500), FOREVER, harmless, update=not new)
        cases[f"{kind}: hangs"] = fault(kind, hang(), FOREVER if kind not in RETRIED else 1, update=not new)
        for name, effect, after in (
            ("before", drop(), False),
            ("at", Effect("killed"), False),
            ("after", lose(), True),
        ):
            cases[f"killed {name} {kind}"] = replace(killed(kind, effect, after), update=not new)
    for kind in ("put", "part"):
        cases[f"{kind}: cut within"] = fault(kind, cut(100_000), rides=True)
        cases[f"{kind}: cut for ever"] = fault(kind, cut(100_000), FOREVER, rides=False)
        cases[f"{kind}: 1 MB/s"] = fault(kind, trickle(1_000_000), FOREVER, rides=True)
    for kind in ("preupload", "commit", "tag"):
        cases[f"another's note before {kind}"] = by_another(kind, Scene.intrude)
        cases[f"another's weights before {kind}"] = by_another(kind, Scene.intrude_with_weights)
    cases["another's note after commit"] = by_another("commit", Scene.intrude, after=True)
    cases["no room on the disk"] = Case(full_disk=True, rides=False)
    cases["no server"] = Case(gone=True, rides=False)
    return cases


CASES = _cases()
