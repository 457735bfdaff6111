"""Several runs as one result: means, spread, and differences averaged item by item."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from test_summary import TRUTH, make_run

from benchmarks.seeds import SeedSummary, conclusion, summarize_many
from integrations.common.files import read_json, write_json
from integrations.errors import BadInput


def make_runs(tmp_path: Path, prism: list[float]) -> SeedSummary:
    """Runs whose prism arm ends at these answer rates; the baseline ends at 0.60 in all of them."""
    folders = []
    for seed, rate in enumerate(prism):
        truth = {**TRUTH, "prism/rlvr": (rate, 0.83, 0.50, 0.98)}
        folders.append(make_run(tmp_path / f"digits-s{seed}", truth, protocols=("sample",), seed=seed))
    return summarize_many(folders)


def test_scores_are_averaged_over_runs(tmp_path):
    found = make_runs(tmp_path, [0.50, 0.60, 0.55]).to_json()
    assert found["seeds"] == [0, 1, 2]
    answer = found["arms"]["prism"]["rlvr"]["scores"]["sample"]["answer"]
    assert answer == {"mean": pytest.approx(0.55), "runs": [0.50, 0.60, 0.55]}
    assert found["arms"]["prism"]["discriminator"]["scores"]["sample"]["answer"] is None
    json.dumps(found, allow_nan=False)


def test_differences_show_every_run(tmp_path):
    runs = make_runs(tmp_path, [0.50, 0.65])
    [baseline] = [c for c in runs.comparisons if c.second == "baseline"]
    assert baseline.of_runs["answer"] == pytest.approx([-0.10, 0.05])
    assert baseline.differences["answer"].value == pytest.approx(-0.025)
    assert baseline.differences["answer"].n == 400


@pytest.mark.parametrize(
    ("prism", "verdict"),
    [
        ([0.75, 0.80], "T=1: over 2 seeds PRISM beat the baseline here (answers +17.5 ["),
        ([0.95, 0.58], "T=1: over 2 seeds PRISM beat the baseline here on average, though not in every run (answers "),
        ([0.61, 0.59], "T=1: over 2 seeds PRISM did not beat the baseline here (answers +0.0 ["),
        ([0.40, 0.45], "T=1: over 2 seeds PRISM did not beat the baseline here, it did worse (answers -17.5 ["),
    ],
)
def test_the_outcome_is_said_plainly(tmp_path, prism, verdict):
    runs = make_runs(tmp_path, prism)
    assert next(conclusion(c) for c in runs.comparisons if c.second == "baseline").startswith(verdict)


def test_tables_fit_80_columns(tmp_path):
    stream = io.StringIO()
    make_runs(tmp_path, [0.50, 0.60, 0.55]).render(Console(file=stream, width=80))
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    words = [line.split() for line in lines]
    assert ["prism/rlvr", "55.0", "50.0-60.0", "83.0", "83.0-83.0"] in [line[:5] for line in words]
    assert ["-10.0", "+0.0", "-5.0"] in [line[-3:] for line in words if line[:3] == ["baseline", "T=1", "answer"]]
    assert "training seeds 0, 1, 2" in stream.getvalue()


def test_unfinished_run_takes_part_with_what_it_has(tmp_path):
    full = make_run(tmp_path / "a", protocols=("sample",), seed=0)
    early = make_run(tmp_path / "b", {"shared/sft": TRUTH["shared/sft"]}, protocols=("sample",), seed=1)
    found = summarize_many([full, early])
    assert found.comparisons == []
    assert found.rates("shared/sft", "sample", "answer") == [0.44, 0.44]
    assert found.rates("prism/rlvr", "sample", "answer") == [0.5]


def test_runs_of_different_recipes_are_not_averaged(tmp_path):
    folders = [make_run(tmp_path / name, seed=seed) for seed, name in enumerate("ab")]
    manifest = read_json(folders[1] / "manifest.json")
    write_json(folders[1] / "manifest.json", {**manifest, "recipe": {"hash": "other"}})
    with pytest.raises(BadInput, match="different recipes"):
        summarize_many(folders)


def test_the_same_seed_twice_is_refused(tmp_path):
    with pytest.raises(BadInput, match="two of the runs have the seed 0"):
        summarize_many([make_run(tmp_path / name) for name in "ab"])
