"""`prism data get` against a Hub on loopback: what it fetches, makes and records, and everything that can go wrong."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from filelock import FileLock
from huggingface_hub import constants, errors
from loopback import FOREVER, Hub, hub, status, trickle
from published import archive, chart, encoded, jsonl, pair_record, parquet, repositories, rl_record, sft_record

from integrations.common.rows import read_rows
from integrations.errors import BadInput, RunLocked, StageFailed
from prism_cli.__main__ import main
from prism_cli.datasets import catalogue, convert, reading
from prism_cli.datasets import get as getting
from prism_cli.datasets import hub as hubs
from prism_cli.pipeline import groundwork
from prism_cli.recipes.load import builtin_names, load
from prism_cli.recipes.schema import HubModel

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Hub]:
    with hub(tmp_path / "hub") as running:
        for (kind, name), files in repositories().items():
            running.store.create(kind, name, False, "an-author")
            running.push(name, dict(files), type=kind)
        yield running


@pytest.fixture
def here(tmp_path: Path) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    return folder


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "prism_cli", "data", "get", *words]


def environment(server: Hub, token: str | None = None) -> dict[str, str]:
    return {**os.environ, **server.env(token), "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "COLUMNS": "80"}


def get(server: Hub, here: Path, *words: str, token: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*words),
        cwd=here,
        env=environment(server, token),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def quick(server: Hub, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """The command in this process: the library reads its endpoint once, so it is put in place."""
    for name, value in server.env(None).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(here)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, server.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", server.url)

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        code = main(["data", "get", *words])
        return subprocess.CompletedProcess(words, code, *capsys.readouterr())

    return call


def told(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr + done.stdout
    return dict(json.loads(done.stdout))


def fetched(server: Hub, name: str) -> list[str]:
    """Addresses of files that were asked for, bodies only."""
    return [
        call.path
        for call in server.calls
        if call.kind in ("resolve", "blob") and call.method == "GET" and name in call.path
    ]


def test_a_recipes_data_and_models_arrive_as_its_stages_read_them(server: Hub, here: Path) -> None:
    found = told(get(server, here, "--recipe", "qwen3-vl-4b", "--json"))
    data = here / "data" / "prism"
    assert {path.name for path in data.glob("*.jsonl")} == {
        "public.jsonl",
        "curated.jsonl",
        "teacher.jsonl",
        "rlvr.jsonl",
    }
    rows = {pool: [*read_rows(data / f"{pool}.jsonl")] for pool in ("public", "curated", "teacher", "rlvr")}
    assert {pool: len(of) for pool, of in rows.items()} == {"public": 6, "curated": 6, "teacher": 6, "rlvr": 3}
    for of in rows.values():
        for row in of:
            assert (data / row["images"][0]).read_bytes().startswith(b"\x89PNG")
            assert "<image>" not in row["prompt"]
    assert rows["teacher"][0]["response"].startswith("<caption>bars 0</caption>")
    assert rows["public"][0]["answer"] == "1"
    assert (data / rows["public"][3]["images"][0]).read_bytes() == encoded(chart(103))
    policy = here / "models" / "Qwen3-VL-4B-Instruct"
    assert sorted(path.name for path in policy.rglob("*")) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert (here / "models" / "Qwen3-VL-2B-Instruct" / "config.json").is_file()
    assert found["own"] == ["test"]
    receipt = json.loads((data / "teacher.receipt.json").read_text())
    assert receipt["revision"] == server.repo("prism-vlm/rl_dataset", "dataset").resolve("main")
    assert receipt["files"][0]["path"] == "rl_training_data_5.9k.parquet"
    assert (receipt["rows"], receipt["left_out"], receipt["done"]) == (6, {}, True)


def test_a_second_call_fetches_nothing_and_keeps_the_commit(server: Hub, here: Path, quick: Call) -> None:
    told(quick("--only", "teacher", "--json"))
    first = (here / "data/prism/teacher.receipt.json").read_text()
    rows = [rl_record(number) for number in range(9)]
    server.push("prism-vlm/rl_dataset", {"rl_training_data_5.9k.parquet": parquet(rows)}, type="dataset")
    server.calls.clear()
    again = told(quick("--only", "teacher", "--json"))
    assert (again["plans"][0]["done"], fetched(server, "")) == (True, [])
    assert (here / "data/prism/teacher.receipt.json").read_text() == first
    newer = told(quick("--only", "teacher", "--update", "--json"))
    assert newer["receipts"][0]["rows"] == 9
    assert len([*read_rows(here / "data/prism/teacher.jsonl")]) == 9


def test_a_dry_run_shows_sizes_and_fetches_nothing(server: Hub, here: Path) -> None:
    shown = get(server, here, "--dry-run")
    assert shown.returncode == 0, shown.stderr
    assert "nothing was fetched" in shown.stdout
    assert "not published, yours to put in place: test" in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 80
    assert [*here.iterdir()] == []
    assert fetched(server, "") == []


def test_pairs_lie_beside_their_images_and_share_their_bytes(server: Hub, here: Path, quick: Call) -> None:
    told(quick("--only", "pairs", "--json"))
    pairs = here / "data/pairs/pairs.jsonl"
    image = json.loads(pairs.read_text().splitlines()[2])["image"]
    assert (pairs.parent / image).read_bytes() == encoded(chart(2))
    original = here / "data/hub/prism-vlm/rl_dataset/qwen3_vl_moe_warmup_pairwise_120k.jsonl"
    assert pairs.stat().st_ino == original.stat().st_ino


def test_images_that_lie_elsewhere_than_rows_say_are_found(server: Hub, here: Path, quick: Call) -> None:
    lines = [pair_record(number, image=f"/training-data/somebody/images/{number}.png") for number in range(3)]
    name = "qwen3_vl_moe_warmup_pairwise_120k.jsonl"
    moved = archive({f"pairwise/images/{number}.png": encoded(chart(number)) for number in range(3)})
    changed = {name: jsonl(lines), "pairwise_images.tar.gz": moved}
    server.push("prism-vlm/rl_dataset", dict(changed), type="dataset")
    told(quick("--only", "pairs", "--json"))
    pairs = [json.loads(line) for line in (here / "data/pairs/pairs.jsonl").read_text().splitlines()]
    assert [pair["image"] for pair in pairs] == [f"pairwise/images/{number}.png" for number in range(3)]
    assert (here / "data/pairs" / pairs[2]["image"]).read_bytes() == encoded(chart(2))


def test_loose_pictures_are_linked_not_copied(server: Hub, here: Path, quick: Call) -> None:
    loose = {"mmr1/7.png": encoded(chart(7)), "part_0.jsonl": jsonl([{**_loose(7)}]), "images.tar.gz": None}
    server.push("prism-vlm/gemini_public_mmr1", loose, type="dataset")
    told(quick("--only", "public", "--json"))
    (row,) = read_rows(here / "data/prism/public.jsonl")
    placed = here / "data/prism" / row["images"][0]
    assert placed.stat().st_ino == (here / "data/hub/prism-vlm/gemini_public_mmr1/mmr1/7.png").stat().st_ino


def _loose(number: int) -> dict[str, Any]:
    record = sft_record(number)
    return {**record, "images": [f"mmr1/{number}.png"]}


def test_rows_that_cannot_be_used_are_left_out_and_named(server: Hub, here: Path, quick: Call) -> None:
    several = {"messages": [*sft_record(1)["messages"], {"role": "user", "content": "And now?"}]}
    rows = [sft_record(0), sft_record(1, **several), sft_record(2, images=[{"bytes": b"no picture", "path": None}])]
    server.push("prism-vlm/gemini_distill", {"data/train-00000.parquet": parquet(rows)}, type="dataset")
    done = quick("--only", "curated")
    assert done.returncode == 0, done.stderr
    receipt = json.loads((here / "data/prism/curated.receipt.json").read_text())
    assert receipt["rows"] == 5
    assert {reason.split(" ")[0]: entry for reason, entry in receipt["left_out"].items()} == {
        "`messages`": {"rows": 1, "first": ["data/train-00000.parquet:2"]},
        "`images`": {"rows": 1, "first": ["data/train-00000.parquet:3"]},
    }
    assert "1 rows left out: `messages` has the turns" in done.stdout


def test_a_killed_download_goes_on_with_what_it_lacks(server: Hub, here: Path) -> None:
    big = os.urandom(2_000_000)
    server.push("Qwen/Qwen3-VL-2B-Instruct", {"model-00002.safetensors": big})
    server.fault(
        "blob",
        trickle(100_000),
        times=FOREVER,
        path=server.repo("Qwen/Qwen3-VL-2B-Instruct").files()["model-00002.safetensors"].sha256,
    )
    folder = here / "models/Qwen3-VL-2B-Instruct"
    running = subprocess.Popen(
        command("--only", "Qwen3-VL-2B-Instruct"), cwd=here, env=environment(server), start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not ((folder / "model.safetensors").exists() and [*folder.rglob("*.incomplete")]):
        assert time.monotonic() < deadline
        assert running.poll() is None
        time.sleep(0.02)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    server.clear_faults()
    server.calls.clear()
    told(get(server, here, "--only", "Qwen3-VL-2B-Instruct", "--json"))
    assert (folder / "model-00002.safetensors").read_bytes() == big
    assert [*folder.rglob("*.incomplete")] == []
    assert len(fetched(server, "/blob/")) == 1
    assert fetched(server, "config.json") == []


def test_bytes_that_differ_from_the_checksum_are_removed_and_fetched_again(server: Hub, here: Path) -> None:
    repo = server.repo("Qwen/Qwen3-VL-2B-Instruct")
    stored = repo.path_of(repo.files()["model.safetensors"])
    good = stored.read_bytes()
    stored.write_bytes(good[:-1] + b"\0")
    done = get(server, here, "--only", "Qwen3-VL-2B-Instruct", "--json")
    assert done.returncode == 1
    assert "checksums differ" in json.loads(done.stdout)["error"]
    weights = here / "models/Qwen3-VL-2B-Instruct/model.safetensors"
    assert not weights.exists()
    stored.write_bytes(good)
    told(get(server, here, "--only", "Qwen3-VL-2B-Instruct", "--json"))
    assert weights.read_bytes() == good


def refusal(done: subprocess.CompletedProcess[str], code: int = 2) -> tuple[str, str]:
    assert done.returncode == code, done.stdout + done.stderr
    answer = json.loads(done.stdout)
    assert "Traceback" not in done.stderr
    return answer["error"], answer["fix"]


def test_what_may_not_be_read_says_how_to_be_let_in(server: Hub, here: Path) -> None:
    repo = server.repo("prism-vlm/gemini_distill", "dataset")
    repo.gated = "manual"
    repo.save()
    error, fix = refusal(get(server, here, "--only", "curated", "--json"))
    assert error == "prism-vlm/gemini_distill is gated and this account may not read it"
    assert "https://huggingface.co/datasets/prism-vlm/gemini_distill" in fix
    assert "HF_TOKEN" in fix


def test_what_is_not_there_is_named(server: Hub, here: Path, quick: Call) -> None:
    error, fix = refusal(quick("--only", "teacher", "--revision", "0" * 40, "--json"))
    assert error == f"prism-vlm/rl_dataset has no revision {'0' * 40} (any more)"
    assert "--update" in fix
    server.push("prism-vlm/rl_dataset", {"rl_training_data_5.9k.parquet": None}, type="dataset")
    error, fix = refusal(quick("--only", "teacher", "--json"))
    assert "has no file rl_training_data_5.9k.parquet (it has: " in error
    assert "--revision" in fix
    server.store.delete(server.repo("prism-vlm/gemini_distill", "dataset"))
    error, _ = refusal(quick("--only", "curated", "--json"))
    assert error == "there is no dataset prism-vlm/gemini_distill on the Hub, or it is private"
    error, fix = refusal(quick("--only", "curted", "--json"))
    assert "curated" in fix


def test_a_hub_that_fails_is_no_bad_input(server: Hub, here: Path, quick: Call) -> None:
    server.fault("info", status(500), times=FOREVER)
    error, fix = refusal(quick("--only", "curated", "--json"), code=1)
    assert "answered 500" in error
    assert "run the same command again" in fix


def test_a_pool_of_somebody_elses_is_not_overwritten(server: Hub, here: Path, quick: Call) -> None:
    mine = here / "data/prism/teacher.jsonl"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine\n")
    error, _ = refusal(quick("--only", "teacher", "--json"))
    assert "it is not from here" in error
    assert mine.read_text() == "mine\n"


@pytest.fixture
def teacher(quick: Call, here: Path) -> getting.Plan:
    """A plan for the teacher's pool, in this process."""
    (wanted,) = catalogue.chosen(["teacher"], catalogue.extras(here / "data/prism", here / "models"))
    return getting.plan(wanted, here / "data/hub", update=False)


def test_what_does_not_fit_is_refused_before_anything_is_fetched(
    teacher: getting.Plan, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(here)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=int(teacher.size * 2)))
    with pytest.raises(BadInput, match=r"are needed below .* and .* are free"):
        getting.check_space([teacher])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=int(teacher.size * 3)))
    getting.check_space([teacher])


def test_a_disk_that_fills_up_is_one_error(teacher: getting.Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(hubs, "download", full)
    with pytest.raises(BadInput, match="the disk filled up while prism-vlm/rl_dataset was fetched"):
        getting.fetch(teacher, 1, print)


def test_two_processes_do_not_fetch_the_same(teacher: getting.Plan, here: Path) -> None:
    folder = here / "data/hub/prism-vlm"
    folder.mkdir(parents=True)
    with FileLock(folder / ".rl_dataset.lock"), pytest.raises(RunLocked, match="another process is fetching"):
        getting.fetch(teacher, 1, print)


def answer(code: int) -> httpx2.Response:
    return httpx2.Response(code, request=httpx2.Request("GET", "https://huggingface.co/x"))


@pytest.mark.parametrize(
    ("error", "kind", "problem"),
    [
        (errors.OfflineModeIsEnabled("offline"), BadInput, "HF_HUB_OFFLINE is set"),
        (errors.HfHubHTTPError("no", response=answer(403)), BadInput, "does not let this account read a/b"),
        (errors.HfHubHTTPError("wait", response=answer(429)), StageFailed, "answered 429 while a/b was fetched"),
        (httpx2.ConnectError("refused"), StageFailed, "could not be reached"),
        (errors.LocalEntryNotFoundError("gone"), StageFailed, "could not be reached"),
    ],
)
def test_what_the_library_raises_is_one_message(error: Exception, kind: type[Exception], problem: str) -> None:
    with pytest.raises(kind, match=problem), hubs.explained(catalogue.model("a/b"), None):
        raise error


# Conversion, and what training takes of the result


def test_an_interrupted_conversion_goes_on_with_the_next_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"train-{number}.parquet" for number in range(3)]
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(parquet([sft_record(3 * number + place) for place in range(3)]))
    target = tmp_path / "data" / "curated.jsonl"
    target.parent.mkdir()
    read: list[str] = []

    def items(path: Path) -> Any:
        if path.name == names[1] and read.count(names[0]) == 1 and names[1] not in read:
            read.append(names[1])
            raise KeyboardInterrupt
        read.append(path.name)
        return reading.items(path)

    monkeypatch.setattr(convert, "items", items)
    with pytest.raises(KeyboardInterrupt):
        convert.pool(names, tmp_path, target, "a" * 40, 1, print)
    assert not target.exists()
    assert convert.pool(names, tmp_path, target, "a" * 40, 1, print) == {"rows": 9, "left_out": {}}
    assert read.count(names[0]) == 1
    assert len({row["id"] for row in read_rows(target)}) == 9
    assert [path.name for path in target.parent.iterdir() if path.name.startswith(".")] == []


def test_an_archive_cannot_write_outside_its_folder(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(jsonl([sft_record(0, images=["0.png"])]))
    (tmp_path / "images.tar.gz").write_bytes(archive({"../../outside.png": b"x"}))
    target = tmp_path / "deep" / "data" / "curated.jsonl"
    target.parent.mkdir(parents=True)
    with pytest.raises(BadInput, match="cannot unpack"):
        convert.pool(["rows.jsonl", "images.tar.gz"], tmp_path, target, "a" * 40, 1, print)
    assert [*tmp_path.rglob("outside.png")] == []


def test_training_starts_from_the_model_that_was_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "models" / "Qwen3-VL-4B-Instruct"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    repo = "Qwen/Qwen3-VL-4B-Instruct"
    assert getting.fetched_model(repo, None) is None
    receipt = {"repo": repo, "revision": "a" * 40, "done": True}
    getting.receipt_of(folder).write_text(json.dumps(receipt))
    groundwork._fetch(HubModel(repo=repo), tmp_path / "model")
    assert (tmp_path / "model").resolve() == folder
    assert getting.fetched_model(repo, "a" * 40) == folder
    assert getting.fetched_model(repo, "b" * 40) is None
    getting.receipt_of(folder).write_text(json.dumps({**receipt, "done": False}))
    assert getting.fetched_model(repo, None) is None


def test_every_builtin_recipe_says_what_it_needs() -> None:
    for name in builtin_names():
        wanted, own = catalogue.needed(load(name).recipe)
        assert own == ([] if name == "digits" else ["test"]), name
        assert bool(wanted) == (name != "digits")


def test_what_stages_name_is_fetched_to_where_they_look_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    discriminator = "models/Qwen3-VL-2B-4X-Moe-warmup-120k"
    changes = [f"discriminator.init_from={discriminator}", "model.revision=v1"]
    changes.append("discriminator.pairs=mine/pairs.jsonl")
    wanted = {one.name: one for one in catalogue.needed(load("qwen3-vl-4b", sets=changes).recipe)[0]}
    assert wanted["Qwen3-VL-2B-4X-Moe-warmup-120k"].source.repo == "prism-vlm/Qwen3-VL-2B-4X-Moe-warmup-120k"
    assert wanted["Qwen3-VL-2B-4X-Moe-warmup-120k"].target == tmp_path / discriminator
    assert wanted["pairs"].target == tmp_path / "mine" / "pairs.jsonl"
    assert wanted["Qwen3-VL-4B-Instruct"].source.revision == "v1"
    assert wanted["teacher"].target == tmp_path / "data" / "prism" / "teacher.jsonl"


def test_benchmarks_are_those_of_the_suites(tmp_path: Path) -> None:
    found = catalogue.chosen(["benchmarks"], catalogue.extras(tmp_path / "data/prism", tmp_path / "models"))
    assert len(found) == 7
    places = {one.source.repo: one.target for one in found}
    assert places["AI4Math/MathVista"] == tmp_path / "data" / "benchmarks" / "AI4Math" / "MathVista"
