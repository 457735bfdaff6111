"""`prism data distill`, `filter` and `pairs` as their user calls them, against servers on this machine."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest
from stub_judge import StubJudge, completion
from test_making import pool, row, said

from prism_cli.making.distill import lines


def start(*words):
    command = [sys.executable, "-m", "prism_cli", "data", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ})


def call(*words):
    process = start(*words)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def teacher(body):
    """Right about `a` and `b`, without the form for `c`."""
    text = body["messages"][-1]["content"][-1]["text"]
    usage = {"usage": {"prompt_tokens": 100, "completion_tokens": 50}}
    return completion("I will not." if "c?" in text else said("7")) | usage


def test_demonstrations_pass_three_filters_and_are_counted(tmp_path):
    problems = pool(tmp_path / "in", row("a"), row("b", answer="8"), row("c"))
    with StubJudge(teacher, models=("big",)) as stub, StubJudge() as judge:
        words = ["distill", problems, "--teacher", stub.url, "--judge", judge.url, "--out", tmp_path / "out"]
        code, out, err = call(*words, "--price-in", "1", "--price-out", "2", "--json")
        again = call(*words, "--json")
        asked = len(stub.asked)
    assert code == 0, err
    told = json.loads(out)
    assert told["filters"]["form"] == {"seen": 3, "passed": 2}
    assert told["filters"]["verified"] == {"seen": 1, "passed": 1}
    assert (told["demonstrations"], told["spent_now"]["cost"]) == (1, 0.0006)
    assert asked == 3
    assert json.loads(again[1])["spent_now"]["answers"] == 0
    (made,) = [json.loads(line) for line in (tmp_path / "out" / "demonstrations.jsonl").read_text().splitlines()]
    assert made["source"] == "distilled:big"
    assert (tmp_path / "out" / made["images"][0]).is_file()


def test_a_killed_command_goes_on_and_asks_nothing_twice(tmp_path):
    prompts = pool(tmp_path / "in", *[row(f"r{at}") for at in range(6)])
    reached, let_go = threading.Event(), threading.Event()

    def slow(body):
        if len(stub.asked) >= 4:
            reached.set()
            let_go.wait(30)
        return completion(said("7"))

    words = ["filter", prompts, "--out", tmp_path / "out", "--samples", "2", "--concurrency", "1", "--json"]
    with StubJudge(slow, models=("m",)) as stub:
        process = start(*words, "--policy", stub.url)
        assert reached.wait(60)
        process.send_signal(signal.SIGKILL)
        process.wait()
        let_go.set()
        answered = len((tmp_path / "out" / "asked.jsonl").read_text().splitlines())
        before = len(stub.asked)
        code, out, err = call(*words, "--policy", stub.url)
        assert len(stub.asked) - before == 12 - answered
    assert code == 0, err
    assert json.loads(out)["too easy"] == 6


def test_a_dry_run_tells_the_cost_and_asks_nothing(tmp_path):
    problems = pool(tmp_path / "in", row("a"))
    words = ["distill", problems, "--teacher", "http://127.0.0.1:9", "--model", "m", "--out", tmp_path / "out"]
    code, out, err = call(*words, "--price-out", "10", "--max-tokens", "1000", "--dry-run", "--json")
    assert code == 0, err
    assert json.loads(out) == {"requests": 1, "answered_before": 0, "cost_about": 0.0025, "cost_at_most": 0.01}
    assert not (tmp_path / "out").exists()


def test_pairs_use_the_answers_that_the_filter_got(tmp_path):
    taught = pool(tmp_path / "in", row("a", response=said("7", think="well")), row("c", response=said("7")))
    with StubJudge(teacher, models=("m",)) as stub:
        where = ["--policy", stub.url, "--out", tmp_path / "out", "--samples", "1"]
        assert call("filter", taught, *where)[0] == 0
        before = len(stub.asked)
        code, out, err = call("pairs", taught, *where, "--json")
        assert len(stub.asked) == before
    assert code == 0, err
    assert json.loads(out)["pairs"] == 1
    assert json.loads(out)["left_out"] == {"not of the form": 1}


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["filter", "{pool}", "--policy", "http://127.0.0.1:9", "--low", "0.9"], "--low 0.9 is above --high 0.8"),
        (["filter", "{pool}", "--policy", "ftp://x"], "is no http address"),
        (["distill", "{pool}", "--teacher", "http://127.0.0.1:9"], "no teacher answers"),
        (["pairs", "{pool}", "--policy", "http://127.0.0.1:9"], "has no demonstration"),
        (["filter", "nowhere.jsonl", "--policy", "http://127.0.0.1:9"], "cannot read the data pool"),
    ],
)
def test_bad_input_is_one_message_and_leaves_nothing(tmp_path, words, problem):
    path = pool(tmp_path / "in", row("a"))
    code, out, err = call(*[word.format(pool=path) for word in words], "--out", tmp_path / "out")
    assert code == 2
    assert problem in " ".join(err.split())
    assert "Traceback" not in err
    assert out == ""
    assert not (tmp_path / "out").exists()


def test_results_fit_80_columns(tmp_path):
    problems = pool(tmp_path / "in", row("a"), row("c"))
    (tmp_path / "rates.jsonl").write_text(lines([{"id": "a", "rate": 0.0}, {"id": "c", "rate": 0.0}]))
    with StubJudge(teacher, models=("m",)) as stub:
        rates = ["--pass-rates", tmp_path / "rates.jsonl"]
        shown = call("distill", problems, "--teacher", stub.url, "--out", tmp_path / "d", *rates)
        listed = call("filter", problems, "--policy", stub.url, "--out", tmp_path / "f")
    for code, out, err in (shown, listed):
        assert code == 0, err
        texts = [line for line in out.splitlines() if not line.startswith(str(tmp_path))]
        assert all(len(line) <= 80 for line in texts)
    assert "1 not of the form" in shown[1]
    assert "1 kept" not in listed[1]
