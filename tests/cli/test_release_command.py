"""`prism release` as its user calls it: a made-up run, the real client, a Hub on this machine.

The engine that loads the model is replaced by its answer; the pipeline's test publishes a trained model with it.
"""

import json
import os
import shutil
import subprocess
import sys

import pytest
from loopback import LINES, client_env, hub
from release_run import make_release_run
from released import VALUES, clean, write_weights
from releases import as_client

from prism_cli import __main__ as program
from prism_cli.publication import prepare
from release.folder import MODEL_FILES, allowed, assemble

CANARY = {"prompt": "p", "response": "r", "dtype": "float32", "log_probability": -1.5, "tolerance": 0.001}
LOADED = {"problems": {"weights": [], "processor": [], "canary": []}, "canary": CANARY, "versions": {}, "seconds": 0.1}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run whose models a stranger could load, each with numbers of its own."""
    run = make_release_run(tmp_path_factory.mktemp("runs"))
    whole = clean(tmp_path_factory.mktemp("clean") / "model")
    for number, model in enumerate(sorted(run.root.glob("*/*/model"))):
        (model / "model.safetensors").unlink()
        for path in whole.iterdir():
            if allowed(path.name, MODEL_FILES):
                shutil.copyfile(path, model / path.name)
        write_weights(model, {name: value + number for name, value in VALUES.items()})
    record = {"hash": "d" * 64, "finished": "2026-01-01T00:00:00Z", "result": {"step": 1}}
    (run.root / "data" / "DONE").write_text(json.dumps(record))
    return run


@pytest.fixture
def server(tmp_path, monkeypatch):
    with hub(tmp_path / "hub") as running:
        as_client(monkeypatch, running)
        monkeypatch.setattr(prepare, "probe", lambda *given, **named: LOADED)
        # The run's hashes are those of names.
        monkeypatch.setattr(prepare, "assemble", lambda source, out, extra, expected: assemble(source, out, extra))
        yield running


@pytest.fixture
def release(run, server, capsys):
    """Calls the command; returns its exit code and what it printed, as JSON where it was asked for."""

    def call(*words):
        where = [] if words[0] == "verify" else ["--runs-dir", str(run.root.parent)]
        code = program.main(["release", *words, *where])
        out = capsys.readouterr().out
        return code, json.loads(out) if "--json" in words else out

    return call


def test_a_family_is_private_until_all_of_it_is_there_and_then_public_and_gathered(release, server):
    code, told = release("--repo", "prism-vlm/digits", "--stage", "all", "--public", "--json")
    assert code == 0, told
    repos = [one["repo"] for one in told["releases"]]
    assert len(repos) == 5
    shown = [at for at, call in enumerate(server.calls) if call.kind == "settings"]
    committed = [at for at, call in enumerate(server.calls) if call.kind == "commit"]
    assert len(committed) == len(shown) == 5
    assert max(committed) < min(shown)
    assert not any(server.repo(repo).private for repo in repos)
    (collection,) = server.store.collections().values()
    assert {item["id"] for item in collection["items"]} == set(repos)


def test_a_dry_run_shows_everything_and_touches_nothing(release, server):
    code, told = release("--repo", "prism-vlm/digits", "--dry-run", "--json")
    (one,) = told["releases"]
    assert (code, told["published"]) == (0, False)
    assert server.repos() == []
    assert {"path", "size", "sha256", "git_sha1"} == set(one["files"][0])
    assert one["card"].startswith("---\n")
    assert set(one["hub"]["upload"]) == {file["path"] for file in one["files"]} | {"provenance/manifest.json"}


def test_again_is_a_no_op_and_says_so(release, server):
    assert release("--repo", "prism-vlm/digits")[0] == 0
    before = len(server.repo("prism-vlm/digits").history("main"))
    code, shown = release("--repo", "prism-vlm/digits")
    assert code == 0
    assert "there already, nothing to do" in shown
    assert len(server.repo("prism-vlm/digits").history("main")) == before


def test_a_second_tag_keeps_the_first_ones_changelog(release, server):
    release("--repo", "prism-vlm/digits", "--json")
    code, _ = release("--repo", "prism-vlm/digits", "--tag", "v1.1", "--message", "Better words.", "--json")
    assert code == 0
    card = server.repo("prism-vlm/digits").read("README.md").decode()
    assert "First release." in card
    assert "Better words." in card
    assert release("--repo", "prism-vlm/digits", "--json")[0] == 0  # the first one again, from its own tag


def test_pools_are_released_as_a_dataset_and_verified(release, server):
    code, told = release("--repo", "prism-vlm/pools", "--dataset", "--json")
    assert code == 0, told
    assert told["releases"][0]["repo_type"] == "dataset"
    assert any(path.endswith(".parquet") for path in server.repo("prism-vlm/pools", "dataset").files())
    code, told = release("verify", "--repo", "prism-vlm/pools", "--dataset", "--json")
    assert (code, told["verified"]) == (0, True)


@pytest.mark.parametrize("line", LINES)
def test_both_lines_of_the_client_release_and_verify(run, tmp_path, line):
    with hub(tmp_path / "hub") as server:
        env = {**os.environ, **server.env(), **client_env(line)}

        def call(*words):
            command = [sys.executable, "-m", "prism_cli", "release", *words, "--json"]
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
            assert done.returncode == 0, done.stdout + done.stderr
            return json.loads(done.stdout)

        where = ["--repo", "prism-vlm/pools", "--dataset", "--runs-dir", str(run.root.parent)]
        first, second = call(*where), call(*where)
        assert second["releases"][0]["commit"] == first["releases"][0]["commit"]
        assert call("verify", "--repo", "prism-vlm/pools", "--dataset", "--revision", "v1.0")["verified"]
        asked = {call.client for call in server.calls if call.kind == "commit"}
        assert all(f"hf_hub/{line[0]}." in client for client in asked), asked
        assert asked


def test_an_error_is_shown_and_nothing_is_published(release, server, monkeypatch):
    broken = {**LOADED, "problems": {**LOADED["problems"], "weights": ["`lm_head.weight` is missing"]}}
    monkeypatch.setattr(prepare, "probe", lambda *given, **named: broken)
    code, shown = release("--repo", "prism-vlm/digits")
    assert code == 1
    assert "weights-fit" in shown
    assert "Nothing was published" in shown
    assert server.repos() == []
    assert all(len(line) <= 80 for line in shown.splitlines())


def test_what_was_published_and_changed_does_not_verify(release, server):
    release("--repo", "prism-vlm/digits", "--json")
    server.push("prism-vlm/digits", {"config.json": b'{"architectures": ["Other"]}'})
    code, told = release("verify", "--repo", "prism-vlm/digits", "--no-load", "--json")
    assert (code, told["verified"]) == (1, False)
    assert [(one["check"], one["path"]) for one in told["findings"]] == [("changed", "config.json")]
    assert release("verify", "--repo", "prism-vlm/digits", "--revision", "v1.0", "--no-load", "--json")[0] == 0


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ((), "--repo is missing"),
        (("--repo", "../x"), "is not a repository's name"),
        (("--repo", "prism-vlm/[red]x[/red]"), "is not a repository's name"),
        (("--repo", "prism-vlm/x", "--tag", "main"), "cannot be a tag"),
        (("--repo", "prism-vlm/x", "--collection", "{{ 7 }}"), "cannot be a collection's title"),
        (("--repo", "prism-vlm/x", "--stage", "rl"), "is no kind of stage"),
        (("--repo", "prism-vlm/x", "--arm", "nobody"), "has no arm `nobody`"),
        (("--repo", "prism-vlm/x", "--run", "none"), "there is no run `none`"),
        (("--repo", "somebody/x"), "may not publish under somebody"),
    ],
)
def test_bad_input_is_one_message_before_anything_is_built(run, server, capsys, words, problem):
    code = program.main(["release", *words, "--runs-dir", str(run.root.parent)])
    said = capsys.readouterr()
    assert code == 2
    assert problem in " ".join((said.out + said.err).split())
    assert server.repos() == []
