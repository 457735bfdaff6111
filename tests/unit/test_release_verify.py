"""Verifying what is on the loopback Hub, and collections on it."""

import hashlib
import json
import os
import shutil

import loopback
import pytest
from loopback import FOREVER, cut, lose, status
from releases import CANARY, CARD, LARGE, REPO, WEIGHTS, Publisher, as_client, kinds, make

from integrations.errors import BadInput
from release.finding import Finding
from release.hub.collections import Item, gather
from release.hub.failures import HubFailed
from release.hub.verify import verify

MANIFEST = "provenance/manifest.json"


@pytest.fixture
def server(tmp_path, monkeypatch):
    with loopback.hub(tmp_path / "hub") as running:
        as_client(monkeypatch, running)
        yield running


@pytest.fixture
def release(tmp_path, server):
    publisher = Publisher(*make(tmp_path / "release", canary=CANARY))
    publisher()
    return publisher


def looked(tmp_path, revision="v1.0", probe=None, repo=REPO):
    return verify(repo, revision, "model", tmp_path / "download", probe)


def shown(findings):
    return [(finding.check, finding.severity, finding.path) for finding in findings]


def test_a_release_is_what_it_says_and_its_model_is_asked(tmp_path, release, server):
    asked = []

    def probe(folder, canary):
        asked.append(((folder / WEIGHTS).read_bytes() == b"w" * LARGE, canary))
        return [Finding("canary", "error", "", "It answers otherwise.", "Do not use it.")]

    assert shown(looked(tmp_path, probe=probe)) == [("canary", "error", "")]
    assert asked == [(True, CANARY)]
    for revision in ("main", server.repo(REPO).heads["main"]):
        assert looked(tmp_path, revision) == []


def test_a_release_without_a_model_is_not_asked(tmp_path, server):
    Publisher(*make(tmp_path / "release", {"README.md": CARD.encode()}))()
    assert looked(tmp_path, probe=lambda folder, canary: pytest.fail("there is nothing to ask")) == []


def test_a_pull_request_can_be_verified(tmp_path, server):
    Publisher(*make(tmp_path / "release"))(create_pr=True)
    assert looked(tmp_path, "refs/pr/1") == []
    assert shown(looked(tmp_path, "main")) == [("manifest", "error", MANIFEST)]


def _other_size(written):
    written["files"][WEIGHTS]["size"] += 1


def _other_hash(written):
    written["files"]["config.json"]["sha256"] = "0" * 64


def _way_out(written):
    written["files"]["../../escape"] = written["files"]["config.json"]


@pytest.mark.parametrize(
    ("change", "findings"),
    [
        ({"config.json": b'{"auto_map": {}}\n'}, [("changed", "error", "config.json")]),
        ({WEIGHTS: b"w" * (LARGE - 1) + b"x"}, [("changed", "error", WEIGHTS)]),
        ({WEIGHTS: b"w" * (LARGE - 1)}, [("changed", "error", WEIGHTS)]),
        ({WEIGHTS: b""}, [("changed", "error", WEIGHTS)]),
        ({WEIGHTS: None}, [("missing", "error", WEIGHTS)]),
        ({"README.md": None, "LICENSE": b"x"}, [("missing", "error", "README.md"), ("extra", "warning", "LICENSE")]),
        ({"pytorch_model.bin": b"\0"}, [("extra", "error", "pytorch_model.bin")]),
        ({"adapter_config.json": b"{}"}, [("extra", "error", "adapter_config.json")]),
        ({"modeling_x.py": b""}, [("extra", "error", "modeling_x.py")]),
        ({"sub/tokenizer.MODEL.PT": b"\0"}, [("extra", "error", "sub/tokenizer.MODEL.PT")]),
        ({"notes.txt": b"x"}, [("extra", "warning", "notes.txt")]),
        ({MANIFEST: None}, [("manifest", "error", MANIFEST)]),
        ({MANIFEST: b"{"}, [("manifest", "error", MANIFEST)]),
        ({MANIFEST: b"[" * 100_000}, [("manifest", "error", MANIFEST)]),
        ({MANIFEST: b"{}"}, [("manifest", "error", MANIFEST)]),
        ({MANIFEST: _other_size}, [("changed", "error", WEIGHTS)]),
        ({MANIFEST: _other_hash}, [("changed", "error", "config.json")]),
        ({MANIFEST: _way_out}, [("manifest", "error", MANIFEST)]),
    ],
)
def test_every_tampering_is_found_and_no_model_is_loaded(tmp_path, release, server, change, findings):
    change = dict(change)
    if callable(change.get(MANIFEST)):
        written = json.loads(server.repo(REPO).read(MANIFEST))
        change[MANIFEST](written)
        change[MANIFEST] = json.dumps(written).encode()
    server.push(REPO, change)
    found = looked(tmp_path, "main", probe=lambda folder, canary: [Finding("canary", "warning", "", "", "")])
    loaded = [("canary", "warning", "")] if all(severity == "warning" for _, severity, _ in findings) else []
    assert shown(found) == findings + loaded
    assert looked(tmp_path, "v1.0") == []


@pytest.mark.parametrize("path", ["../escape", "a/../../escape", "/etc/escape", "a\\b", "a\x1b[31m"])
def test_a_path_that_leads_elsewhere_is_not_downloaded(tmp_path, release, server, path):
    server.push(REPO, {path: b"x"})
    before = len(server.calls)
    (finding,) = looked(tmp_path, "main")
    assert (finding.check, finding.severity) == ("path", "error")
    assert finding.path.isprintable()
    assert not [call for call in server.calls[before:] if call.kind in ("resolve", "blob")]
    assert not (tmp_path / "download").exists()


def blobs(calls):
    return [call for call in calls if call.kind == "blob"]


def test_an_interrupted_download_goes_on(tmp_path, release, server):
    server.fault("blob", cut(400_000), times=FOREVER)
    with pytest.raises(HubFailed):
        looked(tmp_path)
    server.clear_faults()
    assert looked(tmp_path) == []


def test_what_arrived_is_not_fetched_again_unless_it_is_damaged(tmp_path, release, server):
    looked(tmp_path)
    before = len(server.calls)
    assert looked(tmp_path) == []
    assert not blobs(server.calls[before:])
    (weights,) = (tmp_path / "download").glob(f"*/{WEIGHTS}")
    stat = weights.stat()
    weights.write_bytes(b"w" * (LARGE - 1) + b"x")

    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert looked(tmp_path) == []
    assert blobs(server.calls[before:])
    shutil.rmtree(weights.parent / ".cache")
    weights.write_bytes(b"x")
    assert looked(tmp_path) == []


def test_a_hub_that_serves_other_bytes_than_it_lists_is_found(tmp_path, release, server):
    repo = server.repo(REPO)
    stored = repo.path_of(repo.files()[WEIGHTS])
    stored.write_bytes(b"w" * (LARGE - 1) + b"x")
    assert shown(looked(tmp_path)) == [("download", "error", WEIGHTS), ("changed", "error", WEIGHTS)]


def test_a_small_disk_is_said_before_the_download(tmp_path, release, server, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=LARGE)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    with pytest.raises(BadInput, match=r"takes 1 MB, .* has 1 MB left"):
        looked(tmp_path)


@pytest.mark.parametrize(
    ("repo", "revision", "says"),
    [
        ("prism-vlm/absent", "main", "404"),
        (REPO, "v9", "404"),
        (REPO, "../main", "names no revision"),
        ("prism-vlm", "main", "not a repository"),
    ],
)
def test_what_is_not_there_is_said(tmp_path, release, repo, revision, says):
    with pytest.raises(BadInput, match=says) as refused:
        looked(tmp_path, revision, repo=repo)
    assert refused.value.fix


def test_a_private_repository_is_not_there_for_strangers(tmp_path, release, server, monkeypatch):
    as_client(monkeypatch, server, token=None)
    with pytest.raises(BadInput) as refused:
        looked(tmp_path)
    assert "private repository needs the token" in refused.value.fix


def test_a_gated_repository_names_the_gate(tmp_path, release, server, monkeypatch):
    repo = server.repo(REPO)
    repo.private, repo.gated = False, "manual"
    repo.save()
    as_client(monkeypatch, server, token=loopback.STRANGER_TOKEN)
    with pytest.raises(BadInput) as refused:
        looked(tmp_path)
    assert "Ask for access" in refused.value.fix


# Collections


@pytest.fixture
def family(tmp_path, server):
    items = []
    for name in ("d-SFT", "d-SFT-PRISM", "d-SFT-GRPO"):
        content = hashlib.sha256(name.encode()).digest()
        Publisher(*make(tmp_path / name, {"model.safetensors": content}))(repo=f"prism-vlm/{name}")
        items.append(Item(f"prism-vlm/{name}", note=f"The {name}"))
    return items


def collected(server):
    (collection,) = server.store.collections().values()
    return [(item["id"], item.get("note", {}).get("text")) for item in collection["items"]], collection["private"]


def test_a_family_is_gathered_once(server, family):
    first = gather("Digits", "prism-vlm", family[:2], False, print)
    assert collected(server) == ([(item.repo, item.note) for item in family[:2]], True)
    before = len(server.calls)
    assert gather("Digits", "prism-vlm", family[:2], False, print) == first
    assert kinds(server.calls[before:]) == []
    assert gather("digits", "prism-vlm", family, False, print) == first
    assert kinds(server.calls[before:]) == ["item"]
    assert first.startswith(f"{server.url}/collections/prism-vlm/")


def test_lost_answers_leave_one_collection_with_each_once(server, family):
    server.fault("new_collection", lose())
    server.fault("item", lose(), times=2)
    server.fault("collections", status(503))
    gather("Digits", "prism-vlm", family, True, print)
    assert collected(server) == ([(item.repo, item.note) for item in family], False)


def test_a_collection_is_made_public_when_asked(server, family):
    gather("Digits", "prism-vlm", family, False, print)
    gather("Digits", "prism-vlm", family, True, print)
    assert collected(server)[1] is False


@pytest.mark.parametrize(("title", "repo"), [("<b>", REPO), ("Digits", "prism-vlm/..")])
def test_a_collection_with_a_name_that_is_none(server, title, repo):
    with pytest.raises(BadInput):
        gather(title, "prism-vlm", [Item(repo)], False, print)
    assert server.calls == []


def test_a_collection_in_a_foreign_namespace(server, family):
    with pytest.raises(BadInput, match="403") as refused:
        gather("Digits", "somebody-else", family, False, print)
    assert refused.value.fix
