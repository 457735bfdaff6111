"""What `prism eval` takes for a model, and that models are told apart by their bytes."""

import json

import pytest

from integrations.errors import BadInput
from prism_cli.evaluation.models import find_models, finished_arms, served_model, stage_model
from prism_cli.runs.overview import find_or_latest
from prism_cli.runs.store import RunStore

ARMS = {
    "prism": ["shared/sft", "prism/discriminator", "prism/align", "prism/rlvr"],
    "baseline": ["shared/sft", "baseline/rlvr"],
}
KINDS = {"sft": "sft", "discriminator": "discriminator", "align": "align", "rlvr": "rlvr"}


def make_run(runs_dir, name="digits-s3", seed=3, done=("shared/sft", "prism/discriminator", "baseline/rlvr")):
    store = RunStore.create(runs_dir, name)
    stages = {stage: {} for stage in done}
    store.write_manifest({"run": name, "seed": seed, "arms": ARMS, "stages": stages, "recipe": {"name": "digits"}})
    for stage in done:
        folder = store.stage(stage)
        folder.prepare({})
        make_checkpoint(folder.model_dir, stage)
        record = {"kind": KINDS[stage.split("/")[1]], "hash": f"hash of {stage} {seed}", "result": {}}
        folder.finish({}, ["model"], record)
    return store


def make_checkpoint(folder, content):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text(content)
    return folder


def test_each_arms_last_finished_policy_is_evaluated_by_default(tmp_path):
    run = make_run(tmp_path)
    assert finished_arms(run, every_stage=False) == ["shared/sft", "baseline/rlvr"]
    full = make_run(tmp_path, "full", done=list(dict.fromkeys(s for names in ARMS.values() for s in names)))
    assert finished_arms(full, every_stage=False) == ["prism/rlvr", "baseline/rlvr"]
    assert finished_arms(full, every_stage=True) == ["shared/sft", "prism/align", "prism/rlvr", "baseline/rlvr"]


def test_a_run_without_a_finished_policy_is_refused(tmp_path):
    run = make_run(tmp_path, done=("prism/discriminator",))
    with pytest.raises(BadInput, match="no finished policy"):
        finished_arms(run, every_stage=True)


def test_a_stage_carries_its_lineage(tmp_path):
    model = stage_model(make_run(tmp_path), "baseline/rlvr")
    assert (model.label, model.training_seed) == ("baseline/rlvr", 3)
    assert model.weights_hash == "hash of baseline/rlvr 3"
    assert model.facts["run"] == "digits-s3"
    assert model.store == tmp_path / "digits-s3" / "eval"
    assert model.slug.startswith("baseline-rlvr-")


@pytest.mark.parametrize("stage", ["prism/rlvr", "prism/discriminator", "nonsense"])
def test_what_is_no_finished_policy_is_refused_with_those_that_are(tmp_path, stage):
    with pytest.raises(BadInput) as caught:
        stage_model(make_run(tmp_path), stage)
    assert "shared/sft" in caught.value.fix


def test_a_stages_name_means_that_stage_of_every_run(tmp_path):
    runs = [make_run(tmp_path, f"digits-s{seed}", seed) for seed in (0, 1)]
    models = find_models(["baseline/rlvr"], runs, tmp_path / "evals")
    assert [(m.label, m.training_seed) for m in models] == [("baseline/rlvr", 0), ("baseline/rlvr", 1)]
    assert models[0].slug != models[1].slug or models[0].store != models[1].store


def test_folders_of_one_name_share_nothing(tmp_path):
    one = make_checkpoint(tmp_path / "a" / "model", "one")
    two = make_checkpoint(tmp_path / "b" / "model", "two")
    models = find_models([str(one), str(two)], [], tmp_path / "evals")
    assert len({m.slug for m in models}) == len({m.label for m in models}) == 2
    assert all(m.label.startswith("model (") for m in models)


def test_the_same_folder_twice_is_one_model(tmp_path):
    one = make_checkpoint(tmp_path / "a" / "model", "one")
    assert len(find_models([str(one), str(one)], [], tmp_path / "evals")) == 1


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_folder_without_weights_is_refused(tmp_path, missing):
    folder = make_checkpoint(tmp_path / "model", "one")
    (folder / missing).unlink()
    with pytest.raises(BadInput, match="holds no checkpoint"):
        find_models([str(folder)], [], tmp_path / "evals")


def test_damaged_stage_weights_are_refused(tmp_path):
    run = make_run(tmp_path)
    (run.stage("shared/sft").model_dir / "model.safetensors").unlink()
    with pytest.raises(BadInput, match="holds no checkpoint"):
        stage_model(run, "shared/sft")


@pytest.mark.parametrize("name", ["no such thing", "/no/such/folder", "../up"])
def test_a_name_that_is_nothing_is_refused(tmp_path, name):
    with pytest.raises(BadInput, match="no finished stage of a run, no folder"):
        find_models([name], [make_run(tmp_path)], tmp_path / "evals")


def test_a_repository_that_cannot_be_fetched_is_one_error(tmp_path, monkeypatch):
    def fail(repo, revision=None):
        raise OSError(f"offline: {repo}@{revision}\nand more lines")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(BadInput) as caught:
        find_models(["owner/name@v1"], [], tmp_path / "evals")
    assert "offline: owner/name@v1" in caught.value.problem
    assert "and more lines" not in caught.value.problem


def test_a_repository_is_known_by_its_commit(tmp_path, monkeypatch):
    snapshot = make_checkpoint(tmp_path / "cache" / "snapshots" / "0123abcd", "one")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda repo, revision=None: str(snapshot))
    (model,) = find_models(["owner/name@v1"], [], tmp_path / "evals")
    assert (model.label, model.facts["revision"]) == ("owner/name", "0123abcd")
    assert str(tmp_path) not in json.dumps(model.facts)


def test_the_latest_run_is_the_one_last_worked_on(tmp_path):
    with pytest.raises(BadInput, match="there is no run in"):
        find_or_latest(tmp_path, None)
    for name in ("first", "second"):
        make_run(tmp_path, name).event("started")
    assert find_or_latest(tmp_path, None).name == "second"
    assert find_or_latest(tmp_path, "first").name == "first"


def test_a_served_model_is_known_by_its_name_only(tmp_path):
    one, two = (served_model(name, [], tmp_path) for name in ("a", "b"))
    assert one.folder is None
    assert one.weights_hash != two.weights_hash
