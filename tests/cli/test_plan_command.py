"""`prism plan`: what it prints, in which form, and with which exit code."""

from __future__ import annotations

import json

import pytest

from prism_cli.__main__ import main

Output = pytest.CaptureFixture[str]


def test_a_plan_fits_80_columns_and_names_every_stage(capsys: Output) -> None:
    assert main(["plan", "--recipe", "qwen3-vl-4b", "--gpus", "8xH100-80GB"]) == 0
    out = capsys.readouterr().out
    table, _, commands = out.partition("Commands,")
    assert max(len(line) for line in table.splitlines()) <= 80
    assert "prism train --recipe qwen3-vl-4b --stage align --arm prism" in commands
    assert "logits" in table


def test_json_is_one_object(capsys: Output) -> None:
    command = ["plan", "--recipe", "qwen3-vl-4b", "--profile", "1x80gb", "--gpus", "1xH100-80GB", "--json"]
    assert main([*command, "--set", "rlvr.steps=10", "--algorithm", "dapo"]) == 0
    out, err = capsys.readouterr()
    plan = json.loads(out)
    assert (err, plan["gpus"], plan["fits"]) == ("", "1xH100-80GB", True)
    options = "--recipe qwen3-vl-4b --profile 1x80gb --algorithm dapo --set rlvr.steps=10"
    assert plan["stages"][0]["command"] == f"prism train {options} --stage sft"
    assert plan["assumed"]["response_tokens"] == 1500


def test_what_does_not_fit_is_told_with_the_knob_and_exit_code_2(capsys: Output) -> None:
    command = ["plan", "--recipe", "qwen3-vl-8b", "--gpus", "1xH100-80GB", "--stage", "sft"]
    assert main([*command, "--set", "sft.sharding=none"]) == 2
    out = capsys.readouterr().out
    assert "and a GPU has 79.1; it fits with --set sft.gradient_accumulation=16 --set sft.lora={}" in out


def test_a_profile_that_fits_is_named(capsys: Output) -> None:
    assert main(["plan", "--recipe", "qwen3-vl-4b", "--gpus", "1xH200-141GB"]) == 2
    assert "every stage fits here: 1x80gb, 1x141gb (--profile)." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--gpus", "8xH1000"], "kinds: A100-40GB"),
        (["--gpus", "4xA100-80GB,4xH100-80GB"], "several kinds"),
        (["--gpus", "cpu", "--assume", "prompt_token=3"], "did you mean `prompt_tokens`?"),
        (["--gpus", "cpu", "--stage", "nothing"], "no stage `nothing`"),
    ],
)
def test_bad_input_is_refused_with_the_fix(words: list[str], told: str, capsys: Output) -> None:
    assert main(["plan", "--recipe", "qwen3-vl-4b", *words]) == 2
    assert told in capsys.readouterr().err
