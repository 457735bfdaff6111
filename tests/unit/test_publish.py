"""Publishing to the loopback Hub with the real client."""

import dataclasses
import json

import loopback
import pytest
from huggingface_hub import constants
from loopback import FOREVER, WRITE_TOKEN, delay, drop, hang, hook, lose, status
from releases import CARD, LARGE, REPO, WEIGHTS, Publisher, as_client, kinds, make

from integrations.errors import BadInput, PrismError
from release.finding import Finding
from release.hub import progress
from release.hub.failures import HubFailed
from release.hub.publish import Target, preview, publish


@pytest.fixture
def server(tmp_path):
    with loopback.hub(tmp_path / "hub") as running:
        yield running


@pytest.fixture
def release(tmp_path, server, monkeypatch):
    as_client(monkeypatch, server)
    return Publisher(*make(tmp_path / "release"))


def released(server, publisher, repo=REPO):
    """Asserts that main holds the release, byte for byte."""
    found = server.repo(repo)
    names = {*publisher.written.files, "provenance/manifest.json"}
    assert {*found.files()} - {".gitattributes"} == names
    for name in names:
        assert found.read(name) == (publisher.folder / name).read_bytes(), name
    return found


def test_a_release_is_one_commit_tagged_and_private(release, server):
    receipt = release()
    repo = released(server, release)
    assert kinds(server.calls) == ["create", "put", "commit", "tag"]
    assert repo.private
    assert repo.tags == {"v1.0": receipt.commit}
    assert repo.history()[0] == receipt.commit
    assert len(repo.history()) == 2
    assert not [call for call in server.calls if call.origin == "blobs" and call.authorized]


def test_the_receipt_says_what_was_released(release, server):
    finding = Finding("size", "warning", WEIGHTS, "It is small.", "Check it.")
    receipt = publish(release.folder, release.written, release.target, print, release.receipts, [finding])
    (path,) = release.receipts.iterdir()
    told = json.loads(path.read_text())
    assert path.name == "model-prism-vlm--quick@v1.0.json"
    assert told == receipt.to_json()
    assert told["files"][WEIGHTS] == release.written.files[WEIGHTS].sha256
    assert (told["commit"], told["tag"], told["url"]) == (
        server.repo(REPO).heads["main"],
        "v1.0",
        f"{server.url}/{REPO}",
    )
    assert told["warnings"] == [finding.to_json()]
    steps = [step["state"] for step in told["states"]]
    assert steps == ["started", "created", "uploaded", "committed", "verified", "tagged", "done"]


def test_a_second_release_changes_nothing_and_keeps_the_receipt(release, server):
    first = release(public=True)
    before = len(server.calls)
    second = release(public=True)
    assert kinds(server.calls[before:]) == []
    assert (first.repeated, second.repeated) == (False, True)
    assert second.to_json() == first.to_json() | {"repeated": True}
    assert "holds this release already" in release.told[-1]


def test_public_comes_last(release, server):
    seen = []
    server.fault("settings", hook(lambda call: seen.append((server.repo(REPO).private, dict(server.repo(REPO).tags)))))
    receipt = release(public=True)
    assert seen == [(True, {"v1.0": receipt.commit})]
    assert not server.repo(REPO).private
    assert receipt.public


def test_making_an_earlier_release_public_is_no_repetition(release, server):
    release()
    assert not release(public=True).repeated
    assert release(public=True).repeated


def test_a_dataset_goes_to_a_dataset_repository(tmp_path, release, server):
    data = Publisher(*make(tmp_path / "data", {"data/train.jsonl": b"{}\n", "README.md": CARD.encode()}))
    receipt = data(repo_type="dataset")
    assert receipt.url == f"{server.url}/datasets/{REPO}"
    assert "data/train.jsonl" in server.repo(REPO, "dataset").files()


def test_stale_files_go_in_the_commit_that_replaces_them(tmp_path, release, server):
    release()
    server.push(REPO, {"pytorch_model.bin": b"\0old", "NOTES.md": b"mine", "modeling_own.py": b"", "img/a.png": b"\0"})
    newer = Publisher(
        *make(tmp_path / "newer", {"model-00001-of-00001.safetensors": b"v" * LARGE, "README.md": b"# 2\n"})
    )
    receipt = newer(tag="v1.1", message="Release v1.1")
    repo = server.repo(REPO)
    assert receipt.deleted == ["config.json", WEIGHTS, "modeling_own.py", "pytorch_model.bin"]
    assert receipt.kept == ["NOTES.md", "img/a.png"]
    assert {"NOTES.md", "img/a.png"} < {*repo.files()}
    assert not {*receipt.deleted} & {*repo.files()}
    assert len(repo.history()) == 4
    assert repo.tags["v1.0"] != repo.tags["v1.1"] == receipt.commit


def test_what_an_earlier_release_named_goes_with_it(tmp_path, server, release):
    files = {WEIGHTS: b"w" * LARGE, "NOTICE": b"x", "images/scores.png": b"y"}
    Publisher(*make(tmp_path / "older", files))(tag="v0.9")
    assert release().deleted == ["NOTICE", "images/scores.png"]


def test_a_list_of_ignored_files_in_the_repository_drops_nothing(release, server):
    release(tag="v0.9")
    server.push(REPO, {".gitignore": b"*.safetensors\nconfig.json\n", WEIGHTS: None, "config.json": None})
    receipt = release()
    assert receipt.kept == [".gitignore"]
    assert {WEIGHTS, "config.json"} < {*server.repo(REPO).files()}


def test_a_commit_that_holds_something_else_is_neither_tagged_nor_made_public(release, server):
    server.fault("commit", hook(after=lambda call: spoil(server)))
    with pytest.raises(HubFailed, match=r"differs from the release: config\.json"):
        release(public=True)
    repo = server.repo(REPO)
    assert (repo.tags, repo.private) == ({}, True)
    release(public=True)
    released(server, release)


def spoil(server):
    """Somebody's server loses a file of the commit that it has just made."""
    repo = server.repo(REPO)
    del repo.commits[repo.heads["main"]].files["config.json"]
    repo.save()


def test_what_is_there_is_not_sent_again(tmp_path, release, server):
    release()
    newer = Publisher(*make(tmp_path / "newer", {WEIGHTS: b"w" * LARGE, "config.json": b"{}\n", "README.md": b"# 2\n"}))
    before = len(server.calls)
    receipt = newer(tag="v1.1")
    assert kinds(server.calls[before:]) == ["commit", "tag"]
    assert receipt.uploaded == ["README.md", "provenance/manifest.json"]


# Tags


def test_a_tag_on_something_else_is_found_before_a_byte_moves(tmp_path, release, server):
    release()
    newer = Publisher(*make(tmp_path / "newer", {WEIGHTS: b"v" * LARGE}))
    before = len(server.calls)
    with pytest.raises(BadInput, match=r"tag v1.0 .* holds something else"):
        newer()
    with pytest.raises(BadInput, match=r"spelled `v1\.0`"):
        newer(tag="V1.0")
    assert kinds(server.calls[before:]) == []


def test_a_release_under_its_tag_stays_done_when_main_has_moved_on(tmp_path, release, server):
    first = release()
    Publisher(*make(tmp_path / "newer", {WEIGHTS: b"v" * LARGE}))(tag="v1.1")
    before = len(server.calls)
    assert release().commit == first.commit
    assert kinds(server.calls[before:]) == []


def set_tag(server, commit=None):
    """Somebody tags a commit, main's head unless one is given."""
    repo = server.repo(REPO)
    repo.tags["v1.0"] = commit or repo.heads["main"]
    repo.save()


def test_a_tag_that_somebody_sets_on_the_same_commit_meanwhile_is_good(release, server):
    server.fault("tag", hook(lambda call: set_tag(server)))
    commit = release().commit
    assert server.repo(REPO).tags == {"v1.0": commit}


def test_a_tag_that_somebody_sets_on_another_commit_meanwhile_stops_the_release(release, server):
    server.fault("tag", hook(lambda call: set_tag(server, server.repo(REPO).history()[-1])))
    with pytest.raises(BadInput, match="holds something else"):
        release(public=True)
    assert server.repo(REPO).private


# Pull requests


def test_a_pull_request_is_opened_once_and_leaves_main_alone(release, server):
    first, head = release(create_pr=True, public=True), server.repo(REPO).heads["main"]
    repo = server.repo(REPO)
    assert first.pull_request == f"{server.url}/{REPO}/discussions/1"
    assert repo.pulls == {"refs/pr/1": first.commit}
    assert {*repo.files("refs/pr/1")} >= {*release.written.files}
    assert {*repo.files()} == {".gitattributes"}
    assert (repo.tags, repo.private) == ({}, True)
    before = len(server.calls)
    second = release(create_pr=True)
    assert (second.pull_request, second.commit) == (first.pull_request, first.commit)
    assert kinds(server.calls[before:]) == []
    assert server.repo(REPO).heads["main"] == head


@pytest.mark.parametrize("effect", [lose(), drop(), status(500)], ids=lambda effect: effect.name)
def test_a_lost_pull_request_is_found_not_opened_twice(release, server, effect):
    server.fault("commit", effect)
    release(create_pr=True)
    assert [*server.repo(REPO).pulls] == ["refs/pr/1"]


def test_no_pull_request_for_what_main_has(release, server):
    done = release()
    receipt = release(create_pr=True)
    assert (receipt.commit, receipt.pull_request) == (done.commit, None)
    assert server.repo(REPO).pulls == {}


# Lost answers, races, refusals


@pytest.mark.parametrize("effect", [lose(), drop(), status(500), status(503), status(409)], ids=lambda e: e.name)
def test_a_commit_whose_answer_is_lost_is_there_once(release, server, effect):
    server.fault("commit", effect)
    release()
    assert len(released(server, release).history()) == 2


def test_somebody_elses_commit_is_named_and_kept(release, server):
    server.fault("commit", hook(lambda call: server.push(REPO, {"config.json": b"theirs"})))
    with pytest.raises(HubFailed) as stopped:
        release()
    repo = server.repo(REPO)
    assert repo.heads["main"][:12] in stopped.value.problem
    assert repo.read("config.json") == b"theirs"
    assert repo.tags == {}
    release()
    assert server.repo(REPO).history()[1:] == repo.history()


def test_a_lost_commit_that_somebody_built_upon_is_found_below_theirs(release, server):
    effect = dataclasses.replace(lose(), after=lambda call: server.push(REPO, {"NOTES.md": b"theirs", "x.bin": b"\0"}))
    server.fault("commit", effect)
    receipt = release()
    assert server.repo(REPO).history()[1] == receipt.commit == server.repo(REPO).tags["v1.0"]


def test_an_equal_release_by_somebody_else_is_accepted(release, server):
    files = {name: (release.folder / name).read_bytes() for name in release.written.files}
    files["provenance/manifest.json"] = (release.folder / "provenance/manifest.json").read_bytes()
    server.fault("commit", hook(lambda call: server.push(REPO, files)))
    receipt = release()
    assert receipt.commit == server.repo(REPO).heads["main"]
    assert len(server.repo(REPO).history()) == 2


STEPS = ["whoami", "info", "create", "refs", "tree", "preupload", "batch", "put", "validate", "commit", "tag"]


@pytest.mark.parametrize("step", [*STEPS, "settings"])
def test_every_step_that_fails_for_ever_leaves_main_untouched_or_whole_and_the_rerun_completes(release, server, step):
    fault = server.fault(step, status(503), times=FOREVER)
    with pytest.raises(PrismError) as stopped:
        release(public=True)
    assert 1 <= fault.hit <= 20
    assert stopped.value.problem
    assert "nothing is uploaded twice" in stopped.value.fix
    if REPO in server.repos():
        repo = server.repo(REPO)
        assert repo.private
        if step not in ("tag", "settings"):
            assert repo.tags == {}
            assert {*repo.files()} == {".gitattributes"}
        else:
            released(server, release)
    server.clear_faults()
    receipt = release(public=True)
    repo = released(server, release)
    assert len(repo.history()) == 2
    assert repo.tags == {"v1.0": receipt.commit}
    assert not repo.private
    assert receipt.complete
    assert len([call for call in server.calls if call.kind == "put" and call.status == 200]) == 1


@pytest.mark.parametrize("step", ["tree", "info", "refs"])
def test_a_check_after_the_commit_that_fails_is_made_up_for(release, server, step):
    """The commit is there, what follows it fails."""
    server.fault("commit", hook(after=lambda call: server.fault(step, status(500), times=FOREVER)))
    with pytest.raises(HubFailed):
        release(public=True)
    assert server.repo(REPO).private
    server.clear_faults()
    release(public=True)
    assert len(released(server, release).history()) == 2
    assert kinds(server.calls).count("commit") == 1


def test_the_number_of_attempts_is_bounded(release, server, monkeypatch):
    pauses = as_client(monkeypatch, server, attempts=4)
    fault = server.fault("whoami", status(500), times=FOREVER)
    with pytest.raises(HubFailed, match="Could not see whose token this is"):
        release()
    assert fault.hit == 4
    assert len([pause for pause in pauses if pause >= 0.5]) == 3


def test_the_hub_is_waited_for_as_it_asks_up_to_a_bound(release, server, monkeypatch):
    pauses = as_client(monkeypatch, server)
    server.fault("tag", status(429, retry_after=37))
    release()
    assert 37 in pauses
    for step in ("info", "preupload"):
        server.fault(step, status(429, retry_after=86400), times=FOREVER)
        with pytest.raises(HubFailed, match="86400 s"):
            Publisher(release.folder, release.written)(repo="prism-vlm/other")
        server.clear_faults()
    assert max(pauses) < 60


def test_the_creation_of_a_repository_is_not_tried_for_ever(release, server):
    busy = "Cannot create repo: another conflicting operation is in progress"
    fault = server.fault("create", status(409, message=busy), times=FOREVER)
    with pytest.raises(HubFailed, match="one at a time"):
        release()
    assert fault.hit == 3


@pytest.mark.parametrize("step", ["whoami", "info", "tree", "put", "commit", "tag"])
def test_a_hung_server_is_left_in_time(release, server, monkeypatch, step):
    as_client(monkeypatch, server, timeout=0.3, attempts=2)
    server.fault(step, hang(), times=FOREVER)
    with pytest.raises(HubFailed, match="no answer in time"):
        release()
    server.clear_faults()
    release()
    assert len(released(server, release).history()) == 2


def test_a_server_that_is_gone(release, server):
    server.close()
    with pytest.raises(HubFailed) as stopped:
        release()
    assert "Check the network" in stopped.value.fix


@pytest.mark.parametrize("step", ["create", "preupload", "batch", "commit", "tag", "settings"])
@pytest.mark.parametrize("code", [401, 403, 413])
def test_a_refusal_is_said_once_and_kept_whole(release, server, step, code):
    fault = server.fault(step, status(code, message="the server's reason"), times=FOREVER)
    with pytest.raises(PrismError) as stopped:
        release(public=True)
    assert str(code) in stopped.value.problem
    assert stopped.value.fix
    assert fault.hit <= 2
    server.clear_faults()
    release(public=True)
    assert len(released(server, release).history()) == 2


# Rights


@pytest.mark.parametrize(
    ("token", "says"),
    [
        (None, "There is no token"),
        (loopback.READ_TOKEN, "may only read"),
        (loopback.STRANGER_TOKEN, "stranger, may not publish under prism-vlm"),
        ("hf_" + "unknown" * 4, "401"),
    ],
)
def test_rights_are_checked_before_anything(release, server, monkeypatch, token, says):
    as_client(monkeypatch, server, token)
    with pytest.raises(BadInput, match=says) as refused:
        release()
    assert refused.value.fix
    assert kinds(server.calls) == []


def test_a_scoped_token_may_publish(release, server, monkeypatch):
    as_client(monkeypatch, server, loopback.FINE_TOKEN)
    release()
    released(server, release)


def test_a_public_repository_needs_the_word(tmp_path, release, server):
    release(public=True)
    newer = Publisher(*make(tmp_path / "newer", {WEIGHTS: b"v" * LARGE}))
    before = len(server.calls)
    with pytest.raises(BadInput, match="is public"):
        newer(tag="v1.1")
    assert kinds(server.calls[before:]) == []
    newer(tag="v1.1", public=True)


@pytest.mark.parametrize("target", [{"repo": "prism-vlm/../x"}, {"tag": "-v1"}, {"message": "\n\x1b"}])
def test_a_target_that_is_no_target(release, server, target):
    with pytest.raises(BadInput):
        release(**target)
    assert server.calls == []


def test_a_folder_that_is_not_what_its_manifest_says(release, server):
    other = dataclasses.replace(release.written, files={})
    with pytest.raises(BadInput, match="not the manifest of this folder"):
        publish(release.folder, other, release.target, print, release.receipts)
    (release.folder / WEIGHTS).write_bytes(b"x" * LARGE)
    with pytest.raises(BadInput, match="changed after it was checked"):
        release()
    assert "commit" not in kinds(server.calls)


def test_the_token_is_nowhere(release, server, capfd):
    server.fault("tag", status(403, message=f"token {WRITE_TOKEN} is \x1b[31mbad"), times=FOREVER)
    with pytest.raises(PrismError) as stopped:
        release()
    server.clear_faults()
    release()
    seen = [*release.told, stopped.value.problem, stopped.value.fix, *capfd.readouterr()]
    seen += [path.read_text() for path in release.receipts.iterdir()]
    assert WRITE_TOKEN not in "".join(seen)
    assert "\x1b" not in stopped.value.problem


# Looking before


def test_a_preview_reads_only(tmp_path, release, server, monkeypatch):
    as_client(monkeypatch, server, token=None)
    seen = preview(release.folder, release.written, release.target)
    assert (seen.exists, seen.upload) == (False, tuple(sorted([*release.written.files, "provenance/manifest.json"])))
    assert seen.problems == ("There is no token for the Hub.",)
    as_client(monkeypatch, server)
    release(public=True)
    newer = Publisher(*make(tmp_path / "newer", {WEIGHTS: b"w" * LARGE, "README.md": b"# 2\n"}))
    before = len(server.calls)
    seen = preview(newer.folder, newer.written, newer.target)
    assert (seen.there, seen.delete) == ((WEIGHTS,), ("config.json",))
    assert (seen.upload, seen.exists) == (("README.md", "provenance/manifest.json"), True)
    assert "holds something else" in seen.problems[0]
    assert {call.method for call in server.calls[before:]} <= {"GET", "HEAD"}
    assert preview(release.folder, release.written, release.target).released == server.repo(REPO).heads["main"]
    json.dumps(seen.to_json())


def test_a_preview_without_a_hub_shows_the_files(release, server):
    server.close()
    seen = preview(release.folder, release.written, Target(REPO))
    assert seen.exists is None
    assert seen.problems
    assert WEIGHTS in seen.upload


def test_a_stranger_may_open_a_pull_request_on_a_public_repository(tmp_path, release, server, monkeypatch):
    release(public=True)
    as_client(monkeypatch, server, loopback.STRANGER_TOKEN)
    newer = Publisher(*make(tmp_path / "newer", {WEIGHTS: b"v" * LARGE}))
    assert newer(create_pr=True).pull_request == f"{server.url}/{REPO}/discussions/1"
    released(server, release)


def test_a_repository_of_another_spelling_is_not_taken_for_this_one(release, server):
    release()
    repo = server.repo(REPO)
    repo.id = "prism-vlm/Quick"
    repo.save()
    with pytest.raises(BadInput, match=r"exists under the name prism-vlm/Quick"):
        release()


def test_other_data_goes_only_where_data_is_released(tmp_path, release, server):
    release()
    server.push(REPO, {"old.parquet": b"\0"})
    newer = Publisher(*make(tmp_path / "newer", {WEIGHTS: b"v" * LARGE}))
    assert "old.parquet" in newer(tag="v1.1").kept
    data = Publisher(*make(tmp_path / "data", {"data/train.jsonl": b"{}\n"}))
    data(repo_type="dataset")
    server.push(REPO, {"old.parquet": b"\0"}, type="dataset")
    data = Publisher(*make(tmp_path / "data2", {"data/train.jsonl": b"{}\n", "README.md": CARD.encode()}))
    assert data(repo_type="dataset", tag="v1.1").deleted == ["old.parquet"]


def test_the_receipt_starts_anew_when_the_hub_has_lost_the_release(release, server):
    first = release(tag=None)
    server.push(REPO, {"config.json": b"theirs"})
    second = release(tag=None)
    assert second.commit != first.commit
    assert second.uploaded == ["config.json"]
    assert not second.repeated
    assert [step["state"] for step in second.states] == [
        *("started", "created", "uploaded", "committed", "verified", "done")
    ]
    server.store.delete(server.repo(REPO))
    assert [step["state"] for step in release(tag=None).states][:2] == ["started", "created"]
    released(server, release)


def test_a_long_upload_shows_that_it_lives(release, server, monkeypatch):
    monkeypatch.setattr(progress, "BEAT", 0.05)
    server.fault("put", delay(0.4))
    release()
    assert any("min so far" in line for line in release.told)


@pytest.mark.parametrize("value", ["", "soon", "0", "-1", "inf", "nan"])
def test_patience_that_is_no_number_is_refused(release, server, monkeypatch, value):
    monkeypatch.setenv("PRISM_HUB_TIMEOUT", value)
    with pytest.raises(BadInput, match="PRISM_HUB_TIMEOUT"):
        release()


def test_a_client_that_is_told_to_stay_offline_says_so(release, server, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(BadInput, match="HF_HUB_OFFLINE"):
        release()


def test_receipts_that_cannot_be_written_stop_before_anything(release, server):
    release.receipts.write_text("a file")
    with pytest.raises(BadInput, match="Cannot write receipts"):
        release()
    assert kinds(server.calls) == []
