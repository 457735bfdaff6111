"""The report: what it is made from, what it shows, and that nothing in it can act."""

import json
import re
import shutil
import unicodedata

import pytest
from cells import make_cell
from hypothesis import given
from hypothesis import strategies as st
from report_run import BASELINE, GAINED, ITEMS, LOST, OURS, make_images, make_run

from benchmarks.report import report
from benchmarks.report.collect import collect, read_events
from benchmarks.report.gallery import gallery
from benchmarks.report.page import TEMPLATES, policy, safe_json
from benchmarks.report.pictures import data_uri
from benchmarks.report.svg import COLOURS
from benchmarks.report.text import visible
from benchmarks.report.training import histories, noisy, smooth
from integrations.errors import BadInput


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs of someone") / "digits-s0")


@pytest.fixture(scope="module")
def made(run):
    return report([run])


def section(made, name):
    return next(section for section in made.page.sections if section.id == name)


def tables(made, name):
    parts = section(made, name).parts
    return [p for part in parts for p in (part.parts if part.kind == "fold" else [part]) if p.kind == "table"]


# ---- untrusted text


@given(st.text())
def test_visible_text_has_no_character_that_deceives(text):
    kept = visible(text)
    assert not [
        c for c in kept if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn") and c not in "\n\t\u200c\u200d"
    ]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("right \u202ethgir", "right \\u202ethgir"),
        ("\x1b]0;owned\x07", "\\x1b]0;owned\\x07"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("a\u2066b\u2069", "a\\u2066b\\u2069"),
        ("tag \U000e0041", "tag \\U000e0041"),
        ("overwritten\rby this", "overwritten\\x0dby this"),
        ("two\r\nlines", "two\nlines"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
        ("é 汉 👩\u200d💻 ½", "é 汉 👩\u200d💻 ½"),
    ],
)
def test_deceptive_characters_are_written_out_and_others_kept(text, shown):
    assert visible(text) == shown


@given(st.recursive(st.none() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_json_for_a_script_element_holds_no_markup_and_reads_back(value):
    text = safe_json(value)
    assert json.loads(text) == value
    assert not set("<>&\u2028\u2029") & set(text)


def test_the_policy_forbids_everything_but_this_script_and_style():
    rules = dict(rule.split(" ", 1) for rule in policy("a {}", "1").split("; "))
    assert rules["default-src"] == "'none'"
    assert "unsafe" not in policy("a {}", "1")
    assert rules["script-src"] != dict(r.split(" ", 1) for r in policy("a {}", "2").split("; "))["script-src"]


def test_a_hostile_run_name_is_escaped(tmp_path):
    folder = make_run(tmp_path / "run", evaluated=())
    content = json.loads((folder / "manifest.json").read_text())
    content["run"] = "<script>alert(1)</script>"
    (folder / "manifest.json").write_text(json.dumps(content))
    assert "<script>alert" not in report([folder]).html


def test_hostile_names_are_shown_and_break_nothing(tmp_path):
    name = "evil$x_1^{$\x1b[31m\u202e<script>alert(1)</script>"
    make_cell(tmp_path, name, items=10)
    make_cell(tmp_path, "baseline/rlvr", items=10)
    folder = make_run(tmp_path / "run", evaluated=(), trained=["shared/sft"])
    event = {"time": "2026-01-02T03:00:01Z", "event": "stage_started", "stage": name, "attempt": 1, "steps": 3}
    progress = event | {"event": "progress", "step": 1, "total": 3, "metrics": {name: 1.0, "\ud800": 2.0}}
    with (folder / "events.jsonl").open("a") as stream:
        stream.writelines(json.dumps(line) + "\n" for line in (event, progress))
    made = report([tmp_path, folder])
    assert "\\x1b[31m\\u202e" in " ".join(made.page.headline)
    assert not set("\x1b\u202e\ud800") & set(made.html)
    assert "<script>alert" not in made.html


# ---- what the page says


def test_the_page_needs_nothing_but_itself(made):
    assert re.findall(r"""(?:src|href)="(?!#|data:)|(?:src|href)=[^"]""", made.html.split("<script>")[0]) == []
    assert re.findall(r"url\((?!#)|@import|https?://", made.html) == []
    assert len(made.html.encode()) < 5_000_000


def test_the_page_names_no_path_host_or_user(made, run):
    import getpass
    import socket

    for private in (str(run), str(run.parent.name), "/home/", socket.gethostname(), getpass.getuser() + "@"):
        assert private not in made.html


def test_the_headline_has_the_difference_and_says_when_it_shows_nothing(made):
    assert "prism/rlvr is not shown to differ from baseline/rlvr" in made.page.headline[0]
    difference = 100 * (GAINED - LOST) / ITEMS
    assert f"{difference:+.1f} points" in made.page.headline[0]
    titles = {card.title: card.value for card in made.page.cards}
    assert titles["Items won and lost"] == f"{GAINED} : {LOST}"
    assert titles["prism/rlvr"] == f"{100 * sum(OURS) / ITEMS:.1f} %"


def test_an_arm_that_is_ahead_of_ours_is_named(tmp_path):
    stages = ("prism/rlvr", "baseline/rlvr", "control/rlvr")
    folder = make_run(tmp_path / "run", evaluated=stages[:2])
    make_cell(folder / "eval", "control/rlvr", benchmark="digits", items=ITEMS, correct=[True] * ITEMS)
    said = report([folder]).page.headline
    assert any("control/rlvr stands at" in sentence and "ahead of prism/rlvr" in sentence for sentence in said)


def test_scores_and_differences_stand_in_tables(made):
    (scores,) = tables(made, "scores")
    row = next(row for row in scores.rows if row[0] == "baseline/rlvr")
    assert row[1] == f"{100 * sum(BASELINE) / ITEMS:.1f}"
    assert row[3] == str(ITEMS)
    (differences,) = tables(made, "differences")
    row = next(row for row in differences.rows if row[0] == "prism/rlvr")
    assert row[6:9] == [str(GAINED), str(LOST), str(ITEMS - GAINED - LOST)]


def test_costs_are_those_of_the_records(made):
    stages, arms, evaluation = tables(made, "cost")
    assert ["prism/align", "prism", "3.0", "2,000"] in [list(row) for row in stages.rows]
    assert ["baseline", "6.0", "4,000"] in [list(row) for row in arms.rows]
    assert len(evaluation.rows) == 3


def test_provenance_has_hashes_seed_and_kind_of_machine(made):
    facts = dict(tables(made, "provenance")[0].rows)
    assert facts["Recipe hash"] == "ab" * 6
    assert facts["Training seed"] == "0"
    assert facts["Lock of verl"] == "12" * 6
    assert facts["Machine"] == "Linux, 4 cores, 16 GiB, no GPU"


def test_drift_tells_perception_from_reasoning(made):
    rates = next(t for t in tables(made, "drift") if t.caption.startswith("Perception and reasoning"))
    assert {row[0] for row in rates.rows} == {"shared/sft", "prism/rlvr", "baseline/rlvr"}
    assert "Captions right" in rates.headers


# ---- what is not there


def test_a_run_that_has_trained_half_and_evaluated_nothing_says_so(tmp_path):
    made = report([make_run(tmp_path / "half", trained=["shared/sft"], evaluated=())])
    missing = " ".join(made.page.missing)
    assert "half: not finished: prism/discriminator, prism/align, prism/rlvr" in missing
    assert "nothing is evaluated yet" in missing
    assert made.page.gallery is None
    assert [s.id for s in made.page.sections] == ["summary", "training", "cost", "provenance"]


def test_a_trained_arm_without_evaluation_is_named(tmp_path):
    made = report([make_run(tmp_path / "run", evaluated=("prism/rlvr",))])
    assert any("trained but not evaluated: baseline/rlvr, control/rlvr" in line for line in made.page.missing)


def test_a_folder_of_cells_has_no_curves_and_says_so(tmp_path):
    make_cell(tmp_path / "evals", "owner/model", items=10)
    made = report([tmp_path / "evals"])
    assert "training" not in [s.id for s in made.page.sections]
    assert any("belong to no run" in line for line in made.page.missing)
    assert made.page.gallery["total"] == 10


def test_several_seeds_are_shown_each(tmp_path):
    folders = [make_run(tmp_path / f"digits-s{seed}", seed=seed) for seed in (0, 1)]
    made = report(folders)
    (scores,) = tables(made, "scores")
    assert scores.headers[-1] == "Right, seed 0 / 1"
    assert len(made.page.gallery["models"]) == 6
    assert "training seeds 0, 1" in made.page.kicker


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(BadInput, match="neither a run"):
        report([tmp_path])


def test_runs_that_do_not_belong_together_are_refused(tmp_path):
    one, other = (make_run(tmp_path / name, evaluated=()) for name in ("one", "other"))
    with pytest.raises(BadInput, match="the same seed 0"):
        collect([one, other])
    content = json.loads((other / "manifest.json").read_text())
    content["recipe"]["hash"] = "00" * 32
    (other / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(BadInput, match="different recipes"):
        collect([one, other])


def test_events_cut_by_a_kill_are_left_out(tmp_path):
    (tmp_path / "events.jsonl").write_text('{"event": "started"}\n[]\n{"event": 3}\n{"event": "prog')
    assert read_events(tmp_path / "events.jsonl") == [{"event": "started"}]
    assert read_events(tmp_path / "missing.jsonl") == []


# ---- training


def test_a_resumed_stage_keeps_the_later_report_of_a_step(run):
    history = histories(collect([run]).runs[0])["prism/rlvr"]
    steps, values = history.curve("reward")
    assert steps == list(range(1, 11))
    assert values[:3] == [1, 1 / 2, 1 / 3]
    assert values[3:] == [2 / step for step in range(4, 11)]
    assert [attempt.outcome for attempt in history.attempts] == ["failed", "done"]
    assert history.marks == {"failed": [5], "resumed": [4]}


def test_attempts_and_failures_are_told_under_the_timeline(made):
    timeline = next(p for p in section(made, "training").parts if p.kind == "drawing")
    assert "6 stages, 7 attempts, 1 of them resumed, 1 failed" in timeline.caption
    drawings = [p.caption for p in section(made, "training").parts if p.kind == "drawing"]
    assert any("prism/rlvr: failed at step 5; resumed at step 4." in caption for caption in drawings)


def test_a_stage_that_started_over_is_told_from_there(tmp_path):
    folder = make_run(tmp_path / "run", evaluated=(), trained=["shared/sft"])
    before = (folder / "events.jsonl").read_text()
    again = json.dumps({"time": "2026-01-03T00:00:00Z", "event": "stage_started", "stage": "shared/sft", "attempt": 1})
    (folder / "events.jsonl").write_text(before + again + "\n")
    history = histories(collect([folder]).runs[0])["shared/sft"]
    assert len(history.attempts) == 1
    assert history.metrics == {}


def test_checkpoints_evaluated_in_training_and_warnings_are_drawn(tmp_path):
    folder = make_run(tmp_path / "run", evaluated=(), trained=["shared/sft"])
    facts = {"time": "2026-01-02T03:00:41Z", "stage": "shared/sft"}
    more = [
        {"event": "intermediate_evaluation", "step": 5, "scores": {"correct": 0.5, "perception": None}},
        {"event": "early_warning", "step": 5, "metric": "correct"},
        {"event": "early_warning", "step": 5, "metric": "format"},
        {"event": "checkpoint_selected", "step": 8, "of": 10},
        {"event": "evaluation_started", "stage": "eval/shared/sft"},
        {"event": "evaluated", "stage": "eval/shared/sft", "seconds": 1.0},
    ]
    with (folder / "events.jsonl").open("a") as stream:
        stream.writelines(json.dumps({**facts, **event}) + "\n" for event in more)
    found = histories(collect([folder]).runs[0])
    assert found["shared/sft"].curve("checkpoints_correct") == ([5], [0.5])
    assert found["shared/sft"].marks == {"early warning": [5], "checkpoint kept": [8]}
    assert found["eval/shared/sft"].attempts[0].outcome == "done"
    page = report([folder]).html
    assert "Checkpoints, answers right" in page
    assert "early warning" in page


def test_a_running_mean_follows_noise_and_leaves_trends_alone():
    noise = [index % 2 for index in range(40)]
    assert noisy(noise)
    assert not noisy(list(range(40)))
    assert max(smooth(noise, 0.2)[5:-5]) < 0.7
    assert smooth([3.0] * 20) == [3.0] * 20


# ---- drawings


def test_drawings_take_their_colours_from_the_theme(made):
    drawings = re.findall(r"<svg .*?</svg>", made.html, re.S)
    assert len(drawings) >= 4
    for drawing in drawings:
        assert "style=" not in drawing
        assert not set(re.findall(r"#[0-9a-f]{6}", drawing)) & set(COLOURS)
        assert 'role="img"' in drawing
        assert re.search(r'aria-label="[^"]+"', drawing)


def test_no_two_elements_share_an_identifier(made):
    identifiers = re.findall(r'\sid="([^"]+)"', made.html)
    assert len(identifiers) == len(set(identifiers))


@pytest.mark.parametrize("side", [0, 1], ids=["light", "dark"])
def test_text_stands_out_from_its_ground(side):
    css = (TEMPLATES / "page.css").read_text()
    colours = {name: pair[side] for name, *pair in re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", css)}
    for text in ("ink", "muted", "accent", "good", "bad"):
        for ground in ("paper", "panel"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    assert contrast(colours["good"], colours["good-paper"]) >= 4.5
    assert contrast(colours["bad"], colours["bad-paper"]) >= 4.5
    for line in (name for name in colours if name.startswith("c-")):
        assert contrast(colours[line], colours["paper"]) >= 3, line


def contrast(one, other):
    """WCAG 2's ratio of two colours."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


# ---- the sample browser's content


def test_every_item_is_there_while_it_fits(made):
    shown = made.page.gallery
    assert len(shown["items"]) == shown["total"] == ITEMS
    assert [shown["models"][shown[side]] for side in ("first", "second")] == [
        "baseline/rlvr · seed 0",
        "prism/rlvr · seed 0",
    ]
    assert len(shown["images"]) == 3  # shared by all items


def test_flips_come_first_when_not_everything_fits(run):
    material = collect([run])
    whole = gallery(material.cells, "baseline/rlvr", "prism/rlvr", {}, material.previews)
    room = sum(len(json.dumps(item)) for item in whole.items) // 2
    some = gallery(material.cells, "baseline/rlvr", "prism/rlvr", {}, material.previews, budget=room)
    assert 0 < len(some.items) < ITEMS
    flips = [item["v"][some.first][1] % 2 != item["v"][some.second][1] % 2 for item in some.items]
    assert sum(flips) == min(len(flips), GAINED + LOST)


def test_a_long_response_is_cut_and_says_so(tmp_path):
    make_cell(tmp_path, "a/model", items=1, rows=lambda row: row | {"response": "x" * 30_000})
    (item,) = report([tmp_path]).page.gallery["items"]
    assert "10000 more characters" in item["t"][0][0]


def test_previews_are_small_and_only_previews(tmp_path):
    names = make_images(tmp_path / "images")
    assert data_uri(names[0], [tmp_path / "nowhere", tmp_path / "images"]).startswith("data:image/webp;base64,")
    shutil.copy(tmp_path / "images" / names[0], tmp_path / "secret.png")
    (tmp_path / "images" / ("ab" * 32 + ".png")).write_bytes(b"no image")
    assert data_uri("../secret.png", [tmp_path / "images"]) is None
    assert data_uri("ab" * 32 + ".png", [tmp_path / "images"]) is None
    assert data_uri("cd" * 32 + ".png", [tmp_path / "images"]) is None
