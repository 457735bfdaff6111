"""The whole pipeline with every real engine, as a user runs it: `prism train --stage all --profile quick`.

The run's folder has a space in its path, prism is killed in the middle of alignment, and the same command finishes
the run.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from engine_stage import run_inside
from loopback import hub

pytestmark = [pytest.mark.pipeline, pytest.mark.timeout(3600)]

ARMS = {
    "prism": ["base", "sft", "discriminator", "align", "rlvr"],
    "baseline": ["base", "sft", "rlvr"],
    "control": ["base", "sft", "rlvr"],
}
KILLED = "prism/align"
CHECKPOINT = 10
"""Steps between that stage's checkpoints in the quick profile."""


def prism(runs, *words):
    return [sys.executable, "-m", "prism_cli", "train", "--profile", "quick", "--runs-dir", str(runs), *words]


def events(run):
    path = run / "events.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for_step(run, stage, step, process):
    while process.poll() is None:
        if any(e["event"] == "progress" and e["stage"] == stage and e["step"] >= step for e in events(run)):
            return
        time.sleep(0.5)
    pytest.fail(f"prism ended before {stage} reached step {step}")


def kill_with_everything_watched(process):
    """SIGKILL prism alone; return what still runs of its descendants ten seconds later."""
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(family, timeout=10)
    return [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished quick run that was killed once; its folder."""
    runs = tmp_path_factory.mktemp("with a space") / "my runs"
    folder = runs / "digits-quick-s0"
    log = runs.parent / "first.log"
    with log.open("w") as stream:
        first = subprocess.Popen(prism(runs), stdout=stream, stderr=stream)
        try:
            wait_for_step(folder, KILLED, CHECKPOINT + 2, first)
        except BaseException:
            print(log.read_text()[-4000:])
            raise
        assert kill_with_everything_watched(first) == []
    done = subprocess.run(prism(runs, "--json"), stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0
    (folder / "result.json").write_text(done.stdout)
    return folder


@pytest.fixture(scope="module")
def result(run):
    return json.loads((run / "result.json").read_text())


def test_every_stage_of_every_arm_is_done(result):
    assert (result["run"], result["seed"]) == ("digits-quick-s0", 0)
    assert {arm: list(stages) for arm, stages in result["arms"].items()} == ARMS
    assert {s["status"] for stages in result["arms"].values() for s in stages.values()} == {"done"}


def test_every_policy_has_scores_with_intervals(result):
    for stages in result["arms"].values():
        for name, stage in stages.items():
            if name == "discriminator":
                continue
            for protocol in ("greedy", "sample"):
                scores = stage["scores"][protocol]
                assert scores["n"] > 0
                for metric in ("answer", "perception", "reasoning", "format"):
                    if scores[metric] is None:  # no response had a caption that supports an answer
                        assert (metric, name) == ("reasoning", "base")
                        continue
                    low, high = scores["ci"][metric]
                    assert 0 <= low <= scores[metric] <= high <= 1


def test_the_policy_learned_the_form_and_some_of_the_world(result):
    trained = result["arms"]["prism"]["rlvr"]["scores"]["greedy"]
    untrained = result["arms"]["prism"]["base"]["scores"]["greedy"]
    assert trained["format"] > 0.5 > untrained["format"]
    assert trained["ci"]["answer"][0] > untrained["ci"]["answer"][1]


def test_the_baseline_got_the_alignment_steps(run):
    steps = {arm: json.loads((run / arm / "rlvr" / "DONE").read_text())["result"]["step"] for arm in ARMS}
    align = json.loads((run / "prism" / "align" / "DONE").read_text())["result"]["step"]
    assert steps["baseline"] == steps["control"] == steps["prism"] + align


def test_the_killed_stage_was_resumed_not_begun_again(run):
    launches = [e for e in events(run) if e["event"] == "stage_started" and e["stage"] == KILLED]
    assert [e["attempt"] for e in launches] == [1, 2]
    second = [
        e for e in events(run) if e["event"] == "progress" and e["stage"] == KILLED and e["time"] >= launches[1]["time"]
    ]
    assert min(e["step"] for e in second) == CHECKPOINT + 1


def test_the_chain_of_hashes_is_whole(run):
    manifest = json.loads((run / "manifest.json").read_text())
    for name, stage in manifest["stages"].items():
        for parent in stage["parents"].values():
            assert manifest["stages"][parent["stage"]]["hash"] == parent["hash"], name


def test_nothing_published_later_names_this_machine(run):
    text = (run / "manifest.json").read_text() + (run / "recipe.yaml").read_text()
    home = str(Path.home())
    assert not any(word in text for word in (home, str(run), os.uname().nodename))


def test_the_same_command_again_runs_nothing(run):
    before = len(events(run))
    subprocess.run(prism(run.parent, "--json"), stdout=subprocess.DEVNULL, check=True)
    later = {e["event"] for e in events(run)[before:]}
    assert later <= {"started", "stage_skipped", "finished"}


def test_all_weights_differ_from_their_parents(run):
    hashes = [json.loads(p.read_text())["hash"] for p in run.glob("*/*/DONE") if p.parent.parent.name != "eval"]
    assert len(set(hashes)) == len(hashes)


def test_each_engines_result_is_the_same_model_in_every_environment(
    run, tmp_path, alignment_env, llamafactory_env, verl_env
):
    models = [run / stage / "model" for stage in ("shared/sft", "prism/align", "prism/rlvr")]
    seen = {}
    for environment in (alignment_env, llamafactory_env, verl_env):
        out = tmp_path / f"{environment.name}.npz"
        run_inside(environment, "logits.py", [out, run / "data/pools/sft.jsonl", *models], tmp_path)
        seen[environment.name] = dict(np.load(out))
    here = seen.pop("alignment")
    for there in seen.values():
        for number in range(len(models)):
            np.testing.assert_array_equal(there[f"ids-{number}"], here[f"ids-{number}"])
            real = here[f"mask-{number}"].astype(bool)
            logits, others = here[f"logits-{number}"][real], there[f"logits-{number}"][real]
            np.testing.assert_allclose(others, logits, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def published(run, tmp_path_factory):
    """The run's last policy, released twice to a Hub on this machine: both answers, and the Hub's address."""
    with hub(tmp_path_factory.mktemp("hub")) as server:

        def call(*words):
            command = [sys.executable, "-m", "prism_cli", "release", *words, "--json"]
            env = {**os.environ, **server.env()}
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=env)
            return done.returncode, json.loads(done.stdout)

        where = ["--repo", "prism-vlm/digits-quick", "--runs-dir", str(run.parent), "--run", run.name]
        first, second = call(*where), call(*where)
        verified = call("verify", "--repo", "prism-vlm/digits-quick", "--revision", "v1.0")
        yield first, second, verified, server.repo("prism-vlm/digits-quick")


def test_the_last_policy_is_released_and_verified(published):
    (code, told), _, (verified_code, verified), repo = published
    assert (code, told["published"], verified_code, verified["verified"]) == (0, True, 0, True)
    (release,) = told["releases"]
    assert release["findings"] == verified["findings"] == []
    assert repo.tags["v1.0"] == release["commit"] == repo.heads["main"]
    assert repo.private


def test_releasing_it_again_changes_nothing(published):
    (_, first), (code, second), _, repo = published
    assert code == 0
    assert second["releases"][0]["commit"] == first["releases"][0]["commit"]
    assert len(repo.history("main")) == 2  # the Hub's own first one, and the release
