"""Prism's side of lmms-eval, and the parts of the worker that need no lmms-eval."""

import contextlib
import http.server
import json
import os
import threading
import time

import pytest
from cells import make_cell

from integrations.errors import BadInput
from integrations.lmms_eval import adapter, job
from integrations.lmms_eval.inside.records import LOG, Answer, Log, asked_of, request_seed, sampling, still_good

FACTS = {
    "task": "prism_digits",
    "decoding_seed": 3,
    "model": {"weights_hash": "a" * 64},
    "server": {"engine": "stub"},
    "protocol": {"name": "sample", "temperature": 1, "top_p": 0.7, "top_k": 0, "max_new_tokens": 96},
}
SERVER = {"url": "http://127.0.0.1:1/v1", "model": "policy"}


@contextlib.contextmanager
def serving(status):
    """A server that answers everything with this status."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def entry(item="a", sample=0, **changes):
    given = {"item": item, "sample": sample, "by": "b", "prompt": "p", "sent": {}, "text": "t", "finish": "stop"}
    return {**given, "usage": {"completion_tokens": 3}, "seconds": 1.0, **changes}


def test_a_request_s_seed_depends_on_nothing_but_what_is_asked():
    assert request_seed(3, "prism_digits", "test-000001", 0) == 1865826420
    others = {
        request_seed(seed, task, item, sample)
        for seed in (0, 1)
        for task in ("a", "b")
        for item in ("1", "11")
        for sample in (0, 1)
    }
    assert len(others) == 16
    assert all(0 <= seed < 2**31 for seed in others)


def test_every_parameter_of_the_protocol_is_sent():
    sent = sampling(FACTS, "a", 1)
    seed = request_seed(3, "prism_digits", "a", 1)
    assert sent == {"temperature": 1.0, "top_p": 0.7, "max_tokens": 96, "seed": seed}
    narrow = {**FACTS, "protocol": {**FACTS["protocol"], "top_k": 20}}
    assert sampling(narrow, "a", 1) == {**sent, "top_k": 20}


def test_log_passes_over_what_a_kill_cut_off(tmp_path):
    log = Log(tmp_path)
    log.append(entry("a"))
    log.append(entry("b", text="ä\u2028\x85"))
    log.close()
    whole = (tmp_path / LOG).read_bytes()
    (tmp_path / LOG).write_bytes(whole + b'{"item": "c", "sam')
    again = Log(tmp_path)
    assert sorted(again.read()) == [("a", 0), ("b", 0)]
    again.append(entry("c"))
    again.append(entry("a", text="newer"))
    again.close()
    found = again.read()
    assert sorted(found) == [("a", 0), ("b", 0), ("c", 0)]
    assert found["a", 0]["text"] == "newer"
    assert found["b", 0]["text"] == "ä\u2028\x85"


def test_log_that_is_not_there_or_not_ours_is_empty(tmp_path):
    assert Log(tmp_path).read() == {}
    (tmp_path / LOG).write_bytes(b'\x00\xff\n[1, 2]\n{"item": "a"}\n"text"\n')
    assert Log(tmp_path).read() == {}


@pytest.mark.parametrize("changed", [{"by": "x"}, {"prompt": "x"}, {"sent": {"seed": 1}}])
def test_only_the_same_request_is_not_asked_again(changed):
    assert still_good(entry(), "b", "p", {})
    assert not still_good(entry(**changed), "b", "p", {})
    assert not still_good(None, "b", "p", {})


def test_answers_are_of_one_model_on_one_server():
    assert asked_of(FACTS) == asked_of(json.loads(json.dumps(FACTS)))
    assert asked_of(FACTS) != asked_of({**FACTS, "model": {"weights_hash": "b" * 64}})
    assert asked_of(FACTS) != asked_of({**FACTS, "server": {"engine": "other"}})


def test_answer_of_a_log_line():
    assert Answer.of(entry(finish="length")) == Answer("t", True, 3)
    assert Answer.of(entry(usage=None)) == Answer("t", False, None)


def test_job_is_read_as_it_was_written(tmp_path):
    cell = {
        "folder": "/store/cell",
        "facts": {**FACTS, "protocol": {"prompt": "native"}},
        "dataset": {"pool": "/p.jsonl"},
    }
    places = {"images": tmp_path / "images", "progress": tmp_path / "progress.jsonl"}
    path = adapter.write_job(tmp_path / "job.json", server=SERVER, cells=[cell], **places)
    found = job.read(path)
    assert found.server == job.Server("http://127.0.0.1:1/v1", "policy")
    assert (found.mode, found.cells) == ("evaluate", [job.CellJob(**cell)])
    assert (found.cells[0].task, found.cells[0].style, found.cells[0].source) == ("prism_digits", "native", "/p.jsonl")
    assert job.CellJob("", {}, {"path": "/data"}).source == "/data"
    assert job.CellJob("", {}).source is None
    with pytest.raises(BadInput, match="needs a server"):
        job.read(adapter.write_job(tmp_path / "other.json", server=None, cells=[cell], **places))
    path.write_text('{"mode": "evaluate"}')
    with pytest.raises(BadInput, match="is not a job"):
        job.read(path)
    with pytest.raises(BadInput, match="is not a job"):
        job.read(tmp_path / "missing.json")


def test_launch_goes_to_the_hub_only_where_it_may(tmp_path, monkeypatch):
    places = {"images": tmp_path, "progress": tmp_path / "progress.jsonl"}
    closed = adapter.write_job(tmp_path / "closed.json", server=SERVER, cells=[], **places)
    opened = adapter.write_job(tmp_path / "open.json", server=SERVER, cells=[], online=True, **places)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert "HF_HUB_OFFLINE" not in adapter.launch(closed).env  # the engines' own setting is offline
    with serving(404) as address:  # whatever it answers, it answers
        monkeypatch.setenv("HF_ENDPOINT", address)
        assert adapter.launch(opened).env["HF_HUB_OFFLINE"] == "0"
    assert adapter.launch(opened).env["HF_HUB_OFFLINE"] == "1"
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert adapter.launch(opened).env["HF_HUB_OFFLINE"] == "0"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert adapter.launch(opened).env["HF_HUB_OFFLINE"] == "1"
    assert adapter.launch(opened).packages == ("integrations", "benchmarks")


def test_key_reaches_the_harness_and_no_file(tmp_path, monkeypatch):
    monkeypatch.setenv("A_KEY", "secret")
    given = {**SERVER, "api_key_env": "A_KEY"}
    places = {"images": tmp_path, "progress": tmp_path / "progress.jsonl"}
    path = adapter.write_job(tmp_path / "job.json", server=given, cells=[], **places)
    assert adapter.launch(path).env["A_KEY"] == "secret"
    assert "secret" not in path.read_text()


# Tasks


@pytest.fixture
def tasks(tmp_path):
    """A folder with a task, one that includes it, and the module of its functions."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    function = "process_results: !function own.process\ndoc_to_text: !function benchmarks.digits.task.to_text\n"
    (folder / "one.yaml").write_text(f"task: prism_one\ndataset_path: Owner/One\n{function}")
    (folder / "two.yaml").write_text("include: one.yaml\ntask: prism_two\n")
    (folder / "own.py").write_text("import json\n\nfrom benchmarks.digits import world\n")
    (folder / "other.yaml").write_text("task: prism_one_more\ndataset_path: pool\n")
    return folder


def test_task_hash_changes_with_all_that_makes_the_task(tasks):
    before = {name: adapter.task_hash(name, tasks) for name in ("prism_one", "prism_two", "prism_one_more")}
    assert len(set(before.values())) == 3
    names = {path.name for path in adapter._sources("prism_two", tasks)}
    assert names == {"two.yaml", "one.yaml", "own.py", "task.py", "world.py", "response.py"}
    for name in ("own.py", "one.yaml"):
        (tasks / name).write_text((tasks / name).read_text() + "# changed\n")
        now = {name: adapter.task_hash(name, tasks) for name in before}
        assert now["prism_one"] != before["prism_one"]
        assert now["prism_two"] != before["prism_two"]
        assert now["prism_one_more"] == before["prism_one_more"]
        before = now


def test_unknown_task(tasks):
    with pytest.raises(BadInput, match="there is no task `prism_on`"):
        adapter.task_hash("prism_on", tasks)


def test_tasks_of_a_pool_are_known_through_what_they_include(tasks):
    assert adapter.reads_pool("prism_digits")
    assert adapter.reads_pool("prism_digits_smoke")
    assert not adapter.reads_pool("prism_two", tasks)
    assert adapter.reads_pool("prism_one_more", tasks)


def test_local_data_are_found_by_the_task_s_or_the_data_set_s_name(tasks, tmp_path):
    data = tmp_path / "data"
    with pytest.raises(BadInput, match="has no data for prism_two") as raised:
        adapter.local_dataset(data, "prism_two", tasks)
    assert "hf download Owner/One" in raised.value.fix
    for name in ("One", "Owner/One", "prism_two"):
        (data / name).mkdir(parents=True)
        assert adapter.local_dataset(data, "prism_two", tasks) == {"path": str(data / name)}
    (data / "prism_two.parquet").touch()
    assert adapter.local_dataset(data, "prism_two", tasks) == {"path": str(data / "prism_two.parquet")}


def test_harness_is_named_by_its_version_and_lock():
    facts = adapter.harness_facts()
    assert (facts["name"], facts["version"]) == ("lmms-eval", "0.7.3")
    assert len(facts["lock"]) == 64


# What came of it


def test_check_cell(tmp_path):
    cell = make_cell(tmp_path)
    asked = {key: cell.facts[key] for key in ("task", "protocol", "samples_per_item", "limit", "judge")}
    assert adapter.check_cell(cell.folder, asked) is None
    assert adapter.check_cell(cell.folder, {**asked, "judge": {"model": "x"}}) is None
    assert "`limit` is null, not 3" in str(adapter.check_cell(cell.folder, {**asked, "limit": 3}))
    assert adapter.check_cell(cell.folder, asked, time.time() + 60) == "the cell is an old one"
    (cell.folder / "cell.json").write_text(json.dumps({**cell.facts, "items": 80}))
    assert adapter.check_cell(cell.folder, asked) == "it has 40 responses, not 80"
    samples = cell.folder / "samples.parquet"
    os.truncate(samples, 100)
    assert "cannot be read" in str(adapter.check_cell(cell.folder, asked))
    (cell.folder / "cell.json").write_text("{")
    assert adapter.check_cell(cell.folder, asked) == "there is no finished cell"


def test_explain_prefers_the_worker_s_own_words():
    log = "noise\nerror: /s/a: the server is gone\nfix: start it\nerror: /s/b: the disk is full\nfix: free some\n"
    assert adapter.explain(log) == ("/s/a: the server is gone (and 1 more)", "start it")
    assert adapter.explain_cells(log) == {
        "/s/a": ("the server is gone", "start it"),
        "/s/b": ("the disk is full", "free some"),
    }


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("OSError: [Errno 28] No space left on device", "disk is full"),
        ("huggingface_hub.errors.OfflineModeIsEnabled: Cannot reach", "not on this machine"),
        ("huggingface_hub.errors.GatedRepoError: 403", "without permission"),
        ("torch.OutOfMemoryError: CUDA out of memory", "not enough memory"),
    ],
)
def test_explain_knows_causes(line, cause):
    found = adapter.explain(f"Traceback\n{line}\n")
    assert found is not None
    assert cause in found[0]
    assert found[1]


def test_explain_does_not_guess():
    assert adapter.explain("Traceback\nKeyError: 'x'\n") is None
