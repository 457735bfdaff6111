"""What a comparison takes in, what it refuses, and what it says."""

import csv
import io
import itertools
import json
import random

import pytest
from cells import digest, make_cell
from rich.console import Console

from benchmarks.compare import compare, compare_all, formats, paper
from benchmarks.compare.sheets import sheets
from benchmarks.compare.tables import print_sheet
from integrations.errors import BadInput

GOOD, BAD = [True] * 12 + [False] * 8, [True] * 6 + [False] * 14
SEVEN = ("mathvista", "mathverse", "mathvision", "wemath", "mmmu", "mmmu_pro", "hallusion_bench")


def pair(store, **options):
    """The baseline and the treated model on one task."""
    return [
        make_cell(store, "baseline/rlvr", correct=BAD, items=20, **options),
        make_cell(store, "prism/rlvr", correct=GOOD, items=20, **options),
    ]


def difference(found, label="prism/rlvr", benchmark="digits", metric="correct"):
    return found.row(label).differences[benchmark][metric]


def shown(found, metric=None, width=80):
    stream = io.StringIO()
    found.render(Console(file=stream, width=width), metric)
    return stream.getvalue()


def test_a_pair_on_one_benchmark(tmp_path):
    found = compare(pair(tmp_path))
    assert found.row("baseline/rlvr").scores["digits"]["correct"].value == 0.3
    assert found.row("prism/rlvr").scores["digits"]["correct"].value == 0.6
    got = difference(found)
    assert (got.value, got.win, got.loss, got.tie, got.n) == (pytest.approx(0.3), 6, 0, 14, 20)
    assert (got.test, got.p) == ("mcnemar", pytest.approx(2 / 2**6))
    assert got.few
    assert 0 < got.low < 0.3 < got.high < 0.6
    macro = found.row("prism/rlvr").macro_difference["correct"]  # of one benchmark
    assert (macro.value, macro.low, macro.high, macro.p) == (got.value, got.low, got.high, got.p)
    assert found.conclusion == (
        f"prism/rlvr scores higher than baseline/rlvr: +30.0 points on 20 items, 95% interval "
        f"[{100 * got.low:+.1f}, {100 * got.high:+.1f}], p = 0.031 (for these two checkpoints; one training seed says "
        f"nothing about another). So few items differ that the interval is narrower than it should be."
    )


def test_json_is_json_and_has_what_is_documented(tmp_path):
    told = json.loads(json.dumps(compare(pair(tmp_path, perception=0.8)).to_json(), allow_nan=False))
    assert told["metrics"] == ["correct", "perception", "format"]
    baseline, treated = told["models"]
    assert (baseline["label"], baseline["baseline"], treated["baseline"]) == ("baseline/rlvr", None, "baseline/rlvr")
    assert set(treated["differences"]["digits"]) == {"correct", "perception", "format"}
    assert treated["scores"]["digits"]["correct"]["n"] == 20
    assert treated["scores"]["digits"]["correct"]["method"] == "wilson"
    assert treated["weights"] == {"0": digest("weights", "prism/rlvr", 0)}
    assert treated["scores"]["digits"]["tasks"] == {"prism_digits": 0.6}
    assert told["refused"] == []


def test_a_model_that_is_not_better_is_not_called_better(tmp_path):
    same = [make_cell(tmp_path, label, correct=GOOD, items=20) for label in ("baseline/rlvr", "prism/rlvr")]
    assert "is not shown to differ from" in compare(same).conclusion
    worse = compare(pair(tmp_path / "worse"), baseline="prism/rlvr", treated="baseline/rlvr")
    assert worse.conclusion.startswith("baseline/rlvr scores lower than prism/rlvr: -30.0 points")


def test_order_of_items_and_cells_is_irrelevant(tmp_path):
    groups = [f"g{index // 3}" for index in range(30)]
    options = {"items": 30, "groups": groups, "samples": 2}
    labels = ("base", "baseline/rlvr", "prism/rlvr")
    one = [make_cell(tmp_path / "a", label, **options) for label in labels]
    other = [make_cell(tmp_path / "b", label, shuffle=True, **options) for label in reversed(labels)]
    assert compare(one).to_json() == compare(other).to_json()


def test_another_model_beside_changes_nothing(tmp_path):
    two = pair(tmp_path)
    more = make_cell(tmp_path, "control/rlvr", correct=BAD[::-1], items=20)
    assert compare([*two, more]).row("prism/rlvr") == compare(two).row("prism/rlvr")


def test_swapped_models_flip_the_sign_exactly(tmp_path):
    cells = [
        make_cell(
            tmp_path, label, f"prism_{b}", suite="two", items=30, samples=3, groups=[f"g{i // 4}" for i in range(30)]
        )
        for label in ("a", "b")
        for b in ("x", "y")
    ]
    one, other = compare(cells, "a"), compare(cells, "b")
    for name in ("x", "y"):
        first, second = difference(one, "b", name), difference(other, "a", name)
        assert (first.value, first.low, first.high) == (-second.value, -second.high, -second.low)
        assert (first.p, first.p_holm) == (second.p, second.p_holm)
    first, second = (found.headline() for found in (one, other))
    assert (first.value, first.low, first.high, first.p) == (-second.value, -second.high, -second.low, second.p)


def test_a_score_is_the_mean_over_tasks_of_the_mean_over_items_of_the_mean_over_samples(tmp_path):
    verdicts = [[True, False], [True, True]]
    cells = [
        make_cell(tmp_path, "m", "prism_one", benchmark="b", items=2, samples=2, correct=verdicts),
        make_cell(tmp_path, "m", "prism_two", benchmark="b", items=10, samples=2, correct=[[False, True]] * 10),
    ]
    row = compare(cells).row("m")
    assert row.scores["b"]["correct"].value == pytest.approx((0.75 + 0.5) / 2)
    assert row.tasks["b"] == {"prism_one": 0.75, "prism_two": 0.5}
    assert row.scores["b"]["correct"].n == 12
    assert row.scores["b"]["correct"].method == "bootstrap"


def test_the_macro_average_is_over_benchmarks_and_apart_from_holm(tmp_path):
    cells = [
        make_cell(tmp_path, label, f"prism_{name}", suite="two", items=items, correct=verdicts)
        for label, answers in (("baseline/rlvr", (BAD, GOOD)), ("prism/rlvr", (GOOD, GOOD)))
        for name, items, verdicts in (("x", 20, answers[0]), ("y", 10, answers[1]))
    ]
    found = compare(cells)
    row = found.row("prism/rlvr")
    assert row.macro["correct"].value == pytest.approx((0.6 + 1.0) / 2)
    assert row.macro_difference["correct"].value == pytest.approx(0.15)
    assert [row.differences[name]["correct"].p_holm for name in "xy"] == [pytest.approx(2 * 2 / 2**6), 1.0]
    assert row.macro_difference["correct"].n == 30
    assert found.headline() == row.macro_difference["correct"]
    assert "on the macro-average over 2 benchmarks" in found.conclusion


def test_a_missing_benchmark_is_shown_and_there_is_no_macro_average(tmp_path):
    cells = [
        make_cell(tmp_path, label, f"prism_{name}", suite="two", items=20)
        for label, name in itertools.product(("baseline/rlvr", "prism/rlvr"), "xy")
    ]
    found = compare([cell for cell in cells if (cell.model, cell.benchmark) != ("prism/rlvr", "y")])
    row = found.row("prism/rlvr")
    assert (row.missing, row.macro, row.macro_difference) == (["y"], {}, {})
    assert row.differences.keys() == {"x"}
    assert any("prism/rlvr has no complete evaluation of y" in note for note in found.notes)
    assert found.conclusion is None
    assert found.row("baseline/rlvr").macro


def test_a_benchmark_of_the_suite_that_nobody_was_asked_leaves_no_macro_average(tmp_path):
    options = {"suite": "multimodal-reasoning", "protocol": "paper", "items": 10}
    cells = [
        make_cell(tmp_path, "m", task, benchmark=name, **options)
        for name, task in (("mmmu", "prism_mmmu_val"), ("mathvista", "prism_mathvista_testmini"))
    ]
    found = compare(cells)
    assert [b.column.title for b in found.benchmarks] == ["MathVista", "MMMU"]  # in the suite's order
    assert "mathverse" in found.row("m").missing
    assert not found.row("m").macro
    assert any("there is no macro-average of the whole suite" in note for note in found.notes)
    assert compare(cells, benchmarks=["mmmu", "mathvista"]).row("m").macro


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"facts": {"dataset_hash": digest("other")}}, "its dataset hash is"),
        ({"facts": {"task_hash": digest("other")}}, "its hash of the task and its scoring is"),
        ({"facts": {"limit": 5}}, "its limit on items is 5, that of baseline/rlvr is none"),
        ({"facts": {"harness": {"name": "lmms-eval", "version": "9", "lock": "x"}}}, "its harness version is 9"),
        ({"facts": {"judge": {"model": "j", "served": None, "fingerprint": None, "prompt": "1"}}}, "its judge is j"),
        ({"samples": 2}, "its number of samples per item is 2, that of baseline/rlvr is 1"),
        ({"items": 19}, "it was asked 19 items, 19 of them among the 20 of baseline/rlvr"),
        ({"groups": ["g"] * 20}, "its items are grouped otherwise"),
        ({"rows": lambda row: {**row, "prompt_hash": "x"}}, "20 of its 20 items were asked with another prompt"),
        ({"rows": lambda row: {**row, "item_id": "x"}}, "it does not hold the same number of responses for every item"),
    ],
)
def test_what_does_not_match_is_refused_with_the_reason(tmp_path, change, reason):
    cells = [make_cell(tmp_path, "baseline/rlvr", items=20), make_cell(tmp_path, "base", items=20)]
    cells.append(make_cell(tmp_path, "prism/rlvr", **{"items": 20, **change}))
    with pytest.raises(BadInput) as caught:
        compare(cells)
    assert reason in caught.value.problem
    assert "prism/rlvr on prism_digits (training seed 0, decoding seed 0)" in caught.value.problem
    found = compare(cells, strict=False)
    assert [row.label for row in found.rows] == ["base", "baseline/rlvr"]
    assert reason in str(found.refused[0])
    assert "Left out: prism/rlvr" in " ".join(shown(found).split())


def test_settings_of_one_protocol_that_differ_are_refused(tmp_path):
    cells = pair(tmp_path)
    protocol = {**cells[0].facts["protocol"], "prompt": "native"}
    other = make_cell(tmp_path, "base", items=20, facts={"protocol": protocol})
    with pytest.raises(BadInput, match="its protocol's prompt is native, that of baseline/rlvr is format"):
        compare([*cells, other])


def test_a_judges_counts_are_no_difference(tmp_path):
    judge = {"model": "j", "served": None, "fingerprint": None, "prompt": "1"}
    cells = [
        make_cell(tmp_path, label, items=20, facts={"judge": {**judge, "counts": {"errors": n}, "rules": {"a": "1"}}})
        for n, label in enumerate(("baseline/rlvr", "prism/rlvr"))
    ]
    assert any("Judged by j" in note for note in compare(cells).notes)


def test_judge_errors_are_counted(tmp_path):
    def failed(row):
        return {**row, "judged": "error"} if row["item_id"].endswith("0") else row

    row = compare([make_cell(tmp_path, "m", items=20, rows=failed)]).row("m")
    assert row.answers["digits"].judge_errors == 0.1


def test_an_answer_without_a_verdict_is_not_correct(tmp_path):
    cell = make_cell(tmp_path, "m", items=4, correct=[True] * 4, rows=lambda r: {**r, "correct": None})
    assert compare([cell]).row("m").scores["digits"]["correct"].value == 0


def test_other_servers_are_told_not_refused(tmp_path):
    cells = pair(tmp_path)
    cells.append(make_cell(tmp_path, "base", items=20, facts={"server": {"engine": "vllm"}}))
    assert any("different servers" in note for note in compare(cells).notes)


def test_two_models_of_one_name_are_refused_and_copies_are_one(tmp_path):
    cells = pair(tmp_path)
    copy = make_cell(tmp_path / "copy", "prism/rlvr", correct=GOOD, items=20)
    assert compare([*cells, copy]).to_json() == compare(cells).to_json()
    other = make_cell(tmp_path / "other", "prism/rlvr", items=20, model={"weights_hash": "f" * 64})
    with pytest.raises(BadInput, match="two different models are called `prism/rlvr`"):
        compare([*cells, other])


def test_a_later_evaluation_of_the_same_model_counts(tmp_path):
    cells = pair(tmp_path)
    later = make_cell(
        tmp_path / "later", "prism/rlvr", correct=BAD, items=20, facts={"created": "2026-02-01T00:00:00Z"}
    )
    assert difference(compare([later, *cells])).value == 0


def test_without_a_baseline_one_has_to_be_named(tmp_path):
    cells = [make_cell(tmp_path, label, items=20) for label in ("one", "two")]
    with pytest.raises(BadInput) as caught:
        compare(cells)
    assert caught.value.fix == "choose one with --baseline: one, two"
    with pytest.raises(BadInput, match="there is no model `three`"):
        compare(cells, "three")
    assert compare(cells, "one").treated == "two"
    alone = compare(cells, strict=False)
    assert (alone.baseline, alone.conclusion) == (None, None)
    assert "two" in shown(alone)
    with pytest.raises(BadInput, match="no model `one` to compare"):
        compare(cells, "one", treated="one")


def test_each_algorithm_has_its_own_baseline(tmp_path):
    cells = [
        make_cell(tmp_path / a, f"{arm}/rlvr", items=20, model={"algorithm": a, "weights_hash": digest(arm, a)})
        for arm, a in itertools.product(("baseline", "prism"), ("grpo", "dapo"))
    ]
    cells.append(make_cell(tmp_path, "shared/sft", items=20))
    found = compare(cells)
    assert {row.label: row.baseline for row in found.rows} == {
        "shared/sft": None,
        "baseline/rlvr [dapo]": None,
        "baseline/rlvr [grpo]": None,
        "prism/rlvr [dapo]": "baseline/rlvr [dapo]",
        "prism/rlvr [grpo]": "baseline/rlvr [grpo]",
    }


@pytest.mark.parametrize(("seeds", "over"), [(1, "items"), (4, "items"), (5, "items and training seeds")])
def test_training_seeds_are_a_level_from_five_on_and_each_is_shown(tmp_path, seeds, over):
    cells = [
        make_cell(tmp_path / str(seed), label, items=30, accuracy=accuracy, training_seed=seed)
        for seed in range(seeds)
        for label, accuracy in (("baseline/rlvr", 0.5), ("prism/rlvr", 0.6))
    ]
    found = compare(cells)
    got = difference(found)
    assert got.over == over
    assert list(got.seeds) == list(range(seeds))
    assert got.value == pytest.approx(sum(got.seeds.values()) / seeds)
    told = shown(found)
    assert ("Each training seed" in told) == (seeds > 1)
    assert ("conditional on these" in told) == (seeds == 4)
    assert ("nothing about other training seeds" in told) == (seeds == 1)
    assert ("over items and training seeds" in told) == (seeds == 5)


def test_a_model_without_a_training_seed_meets_every_seed_of_the_baseline(tmp_path):
    cells = [make_cell(tmp_path / str(s), "baseline/rlvr", items=20, training_seed=s) for s in range(3)]
    cells.append(make_cell(tmp_path, "base", items=20, training_seed=None))
    got = difference(compare(cells), "base")
    assert list(got.seeds) == [0, 1, 2]


def test_only_shared_seeds_are_compared(tmp_path):
    cells = [make_cell(tmp_path / str(s), "baseline/rlvr", items=20, training_seed=s) for s in (0, 1)]
    cells += [make_cell(tmp_path / str(s), "prism/rlvr", items=20, training_seed=s) for s in (1, 2)]
    found = compare(cells)
    assert list(difference(found).seeds) == [1]
    assert any("share the training seeds 1 only" in note for note in found.notes)
    apart = compare([cells[0], cells[3]])
    assert not apart.row("prism/rlvr").differences
    assert any("shares no benchmark and seed" in note for note in apart.notes)


def test_decoding_seeds_are_averaged(tmp_path):
    cells = [
        make_cell(tmp_path, label, correct=verdicts, items=20, decoding_seed=seed)
        for label, by_seed in (("baseline/rlvr", (BAD, BAD)), ("prism/rlvr", (GOOD, BAD)))
        for seed, verdicts in enumerate(by_seed)
    ]
    found = compare(cells)
    assert found.row("prism/rlvr").scores["digits"]["correct"].value == pytest.approx(0.45)
    assert difference(found).value == pytest.approx(0.15)
    assert difference(found).test == "sign flips"
    assert found.row("prism/rlvr").decoding_seeds == [0, 1]


def test_what_a_benchmark_does_not_measure_is_no_number(tmp_path):
    cells = [make_cell(tmp_path, label, items=20, perception=0.5, logic=0.5) for label in ("baseline/rlvr", "m")]
    cells.append(make_cell(tmp_path, "base", items=20, perception=0.5))
    found = compare(cells)
    assert found.metrics == ["correct", "perception", "logic", "format"]
    assert "logic" not in found.row("base").scores["digits"]
    assert found.to_json()["models"][0]["scores"]["digits"]["logic"] is None


def test_suites_and_protocols_are_never_mixed(tmp_path):
    cells = pair(tmp_path) + pair(tmp_path, protocol="sample")
    with pytest.raises(BadInput, match="several protocols: greedy, sample"):
        compare(cells)
    assert [found.protocol for found in compare_all(cells)] == ["greedy", "sample"]
    assert compare(cells, protocol="sample").decoding["temperature"] == 1.0
    with pytest.raises(BadInput, match="protocol `paper`"):
        compare(cells, protocol="paper")
    with pytest.raises(BadInput, match="benchmark `mmmu`"):
        compare(cells, protocol="greedy", benchmarks=["mmmu"])
    with pytest.raises(BadInput, match="no finished cells"):
        compare_all([])


@pytest.fixture(scope="module")
def seven(tmp_path_factory):
    """Three models on the seven benchmarks, three training seeds."""
    store = tmp_path_factory.mktemp("seven")

    def official(row):
        number = int(row["item_id"][-5:])
        return {**row, "item_id": f"VD/chart/{number // 4}/{number % 4}/0"}

    tasks = {name: [f"prism_{name}_testmini"] for name in SEVEN}
    tasks |= {"mmmu": ["prism_mmmu_val"], "mmmu_pro": ["prism_mmmu_pro_standard", "prism_mmmu_pro_vision"]}
    tasks["hallusion_bench"] = ["prism_hallusion_bench_image"]
    options = {"suite": "multimodal-reasoning", "protocol": "paper", "items": 24, "tokens": 2000}
    return [
        make_cell(
            store / str(seed), label, task, benchmark=name, training_seed=seed, accuracy=accuracy,
            groups=[f"g{i // 4}" for i in range(24)] if name in ("wemath", "mathverse") else None,
            subsets=["2steps_multi"] * 24 if name == "wemath" else ["Text Lite", "Vision Only"] * 12,
            rows=official if name == "hallusion_bench" else None, **options,
        )
        for seed in range(3)
        for label, accuracy in (("shared/sft", 0.3), ("baseline/rlvr", 0.4), ("prism/rlvr", 0.8))
        for name in SEVEN
        for task in tasks[name]
    ]  # fmt: skip


def test_seven_benchmarks_fit_80_columns(seven):
    found = compare(seven)
    told = shown(found)
    assert max(map(len, told.splitlines())) <= 80
    titles = [b.column.title for b in found.benchmarks]
    assert titles == ["MathVista", "MathVerse", "MathVision", "WeMath", "MMMU", "MMMU-Pro", "HallusionBench"]
    score = found.row("prism/rlvr").macro["correct"]
    assert f"{100 * score.value:.1f}" in told
    assert "24 in 6 groups" in " ".join(told.split())
    also = found.row("prism/rlvr").also
    assert also["hallusion_bench"].keys() == {"aAcc", "qAcc", "fAcc"}
    assert also["mmmu_pro"].keys() == {"standard", "vision"}
    assert also["mathverse"].keys() == {"text_lite", "vision_only"}


def test_markdown_has_as_many_cells_as_heads(seven):
    told = formats.markdown(compare_all(seven), paper.sheets(), None)
    for block in told.split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") - line.count("\\|") for line in lines}) <= 1
    assert "| prism/rlvr |" in told


def test_csv_is_one_line_per_model_benchmark_and_metric(seven):
    found = compare_all(seven)
    rows = list(csv.DictReader(io.StringIO(formats.csv_text(found))))
    assert len(rows) == 3 * 8 * 2  # models, benchmarks and macro, correct and format
    line = next(r for r in rows if (r["model"], r["benchmark"], r["metric"]) == ("prism/rlvr", "macro", "correct"))
    assert float(line["difference"]) == pytest.approx(found[0].headline().value, rel=1e-5)
    assert line["p_holm"] == ""


def test_labels_are_text_in_every_format(tmp_path):
    label = "[bold]a|b_&%$\\x{}<b>\x1b[31m\u202eevil*\n=1"
    cells = [make_cell(tmp_path, name, items=20) for name in ("baseline/rlvr", label, "=HYPERLINK(1)")]
    found = compare(cells)
    told = shown(found, width=200)
    assert "[bold]a|b_&%$\\x{}<b>" in told
    assert "\x1b" not in told
    assert "\u202e" not in told
    in_markdown = formats.markdown([found], [], None)
    assert "\\[bold\\]a\\|b\\_\\&%$\\\\x{}\\<b\\>" in in_markdown
    in_latex = formats.latex([found], [], None)
    assert r"[bold]a\textbar{}b\_\&\%\$\textbackslash{}x\{\}\textless{}b\textgreater{}" in in_latex
    in_csv = list(csv.DictReader(io.StringIO(formats.csv_text([found]))))
    assert {row["model"] for row in in_csv} >= {"'=HYPERLINK(1)"}
    assert not any(mark in text for text in (in_markdown, in_latex) for mark in ("\x1b", "\u202e"))


def test_one_metric_by_itself(tmp_path):
    found = compare([make_cell(tmp_path, m, items=20, perception=0.5) for m in ("baseline/rlvr", "prism/rlvr")])
    assert "perception" in sheets(found, "perception")[0].title
    assert sheets(found)[0].headers == ["model", "correct", "perception", "format", "n", "unread", "cut", "tokens"]


def test_the_papers_rows_have_their_own_average():
    quoted = paper.load()
    rows = [row for table in quoted["tables"] for row in table["rows"]]
    assert len(rows) == 24
    for name, *values, average in rows:
        assert len(values) == len(quoted["benchmarks"]) == 7, name
        assert abs(sum(values) / 7 - average) <= 0.05 + 1e-9, name
    by_name = {table["name"]: {row[0]: row[-1] for row in table["rows"]} for table in quoted["tables"]}
    gains = {name: rows["SFT->PRISM->GRPO"] - rows["SFT->GRPO"] for name, rows in by_name.items() if "main" in name}
    assert gains == {"main-4b": pytest.approx(4.4), "main-8b": pytest.approx(6.0)}


def test_the_papers_numbers_are_marked_as_quoted():
    for sheet in paper.sheets():
        assert sheet.title.startswith("Quoted from PRISM, arXiv 2604.28123, ")
        stream = io.StringIO()
        print_sheet(sheet, Console(file=stream, width=80))
        assert max(map(len, stream.getvalue().splitlines())) <= 80
    assert paper.to_json()["quoted"] is True


def test_cells_in_any_order_have_the_same_rows(tmp_path):
    labels = ["prism/rlvr", "base", "control/rlvr", "shared/sft", "baseline/rlvr", "prism/align", "shared/base"]
    cells = [make_cell(tmp_path, label, items=5) for label in labels]
    random.Random(0).shuffle(cells)
    assert [row.label for row in compare(cells).rows] == [
        "base", "shared/base", "shared/sft", "baseline/rlvr", "control/rlvr", "prism/align", "prism/rlvr",
    ]  # fmt: skip
