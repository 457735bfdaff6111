"""Drift on made-up cells and demonstrations: counts and distances by hand, and no drift where there is none."""

import json
import math

import numpy as np
import pytest
from cells import make_cell
from hypothesis import given
from hypothesis import strategies as st

import benchmarks.drift.distances as far
from benchmarks.drift import drift
from benchmarks.drift.demonstrations import DRAWN, read_pools
from benchmarks.drift.proxies import items, proxies, steps
from integrations.common.response import parse

TEACHER = ["<caption>4 7</caption>\n<think>4+7=11</think>\n<answer>11</answer>"] * 60
LONG = "<caption>digits: 4 7 1</caption>\n<think>well, 4+7=11, 11+1=12</think>\n<answer>12</answer>"


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A red ball, a blue cube and a cone.", 3),
        ("- a ball\n- a cube\n* a cone", 3),
        ("1. Ball.\n2. Cube, large.", 2),
        ("The image shows:\n- one thing", 2),  # a single entry is no list: lines are counted
        ("A chart of 1,000 sales at 3.5 percent", 1),
        ("", 0),
        ("... , ;", 0),
        ("一只猫，一只狗。", 2),
    ],
)
def test_items_of_a_caption(caption, expected):
    assert items(caption) == expected


@pytest.mark.parametrize(
    ("reasoning", "expected"),
    [
        ("First add. Then x = 3.5 holds. So 7!", 3),
        ("Step 1: add.\nStep 2: halve it. Then stop.", 2),
        ("**1.** add\n**2.** halve", 2),
        ("a line\nanother\n\n", 2),
        ("no end", 1),
        ("???", 0),
    ],
)
def test_steps_of_a_reasoning(reasoning, expected):
    assert steps(reasoning) == expected


def test_counting_is_linear_in_the_text():
    for hostile in (" " * 200_000, "1" * 200_000, "\n" * 200_000, "." * 200_000, "**(" * 70_000):
        assert items(hostile) + steps(hostile) >= 0


def test_digits_have_a_form_of_their_own():
    found = proxies(LONG, "digits: 4 7 1", "well, 4+7=11, 11+1=12", digits=True)
    assert (found["items"], found["steps"]) == (3, 3)
    assert found["caption_length"] == 13
    empty = proxies("11", None, None, digits=True)
    assert empty == {
        "items": None, "steps": None, "response_length": 2, "caption_length": None, "reasoning_length": None
    }  # fmt: skip


def test_distances_in_exact_cases():
    zeros, ones = np.zeros(4), np.ones(3)
    assert far.wasserstein(zeros, ones) == 1
    assert far.wasserstein(np.array([0.0, 1, 3]), np.array([5.0, 6, 8])) == pytest.approx(5)  # moved by 5
    assert far.wasserstein(np.array([0.0, 10]), np.array([0.0, 0, 10, 10])) == 0  # sizes do not matter
    assert far.jensen_shannon(np.array([1.0, 0]), np.array([0.0, 4])) == 1
    assert far.jensen_shannon(np.array([2.0, 2]), np.array([1.0, 1])) == 0
    # p = (1/2, 1/2), q = (1, 0): entropy of the mean (3/4, 1/4) less half an entropy of 1 bit
    entropy = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    assert far.jensen_shannon(np.array([1.0, 1]), np.array([1.0, 0])) == pytest.approx(math.sqrt(entropy - 0.5))


values = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30).map(np.array)


@given(values, values)
def test_wasserstein_is_the_mean_gap_of_the_sorted_samples(a, b):
    spread = [np.repeat(np.sort(side), other) for side, other in ((a, len(b)), (b, len(a)))]
    assert far.wasserstein(a, b) == pytest.approx(np.abs(spread[0] - spread[1]).mean(), abs=1e-6)
    assert far.wasserstein(a, b) == pytest.approx(far.wasserstein(b, a), abs=1e-6)


def test_bootstrap_of_single_clusters_is_the_ordinary_one():
    """Weights of one for every cluster give the sample itself, rounding to the support included."""
    random = np.random.default_rng(0)
    a, b = random.normal(0, 1, 500), random.normal(0.5, 1, 400)
    support, bounds = far.support_of([a, b]), far.edges(b)
    once = far.clustered(a, np.arange(500), np.ones((2, 500)), support, bounds)
    other = far.clustered(b, np.arange(400), np.ones((2, 400)), support, bounds)
    found = far.distances(once, other, support, bounds)
    assert found.wasserstein_R == pytest.approx(found.wasserstein, abs=0.01)
    assert found.jensen_shannon_R == pytest.approx(found.jensen_shannon)
    assert once.bins.sum() == 2 * 500


def test_histogram_bins_tell_constant_demonstrations_from_others():
    bounds = far.edges(np.full(10, 3.0))
    assert np.searchsorted(bounds, [2.0, 3.0, 4.0]).tolist() == [0, 1, 2]


def write_run(tmp_path, pools):
    run = tmp_path / "run"
    (run / "data" / "pools").mkdir(parents=True)
    for name, responses in pools.items():
        lines = [json.dumps({"id": str(i), "response": text}) for i, text in enumerate(responses)]
        (run / "data" / "pools" / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    settings = {
        "shared/sft": ("shared/init", {"kind": "sft", "data": ["sft"]}),
        "prism/discriminator": ("shared/sft", {"kind": "discriminator", "teacher": "teacher"}),
        "prism/align": ("shared/sft", {"kind": "align", "teacher": "teacher"}),
        "prism/rlvr": ("prism/align", {"kind": "rlvr", "data": ["rlvr"]}),
    }
    stages = {}
    for name, (parent, fields) in settings.items():
        (run / name).mkdir(parents=True)
        (run / name / "inputs.json").write_text(json.dumps({"settings": fields}))
        stages[name] = {"parents": {"policy": {"stage": parent, "hash": "0"}}}
    arms = {"prism": ["shared/sft", "prism/discriminator", "prism/align", "prism/rlvr"]}
    (run / "manifest.json").write_text(json.dumps({"arms": arms, "stages": stages}))
    return run


def saying(*texts):
    """Rows that hold these responses in turn, by item."""

    def row(row):
        text = texts[int(row["item_id"].rsplit("-", 1)[1]) % len(texts)]
        parts = parse(text)
        return row | {
            "response": text,
            "caption": parts and parts.caption,
            "reasoning": parts and parts.think,
            "format": parts is not None,
        }

    return row


def cell(run, label, texts, correct, **options):
    options = {"benchmark": "digits", "items": len(correct)} | options
    return make_cell(run / "eval", label, correct=correct, rows=saying(*texts), **options)


def test_stages_in_order_with_distances_to_what_each_pool_shows(tmp_path):
    run = write_run(tmp_path, {"sft": [LONG] * 30, "teacher": [*TEACHER[:30], *[LONG] * 30], "rlvr": []})
    rlvr = cell(run, "prism/rlvr", TEACHER, [True] * 40)
    sft = cell(run, "shared/sft", [LONG], [False] * 30 + [True] * 10)
    found = drift(run, [rlvr, sft])
    (group,) = found["groups"]
    json.dumps(found, allow_nan=False)
    assert list(group["stages"]) == ["shared/sft", "prism/rlvr"]
    assert group["reference"] == "teacher"
    assert group["supervision"]["teacher"]["used_by"] == ["prism/discriminator", "prism/align"]
    assert group["supervision"]["teacher"]["proxies"]["items"]["mean"] == 2.5
    shown = group["stages"]["prism/rlvr"]["proxies"]["items"]
    assert (shown["mean"], shown["n"], sum(shown["histogram"])) == (2, 40, 1)
    distance = shown["distances"]["teacher"]
    assert distance["wasserstein"]["value"] == 0.5
    assert distance["scaled"]["value"] == 1  # the teacher's items are 2 and 3: a standard deviation of 0.5
    assert distance["scaled"]["low"] <= 1 <= distance["scaled"]["high"]
    assert 0 < distance["scaled"]["chance"] < 1
    constant = shown["distances"]["sft"]
    assert constant["scaled"] is None
    assert constant["wasserstein"]["value"] == 1
    assert constant["jensen_shannon"]["value"] == 1
    assert group["stages"]["shared/sft"]["proxies"]["items"]["distances"]["sft"]["wasserstein"]["value"] == 0
    assert shown["distances"].keys() == {"sft", "teacher"}
    assert group["stages"]["prism/rlvr"]["proxies"]["tokens"]["distances"] == {}


def test_flips_are_counted_on_the_same_items(tmp_path):
    run = write_run(tmp_path, {"sft": [LONG], "teacher": TEACHER})
    before = [True] * 20 + [False] * 20
    after = [False] * 3 + [True] * 17 + [True] * 8 + [False] * 12
    cells = [
        cell(run, "shared/sft", TEACHER, before, perception=1.0),
        cell(run, "prism/align", TEACHER, after, shuffle=True, perception=0.0),
    ]
    (group,) = drift(run, cells)["groups"]
    (step,) = group["transitions"]
    assert (step["from"], step["to"]) == ("shared/sft", "prism/align")
    flips = step["flips"]["correct"]
    assert {k: flips[k] for k in ("n", "gained", "lost", "kept_right", "kept_wrong")} == {
        "n": 40, "gained": 8, "lost": 3, "kept_right": 17, "kept_wrong": 12
    }  # fmt: skip
    assert flips["net"]["value"] == 5 / 40
    assert flips["net"]["p"] == pytest.approx(0.2265625)  # scipy.stats.binomtest(3, 11).pvalue
    assert flips["net"]["low"] < 5 / 40 < flips["net"]["high"]
    assert flips["by_chance"] == 0  # greedy
    assert step["flips"]["perception"]["lost"] == 40
    assert step["flips"]["logic"] is None
    same = step["closer"]["items"]["teacher"]
    assert same["scaled"] is None
    assert same["jensen_shannon"] == {"value": 0, "low": 0, "high": 0}


def test_two_draws_of_one_item_tell_what_flips_by_chance(tmp_path):
    run = write_run(tmp_path, {"sft": [LONG], "teacher": TEACHER})
    draws = [[True, False], [True, True], [False, False], [False, True]]
    cells = [
        cell(run, label, TEACHER, draws * 5, protocol="sample", samples=2) for label in ("shared/sft", "prism/align")
    ]
    (group,) = drift(run, cells)["groups"]
    flips = group["transitions"][0]["flips"]["correct"]
    assert flips["by_chance"] == 0.5  # two of four items differ between their draws
    assert (flips["n"], flips["gained"], flips["lost"]) == (40, 0, 0)
    assert flips["net"]["p"] is None  # two responses to one item are not independent
    rate = group["stages"]["shared/sft"]["measured"]["correct"]
    assert (rate["value"], rate["n"]) == (0.5, 40)


def test_closer_when_a_later_stage_moves_towards_the_demonstrations(tmp_path):
    run = write_run(tmp_path, {"sft": [LONG], "teacher": [*TEACHER, LONG]})
    mixed = [LONG, LONG, TEACHER[0], LONG]
    cells = [
        cell(run, "shared/sft", mixed, [True] * 100),
        cell(run, "prism/align", TEACHER, [True] * 100),
    ]
    (group,) = drift(run, cells)["groups"]
    for proxy in ("items", "steps", "caption_length"):
        closer = group["transitions"][0]["closer"][proxy]["teacher"]
        assert closer["scaled"]["high"] < 0
        assert closer["jensen_shannon"]["high"] < 0


def test_a_stage_without_captions_has_no_caption_proxies(tmp_path):
    run = write_run(tmp_path, {"sft": ["4 7: 4+7=11"] * 9 + [LONG], "teacher": TEACHER})
    found = drift(run, [cell(run, "shared/sft", ["11"], [True] * 5)])
    (group,) = found["groups"]
    stage = group["stages"]["shared/sft"]
    assert stage["proxies"]["items"] is None
    assert stage["proxies"]["response_length"]["mean"] == 2
    assert list(group["supervision"]) == ["teacher"]
    assert any("`sft` is left out" in note for note in found["notes"])


def test_without_a_run_there_is_no_order_and_no_distance(tmp_path):
    cells = [make_cell(tmp_path, label, benchmark="mathvista") for label in ("b/x", "a/y")]
    found = drift(None, cells)
    (group,) = found["groups"]
    assert list(group["stages"]) == ["b/x", "a/y"]
    assert (group["transitions"], group["supervision"], group["reference"]) == ([], {}, None)
    assert group["stages"]["a/y"]["proxies"]["items"]["mean"] == 2
    assert drift(None, [])["groups"] == []


def test_benchmarks_and_protocols_stand_apart_in_the_cells_order(tmp_path):
    cells = [
        make_cell(tmp_path, task=task, benchmark=task.partition("-")[0], protocol=protocol)
        for task in ("wemath", "mmmu_pro-vision", "mmmu_pro-standard")
        for protocol in ("sample", "greedy")
    ]
    groups = drift(None, cells)["groups"]
    assert [(g["benchmark"], g["protocol"]) for g in groups] == [
        ("wemath", "sample"), ("wemath", "greedy"), ("mmmu_pro", "sample"), ("mmmu_pro", "greedy")
    ]  # fmt: skip
    assert groups[2]["stages"]["prism/rlvr"]["responses"] == 80  # both tasks; equal ids in two tasks are two items
    assert groups[2]["stages"]["prism/rlvr"]["items"] == 80


def test_same_distribution_is_rarely_called_a_distance(tmp_path):
    """Responses drawn from the demonstrations exceed `chance` in about 5% of all draws."""
    random = np.random.default_rng(1)
    beyond = 0
    for _ in range(200):
        column, own = random.poisson(5, 300).astype(float), random.poisson(5, 100).astype(float)
        support, bounds = far.support_of([column, own]), far.edges(column)
        shown = far.independent(column, support, bounds, random)
        null = far.distances(far.independent(column, support, bounds, random, n=100), shown, support, bounds)
        beyond += far.wasserstein(own, column) > np.quantile(null.wasserstein_R, 0.95)
    assert 1 <= beyond <= 22  # 5% of 200, and four standard deviations


def test_a_large_pool_is_drawn_from_evenly_and_always_alike(tmp_path):
    run = write_run(
        tmp_path, {"sft": [f"<caption>{i}</caption><think>a</think><answer>b</answer>" for i in range(9000)]}
    )
    (pool,) = read_pools(run, {"sft": ["shared/sft"], "gone": ["x"]})
    numbers = [int(caption) for _, caption, _ in pool.responses]
    assert (pool.rows, len(numbers), len(set(numbers))) == (9000, DRAWN, DRAWN)
    assert abs(np.mean(numbers) - 4500) < 4 * 2600 / math.sqrt(DRAWN)
    assert read_pools(run, {"sft": ["shared/sft"]})[0].responses == pool.responses


def test_a_damaged_manifest_with_a_circle_of_parents_ends(tmp_path):
    stages = {a: {"parents": {"policy": {"stage": b}}} for a, b in (("x/sft", "x/rlvr"), ("x/rlvr", "x/sft"))}
    (tmp_path / "manifest.json").write_text(json.dumps({"arms": {"x": list(stages)}, "stages": stages}))
    found = drift(tmp_path, [make_cell(tmp_path / "eval", "x/rlvr", items=12)])
    assert found["groups"][0]["stages"]["x/rlvr"]["parent"] is None
