"""`prism recipe`: what it prints, in which form, and with which exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prism_cli.__main__ import main
from prism_cli.recipes.load import BUILTIN, builtin_names, load

Output = pytest.CaptureFixture[str]


def as_json(capsys: Output, *words: str, code: int = 0) -> Any:
    """The one JSON object that a command prints."""
    assert main([*words]) == code
    out, err = capsys.readouterr()
    assert err == ""
    return json.loads(out)


def test_list_names_every_builtin_recipe(capsys: Output) -> None:
    listed = as_json(capsys, "recipe", "list", "--json")["recipes"]
    assert [recipe["name"] for recipe in listed] == builtin_names()
    assert builtin_names() == [
        "digits",
        "qwen3-vl-4b",
        "qwen3-vl-4b-prism",
        "qwen3-vl-8b",
        "qwen3-vl-4b-beyond",
        "qwen3-vl-4b-table2",
    ]
    assert [recipe["ablation"] for recipe in listed] == [False, False, False, False, True, True]
    assert listed[0]["profiles"] == ["quick"]
    assert listed[0]["arms"] == ["prism", "baseline", "control"]
    assert main(["recipe", "list"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in builtin_names())


def test_diff_names_every_field_that_differs_and_no_other(capsys: Output, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("extends: digits\nname: mine\nstages: {align: {steps: 61}}\narms: {control: null}\n")
    found = as_json(capsys, "recipe", "diff", "digits", str(mine), "--json")["differences"]
    assert found[0] == {"field": "stages.align.steps", "a": load("digits").recipe.stages["align"].steps, "b": 61}
    assert [(one["field"], sorted(one)) for one in found[1:]] == [("arms.control", ["a", "field"])]
    assert as_json(capsys, "recipe", "diff", "digits", "digits", "--json")["differences"] == []
    assert main(["recipe", "diff", "qwen3-vl-4b", "qwen3-vl-4b:1x80gb"]) == 0
    shown = capsys.readouterr().out
    assert "rlvr.offload" in shown
    assert max(len(line) for line in shown.splitlines()) <= 80
    assert main(["recipe", "diff", "digits", "digits:quik"]) == 2
    assert "did you mean `quick`?" in capsys.readouterr().err


def test_show_prints_the_recipe_as_written(capsys: Output) -> None:
    assert main(["recipe", "show", "qwen3-vl-8b"]) == 0
    assert capsys.readouterr().out == (BUILTIN / "qwen3-vl-8b.yaml").read_text()
    assert main(["recipe", "show"]) == 0
    assert capsys.readouterr().out == (BUILTIN / "digits.yaml").read_text()


@pytest.mark.parametrize("form", [["--resolved"], ["--docs"], ["--profile", "quick", "--docs"]])
def test_what_show_prints_in_full_is_a_recipe(form: list[str], capsys: Output, tmp_path: Path) -> None:
    assert main(["recipe", "show", *form]) == 0
    kept = tmp_path / "kept.yaml"
    kept.write_text(capsys.readouterr().out)
    assert load(str(kept)).recipe == load("digits", "quick" if "--profile" in form else None).recipe


def test_show_makes_the_changes_asked_for(capsys: Output) -> None:
    assert main(["recipe", "show", "--profile", "quick", "--set", "rlvr.steps=77"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("# digits\n# --profile quick\n# --set rlvr.steps=77\n")
    shown = as_json(capsys, "recipe", "show", "digits", "--json", "--set", "rlvr.steps=77", "--set", "budget=tokens")
    assert shown["recipe"]["stages"]["rlvr"]["steps"] == 77
    assert shown["recipe"]["budget"] == "tokens"
    assert shown["chain"] == ["digits", "--set rlvr.steps=77", "--set budget=tokens"]


def test_validate_checks_every_file_with_every_profile(capsys: Output, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("extends: digits\nname: good\n")
    bad.write_text("extends: digits\nname: bad\nprofiles: {wrong: {stages: {sft: {steps: 0}}}}\n")
    assert main(["recipe", "validate", str(good)]) == 0
    assert capsys.readouterr().out == f"{good}: valid (profiles: quick)\n"
    assert main(["recipe", "validate", str(good), str(bad), str(tmp_path / "missing.yaml")]) == 2
    out, err = capsys.readouterr()
    assert out == f"{good}: valid (profiles: quick)\n"
    assert (
        f"error: {bad}, profile `wrong`, field `stages.sft.steps`: should be greater than or equal to 1, not 0" in err
    )
    assert "missing.yaml: No such file" in err
    checked = as_json(capsys, "recipe", "validate", "--json", str(good), str(bad), code=2)["recipes"]
    assert [len(result["problems"]) for result in checked] == [0, 1]
    assert checked[1]["problems"][0].keys() == {"error", "fix"}


def every_property(schema: Any, place: str = "") -> dict[str, Any]:
    """All properties in a JSON schema by their place."""
    if not isinstance(schema, dict):
        return {}
    found = {f"{place}.{name}": part for name, part in schema.get("properties", {}).items()}
    for name, part in schema.get("$defs", {}).items():
        found |= every_property(part, name)
    return found


def test_the_schema_describes_every_field(capsys: Output) -> None:
    schema = as_json(capsys, "recipe", "schema")
    properties = every_property(schema, "Recipe")
    assert {"Recipe.arms", "SftSettings.learning_rate", "RolloutSettings.temperature", "Arm.set"} <= properties.keys()
    for place, part in properties.items():
        behind = schema["$defs"][part["$ref"].rsplit("/", 1)[-1]] if "$ref" in part else {}
        assert part.get("description") or behind.get("description") or place.endswith(".kind"), place


def test_the_schema_lets_a_variant_leave_things_out(capsys: Output) -> None:
    schema = as_json(capsys, "recipe", "schema")
    assert schema["anyOf"] == [{"required": ["extends"]}, {"required": ["name", "world", "model", "stages", "arms"]}]
    assert all("required" not in part for part in schema["$defs"].values())
    assert {"type": "null"} in schema["properties"]["stages"]["additionalProperties"]["anyOf"]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["recipe", "show", "digist"], "there is no recipe `digist`, did you mean `digits`?"),
        (["recipe", "show", "--profile", "quik"], "recipe digits has no profile `quik`, did you mean `quick`?"),
        (["recipe", "show", "--set", "rlvr.stesp=3"], "`stages.rlvr` has no field `stesp`, did you mean `steps`?"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(words: list[str], problem: str, capsys: Output) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert problem in err
    assert err.splitlines()[-1].startswith("next: ")
    answer = as_json(capsys, *words, "--json", code=2)
    assert problem in answer["error"]
    assert answer["fix"]
