"""The alignment stages seen from prism's own process: what is refused, rendered, believed and published."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from integrations.alignment.adapter import AlignAdapter, DiscriminatorAdapter
from integrations.alignment.names import DESCRIPTION, RESULT
from integrations.alignment.settings import AlignSettings, DiscriminatorSettings, PrecisionSettings, RolloutSettings
from integrations.common import error_line
from integrations.contract import Machine, StageAdapter, StageContext
from integrations.errors import BadInput, StageFailed

ENGINE = Path(__file__).resolve().parents[2] / "integrations" / "alignment"
GOOD = {
    "held_out_pair_accuracy_perception": 0.7,
    "held_out_pair_accuracy_perception_low": 0.58,
    "held_out_pair_accuracy_reasoning": 0.6,
    "held_out_pair_accuracy_reasoning_low": 0.47,
    "held_out_pair_accuracy_total": 0.75,
    "held_out_pair_accuracy_total_low": 0.63,
    "held_out_valid": 0.95,
}


TOTALS = (
    *("steps", "groups", "responses", "groups_without_signal", "groups_all_invalid", "truncated", "invalid"),
    *("gated_perception", "gated_reasoning", "discriminator_slowed", "discriminator_hastened"),
)


def write_weights(path: Path, value: float) -> None:
    data = np.full(4, value, np.float32).tobytes()
    header = json.dumps({"a.weight": {"dtype": "F32", "shape": [4], "data_offsets": [0, len(data)]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)


def model_folder(path: Path, value: float, model_type: str = "qwen3_vl") -> Path:
    path.mkdir(parents=True)
    write_weights(path / "model.safetensors", value)
    (path / "config.json").write_text(json.dumps({"model_type": model_type}))
    for name in ("tokenizer_config.json", "tokenizer.json", "generation_config.json"):
        (path / name).write_text(json.dumps({"of": model_type}))
    (path / "chat_template.jinja").write_text("template")
    return path


def context(root: Path, settings: Any, *, gpus: int = 0, steps: int | None = None) -> StageContext:
    policy = root / "policy"
    if not policy.exists():
        model_folder(policy, 1.0)
        (root / "data").mkdir()
        (root / "data" / "teacher.jsonl").write_text("")
        (model_folder(root / "discriminator", 2.0, "qwen3_vl_moe") / DESCRIPTION).write_text("{}")
    for name in ("stage/attempt-1", "stage/checkpoints"):
        (root / name).mkdir(parents=True, exist_ok=True)
    return StageContext(
        name="prism/stage",
        settings=settings,
        stage_dir=root / "stage",
        attempt_dir=root / "stage" / "attempt-1",
        checkpoint_dir=root / "stage" / "checkpoints",
        model_dir=root / "stage" / "model",
        parents={"policy": policy, "discriminator": root / "discriminator"},
        base_model=policy,
        data_dir=root / "data",
        seed=3,
        machine=Machine(threads=2, gpus=gpus),
        gradient_steps=steps,
    )


def leave_result(ctx: StageContext, *, value: float = 5.0, **change: Any) -> None:
    """What the process leaves when it has come to its end."""
    folder = ctx.checkpoint_dir / "result"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    write_weights(folder / "model.safetensors", value)
    rows = {"given": 10, "trained": 6, "held_out": 4, "dropped": 0}
    content: dict[str, Any] = {"step": 20, "generated_tokens": 99, "rows": rows, "metrics": GOOD}
    content |= {"overlong_demonstrations": 0, "left_out": ""}
    content |= {"stopped_early": False, "stopped": "", "first": {"held_out_valid": 0.9}, "policy_steps": 20}
    content |= {"kept_step": content["step"], "totals": dict.fromkeys(TOTALS, 0.0)}
    (folder / RESULT).write_text(json.dumps(content | change))


@pytest.mark.parametrize(
    ("kind", "fields", "says"),
    [
        (DiscriminatorSettings, {"top_k": 4}, "leaves a token 3 experts"),
        (DiscriminatorSettings, {"experts": 3, "top_k": 3}, "leaves a token 2 experts"),
        (DiscriminatorSettings, {"noise": 1.5}, "noise"),
        (DiscriminatorSettings, {"steps": 0}, "steps"),
        (AlignSettings, {"group_size": 1}, "group_size"),
        (AlignSettings, {"rollout": {"temperature": 0.7}}, "must be 1"),
        (AlignSettings, {"alpha": 1.5}, "alpha"),
        (AlignSettings, {"clip": 0.2}, "Extra inputs"),
        (AlignSettings, {"normalise": "mixed"}, "needs `credit: mixed`"),
        (AlignSettings, {"accuracy_low": 0.96}, "accuracy_high only 0.95"),
        (AlignSettings, {"min_separation": 0.4}, "at least 0.5"),
    ],
)
def test_settings_refuse_what_cannot_work(kind: Any, fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        kind(**fields)


def test_every_setting_is_documented() -> None:
    for kind in (DiscriminatorSettings, AlignSettings):
        assert not [name for name, field in kind.model_fields.items() if name != "kind" and not field.description]


def job_fields() -> set[str]:
    """Fields of `job.Job`, read without importing it (it needs torch)."""
    tree = ast.parse((ENGINE / "job.py").read_text())
    (job,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Job"]
    return {
        node.target.id for node in job.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }


def settings_read_by_the_engine() -> set[str]:
    """Every `settings.x`, `rollout.x` and `precision.x` in the modules that run in the engine's environment."""
    found = set()
    for path in ENGINE.rglob("*.py"):
        if path.name in ("adapter.py", "check_model.py") or path.parent.name == "settings":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                owner = ast.unparse(node.value).rsplit(".", 1)[-1]
                if owner in ("settings", "rollout", "precision"):
                    found.add(node.attr)
    return found


def test_the_engine_reads_every_setting_and_no_other() -> None:
    kinds = (DiscriminatorSettings, AlignSettings, RolloutSettings, PrecisionSettings)
    names = {name for kind in kinds for name in kind.model_fields}
    host_only = {"upcycle_from", "init_from", "mode", "processes", "steps"}
    assert settings_read_by_the_engine() == names - host_only


@pytest.mark.parametrize(
    ("adapter", "settings"), [(DiscriminatorAdapter(), DiscriminatorSettings()), (AlignAdapter(), AlignSettings())]
)
def test_one_command_with_a_complete_configuration(adapter: StageAdapter, settings: Any, tmp_path: Path) -> None:
    ctx = context(tmp_path, settings, steps=20)
    adapter.check_inputs(ctx)
    half = ctx.checkpoint_dir / ".step-000004.partial"
    half.mkdir()
    (launch,) = adapter.render(ctx)
    assert launch.engine == "alignment"
    assert list(launch.argv[:3]) == ["python", "-m", "integrations.alignment.train"]
    assert launch.env["OMP_NUM_THREADS"] == "2"
    config = json.loads(Path(launch.argv[-1]).read_text())
    assert config.keys() == job_fields()
    assert config["settings"] == settings.model_dump(mode="json")
    assert (config["steps"], config["seed"], config["threads"], config["device"]) == (20, 3, 2, "cpu")
    assert not half.exists()


def test_vllm_brings_its_own_environment_and_needs_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PRISM_ENV_VLLM", raising=False)
    settings = AlignSettings(rollout=RolloutSettings(engine="vllm"))
    with pytest.raises(BadInput, match=r"`rollout\.engine: vllm` needs a GPU"):
        AlignAdapter().check_inputs(context(tmp_path, settings))
    ctx = context(tmp_path, settings, gpus=1)
    AlignAdapter().check_inputs(ctx)
    (launch,) = AlignAdapter().render(ctx)
    assert launch.engine == "vllm"
    monkeypatch.setenv("PRISM_ENV_VLLM", str(tmp_path))
    AlignAdapter().check_inputs(context(tmp_path, settings))


def test_gpus_are_used_where_there_are_any(tmp_path: Path) -> None:
    ctx = context(tmp_path, AlignSettings(), gpus=1)
    (launch,) = AlignAdapter().render(ctx)
    assert json.loads(Path(launch.argv[-1]).read_text())["device"] == "cuda"


def test_a_discriminator_to_start_from_is_given_to_the_engine(tmp_path: Path) -> None:
    start = model_folder(tmp_path / "earlier", 3.0, "qwen3_vl_moe")
    ctx = context(tmp_path, DiscriminatorSettings(init_from=str(start), upcycle_from=str(tmp_path / "unused")))
    DiscriminatorAdapter().check_inputs(ctx)
    (launch,) = DiscriminatorAdapter().render(ctx)
    assert json.loads(Path(launch.argv[-1]).read_text())["init_from"] == str(start.resolve())
    (start / "model.safetensors").unlink()
    with pytest.raises(BadInput, match="no model weights"):
        DiscriminatorAdapter().check_inputs(ctx)


def test_pairs_are_given_to_the_engine_by_their_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ctx = context(tmp_path, DiscriminatorSettings(pairs="pairs.jsonl"))
    with pytest.raises(BadInput, match=r"the pairs pairs\.jsonl do not exist"):
        DiscriminatorAdapter().check_inputs(ctx)
    (tmp_path / "pairs.jsonl").write_text("")
    DiscriminatorAdapter().check_inputs(ctx)
    (launch,) = DiscriminatorAdapter().render(ctx)
    job = json.loads(Path(launch.argv[-1]).read_text())
    assert job["settings"]["pairs"] == str((tmp_path / "pairs.jsonl").resolve())


def test_missing_inputs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"the teacher pool .*others\.jsonl does not exist"):
        DiscriminatorAdapter().check_inputs(context(tmp_path, DiscriminatorSettings(teacher="others")))
    with pytest.raises(BadInput, match="no model folder"):
        DiscriminatorAdapter().check_inputs(context(tmp_path, DiscriminatorSettings(upcycle_from=str(tmp_path))))
    ctx = context(tmp_path, AlignSettings())
    (ctx.parents["discriminator"] / DESCRIPTION).unlink()
    with pytest.raises(BadInput, match="needs a discriminator"):
        AlignAdapter().check_inputs(ctx)
    (ctx.policy / "tokenizer.json").unlink()
    with pytest.raises(BadInput, match=r"has no tokenizer\.json"):
        AlignAdapter().check_inputs(ctx)


def test_a_finished_stage_launches_nothing_and_an_extended_one_does(tmp_path: Path) -> None:
    adapter = AlignAdapter()
    leave_result(context(tmp_path, AlignSettings(), steps=20))
    assert adapter.render(context(tmp_path, AlignSettings(), steps=20)) == ()
    assert len(adapter.render(context(tmp_path, AlignSettings(), steps=25))) == 1


def test_telling_errors_in_demonstrations_is_enough_where_responses_are_mostly_right(tmp_path: Path) -> None:
    """Restated, a demonstration and a right response are the same: a tie, and the pair accuracy is near one half."""
    ctx = context(tmp_path, DiscriminatorSettings(steps=20))
    ties = {f"held_out_pair_accuracy_{name}_low": 0.45 for name in ("perception", "reasoning", "total")}
    told = {f"held_out_content_accuracy_{role}_low": 0.8 for role in ("perception", "reasoning")}
    leave_result(ctx, metrics=GOOD | ties | told)
    assert not DiscriminatorAdapter().finish(ctx).notes
    one = told | {"held_out_content_accuracy_reasoning_low": 0.5}
    leave_result(ctx, metrics=GOOD | ties | one)
    with pytest.raises(StageFailed, match="not above chance"):
        DiscriminatorAdapter().finish(ctx)


def test_without_a_result_a_stage_has_failed_whatever_the_exit_code(tmp_path: Path) -> None:
    ctx = context(tmp_path, AlignSettings(), steps=20)
    with pytest.raises(StageFailed, match="ended before its last step"):
        AlignAdapter().finish(ctx)
    leave_result(ctx, step=10)
    with pytest.raises(StageFailed, match="ended before its last step"):
        AlignAdapter().finish(ctx)


def test_a_discriminator_at_chance_is_refused(tmp_path: Path) -> None:
    ctx = context(tmp_path, DiscriminatorSettings(steps=20))
    leave_result(ctx, metrics=GOOD | {"held_out_pair_accuracy_total_low": 0.49})
    with pytest.raises(StageFailed, match="75% of pairs, which is not above chance"):
        DiscriminatorAdapter().finish(ctx)
    leave_result(ctx, metrics={"held_out_valid": 0.0})
    with pytest.raises(StageFailed, match="not above chance"):
        DiscriminatorAdapter().finish(ctx)
    assert not ctx.model_dir.exists()


def test_a_discriminator_is_published_whole(tmp_path: Path) -> None:
    ctx = context(tmp_path, DiscriminatorSettings(steps=60))
    leave_result(ctx, stopped_early=True)
    own = ctx.checkpoint_dir / "result"
    (own / "config.json").write_text("its own")
    (own / DESCRIPTION).write_text("{}")
    result = DiscriminatorAdapter().finish(ctx)
    assert result.step == 20
    assert result.generated_tokens == 99
    assert result.notes == ["pair accuracy of reasoning alone, 60%, is not above chance"]
    published = {path.name for path in ctx.model_dir.iterdir()}
    carried = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert published == carried | {"config.json", DESCRIPTION, "model.safetensors"}
    assert (ctx.model_dir / "config.json").read_text() == "its own"


def test_a_truncated_discriminator_is_refused(tmp_path: Path) -> None:
    ctx = context(tmp_path, DiscriminatorSettings(steps=20))
    leave_result(ctx)
    with (ctx.checkpoint_dir / "result" / "model.safetensors").open("r+b") as stream:
        stream.truncate(70)
    with pytest.raises(StageFailed, match="the discriminator is unusable"):
        DiscriminatorAdapter().finish(ctx)
    assert not ctx.model_dir.exists()


def test_alignment_that_moved_nothing_or_lost_its_form_is_refused(tmp_path: Path) -> None:
    ctx = context(tmp_path, AlignSettings(steps=20))
    leave_result(ctx, policy_steps=0)
    with pytest.raises(StageFailed, match="the policy never moved"):
        AlignAdapter().finish(ctx)
    leave_result(ctx, metrics={"held_out_valid": 0.44})
    with pytest.raises(StageFailed, match="fell from 90% to 44%"):
        AlignAdapter().finish(ctx)
    leave_result(ctx, value=1.0)
    with pytest.raises(StageFailed, match="no weight changed"):
        AlignAdapter().finish(ctx)
    leave_result(ctx, value=float("nan"))
    with pytest.raises(StageFailed, match="NaN"):
        AlignAdapter().finish(ctx)
    assert not ctx.model_dir.exists()


EVENTFUL: dict[str, Any] = {
    "left_out": "row-3: its prompt has 9000 tokens",
    "kept_step": 15,
    "stopped": "falling on held-out prompts: answer 50% -> 10%",
    "stopped_early": True,
    "totals": dict.fromkeys(TOTALS, 0.0)
    | {"steps": 20.0, "groups": 160.0, "responses": 1000.0, "groups_without_signal": 7.5, "groups_all_invalid": 1.0}
    | {"invalid": 30.0, "truncated": 10.0, "gated_perception": 4.0, "discriminator_slowed": 6.0},
}


def test_alignment_is_published_in_the_base_models_format(tmp_path: Path) -> None:
    ctx = context(tmp_path, AlignSettings(steps=20, processes=1), gpus=2)
    rows = {"given": 10, "trained": 5, "held_out": 4, "dropped": 1}
    leave_result(ctx, policy_steps=18, rows=rows, overlong_demonstrations=3, **EVENTFUL)
    result = AlignAdapter().finish(ctx)
    assert list(result.notes) == [
        "ended early: falling on held-out prompts: answer 50% -> 10%",
        "the result is the policy of step 15, which won most pairs on held-out prompts",
        "2 of 20 steps gave the policy no signal",
        "of 160 groups 7.5 gave no signal (one role counts as half a group) and 1 had no valid response",
        "3.0% of responses had not the three blocks, 1.0% were cut at 96 tokens",
        "perception gave no advantage in 4 steps: its scores did not tell right from wrong",
        "to stay in its band the discriminator was slowed in 6 steps, hastened in 0",
        "1 rows were left out, each is named in the log; the first: row-3: its prompt has 9000 tokens",
        "3 demonstrations are longer than a response may be (96 tokens); kept whole",
        "of 2 GPUs 1 were used, as `processes` says",
    ]
    assert {path.name for path in ctx.model_dir.iterdir()} == {path.name for path in ctx.base_model.iterdir()}


def test_known_failures_are_explained(tmp_path: Path) -> None:
    ctx, adapter = context(tmp_path, AlignSettings()), AlignAdapter()
    log = f"loading\n{error_line.MARK}" + json.dumps({"problem": "no pool", "fix": "name one"}) + "\ncommand ended\n"
    assert adapter.explain(ctx, log) == "no pool; name one"
    assert "out of memory" in (adapter.explain(ctx, "RuntimeError: DefaultCPUAllocator: can't allocate") or "")
    assert adapter.explain(ctx, "something else") is None


def test_progress_is_followed_line_by_line(tmp_path: Path) -> None:
    ctx = context(tmp_path, AlignSettings())
    follower = AlignAdapter().follow(ctx)
    assert list(follower.poll()) == []
    line = {"step": 3, "total": 60, "phase": "training", "generated_tokens": 7, "metrics": {"valid": 0.5}}
    with (ctx.attempt_dir / "progress.jsonl").open("w") as stream:
        stream.write(json.dumps(line) + '\n{"step": 4')
    (news,) = follower.poll()
    assert (news.step, news.total, news.phase, news.generated_tokens, dict(news.metrics)) == (
        3,
        60,
        "training",
        7,
        {"valid": 0.5},
    )
