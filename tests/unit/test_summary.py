"""The final table on made-up runs whose outcome is known."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from benchmarks import scores
from benchmarks.samples import cell_facts, write_cell
from benchmarks.statistics import wilson
from benchmarks.suites import PROTOCOLS
from benchmarks.summary import conclusion, summarize
from integrations.common.files import write_json
from integrations.errors import BadInput

ARMS = {
    "prism": ["shared/base", "shared/sft", "prism/discriminator", "prism/align", "prism/rlvr"],
    "baseline": ["shared/base", "shared/sft", "baseline/rlvr"],
    "control": ["shared/base", "control/sft", "control/rlvr"],
}
TRUTH = {  # answer, perception, reasoning, format
    "shared/base": (0.05, 0.50, 0.10, 0.30),
    "shared/sft": (0.44, 0.81, 0.43, 0.98),
    "prism/align": (0.45, 0.83, 0.46, 0.97),
    "prism/rlvr": (0.50, 0.83, 0.50, 0.98),
    "baseline/rlvr": (0.60, 0.83, 0.51, 0.98),
    "control/sft": (0.50, 0.91, 0.50, 0.98),
    "control/rlvr": (0.40, 0.92, 0.40, 0.99),
}


def make_items(rates, n=400, seed=0):
    """Items whose scores hit the rates exactly, so that nothing depends on luck; every tenth has no reasoning score."""
    columns = [np.random.default_rng([seed, k]).permutation(n) < round(rate * n) for k, rate in enumerate(rates)]
    return [
        {
            "item_id": f"test-{i:06d}", "sample": 0, "prompt_hash": "p", "response": "3", "tokens": 30,
            "truncated": i < 2, "correct": bool(answer), "perception": bool(perception), "format": bool(form),
            "logic": None if i % 10 == 0 else bool(reasoning),
        }
        for i, (answer, perception, reasoning, form) in enumerate(zip(*columns, strict=True))
    ]  # fmt: skip


def make_evaluation(run, stage, rates, protocol="sample", *, items=None, weights=None, **options):
    """A finished cell of a stage whose weights hash is its name, unless `weights` says otherwise."""
    items = items or make_items(rates, **options)
    weights = weights or stage
    facts = cell_facts(
        model={"label": stage, "stage": stage, "weights_hash": weights}, suite="digits", benchmark="digits",
        task="prism_digits", protocol={"name": protocol, **PROTOCOLS[protocol]}, decoding_seed=0, training_seed=0,
        samples_per_item=1, limit=None, task_hash="t", harness={}, server={},
    )  # fmt: skip
    folder = run / "eval" / f"{stage}-{weights}".replace("/", "-") / "prism_digits" / f"{protocol}-s0"
    write_cell(folder, items, {**facts, "items": len(items), "seconds": 15.0})


def make_run(root: Path, truth=TRUTH, protocols=("greedy", "sample"), seed=0) -> Path:
    write_json_in(root, "manifest.json", {"run": root.name, "seed": seed, "arms": ARMS})
    for name in dict.fromkeys(name for names in ARMS.values() for name in names):
        tokens = 0 if name.endswith(("base", "sft")) else 50_000
        record = {"stage": name, "hash": name, "seconds": 90.0, "result": {"step": 5, "generated_tokens": tokens}}
        write_json_in(root / name, "DONE", record)
        for protocol in protocols if name in truth else ():
            make_evaluation(root, name, truth[name], protocol, seed=seed)
    return root


def write_json_in(folder: Path, name: str, value) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / name, value)


def rendered(summary, width=80, encoding="utf-8") -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    summary.render(Console(file=stream, width=width))
    stream.flush()
    return stream.buffer.getvalue().decode(encoding)


def squeezed(text: str) -> str:
    return " ".join(text.split())


def test_scores_survive_the_disk(tmp_path):
    make_evaluation(tmp_path, "prism/rlvr", (0.5, 0.25, 0.0, 1.0))
    read = scores.read_evaluations(tmp_path)["prism/rlvr", "prism/rlvr"]["sample"]
    assert (read.n, read.protocol) == (400, "sample")
    assert read.rates["answer"] == wilson(200, 400)
    assert read.rates["reasoning"].n == 360
    assert read.rates["truncated"].hits == 2
    written = scores.to_json(read.rates, read.n)
    assert (written["answer"], written["n"], written["ci"]["format"][1]) == (0.5, 400, 1.0)


def test_of_several_selections_of_items_the_largest_counts(tmp_path):
    make_evaluation(tmp_path, "prism/rlvr", (0.5, 0.5, 0.5, 1.0), n=40)
    whole = tmp_path / "eval" / "prism-rlvr-prism-rlvr" / "prism_digits" / "sample-s0"
    whole.rename(whole.with_name("sample-s0-first40"))
    make_evaluation(tmp_path, "prism/rlvr", (0.5, 0.5, 0.5, 1.0), n=400)
    assert scores.read_evaluations(tmp_path)["prism/rlvr", "prism/rlvr"]["sample"].n == 400


def test_a_rate_without_items_is_null(tmp_path):
    items = [{**item, "logic": None} for item in make_items((0.5, 0.5, 0.5, 1.0))]
    make_evaluation(tmp_path, "prism/rlvr", (), items=items)
    read = scores.read_evaluations(tmp_path)["prism/rlvr", "prism/rlvr"]["sample"]
    written = scores.to_json(read.rates, read.n)
    assert written["reasoning"] is None
    assert written["ci"]["reasoning"] == [None, None]


def test_json_holds_every_arm_and_stage(tmp_path):
    found = summarize(make_run(tmp_path / "digits", seed=3)).to_json()
    assert (found["run"], found["seed"]) == ("digits", 3)
    assert {arm: [*stages] for arm, stages in found["arms"].items()} == {
        arm: [name.rsplit("/")[-1] for name in names] for arm, names in ARMS.items()
    }
    rlvr = found["arms"]["prism"]["rlvr"]
    assert (rlvr["status"], rlvr["seconds"], rlvr["generated_tokens"]) == ("done", 90.0, 50_000)
    assert rlvr["path"] == str(tmp_path / "digits" / "prism" / "rlvr" / "model")
    assert {*rlvr["scores"]} == {"greedy", "sample"}
    assert rlvr["scores"]["sample"]["answer"] == 0.5
    assert rlvr["scores"]["sample"]["n"] == 400
    low, high = rlvr["scores"]["sample"]["ci"]["answer"]
    assert low < 0.5 < high
    assert found["arms"]["prism"]["discriminator"]["scores"] == {}
    assert found["totals"]["prism"] == {"generated_tokens": 150_000, "seconds": 450.0}
    json.loads(json.dumps(found, allow_nan=False))


def test_differences_are_those_of_the_last_stages(tmp_path):
    summary = summarize(make_run(tmp_path / "digits"))
    found = {(c.second, c.protocol): c.differences["answer"] for c in summary.comparisons}
    assert {*found} == {(arm, protocol) for arm in ("baseline", "control") for protocol in ("sample", "greedy")}
    baseline, control = found["baseline", "sample"], found["control", "sample"]
    assert baseline.value == pytest.approx(-0.1)
    assert baseline.low < -0.1 < baseline.high
    assert baseline.worse
    assert control.value == pytest.approx(0.1)
    assert control.better


@pytest.mark.parametrize(
    ("prism", "verdict"),
    [
        (0.80, "T=1: PRISM beat the baseline here (answers +20.0 ["),
        (0.60, "T=1: PRISM did not beat the baseline here (answers +0.0 ["),
        (0.605, "T=1: PRISM did not beat the baseline here (answers +0.5 ["),
        (0.40, "T=1: PRISM did not beat the baseline here, it did worse (answers -20.0 ["),
    ],
)
def test_the_outcome_is_said_plainly(tmp_path, prism, verdict):
    truth = {**TRUTH, "prism/rlvr": (prism, 0.83, 0.50, 0.98)}
    summary = summarize(make_run(tmp_path / "digits", truth, protocols=("sample",)))
    sentence = next(conclusion(c) for c in summary.comparisons if c.second == "baseline")
    assert sentence.startswith(verdict)
    assert squeezed(verdict) in squeezed(rendered(summary))


def test_captions_lost_behind_steady_answers_are_warned_of(tmp_path):
    quiet = summarize(make_run(tmp_path / "quiet"))
    assert quiet.warnings == []
    truth = {**TRUTH, "prism/rlvr": (0.50, 0.30, 0.34, 0.98)}
    summary = summarize(make_run(tmp_path / "lost", truth))
    assert len(summary.warnings) == 2  # one per protocol
    assert all(w.startswith("prism/rlvr reads pictures worse than prism/align") for w in summary.warnings)
    assert "Warning: prism/rlvr reads pictures worse" in rendered(summary)


def test_captions_lost_together_with_answers_are_no_such_warning(tmp_path):
    truth = {**TRUTH, "prism/rlvr": (0.20, 0.30, 0.34, 0.98)}
    assert summarize(make_run(tmp_path / "digits", truth)).warnings == []


def test_table_fits_80_columns_and_shows_each_number(tmp_path):
    text = rendered(summarize(make_run(tmp_path / "digits")))
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "T=1: percent of held-out items" in text
    assert "greedy: percent of held-out items" in text
    words = [line.split() for line in text.splitlines()]
    assert ["sft", "44.0", "±4.9", "81.0", "±4.1", "44.2", "±5.2", "98.0", "±1.9", "400", "0", "1.5"] in words
    assert ["discriminator", "-", "-", "-", "-", "-", "50k", "1.5"] in words
    assert ["prism", "150k", "7.5"] in words
    assert "Evaluation took 3.5 minutes in all." in squeezed(text)
    assert "Truncated responses: at most 0.5%." in squeezed(text)


def test_table_can_be_printed_where_only_ascii_can(tmp_path):
    text = rendered(summarize(make_run(tmp_path / "digits")), encoding="ascii")
    assert "44.0 +-4.9" in text
    assert max(len(line) for line in text.splitlines()) <= 80


def test_unfinished_run_shows_what_is_there(tmp_path):
    root = make_run(tmp_path / "digits", {"shared/base": TRUTH["shared/base"]})
    (root / "prism" / "rlvr" / "DONE").unlink()
    summary = summarize(root)
    assert summary.comparisons == []
    assert summary.stages["prism/rlvr"].status == "missing"
    assert ["rlvr", "-", "-", "-", "-", "-", "-", "-"] in [line.split() for line in rendered(summary).splitlines()]


def test_scores_of_an_earlier_result_are_not_shown(tmp_path):
    root = make_run(tmp_path / "digits")
    for name, judged in (("prism/rlvr", "old"), ("baseline/rlvr", "new")):
        write_json_in(root / name, "DONE", {"seconds": 1.0, "result": {}, "hash": "new"})
        for protocol in ("greedy", "sample"):
            make_evaluation(root, name, TRUTH[name], protocol, weights=judged)
    summary = summarize(root)
    assert {*summary.stages["baseline/rlvr"].evaluations} == {"greedy", "sample"}
    assert summary.stages["prism/rlvr"].evaluations == {}
    assert summary.comparisons == []


def test_run_without_any_evaluation(tmp_path):
    summary = summarize(make_run(tmp_path / "digits", {}))
    assert rendered(summary).strip() == "No stage is evaluated yet."
    assert summary.to_json()["arms"]["baseline"]["rlvr"]["scores"] == {}


def test_recipe_without_the_treated_arm_has_no_comparison(tmp_path):
    root = make_run(tmp_path / "digits")
    arms = {"baseline": ARMS["baseline"], "control": ARMS["control"]}
    write_json(root / "manifest.json", {"run": "digits", "seed": 0, "arms": arms})
    assert summarize(root).comparisons == []


def test_stage_run_from_another_parent_is_listed_but_not_counted(tmp_path):
    root = make_run(tmp_path / "digits")
    before = summarize(root).total("prism")
    for name in ("prism/rlvr-from-sft", "prism/rlvr.old-1"):
        record = {"seconds": 1.0, "hash": name, "result": {"generated_tokens": 7}}
        write_json_in(root / name, "DONE", record)
    make_evaluation(root, "prism/rlvr-from-sft", TRUTH["prism/rlvr"])
    make_evaluation(root, "prism/rlvr", TRUTH["prism/rlvr"], weights="of an earlier result")
    summary = summarize(root)
    assert [s.short for s in summary.stages_of("prism")][-2:] == ["rlvr", "rlvr-from-sft"]
    assert "prism/rlvr.old-1" not in summary.stages
    assert summary.total("prism") == before
    assert "rlvr-from-sft" in summary.to_json()["arms"]["prism"]


def test_items_are_paired_by_id_not_by_place(tmp_path):
    root = make_run(tmp_path / "digits", protocols=("sample",))
    items = make_items(TRUTH["baseline/rlvr"])
    make_evaluation(root, "baseline/rlvr", (), items=items[::-1])
    shuffled = {c.second: c.differences for c in summarize(root).comparisons}
    straight = {c.second: c.differences for c in summarize(make_run(tmp_path / "b", protocols=("sample",))).comparisons}
    assert shuffled["baseline"]["answer"] == straight["baseline"]["answer"]
    make_evaluation(root, "baseline/rlvr", (), items=items[:100])
    assert {c.second: c.differences["answer"].n for c in summarize(root).comparisons} == {
        "baseline": 100,
        "control": 400,
    }


def test_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(BadInput, match="holds no run"):
        summarize(tmp_path)
