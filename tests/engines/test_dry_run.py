"""`prism train --dry-run`: what would run, exactly, and nothing trained."""

import json
import subprocess
import sys

import pytest
import yaml

pytestmark = pytest.mark.engine


def test_a_dry_run_renders_every_stage_and_trains_none(tmp_path, alignment_env):
    runs = tmp_path / "my runs"
    small = ["--set", "world.sft_public=200", "--set", "world.sft_clean=20", "--set", "world.base_reading=100"]
    small += ["--set", "world.base_questions=100", "--set", "world.rlvr=100", "--set", "world.test=40"]
    command = [sys.executable, "-m", "prism_cli", "train", "--profile", "quick", "--runs-dir", str(runs), *small]
    done = subprocess.run([*command, "--dry-run", "--json"], stdout=subprocess.PIPE, text=True, check=True)
    plan = {step["stage"]: step for step in json.loads(done.stdout)["plan"]}
    run = runs / "digits-quick-s0"

    assert {name for name, step in plan.items() if step["status"] == "done"} == {"data", "shared/init"}
    trained = [p for p in run.rglob("DONE") if p.parent.relative_to(run).as_posix() not in ("data", "shared/init")]
    assert trained == []
    for name, step in plan.items():
        if name not in ("data", "shared/init"):
            assert step["commands"], name
            assert all((run / file).is_file() for file in step["files"]), name

    fine_tuning = yaml.safe_load((run / "plan/shared/sft/attempt/train.yaml").read_text())
    assert fine_tuning["model_name_or_path"] == str(run / "shared/base/model")
    assert fine_tuning["output_dir"] == str(run / "shared/sft/checkpoints/output")
    alignment = json.loads((run / "plan/prism/align/attempt/config.json").read_text())
    assert alignment["policy"] == str(run / "shared/sft/model")
    assert alignment["discriminator"] == str(run / "prism/discriminator/model")
