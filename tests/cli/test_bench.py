"""`prism bench`: what it lists, what it refuses, and the form of a result. Times themselves are never checked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.perf._timing import result, take_turns
from prism_cli.__main__ import main
from prism_cli.commands import bench
from prism_cli.engines.environments import Environment, names


def test_list_names_every_measurement_and_where_it_runs(capsys):
    assert main(["bench", "--json"]) == 0
    found = {b["name"]: b for b in json.loads(capsys.readouterr().out)["benchmarks"]}
    assert {"alignment", "cli", "compare", "rollout"} <= {*found}
    assert found["cli"]["engine"] is None
    for told in found.values():
        assert told["engine"] in (None, *names())
        assert told["what"].endswith((".", ":"))
    assert main(["bench"]) == 0
    assert "alignment" in capsys.readouterr().out


def test_unknown_measurement_is_refused(capsys):
    assert main(["bench", "nothing"]) == 2
    told = capsys.readouterr().err
    assert "no benchmark `nothing`" in told
    assert "alignment, cli, compare, data, reward, rollout" in told


def test_cli_as_json(capsys):
    assert main(["bench", "cli", "--rounds", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["name"] == "cli"
    assert found["rounds"] == 1
    sides = ("prism --help", "empty typer program --help")
    assert all(found["seconds"][side] > 0 for side in sides)
    ratio = found["seconds"][sides[0]] / found["seconds"][sides[1]]
    assert found["ratios"] == {"prism / empty typer program": pytest.approx(ratio)}


def test_failing_measurement_shows_its_last_words(tmp_path, monkeypatch, capsys):
    broken = bench.Benchmark("absent", None, "Nothing.")
    monkeypatch.setattr(bench, "benchmarks", lambda: [broken])
    assert main(["bench", "absent"]) == 1
    told = capsys.readouterr().err
    assert "the benchmark `absent` ended with code 1" in told
    assert "No module named benchmarks.perf.absent" in told


def test_sides_take_turns_after_a_first_run_that_is_not_timed():
    calls: list[str] = []
    times = take_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3)
    assert calls == ["a", "b"] * 4
    assert {side: len(seconds) for side, seconds in times.items()} == {"a": 3, "b": 3}


def test_ratio_is_the_median_of_the_rounds_own():
    times = {"slow": [2.0, 30.0, 6.0], "fast": [1.0, 10.0, 2.0]}
    found = result(times, {"slow / fast": ("slow", "fast")}, device="cpu")
    assert found == {
        "seconds": {"slow": 6.0, "fast": 2.0},
        "range": {"slow": [2.0, 30.0], "fast": [1.0, 10.0]},
        "ratios": {"slow / fast": 3.0},
        "rounds": 3,
        "facts": {"device": "cpu"},
    }


@pytest.mark.engine
def test_measurements_in_the_engine_compare_equal_work(alignment_env: Environment, tmp_path: Path, capsys):
    assert main(["bench", "rollout", "--rounds", "1", "--json"]) == 0
    tokens = json.loads(capsys.readouterr().out)["facts"]["tokens"]
    assert len({*tokens.values()}) == 1
    assert main(["bench", "alignment", "--rounds", "1", "--size", "tiny", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert max(found["differences"].values()) < 1e-4
    assert {*found["ratios"]} == {"discriminator", "policy", "step", "memory"}
    assert found["phases"]["discriminator, reference"]["images"] == 6 * found["facts"]["group"]
    assert found["phases"]["discriminator, fused"]["images"] == 1
    bench._print(bench.Benchmark("alignment", "alignment", "A step."), found)
    told = capsys.readouterr().out
    assert "discriminator, micro" in told
    assert "64 x 4 " in told
