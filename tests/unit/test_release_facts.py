import json

import pytest
from release_run import ACCURACY, REVISION, SUITE, make_release_run, weights

from integrations.errors import BadInput
from prism_cli.publication import cleaning
from prism_cli.publication.data import pictures
from prism_cli.publication.evaluation import Measured
from prism_cli.publication.facts import gather
from prism_cli.publication.stages import stages_to_release, titles
from release import names
from release.facts import Change, Facts

REPO = "prism-vlm/digits"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_release_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def measured(run):
    return Measured(run)


@pytest.fixture(scope="module")
def facts(run, measured):
    return gather(run, "prism/rlvr", REPO, {}, "v1.0", measured=measured)


def change(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_all_means_every_checkpoint_of_pipeline_and_baseline(run):
    chosen = stages_to_release(run, None, "all")
    family = names.family(REPO, [one.member for one in chosen])
    assert {one.stage: family[one.member] for one in chosen} == {
        "shared/sft": f"{REPO}-SFT",
        "prism/discriminator": f"{REPO}-SFT-discriminator",
        "prism/align": f"{REPO}-SFT-PRISM",
        "prism/rlvr": f"{REPO}-SFT-PRISM-GRPO",
        "baseline/rlvr": f"{REPO}-SFT-GRPO",
    }


@pytest.mark.parametrize(
    ("arm", "stage", "expected"),
    [
        (None, "rlvr", ["prism/rlvr"]),
        ("baseline", "rlvr", ["baseline/rlvr"]),
        ("control", "all", ["control/sft", "control/rlvr"]),
        (None, "sft", ["shared/sft"]),
        ("prism", "discriminator", ["prism/discriminator"]),
    ],
)
def test_one_stage_of_an_arm(run, arm, stage, expected):
    assert [one.stage for one in stages_to_release(run, arm, stage)] == expected


@pytest.mark.parametrize(("arm", "stage"), [("nobody", "rlvr"), (None, "base"), ("baseline", "align")])
def test_what_is_not_there_is_said(run, arm, stage):
    with pytest.raises(BadInput):
        stages_to_release(run, arm, stage)


def test_an_unfinished_stage_is_not_released(tmp_path):
    run = make_release_run(tmp_path, evaluated=())
    (run.root / "prism" / "rlvr" / "DONE").unlink()
    assert "prism/rlvr" not in [one.stage for one in stages_to_release(run, None, "all")]
    with pytest.raises(BadInput, match="not finished"):
        gather(run, "prism/rlvr", REPO, {}, "v1.0")


def test_titles_say_what_was_done_and_tell_arms_apart(run):
    found = titles(run)
    assert found["prism/rlvr"] == "SFT → PRISM → GRPO"
    assert found["prism/discriminator"] == "SFT → discriminator"
    assert found["shared/base"] == "Base"
    assert (found["shared/sft"], found["control/sft"]) == ("SFT", "SFT (control)")
    assert (found["baseline/rlvr"], found["control/rlvr"]) == ("SFT → GRPO (baseline)", "SFT → GRPO (control)")


def test_facts_are_json_that_reads_back(facts):
    assert Facts.model_validate_json(facts.to_json()) == facts


def test_the_chain_is_what_the_stage_was_made_from(facts, run, measured):
    assert [stage.name for stage in facts.chain] == [
        "shared/base",
        "shared/sft",
        "prism/discriminator",
        "prism/align",
        "prism/rlvr",
    ]
    assert facts.own.hash == facts.weights.hash == weights("prism/rlvr")
    assert {parent.role: parent.hash for parent in facts.chain[3].parents} == {
        "policy": weights("shared/sft"),
        "discriminator": weights("prism/discriminator"),
    }
    baseline = gather(run, "baseline/rlvr", REPO, {}, "v1.0", measured=measured)
    assert [stage.name for stage in baseline.chain] == ["shared/base", "shared/sft", "baseline/rlvr"]


def test_parameters_are_counted_in_the_weights(facts):
    assert (facts.weights.parameters, facts.weights.dtypes) == (492, ["F32"])


def test_scores_are_those_of_the_comparison(facts, measured):
    assert facts.evaluation is not None
    for kept, whole in zip(facts.evaluation.comparisons, measured.comparisons, strict=True):
        rows = {row["label"]: row for row in whole["models"]}
        assert {row["label"] for row in kept["models"]} == set(rows)
        assert all(row == rows[row["label"]] for row in kept["models"])


def test_models_of_no_concern_are_left_out(run, measured):
    facts = gather(run, "shared/sft", REPO, {}, "v1.0", measured=measured)
    assert facts.evaluation is not None
    labels = {row["label"] for row in facts.evaluation.comparisons[0]["models"]}
    assert labels == {"shared/sft", "prism/rlvr", "baseline/rlvr", "control/rlvr"}


def test_nothing_of_the_machine_or_its_user_gets_in(tmp_path):
    run = make_release_run(tmp_path, hub=True, items=40)
    change(run.root / "prism" / "align" / "DONE", host="h", user="alice", cwd="/home/alice")
    manifest = json.loads((run.root / "manifest.json").read_text())
    manifest["machine"] |= {"host": "alices-laptop", "user": "alice"}
    change(run.root / "manifest.json", machine=manifest["machine"], argv=["/home/alice/bin/prism"])
    text = gather(run, "prism/rlvr", REPO, {}, "v1.0").to_json()
    assert "alice" not in text
    assert "10.1.2.3" not in text
    assert str(tmp_path) not in text
    assert "stages.rlvr.steps=90" in text
    assert "machine.threads" not in text


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("/home/bob smith/data/x", "(local)/x"),
        ("~/models/Qwen", "(local)/Qwen"),
        ("C:\\Users\\bob\\x", "(local)/x"),
        ("../data/prism", "(local)/prism"),
        ("see /etc/passwd now", "see (local)/passwd now"),
        ("http://10.0.0.1:8000/v1", "(local)"),
        ("at 10.0.0.5:6379", "at (local)"),
        ("owner/name", "owner/name"),
        ("1/2 of all", "1/2 of all"),
        ("cosine", "cosine"),
    ],
)
def test_places_are_taken_out_of_strings(value, expected):
    assert cleaning.text(value) == expected


def test_fields_that_name_places_are_emptied_whatever_they_hold():
    cleaned = cleaning.published({"a": {"path": "data"}, "judge": {"url": "judge", "model": "m"}, "machine": {"x": 1}})
    assert cleaned == {"a": {"path": "(local)"}, "judge": {"url": "(local)", "model": "m"}}
    assert cleaning.changes(["machine.jobs=2", "world.path=data", "x=/srv/y"]) == ["world.path=(local)", "x=(local)/y"]


def test_samples_of_earlier_weights_do_not_count(tmp_path):
    run = make_release_run(tmp_path, items=40)
    change(run.root / "prism" / "rlvr" / "DONE", hash="ab" * 32)
    with pytest.raises(BadInput, match="has not been evaluated"):
        gather(run, "prism/rlvr", REPO, {}, "v1.0")
    facts = gather(run, "prism/rlvr", REPO, {}, "v1.0", draft=True)
    assert facts.draft
    assert facts.evaluation is None
    assert any("not evaluated" in limitation for limitation in facts.limitations)


def test_a_discriminator_needs_no_comparison(run, measured):
    facts = gather(run, "prism/discriminator", REPO, {}, "v1.0", measured=measured)
    assert not facts.draft
    assert facts.evaluation is None
    assert facts.own.measured["held_out_pair_accuracy_perception"] == 0.6125


def test_the_same_run_always_says_the_same(run, facts):
    again = gather(run, "prism/rlvr", REPO, {}, "v1.0")
    assert again.to_json() == facts.to_json()
    assert facts.created == "2026-01-05"  # the day of the stage, the last of what it holds


def test_a_later_release_keeps_what_was_said_of_earlier_ones(run, measured):
    earlier = Change(tag="v0.9", date="2026-01-01", what="A draft.")
    facts = gather(run, "prism/rlvr", REPO, {}, "v1.0", measured=measured, changelog=[earlier], what="Evaluated.")
    assert [(one.tag, one.what) for one in facts.changelog] == [("v0.9", "A draft."), ("v1.0", "Evaluated.")]


def test_limitations_name_a_control_that_does_no_worse(facts):
    assert any("control" in limitation and "no worse" in limitation for limitation in facts.limitations)
    assert any("no commit holds" in limitation for limitation in facts.limitations)
    assert any("3 of 480 groups" in limitation for limitation in facts.limitations)


def test_a_baseline_that_is_not_beaten_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(ACCURACY, "prism/rlvr", 0.2)
    run = make_release_run(tmp_path)
    facts = gather(run, "prism/rlvr", REPO, {}, "v1.0")
    assert any("is behind SFT → GRPO (baseline) in answers" in limitation for limitation in facts.limitations)


def test_a_published_base_is_recorded_with_commit_and_licence(tmp_path):
    run = make_release_run(tmp_path, hub=True, items=40)
    facts = gather(run, "prism/rlvr", REPO, {}, "v1.0")
    base = facts.base
    assert (base.origin, base.repo, base.revision) == ("hub", "Qwen/Qwen3-VL-4B-Instruct", REVISION)
    assert base.licence == "apache-2.0"
    assert facts.evaluation is not None
    assert [setup.benchmark for setup in facts.evaluation.setups] == sorted(SUITE)
    assert {setup.dataset for setup in facts.evaluation.setups} >= {"AI4Math/MathVista", "CaraJ/MathVerse-lmmseval"}
    assert facts.paper is not None
    assert facts.paper["name"] == "main-4b"
    assert facts.data.sources == []


def test_the_paper_has_no_numbers_for_digits(facts):
    assert facts.paper is None
    assert facts.base.origin == "random"
    assert facts.data.held_out == ["test"]


def test_the_example_is_the_first_held_out_item(run, facts):
    assert facts.example is not None
    assert (facts.example.question, facts.example.reference) == ("What is the sum?", "3")
    assert list(pictures(run)) == [facts.example.image]
    assert pictures(run)[facts.example.image].startswith(b"\x89PNG")


def test_damaged_records_are_named(tmp_path):
    run = make_release_run(tmp_path, items=40)
    (run.root / "recipe.yaml").write_text("- not a recipe")
    with pytest.raises(BadInput, match=r"recipe\.yaml"):
        gather(run, "prism/rlvr", REPO, {}, "v1.0")
