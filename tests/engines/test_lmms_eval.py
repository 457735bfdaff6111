"""The harness in its environment, as `prism eval` drives it, against a server that answers by rule."""

from __future__ import annotations

import json
import signal
import struct
import subprocess
import time
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from engine_stage import World, launch_code, run_inside
from stub_server import StubServer, image_addresses, prompt_text
from test_serve import launch_for, running

from benchmarks.samples import Cell, cell_facts, read_cell, write_cell
from benchmarks.suites import PROTOCOLS
from integrations.common.jsonl import JsonlTail
from integrations.lmms_eval import adapter
from integrations.lmms_eval.inside.records import LOG, Log, request_seed
from prism_cli.engines import process
from prism_cli.engines.environments import Environment

pytestmark = pytest.mark.engine

ITEMS = 24
RIGHT, WRONG_CAPTION, CUT, MALFORMED = range(4)
"""What the server does with an item, by its number modulo 4."""


def png(shade: int) -> bytes:
    """A grey picture of 32 x 32 points."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 32, 32, 8, 0, 0, 0, 0))
    pixels = zlib.compress((b"\0" + bytes([shade]) * 32) * 32)
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def write_pool(folder: Path, name: str = "test.jsonl", prefix: str = "item", items: int = ITEMS) -> Path:
    """Items whose true answer is 7, each with a picture and words of its own; every fifth has a system turn."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(items):
        (folder / "images" / f"{number}.png").write_bytes(png(number))
        task = {"kind": "sum", "level": "easy", "digits": [3, 4], "options": None}
        rows.append(
            {
                "id": f"{prefix}-{number}",
                "images": [f"images/{number}.png"],
                "system": "Be brief." if number % 5 == 0 else None,
                "prompt": f"Add all digits. ({number})",
                "answer": "7",
                "task": task,
            }
        )
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / name


def answer(payload: dict[str, Any]) -> dict[str, Any]:
    """By the item's number; a sampled response also tells its seed."""
    number = int(prompt_text(payload).split("(")[1].rstrip(")"))
    thought = f"3+4=7 {payload['seed']}" if payload["temperature"] else "3+4=7"
    caption = "1 2" if number % 4 == WRONG_CAPTION else "3 4"
    text = f"<caption>{caption}</caption>\n<think>{thought}</think>\n<answer>7</answer>"
    if number % 4 == CUT:
        return {"text": text[:20], "finish": "length", "tokens": 96}
    return {"text": "7" if number % 4 == MALFORMED else text}


def protocol(name: str, **changes: Any) -> dict[str, Any]:
    return {"name": name, **PROTOCOLS[name], "max_new_tokens": 96, "prompt": "format", **changes}


def facts(**changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "model": {"label": "prism/rlvr", "weights_hash": "a" * 64},
        "suite": "digits",
        "benchmark": "digits",
        "task": "prism_digits",
        "protocol": protocol("greedy"),
        "decoding_seed": 0,
        "training_seed": 1,
        "samples_per_item": 1,
        "limit": None,
        "task_hash": "t",
        "harness": adapter.harness_facts(),
        "server": {"engine": "stub"},
    }
    return cell_facts(**given | changes)


Cells = Sequence[Mapping[str, Any]]


@dataclass
class Bench:
    """One start of the harness after another, in folders of their own."""

    root: Path
    environment: Environment
    starts: int = 0

    def cell(self, name: str, pool: Path, **changes: Any) -> dict[str, Any]:
        return {"folder": str(self.root / "store" / name), "facts": facts(**changes), "dataset": {"pool": str(pool)}}

    def job(self, url: str | None, cells: Cells, **changes: Any) -> Path:
        self.starts += 1
        folder = self.root / f"start {self.starts}"
        folder.mkdir(parents=True)
        given = {"url": url, "model": "policy", "concurrency": 4, "patience": 2, **changes} if url else None
        return adapter.write_job(
            folder / "job.json",
            server=given,
            cells=cells,
            images=self.root / "store" / "images",
            progress=folder / "progress.jsonl",
            mode="evaluate" if url else "rescore",
        )

    def run(self, url: str | None, cells: Cells, **changes: Any) -> tuple[int, str, Path]:
        """Exit code, log and folder of one start; without a server it scores again."""
        job = self.job(url, cells, **changes)
        code = launch_code(adapter.launch(job), self.environment, job.parent)
        return code, (job.parent / "engine.log").read_text(), job.parent

    def run_and_kill(self, url: str, cells: Cells, when: Callable[[], bool]) -> None:
        job = self.job(url, cells)
        launch = adapter.launch(job)
        imports = process.link_packages(job.parent / "import", launch.packages)
        env = process.engine_environment(launch, self.environment, imports, job.parent / "engine.log")
        command = process.command_line(launch, self.environment)
        with (job.parent / "engine.log").open("wb") as log:
            worker = subprocess.Popen(command, env=env, cwd=job.parent, stdout=log, stderr=log)
            until = time.monotonic() + 300
            while not when() and worker.poll() is None and time.monotonic() < until:
                time.sleep(0.01)
            worker.send_signal(signal.SIGKILL)
            worker.wait()

    def read(self, name: str) -> Cell:
        cell = read_cell(self.root / "store" / name)
        assert cell is not None
        return cell


@pytest.fixture(scope="module")
def bench(lmms_eval_env: Environment, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("a harness"), lmms_eval_env)


@dataclass
class Evaluated:
    """What one start left, whose first cell an earlier start was killed in."""

    bench: Bench
    pool: Path
    cells: dict[str, dict[str, Any]]
    code: int
    log: str
    progress: list[dict[str, Any]]
    before_kill: list[dict[str, Any]]
    payloads: list[dict[str, Any]]


@pytest.fixture(scope="module")
def evaluated(bench: Bench) -> Evaluated:
    pool = write_pool(bench.root / "pools")
    twice = bench.root / "pools" / "twice.jsonl"
    twice.write_text(pool.read_text() + pool.read_text().splitlines()[3] + "\n")
    refused = write_pool(bench.root / "refused", items=90)
    cells = {
        "killed": bench.cell("killed", pool),
        "straight": bench.cell("straight", pool),
        "sampled": bench.cell(
            "sampled", pool, protocol=protocol("paper", top_k=5), decoding_seed=3, samples_per_item=3, limit=6
        ),
        "namesake": bench.cell("namesake", pool, model={"label": "prism/rlvr", "weights_hash": "b" * 64}, limit=4),
        "missing": bench.cell("missing", bench.root / "nowhere.jsonl"),
        "twice": bench.cell("twice", twice),
        "refused": bench.cell("refused", refused),
        "no task": bench.cell("no task", pool, task="prism_digit"),
        "blocked": bench.cell("blocked", pool, limit=2),
        "contrary": bench.cell("contrary", pool, protocol=protocol("greedy", max_new_tokens=33), limit=2),
        "smoke": bench.cell("smoke", pool, task="prism_digits_smoke"),
    }
    slow = StubServer(answer, delay=0.15)
    bench.run_and_kill(slow.url, [cells["killed"]], lambda: len(slow.payloads) >= 9)
    slow.close()
    # A namesake left a log behind, and a file stands where a cell wants its folder.
    namesake = Path(cells["namesake"]["folder"])
    namesake.mkdir(parents=True)
    (namesake / LOG).write_bytes((Path(cells["killed"]["folder"]) / LOG).read_bytes())
    Path(cells["blocked"]["folder"]).write_text("in the way")
    stumbled: set[str] = set()

    def stumbling(payload: dict[str, Any]) -> dict[str, Any]:
        text = prompt_text(payload)
        if "(88)" in text:
            return {"status": 400}
        if payload["max_tokens"] == 33:
            return {**answer(payload), "prism": {"temperature": 0.7}}
        if text not in stumbled:
            stumbled.add(text)
            return {"status": 503} if len(stumbled) % 2 else {"text": "half a", "finish": "abort"}
        return answer(payload)

    with StubServer(stumbling) as server:
        code, log, folder = bench.run(server.url, list(cells.values()), patience=20)
        payloads = server.payloads
    progress = JsonlTail(folder / "progress.jsonl").poll()
    return Evaluated(bench, pool, cells, code, log, progress, slow.payloads, payloads)


def rows(cell: Cell) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = cell.table.to_pylist()
    return found


def logged(evaluated: Evaluated, name: str) -> dict[tuple[str, int], dict[str, Any]]:
    return Log(Path(evaluated.cells[name]["folder"])).read()


def test_messages_are_those_of_training(evaluated: Evaluated) -> None:
    for payload in evaluated.before_kill:
        number = int(prompt_text(payload).split("(")[1].rstrip(")"))
        *system, user = payload["messages"]
        assert [part["type"] for part in user["content"]] == ["image_url", "text"]
        assert prompt_text(payload) == f"Add all digits. ({number})"
        assert image_addresses(payload)[0].startswith("data:image/png;base64,")
        wanted = [{"role": "system", "content": [{"type": "text", "text": "Be brief."}]}] if number % 5 == 0 else []
        assert system == wanted


def test_every_parameter_is_sent_with_a_seed_of_its_own(evaluated: Evaluated) -> None:
    entries = logged(evaluated, "sampled")
    assert sorted(entries) == sorted((f"item-{number}", sample) for number in range(6) for sample in range(3))
    for (item, sample), entry in entries.items():
        seed = request_seed(3, "prism_digits", item, sample)
        assert entry["sent"] == {"temperature": 1.0, "top_p": 0.7, "top_k": 5, "max_tokens": 96, "seed": seed}
    sent = [{key: value for key, value in p.items() if key not in ("messages", "model")} for p in evaluated.payloads]
    assert all(entry["sent"] in sent for entry in entries.values())
    greedy = [payload for payload in evaluated.payloads if payload["temperature"] == 0]
    assert all("top_k" not in payload and payload["top_p"] == 1 for payload in greedy)
    assert {payload["model"] for payload in evaluated.payloads} == {"policy"}


def test_killed_cell_asks_only_what_is_missing_and_ends_as_the_straight_one(evaluated: Evaluated) -> None:
    kept = [entry for entry in logged(evaluated, "killed").values() if entry["seconds"]]
    assert len(kept) == ITEMS
    lines = (Path(evaluated.cells["killed"]["folder"]) / LOG).read_text().split("\n")
    whole = Counter(json.loads(line)["item"] for line in lines if line.endswith("}"))
    assert set(whole.values()) == {1}  # nothing that was answered was asked again
    killed, straight = evaluated.bench.read("killed"), evaluated.bench.read("straight")
    assert rows(killed) == rows(straight)
    assert killed.facts["dataset_hash"] == straight.facts["dataset_hash"]
    # The server forgets at a kill at most the four requests that were under way.
    assert len(evaluated.before_kill) < ITEMS


def test_verdicts_are_exact_and_nothing_is_guessed(evaluated: Evaluated) -> None:
    found = rows(evaluated.bench.read("straight"))
    assert [row["item_id"] for row in found] == [f"item-{number}" for number in range(ITEMS)]
    for number, row in enumerate(found):
        whole = number % 4 in (RIGHT, WRONG_CAPTION)
        assert row["correct"] == row["rule_correct"] == row["format"] == whole
        assert row["rule"] == ("exact" if whole else "unparseable")
        assert row["answer"] == ("7" if whole else None)
        assert row["truncated"] == (number % 4 == CUT)
        assert row["tokens"] == (96 if number % 4 == CUT else 7)
        assert row["perception"] == (number % 4 == RIGHT)
        assert row["logic"] == ({RIGHT: True, WRONG_CAPTION: False}.get(number % 4))
        assert (row["subset"], row["reference"], row["question"]) == ("sum", "7", f"Add all digits. ({number})")
        assert (row["training_seed"], row["decoding_seed"], row["sample"]) == (1, 0, 0)
    assert found[MALFORMED]["response"] == "7"
    assert len({row["prompt_hash"] for row in found}) == ITEMS


def test_previews_are_named_by_their_picture(evaluated: Evaluated) -> None:
    names = [name for row in rows(evaluated.bench.read("straight")) for name in row["images"]]
    images = evaluated.bench.root / "store" / "images"
    assert len(set(names)) == ITEMS
    assert {path.name for path in images.iterdir()} >= set(names)
    assert all((images / name).read_bytes().startswith(b"\x89PNG") for name in names)
    assert not list(images.glob(".*"))


def test_every_sample_is_kept_and_scored(evaluated: Evaluated) -> None:
    cell = evaluated.bench.read("sampled")
    assert (cell.facts["items"], cell.table.num_rows) == (6, 18)
    found = rows(cell)
    assert [(row["item_id"], row["sample"]) for row in found] == [(f"item-{n}", k) for n in range(6) for k in range(3)]
    for row in found:
        number = int(row["item_id"].split("-")[1])
        assert row["correct"] == (number % 4 in (RIGHT, WRONG_CAPTION))
        if row["correct"]:
            assert row["reasoning"] == f"3+4=7 {request_seed(3, 'prism_digits', row['item_id'], row['sample'])}"
    assert len({row["reasoning"] for row in found if row["correct"]}) == 12
    assert cell.facts["dataset_hash"] == evaluated.bench.read("straight").facts["dataset_hash"]  # before the limit


def test_another_model_s_responses_are_never_taken(evaluated: Evaluated) -> None:
    entries = logged(evaluated, "namesake")
    mine = {entries[f"item-{number}", 0]["by"] for number in range(4)}
    others = {entry["by"] for entry in logged(evaluated, "killed").values()}
    assert len(mine) == 1
    assert not mine & others
    assert evaluated.bench.read("namesake").facts["items"] == 4


def test_what_cannot_be_evaluated_is_said_and_keeps_nothing_else_back(evaluated: Evaluated) -> None:
    assert evaluated.code == 1
    told = adapter.explain_cells(evaluated.log)
    root = evaluated.bench.root
    problems = {Path(folder).name: problem for folder, (problem, fix) in told.items() if fix}
    assert problems.keys() == {"missing", "twice", "refused", "no task", "blocked", "contrary"}
    assert f"cannot read the data pool {root / 'nowhere.jsonl'}" in problems["missing"] or (
        f"the data set {root / 'nowhere.jsonl'} of task prism_digits does not exist" in problems["missing"]
    )
    assert "item id `item-3` stands there twice" in problems["twice"]
    assert "refuses a request (400" in problems["refused"]
    assert "the server used temperature 0.7 where 0.0 was asked for" in problems["contrary"]
    assert "there is no task `prism_digit`" in problems["no task"]
    assert "Not a directory" in problems["blocked"] or "File exists" in problems["blocked"]
    assert "Traceback" not in evaluated.log
    for name in problems:
        assert read_cell(Path(evaluated.cells[name]["folder"])) is None
    assert evaluated.bench.read("smoke").facts["items"] == 12  # the last one


def test_progress_reaches_the_end(evaluated: Evaluated) -> None:
    steps = [line["step"] for line in evaluated.progress]
    assert steps == sorted(steps)
    # All but the cells that could not be loaded: two of 24, 6 x 3, 4, 90 that a refusal ended, 2, 2, and 12.
    assert (steps[-1], evaluated.progress[-1]["total"]) == (176, 176)


def test_cell_says_how_it_was_made(evaluated: Evaluated) -> None:
    for name in ("killed", "sampled", "smoke"):
        cell = evaluated.bench.read(name)
        asked = evaluated.cells[name]["facts"]
        assert adapter.check_cell(cell.folder, asked) is None
        assert {**cell.facts, **asked} == cell.facts
        assert cell.facts["generated_tokens"] == sum(row["tokens"] for row in rows(cell))
        assert cell.facts["seconds"] > 0


@pytest.fixture(scope="module")
def rescored(evaluated: Evaluated) -> tuple[dict[str, list[dict[str, Any]]], int, str]:
    """A start that scores four cells again: as they are, with spoiled verdicts, on other data, and none."""
    bench = evaluated.bench
    before = {name: rows(bench.read(name)) for name in ("sampled", "straight")}
    straight = bench.read("straight")
    spoiled = [
        {**row, "correct": False, "rule": "judge", "judged": "wrong", "answer": "x"} for row in before["straight"]
    ]
    write_cell(straight.folder, spoiled, {**straight.facts, "judge": {"model": "j"}})
    other = write_pool(bench.root / "changed", items=ITEMS)
    other.write_text(other.read_text().replace("(2)", "(2!)"))
    changed = {**evaluated.cells["killed"], "dataset": {"pool": str(other)}}
    cells = [evaluated.cells["sampled"], evaluated.cells["straight"], changed, bench.cell("none", evaluated.pool)]
    code, log, _ = bench.run(None, cells)
    return before, code, log


def test_rescoring_asks_nobody_and_ends_in_the_same_rows(
    evaluated: Evaluated, rescored: tuple[dict[str, list[dict[str, Any]]], int, str]
) -> None:
    before, code, log = rescored
    for name, wanted in before.items():
        assert rows(evaluated.bench.read(name)) == wanted
    straight = evaluated.bench.read("straight")
    assert straight.facts["judge"] is None
    assert straight.facts["seconds"] > 0
    assert code == 1
    told = {Path(folder).name: problem for folder, (problem, _) in adapter.explain_cells(log).items()}
    assert told.keys() == {"killed", "none"}
    assert "item item-2 is asked in another way now" in told["killed"]
    assert "no finished cell to score again" in told["none"]


def test_server_that_is_gone_ends_the_job_in_one_line_each(evaluated: Evaluated) -> None:
    bench = evaluated.bench
    with StubServer(lambda _: {"status": 500}) as server:
        cells = [bench.cell("gone", evaluated.pool), evaluated.cells["killed"], bench.cell("gone too", evaluated.pool)]
        code, log, _ = bench.run(server.url, cells, patience=1)
    assert code == 1
    [(folder, (problem, fix))] = adapter.explain_cells(log).items()
    assert Path(folder).name == "gone"
    assert "answered 500" in problem
    assert "run the same command again" in fix
    assert "Traceback" not in log
    assert adapter.check_cell(Path(folder), cells[0]["facts"]) == "there is no finished cell"
    assert read_cell(Path(cells[2]["folder"])) is None


def test_greedy_answers_are_those_of_training(
    bench: Bench, small_world: World, alignment_env: Environment, tmp_path: Path
) -> None:
    pool, items, longest = small_world.data / "validation.jsonl", 8, 12
    arguments = [tmp_path / "texts.json", small_world.model, pool, str(items), str(longest)]
    run_inside(alignment_env, "greedy.py", arguments, tmp_path)
    cell = bench.cell("served", pool, protocol=protocol("greedy", max_new_tokens=longest), limit=items)
    folder = tmp_path / "a server"
    with running(launch_for(small_world.model, folder), alignment_env, folder) as server:
        code, log, _ = bench.run(server.wait_ready(), [cell])
    assert code == 0, log
    found = rows(bench.read("served"))
    assert [row["response"] for row in found] == json.loads((tmp_path / "texts.json").read_text())
    assert all(row["tokens"] == longest or not row["truncated"] for row in found)
