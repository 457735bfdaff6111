"""What can be made to go wrong on the loopback Hub, with the real client library."""

import threading
import time
from pathlib import Path

import httpx2
import pytest
from hub_client import FILES, NAME, additions, api, released, serving
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HTTPError
from loopback import FOREVER, WRITE_TOKEN, Pause, cut, delay, drop, hang, hook, lose, status, trickle


@pytest.fixture
def server(tmp_path, monkeypatch):
    with serving(tmp_path / "hub", monkeypatch) as server:
        yield server


def attempt(server, **more):
    api(server).create_repo(NAME, exist_ok=True)
    return api(server).create_commit(NAME, additions(FILES), commit_message="release", **more)


@pytest.mark.parametrize("code", [401, 403, 404, 409, 412, 413, 500, 503])
def test_a_status_is_answered_so_often_and_no_longer(server, code):
    fault = server.fault("commit", status(code, error_code="Some", message="so it is"), times=2)
    for _ in range(2):
        with pytest.raises(HfHubHTTPError) as caught:
            attempt(server)
        assert caught.value.response.status_code == code
        assert server.repo(NAME).files().keys() == {".gitattributes"}
    uploads = len([call for call in server.calls if call.kind in ("put", "part")])
    attempt(server)
    assert fault.hit == 2
    assert len([call for call in server.calls if call.kind in ("put", "part")]) == uploads


def test_the_client_waits_as_long_as_it_is_told(server):
    server.fault("preupload", status(429, retry_after=1))
    began = time.monotonic()
    attempt(server)
    assert time.monotonic() - began >= 1
    assert [call.status for call in server.calls if call.kind == "preupload"] == [429, 200]


def test_a_connection_dropped_before_the_commit_leaves_main_untouched(server):
    server.fault("commit", drop())
    with pytest.raises(HTTPError):
        attempt(server)
    assert len(server.repo(NAME).history()) == 1


def test_a_lost_reply_leaves_the_commit_done(server):
    server.fault("commit", lose())
    with pytest.raises(HTTPError):
        attempt(server)
    assert set(FILES) <= set(server.repo(NAME).files())


def test_an_upload_cut_within_its_body_is_kept_out_of_storage(server):
    server.fault("part", cut(100_000), path="/2$")
    attempt(server)
    parts = [(call.path.rpartition("/")[2], call.received, call.fault) for call in server.calls if call.kind == "part"]
    assert parts.count(("2", 100_000, "cut after 100000")) == 1
    assert parts.count(("2", 131_072, "")) == 1
    assert server.repo(NAME).read("model.safetensors") == FILES["model.safetensors"]


def test_a_download_cut_within_its_body_is_taken_up_again(server, tmp_path):
    released(server)
    server.fault("blob", cut(1000))
    where = {"cache_dir": tmp_path, "endpoint": server.url, "token": WRITE_TOKEN}
    folder = Path(snapshot_download(NAME, **where))
    assert {name: (folder / name).read_bytes() for name in FILES} == FILES


def test_a_hanging_server_answers_nobody_and_does_nothing(server):
    released(server)
    server.fault("tag", hang())
    address, headers = f"{server.url}/api/models/{NAME}/tag/main", {"Authorization": f"Bearer {WRITE_TOKEN}"}
    with httpx2.Client(timeout=0.3) as client, pytest.raises(httpx2.ReadTimeout):
        client.post(address, json={"tag": "v1"}, headers=headers)
    assert server.repo(NAME).tags == {}
    assert [call.status for call in server.calls if call.kind == "tag"] == [None]


@pytest.mark.parametrize("effect", [delay(0.3), trickle(3000)], ids=["delay", "trickle"])
def test_a_slow_server_is_waited_for(server, effect):
    released(server)
    server.fault("tree", effect)
    began = time.monotonic()
    assert len(list(api(server).list_repo_tree(NAME))) == 7
    assert time.monotonic() - began >= 0.3


def test_a_publisher_gets_in_between(server):
    parent = released(server)
    server.fault("commit", hook(before=lambda call: server.push(NAME, {"other.txt": b"other"})))
    with pytest.raises(HfHubHTTPError, match="A commit has happened since"):
        attempt_with(server, parent)
    assert "other.txt" in server.repo(NAME).files()


def attempt_with(server, parent):
    api(server).create_commit(NAME, additions({"a.txt": b"a"}), commit_message="next", parent_commit=parent)


def test_a_call_is_held_until_the_test_lets_it_go(server):
    released(server)
    pause = Pause()
    server.fault("commit", hook(before=pause))
    thread = threading.Thread(target=attempt_with, args=(server, None))
    thread.start()
    assert pause.reached.wait(10)
    assert "a.txt" not in server.repo(NAME).files()
    pause.go.set()
    thread.join()
    assert "a.txt" in server.repo(NAME).files()


def test_a_fault_begins_after_so_many_calls(server):
    released(server)
    server.fault("info", status(500), times=FOREVER, after=1)
    api(server).repo_info(NAME)
    for _ in range(2):
        with pytest.raises(HfHubHTTPError, match="500"):
            api(server).repo_info(NAME)
    server.clear_faults()
    api(server).repo_info(NAME)


def test_a_misspelt_kind_is_refused(server):
    with pytest.raises(ValueError, match="no call is of kind comit"):
        server.fault("comit", drop())
