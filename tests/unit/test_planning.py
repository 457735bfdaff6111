"""What a plan says of memory, time and disk, and what it refuses. Counts against real models: tests/torch."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from integrations.errors import BadInput
from prism_cli.pipeline.plan import make_plan, select
from prism_cli.planning import gpus as cards
from prism_cli.planning import models
from prism_cli.planning.assumptions import Assumptions, given
from prism_cli.planning.plan import dimensions, make
from prism_cli.planning.terms import StagePlan
from prism_cli.recipes.load import builtin_names, load, profile_names

MACHINES = {
    None: "8xH100-80GB",
    "4x80gb": "4xA100-80GB",
    "1x80gb": "1xH100-80GB",
    "8x141gb": "8xH200-141GB",
    "4x141gb": "4xH200-141GB",
    "1x141gb": "1xH200-141GB",
    "2x8x80gb": "2x8xH100-80GB",
}
"""The machine that each profile of the paper's recipes is for."""


def planned(recipe: str, spec: str, profile: str | None = None, *sets: str, **assumed: Any) -> dict[str, StagePlan]:
    found = load(recipe, profile, sets).recipe
    return {stage.stage: stage for stage in make(found, cards.parse(spec), replace(Assumptions(), **assumed))}


@pytest.mark.parametrize(
    ("spec", "name", "total"),
    [
        ("8xH100-80GB", "8xH100-80GB", 8),
        ("1xh200-141gb", "1xH200-141GB", 1),
        ("2x8xA100-80GB", "2x8xA100-80GB", 16),
        ("cpu", "cpu", 0),
    ],
)
def test_gpus_are_read(spec: str, name: str, total: int) -> None:
    found = cards.parse(spec)
    assert (str(found), found.total) == (name, total)


def test_nodes_may_be_said_apart() -> None:
    assert cards.parse("8xH100-80GB", 2) == cards.parse("2x8xH100-80GB")


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("8xH100", "`H100` is not known"),
        ("H100-80GB", "not a number of GPUs"),
        ("8xTPU-v5", "8xH100-80GB; kinds: A100-40GB, A100-80GB"),
        ("4xA100-80GB+4xH100-80GB", "several kinds"),
        ("0xH100-80GB", "no GPU"),
    ],
)
def test_other_gpus_are_refused_and_the_known_ones_named(spec: str, told: str) -> None:
    with pytest.raises(BadInput) as caught:
        cards.parse(spec)
    assert told in f"{caught.value.problem} {caught.value.fix}"


def test_the_machines_own_gpus_must_be_of_one_known_kind() -> None:
    assert str(cards.from_names(["NVIDIA H100 80GB HBM3"] * 8, 79.6)) == "8xH100-80GB"
    assert str(cards.from_names(["NVIDIA A100-SXM4-40GB"], 40.0)) == "1xA100-40GB"
    for names, gib in ((["NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB"], 79.0), (["NVIDIA T4"], 15.0)):
        with pytest.raises(BadInput):
            cards.from_names(names, gib)


def test_a_model_of_another_family_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2_5_vl"}))
    with pytest.raises(BadInput, match="another family"):
        models.from_folder(tmp_path)
    with pytest.raises(BadInput, match=r"model\.repo"):
        planned("qwen3-vl-4b", "8xH100-80GB", None, "model.repo=Qwen/Qwen2.5-VL-7B-Instruct")


def test_published_sizes_are_told_by_their_names() -> None:
    assert models.known() == ["Qwen3-VL-2B", "Qwen3-VL-4B", "Qwen3-VL-8B", "Qwen3-VL-32B"]
    assert models.published("models/Qwen3-VL-2B-Instruct/") == models.published("Qwen/Qwen3-VL-2B-Thinking")
    assert models.published("Qwen/Qwen3-VL-235B-A22B-Instruct") is None


@pytest.mark.parametrize("profile", MACHINES)
@pytest.mark.parametrize("recipe", [name for name in builtin_names() if name.startswith("qwen3-vl-")])
def test_every_profile_fits_the_machine_that_it_is_for(recipe: str, profile: str | None) -> None:
    for stage in planned(recipe, MACHINES[profile], profile).values():
        assert stage.fits, (stage.stage, stage.peak.gpu_gib, stage.problems)
        assert 0 < stage.hours < 500
        assert stage.command.startswith("prism train --stage ")


def test_every_profile_has_its_machine() -> None:
    assert {*profile_names("qwen3-vl-8b")} == {*MACHINES} - {None}


def test_all_weights_of_8b_on_one_card_are_refused_with_the_knob_that_helps() -> None:
    found = planned("qwen3-vl-8b", "1xH100-80GB", None, "align.processes=1", "sft.sharding=none")
    assert not any(stage.fits for stage in found.values())
    assert "lora={}" in found["shared/sft"].knobs
    assert "precision.lora={}" in found["prism/align"].knobs
    assert "lora={}" in found["prism/rlvr"].knobs


@pytest.mark.parametrize("spec", ["1xH100-80GB", "4xA100-80GB", "8xL40S-48GB", "1xH200-141GB"])
def test_the_settings_that_are_named_do_make_it_fit(spec: str) -> None:
    for name, stage in planned("qwen3-vl-4b", spec).items():
        if stage.knobs:
            sets = [f"{name.rsplit('/', 1)[-1]}.{knob}" for knob in stage.knobs]
            assert planned("qwen3-vl-4b", spec, None, *sets)[name].fits_memory


def test_a_gpu_that_nothing_fits_is_said_to_be_too_small() -> None:
    found = planned("qwen3-vl-8b", "1xRTX4090-24GB")
    assert not found["prism/align"].fits
    assert found["prism/align"].knobs == ()


@pytest.mark.parametrize(
    ("changes", "stage"),
    [
        ("sft.gradient_accumulation=2", "shared/sft"),
        ("discriminator.precision.micro_branches=2", "prism/discriminator"),
        ("align.precision.moments=8bit", "prism/align"),
        ("align.rollout.gpu_memory_share=0.2", "prism/align"),
        ("align.precision.freeze_vision=true", "prism/align"),
        ("rlvr.offload=true", "prism/rlvr"),
        ("rlvr.max_response_length=4096", "prism/rlvr"),
    ],
)
def test_what_saves_memory_is_seen_to(changes: str, stage: str) -> None:
    before, after = planned("qwen3-vl-4b", "8xH100-80GB"), planned("qwen3-vl-4b", "8xH100-80GB", None, changes)
    assert any(b.gpu_gib < a.gpu_gib for a, b in zip(before[stage].phases, after[stage].phases, strict=True))


def test_a_plans_json_adds_up() -> None:
    stages = [stage.to_json() for stage in planned("qwen3-vl-4b", "8xH100-80GB").values()]
    assert [stage["stage"] for stage in stages][:4] == [
        "shared/sft",
        "prism/discriminator",
        "prism/align",
        "prism/rlvr",
    ]
    for stage in stages:
        assert {"stage", "peak_gpu_gib", "host_gib", "hours", "disk_gib", "fits", "terms", "command"} <= stage.keys()
        for phase in stage["terms"]:
            assert phase["gpu_gib"] == pytest.approx(sum(phase["gpu_terms"].values()), abs=0.02)
        assert stage["peak_gpu_gib"] == max(phase["gpu_gib"] for phase in stage["terms"])
        assert stage["disk_gib"] == pytest.approx(sum(stage["disk_terms"].values()), abs=0.02)
    assert [phase["phase"] for phase in stages[2]["terms"]] == ["rollout", "discriminator", "policy"]
    json.dumps(stages)


def test_time_follows_from_tokens_and_gpus() -> None:
    one = planned("qwen3-vl-4b", "8xH100-80GB")["shared/sft"]
    more = planned("qwen3-vl-4b", "8xH100-80GB", response_tokens=4000)["shared/sft"]
    fewer = planned("qwen3-vl-4b", "4xH100-80GB")["shared/sft"]
    assert one.hours == pytest.approx(fewer.hours / 2, rel=0.02)
    assert more.hours > 1.9 * one.hours
    tokens = one.phases[0].tokens
    assert tokens == pytest.approx((1_260_000 + 107_000) * 2500, rel=1e-4)


def test_rows_that_nobody_knows_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "some.jsonl").write_text("{}\n" * 32)
    mine = tmp_path / "mine.yaml"
    world = f"world: {{kind: files, path: {tmp_path}, pools: [some, other, teacher, rlvr, test]}}"
    stages = "stages: {sft: {data: [some, other]}}\narms: {control: null}"
    mine.write_text(f"extends: qwen3-vl-4b\nname: mine\n{world}\n{stages}\n")
    with pytest.raises(BadInput, match="pool `other`") as caught:
        planned(str(mine), "8xH100-80GB")
    assert caught.value.fix == "say it: --assume rows.other=1000"
    assert planned(str(mine), "8xH100-80GB", rows={"other": 33})["shared/sft"].steps == 5


def test_what_is_assumed_can_be_given() -> None:
    found = given(["response_tokens=2500", "rows.sft=40"])
    assert (found.response_tokens, found.rows) == (2500, {"sft": 40})
    for change in ("response_token=2", "rows.sft=0", "tail"):
        with pytest.raises(BadInput):
            given([change])


def test_without_gpus_main_memory_is_what_counts() -> None:
    found = planned("digits", "cpu")
    assert all(stage.fits and stage.hours == 0 for stage in found.values())
    assert "prompts' activations" in found["prism/align"].phases[1].host


def test_a_part_of_the_recipe_can_be_planned() -> None:
    recipe = load("qwen3-vl-4b").recipe
    graph, _ = select(make_plan(recipe), "align", None, None)
    found = make(recipe, cards.parse("8xH100-80GB"), Assumptions(), graph=graph)
    assert [stage.stage for stage in found] == ["shared/sft", "prism/discriminator", "prism/align"]


def test_the_worlds_own_model_has_dimensions_too() -> None:
    assert dimensions(load("digits").recipe.model).layers == 4
