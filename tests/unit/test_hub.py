"""The loopback Hub of tests/hub, with the real client library."""

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import httpx2
import pytest
from hub_client import FILES, NAME, additions, api, kinds, released, serving
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, snapshot_download
from huggingface_hub.errors import (
    BadRequestError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from loopback import FINE_TOKEN, LINES, READ_TOKEN, STRANGER_TOKEN, WRITE_TOKEN, client_env, hub


@pytest.fixture
def server(tmp_path, monkeypatch):
    with serving(tmp_path / "hub", monkeypatch) as server:
        yield server


def test_what_was_released_is_downloaded_byte_by_byte_and_no_token_reaches_the_other_origin(server, tmp_path):
    oid = released(server, private=True)
    api(server).create_tag(NAME, tag="v1.0", revision=oid)
    folder = Path(snapshot_download(NAME, revision="v1.0", cache_dir=tmp_path, endpoint=server.url, token=WRITE_TOKEN))
    got = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert got.pop(".gitattributes")
    assert got == FILES
    assert folder.name == oid
    blobs = [call for call in server.calls if call.origin == "blobs"]
    assert {call.kind for call in blobs} == {"put", "part", "blob"}
    assert not any(call.authorized for call in blobs)
    assert all(call.authorized for call in server.calls if call.kind in ("create", "commit", "tag", "tree", "resolve"))
    assert [call.received for call in blobs if call.kind == "part"] == [131072, 131072, 37856]
    assert "unknown" not in kinds(server)


def test_the_local_folder_is_verified_against_the_remote_tree(server, tmp_path):
    oid = released(server)
    for path, content in FILES.items():
        (tmp_path / "copy" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "copy" / path).write_bytes(content)
    found = api(server).verify_repo_checksums(NAME, revision=oid, local_dir=tmp_path / "copy")
    assert (found.mismatches, found.missing_paths) == ([], [".gitattributes"])
    (tmp_path / "copy/model.safetensors").write_bytes(FILES["small.safetensors"])
    found = api(server).verify_repo_checksums(NAME, revision=oid, local_dir=tmp_path / "copy")
    assert [wrong["path"] for wrong in found.mismatches] == ["model.safetensors"]


def test_the_same_content_again_is_neither_uploaded_nor_committed(server):
    oid = released(server)
    before = len(server.calls)
    assert released(server) == oid
    assert not {"put", "part", "commit"} & {call.kind for call in server.calls[before:]}


def test_a_stale_parent_is_refused_and_the_other_commit_stays(server):
    stale = released(server)
    other = server.push(NAME, {"other.txt": b"other"})
    with pytest.raises(HfHubHTTPError, match="A commit has happened since") as caught:
        api(server).create_commit(NAME, additions({"a.txt": b"a"}), commit_message="late", parent_commit=stale)
    assert caught.value.response.status_code == 412
    assert server.repo(NAME).history()[0] == other


def test_one_of_many_racing_commits_on_a_parent_wins(server):
    parent = released(server)
    outcomes = []

    def publish(n):
        try:
            operations = additions({f"{n}.txt": b"x"})
            api(server).create_commit(NAME, operations, commit_message=f"{n}", parent_commit=parent)
            outcomes.append("done")
        except HfHubHTTPError as error:
            outcomes.append(error.response.status_code)

    threads = [threading.Thread(target=publish, args=(n,)) for n in range(6)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert sorted(outcomes, key=str) == [412] * 5 + ["done"]
    assert len(server.repo(NAME).history()) == 3


def test_a_commit_that_cannot_be_done_whole_is_not_done(server):
    head = released(server)
    operations = [*additions({"new.txt": b"new"}), CommitOperationDelete("absent.txt")]
    with pytest.raises(HfHubHTTPError):
        api(server).create_commit(NAME, operations, commit_message="half")
    assert server.repo(NAME).heads["main"] == head
    assert "new.txt" not in server.repo(NAME).files()


def test_files_are_deleted_in_the_commit_that_adds_others(server):
    released(server)
    operations = [*additions({"new.json": b"{}"}), CommitOperationDelete("model.safetensors")]
    operations.append(CommitOperationDelete("provenance/", is_folder=True))
    api(server).create_commit(NAME, operations, commit_message="next")
    kept = {".gitattributes", "README.md", "config.json", "empty.txt", "small.safetensors", "new.json"}
    assert set(server.repo(NAME).files()) == kept


def test_content_that_is_not_what_was_announced_is_refused(server, tmp_path):
    api(server).create_repo(NAME)
    path = tmp_path / "small.safetensors"
    path.write_bytes(b"before")
    addition = CommitOperationAdd(path_in_repo=path.name, path_or_fileobj=path)
    assert addition.upload_info.sha256
    path.write_bytes(b"after!")
    with pytest.raises(RuntimeError, match="Error while uploading"):
        api(server).create_commit(NAME, [addition], commit_message="changed")
    assert list((server.repo(NAME).folder / "lfs").iterdir()) == []


def test_whoami_tells_roles_and_organisations(server):
    roles = {token: api(server, token).whoami()["auth"]["accessToken"]["role"] for token in server.tokens}
    assert roles == {token: user.role for token, user in server.tokens.items()}
    told = api(server, FINE_TOKEN).whoami()
    assert [org["name"] for org in told["orgs"]] == ["prism-vlm", "readers"]
    assert told["auth"]["accessToken"]["fineGrained"]["scoped"][0]["permissions"] == ["repo.content.read", "repo.write"]
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        api(server, "hf_unknown").whoami()


@pytest.mark.parametrize("token", [READ_TOKEN, STRANGER_TOKEN])
def test_only_who_may_write_writes(server, token):
    head = released(server)
    with pytest.raises(HfHubHTTPError, match="403"):
        api(server, token).create_commit(NAME, additions({"a.txt": b"a"}), commit_message="no")
    with pytest.raises(HfHubHTTPError, match="403"):
        api(server, token).create_tag(NAME, tag="v1")
    with pytest.raises(HfHubHTTPError, match="403"):
        api(server, token).create_repo("prism-vlm/other")
    with pytest.raises(HfHubHTTPError, match="403"):
        api(server).create_repo("readers/other")
    assert server.repo(NAME).heads["main"] == head
    assert server.repos() == [NAME]


def test_a_fine_grained_token_writes_within_its_scope(server):
    api(server, FINE_TOKEN).create_repo(NAME)
    with pytest.raises(HfHubHTTPError, match="403"):
        api(server, FINE_TOKEN).create_repo("prism-bot/own")


def test_a_private_repository_is_hidden_until_it_is_public(server, tmp_path):
    released(server, private=True)
    for token in (STRANGER_TOKEN, False):
        with pytest.raises(RepositoryNotFoundError):
            api(server, token).repo_info(NAME)
    assert api(server, READ_TOKEN).repo_info(NAME).private
    api(server).update_repo_settings(NAME, visibility="public")
    assert not api(server, False).repo_info(NAME).private
    assert snapshot_download(NAME, cache_dir=tmp_path, endpoint=server.url, token=False)


def test_a_gated_repository_shows_itself_but_not_its_files(server, tmp_path):
    released(server)
    api(server).update_repo_settings(NAME, gated="manual")
    for token in (STRANGER_TOKEN, False):
        assert api(server, token).repo_info(NAME).gated == "manual"
        with pytest.raises(GatedRepoError):
            api(server, token).hf_hub_download(NAME, "config.json", cache_dir=tmp_path)
    assert api(server, READ_TOKEN).hf_hub_download(NAME, "config.json", cache_dir=tmp_path)


def test_tags_stay_where_they_are(server):
    oid = released(server)
    api(server).create_tag(NAME, tag="v1.0", revision=oid)
    later = server.push(NAME, {"later.txt": b""})
    with pytest.raises(HfHubHTTPError, match="409"):
        api(server).create_tag(NAME, tag="v1.0", revision=later)
    api(server).create_tag(NAME, tag="v1.0", revision=later, exist_ok=True)
    assert [(tag.name, tag.target_commit) for tag in api(server).list_repo_refs(NAME).tags] == [("v1.0", oid)]
    assert "later.txt" not in api(server).list_repo_files(NAME, revision="v1.0")
    with pytest.raises(BadRequestError):
        api(server).create_tag(NAME, tag="no..tag")
    api(server).delete_tag(NAME, tag="v1.0")
    with pytest.raises(RevisionNotFoundError):
        api(server).repo_info(NAME, revision="v1.0")


def test_branches_and_history(server):
    oid = released(server)
    api(server).create_branch(NAME, branch="next", revision=oid)
    api(server).create_commit(NAME, additions({"n.txt": b"n"}), commit_message="on a branch", revision="next")
    assert server.repo(NAME).heads["main"] == oid
    titles = [commit.title for commit in api(server).list_repo_commits(NAME, revision="next")]
    assert titles == ["on a branch", "release", "initial commit"]
    assert api(server).repo_info(NAME, revision=oid).sha == oid


def test_a_stranger_proposes_through_a_pull_request(server, tmp_path):
    head = released(server)
    operations = additions({"new.safetensors": b"new"})
    info = api(server, STRANGER_TOKEN).create_commit(NAME, operations, commit_message="propose", create_pr=True)
    assert info.pr_revision == "refs/pr/1"
    assert server.repo(NAME).heads["main"] == head
    assert server.repo(NAME).read("new.safetensors", "refs/pr/1") == b"new"
    more = api(server).create_commit(NAME, additions({"b.txt": b"b"}), commit_message="more", revision="refs/pr/1")
    refs = api(server).list_repo_refs(NAME, include_pull_requests=True)
    assert [(pull.ref, pull.target_commit) for pull in refs.pull_requests] == [("refs/pr/1", more.oid)]
    assert api(server).get_discussion_details(NAME, 1).is_pull_request
    api(server).create_discussion(NAME, "a question")
    found = api(server).get_repo_discussions(NAME, discussion_type="pull_request", discussion_status="open")
    assert [(one.num, one.title) for one in found] == [(1, "propose")]


def test_a_dataset_and_a_model_may_share_a_name(server, tmp_path):
    released(server)
    rows = {"train.parquet": os.urandom(200_000), "README.md": b"---\nlicense: mit\n---\n"}
    api(server).create_repo(NAME, repo_type="dataset")
    api(server).create_commit(NAME, additions(rows), commit_message="data", repo_type="dataset")
    where = {"cache_dir": tmp_path, "endpoint": server.url, "token": WRITE_TOKEN, "repo_type": "dataset"}
    folder = Path(snapshot_download(NAME, **where))
    assert {name: (folder / name).read_bytes() for name in rows} == rows
    assert "train.parquet" not in server.repo(NAME).files()


def test_a_family_is_gathered_in_a_collection_once(server):
    released(server)
    first = api(server).create_collection("The family", namespace="prism-vlm", exists_ok=True)
    for _ in range(2):
        api(server).add_collection_item(first.slug, NAME, "model", exists_ok=True)
    again = api(server).create_collection("The family", namespace="prism-vlm", exists_ok=True)
    assert again.slug == first.slug
    assert [(item.item_id, item.item_type) for item in again.items] == [(NAME, "model")]
    with pytest.raises(HfHubHTTPError, match="409"):
        api(server).add_collection_item(first.slug, NAME, "model")
    api(server).update_collection_metadata(first.slug, private=True)
    assert [one.slug for one in api(server).list_collections(owner="prism-vlm")] == [first.slug]
    assert list(api(server, STRANGER_TOKEN).list_collections(owner="prism-vlm")) == []
    with pytest.raises(HfHubHTTPError, match="404"):
        api(server, STRANGER_TOKEN).get_collection(first.slug)


BAD_CARDS = {
    "unknown licence": "license: apache2",
    "other without its name": "license: other",
    "base model": "base_model: 'not a model'",
    "relation": "base_model_relation: child",
    "index": "model-index: [{name: m, results: [{task: {type: t}, dataset: {type: d}, metrics: []}]}]",
    "metric": "model-index: [{name: m, results: [{task: {type: t}, dataset: {type: d, name: n}, metrics: [{}]}]}]",
    "no mapping": "just text",
    "no yaml": "a: [",
}


@pytest.mark.parametrize("front", BAD_CARDS.values(), ids=BAD_CARDS)
def test_a_wrong_card_is_refused_before_anything_moves(server, front):
    api(server).create_repo(NAME)
    with pytest.raises(ValueError, match="Invalid metadata"):
        released(server, FILES | {"README.md": f"---\n{front}\n---\n".encode()})
    assert not {"preupload", "put", "part", "commit"} & set(kinds(server))


def test_a_card_without_front_matter_is_accepted_with_a_warning(server):
    with pytest.warns(UserWarning, match="empty or missing"):
        released(server, {"README.md": b"# Only text\n"})


def test_a_large_file_is_read_in_ranges_from_its_signed_address_only(server):
    released(server)
    with httpx2.Client() as client:
        reply = client.head(f"{server.url}/{NAME}/resolve/main/model.safetensors")
        assert (reply.status_code, reply.headers["X-Linked-Size"]) == (302, "300000")
        address, content = reply.headers["Location"], FILES["model.safetensors"]
        for asked, expected in {"0-9": content[:10], "299990-": content[-10:], "-5": content[-5:]}.items():
            part = client.get(address, headers={"Range": f"bytes={asked}"})
            assert (part.status_code, part.content) == (206, expected)
        assert client.get(address, headers={"Range": "bytes=300000-"}).status_code == 416
        assert client.get(address.replace("signature=", "signature=0")).status_code == 403
        assert client.get(address, headers={"Authorization": f"Bearer {WRITE_TOKEN}"}).status_code == 400


def test_another_server_goes_on_with_the_same_folder(server, tmp_path):
    oid = released(server)
    shutil.copytree(server.folder, tmp_path / "moved")
    with hub(tmp_path / "moved") as other:
        assert api(other).repo_info(NAME).sha == oid
        assert other.repo(NAME).read("model.safetensors") == FILES["model.safetensors"]


PROCESS = """
import sys, huggingface_hub as hub
api = hub.HfApi()
api.create_repo(sys.argv[1], private=True)
head = api.repo_info(sys.argv[1]).sha
api.upload_folder(repo_id=sys.argv[1], folder_path=sys.argv[2], parent_commit=head)
api.create_tag(sys.argv[1], tag="v1.0")
print(hub.__version__, hub.snapshot_download(sys.argv[1], revision="v1.0"))
"""


@pytest.mark.parametrize("line", LINES)
def test_a_process_with_either_line_of_the_client_makes_the_same_round_trip(server, tmp_path, line):
    for path, content in FILES.items():
        (tmp_path / "folder" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / path).write_bytes(content)
    command = [sys.executable, "-c", PROCESS, NAME, tmp_path / "folder"]
    env = {**os.environ, **server.env(), **client_env(line)}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    version, folder = done.stdout.split()
    assert version.split(".")[0] == line.split(".")[0]
    assert {name: (Path(folder) / name).read_bytes() for name in FILES} == FILES
    repo = server.repo(NAME)
    assert (repo.private, repo.tags["v1.0"]) == (True, repo.heads["main"])
    assert not any(call.authorized for call in server.calls if call.origin == "blobs")
    assert "unknown" not in kinds(server)
