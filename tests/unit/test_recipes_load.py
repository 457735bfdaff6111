"""Reading recipes: layers, values from the command line, and an error for each way a file can be wrong."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from integrations.errors import BadInput
from prism_cli.recipes.document import documented
from prism_cli.recipes.load import Resolved, builtin_names, dump, load, merge
from prism_cli.recipes.text import write_line


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str, text: str) -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text, encoding="utf-8")
    return name


def refused(name: str | None = None, profile: str | None = None, sets: tuple[str, ...] = ()) -> BadInput:
    with pytest.raises(BadInput) as refusal:
        load(name, profile, list(sets))
    assert refusal.value.fix
    return refusal.value


# Layers


def test_no_recipe_means_digits() -> None:
    resolved = load()
    assert (resolved.source, resolved.chain, resolved.recipe.name) == ("digits", ["digits"], "digits")
    assert builtin_names()[0] == "digits"


def test_a_variant_is_three_lines() -> None:
    write("mine.yaml", "extends: digits\nname: mine\nstages: {rlvr: {steps: 77}}\n")
    resolved = load("mine.yaml")
    digits = load().recipe
    assert resolved.chain == ["digits", "mine.yaml"]
    assert resolved.recipe.stages["rlvr"].steps == 77
    assert resolved.recipe.stages["rlvr"].learning_rate == digits.stages["rlvr"].learning_rate
    assert resolved.recipe.stages["sft"] == digits.stages["sft"]


def test_layers_are_laid_in_order() -> None:
    write("a.yaml", "extends: digits\nname: a\nstages: {rlvr: {steps: 111, group_size: 4, micro_batch_size: 4}}\n")
    write("sub/b.yaml", "extends: ../a.yaml\nname: b\nstages: {rlvr: {steps: 112}}\n")
    resolved = load("sub/b.yaml", "quick", ["rlvr.learning_rate=1e-5"])
    rlvr = resolved.recipe.stages["rlvr"]
    assert resolved.chain == [
        "digits",
        "a.yaml",
        "sub/b.yaml",
        "--profile quick",
        "--set rlvr.learning_rate=1e-5",
    ]
    assert (rlvr.steps, rlvr.group_size, rlvr.learning_rate) == (
        load(None, "quick").recipe.stages["rlvr"].steps,
        4,
        1e-5,
    )
    assert load("sub/b.yaml").recipe.stages["rlvr"].steps == 112


def test_an_inherited_profile_is_extended() -> None:
    write(
        "mine.yaml", "extends: digits\nname: mine\nprofiles: {quick: {machine: {jobs: 3}}, tiny: {world: {test: 9}}}\n"
    )
    quick = load("mine.yaml", "quick").recipe
    assert quick.machine.jobs == 3
    assert quick.stages["sft"] == load(None, "quick").recipe.stages["sft"]
    assert load("mine.yaml", "tiny").recipe.world.test == 9


def test_null_removes_a_named_thing_and_is_a_value_elsewhere() -> None:
    write("mine.yaml", "extends: digits\nname: mine\narms: {control: null}\nstages: {sft: {steps: null, epochs: 2}}\n")
    recipe = load("mine.yaml").recipe
    assert [*recipe.arms] == ["prism", "baseline"]
    assert (recipe.stages["sft"].steps, recipe.stages["sft"].epochs) == (None, 2)


def test_an_arms_change_may_be_null() -> None:
    write("mine.yaml", "extends: digits\nname: mine\narms: {control: {set: {sft.steps: null, sft.epochs: 2}}}\n")
    sft = load("mine.yaml").recipe.stage_of("control", "sft")
    assert (sft.steps, sft.epochs, sft.data) == (None, 2, ["sft", "teacher"])


def test_settings_of_another_kind_replace_the_old_ones() -> None:
    write("mine.yaml", "extends: digits\nname: mine\nmodel: {kind: hub, repo: Qwen/Qwen3-VL-4B-Instruct}\n")
    assert load("mine.yaml").recipe.model.model_dump(exclude_none=True) == {
        "kind": "hub",
        "repo": "Qwen/Qwen3-VL-4B-Instruct",
    }


def test_merging_changes_neither_side() -> None:
    below, above = {"a": {"b": [1]}, "arms": {"x": {}}}, {"a": {"c": [2]}, "arms": {"x": None}}
    merged = merge(below, above)
    merged["a"]["b"].append(9)
    assert merged == {"a": {"b": [1, 9], "c": [2]}, "arms": {}}
    assert below == {"a": {"b": [1]}, "arms": {"x": {}}}
    assert above == {"a": {"c": [2]}, "arms": {"x": None}}


def test_relative_folders_start_at_the_recipe(tmp_path: Path) -> None:
    write(
        "there/mine.yaml", "extends: qwen3-vl-4b\nname: mine\nworld: {path: pools}\nmodel: {repo: null, path: ../m}\n"
    )
    recipe = load("there/mine.yaml").recipe
    assert recipe.world.path == str(tmp_path / "there/pools")
    assert recipe.model.path == str(tmp_path / "m")
    assert recipe.stages["discriminator"].upcycle_from == str(tmp_path / "models/Qwen3-VL-2B-Instruct")
    assert load("there/mine.yaml", None, ["world.path=x"]).recipe.world.path == str(tmp_path / "x")
    write("there/again.yaml", "extends: mine.yaml\nname: again\nstages: {discriminator: {init_from: ../d}}\n")
    assert load("there/again.yaml").recipe.stages["discriminator"].init_from == str(tmp_path / "d")


def test_a_file_needs_no_ending_when_no_builtin_has_its_name() -> None:
    write("mine", "extends: digits\nname: mine\n")
    assert load("mine").recipe.name == "mine"


# What is kept of a run


@pytest.mark.parametrize("name", builtin_names())
@pytest.mark.parametrize("form", [dump, documented])
def test_a_resolved_recipe_loads_back_equal(name: str, form: Any) -> None:
    recipe = load(name).recipe
    write("kept.yaml", form(recipe))
    kept = load("kept.yaml")
    assert kept.recipe == recipe
    assert kept.chain == ["kept.yaml"]
    assert form(kept.recipe) == form(recipe)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    description=st.text(st.characters(exclude_categories=["Cs"])),
    rate=st.floats(min_value=1e-300, max_value=1e300),
    limit=st.none() | st.integers(1, 10**18),
)
def test_any_text_and_number_survives(description: str, rate: float, limit: int | None) -> None:
    data = load().recipe.model_dump()
    data["description"] = description
    data["stages"]["sft"]["learning_rate"] = rate
    data["evaluation"]["limit"] = limit
    recipe = type(load().recipe).model_validate(data)
    for form in (dump, documented):
        Path("kept.yaml").write_text(form(recipe), encoding="utf-8", newline="")
        assert load("kept.yaml").recipe == recipe


@pytest.mark.parametrize(
    "text", ["1e-5", "yes", "off", "null", "true", "1:30", "2026-01-01", "0x1f", "", "- a", "a: b", "~"]
)
def test_text_that_looks_like_something_else_stays_text(text: str) -> None:
    assert load(None, None, [f"description={write_line(text)}"]).recipe.description == text


def test_yes_is_a_word_and_1e_5_a_number() -> None:
    write("mine.yaml", "extends: digits\nname: yes\ndescription: on\nstages: {sft: {learning_rate: 1e-5}}\n")
    recipe = load("mine.yaml").recipe
    assert (recipe.name, recipe.description, recipe.stages["sft"].learning_rate) == ("yes", "on", 1e-5)


def test_the_documented_form_has_every_field_and_its_meaning() -> None:
    lines = documented(load().recipe).splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("    steps: "))
    assert lines[at - 1].strip() == "# Optimizer steps. Give this or `epochs`."
    assert yaml.safe_load("\n".join(lines)).keys() == yaml.safe_load(dump(load().recipe)).keys()


# --set


@pytest.mark.parametrize(
    ("change", "read"),
    [
        ("stages.rlvr.steps=77", lambda r: r.recipe.stages["rlvr"].steps == 77),
        ("rlvr.steps=77", lambda r: r.recipe.stages["rlvr"].steps == 77),
        ("align.rollout.max_new_tokens=50", lambda r: r.recipe.stages["align"].rollout.max_new_tokens == 50),
        ("sft.data=[base, sft]", lambda r: r.recipe.stages["sft"].data == ["base", "sft"]),
        ("arms.control=null", lambda r: "control" not in r.recipe.arms),
        ("arms.more={stages: [base, sft]}", lambda r: r.recipe.arms["more"].stages == ["base", "sft"]),
        ("arms.control.set.rlvr.steps=77", lambda r: r.recipe.stage_of("control", "rlvr").steps == 77),
        ("budget=tokens", lambda r: r.recipe.budget == "tokens"),
        ("machine.threads=null", lambda r: r.recipe.machine.threads is None),
        ("description=a=b", lambda r: r.recipe.description == "a=b"),
        (" rlvr.steps = 77", lambda r: r.recipe.stages["rlvr"].steps == 77),
    ],
)
def test_one_field_is_changed(change: str, read: Any) -> None:
    resolved: Resolved = load(None, None, [change])
    assert read(resolved)
    assert resolved.chain[-1] == f"--set {change}"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("rlvr.step=7", "`stages.rlvr` has no field `step`, did you mean `steps`?"),
        ("rlrv.steps=77", "a recipe has no field `rlrv`, did you mean `rlvr`?"),
        ("stages.stf.steps=7", "`stages` has no field `stf`, did you mean `sft`?"),
        ("bugdet=tokens", "did you mean `budget`?"),
        ("align.rollout.temp=1", "`stages.align.rollout` has no field `temp`"),
        ("machine.jobs.more=1", "`machine.jobs` has no fields"),
        ("world.pools=[a]", "`world` has no field `pools`"),
        ("extends=digits", "`extends` can only be given in a recipe file"),
        ("profiles.quick.name=x", "`profiles` can only be given in a recipe file"),
        ("rlvr.steps", "not `key=value`"),
        ("=7", "not `key=value`"),
        ("rlvr.steps=[1", "--set rlvr.steps=[1"),
        ("rlvr.steps=&a 1", "anchors and aliases are not used here"),
        ("rlvr.steps=many", "--set rlvr.steps=many, field `stages.rlvr.steps`: should be a valid integer, not 'many'"),
        ("rlvr.steps=0", "field `stages.rlvr.steps`: should be greater than or equal to 1, not 0"),
        ("world=3", "field `world`: "),
        ("sft.data=[sft, teacher]", "digits with --set sft.data=[sft, teacher], field `arms.control`: the same as"),
    ],
)
def test_a_change_that_cannot_be_made_is_refused(change: str, problem: str) -> None:
    assert problem in refused(sets=(change,)).problem


# Files that are no recipes


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "bad.yaml is empty"),
        ("# only a comment\n", "bad.yaml is empty"),
        ("- a\n- b\n", "bad.yaml does not hold `key: value` lines"),
        ("just words\n", "bad.yaml does not hold `key: value` lines"),
        ("name: [a\nb: 1\n", "bad.yaml, line 2, column 2"),
        ("name: a\n\tb: 1\n", "bad.yaml, line 2, column 1"),
        ("name: a\nname: b\n", "bad.yaml, line 2, column 1: `name` is given twice"),
        ("extends: digits\nstages:\n  sft: {steps: 1, steps: 2}\n", "line 3, column 19: `steps` is given twice"),
        ("1: a\n", "bad.yaml, line 1, column 1: `1` is not a name"),
        ("[a]: b\n", "bad.yaml, line 1, column 1"),
        ("a: &x 1\nb: *x\n", "bad.yaml, line 1, column 4: anchors and aliases are not used here"),
        ("a: &x [*x]\n", "anchors and aliases are not used here"),
        ("a: !!python/object/apply:os.system [ls]\n", "bad.yaml, line 1, column 4: could not determine a constructor"),
        ("a: " + "[" * 3000, "bad.yaml"),
        ("name: a\n---\nname: b\n", "bad.yaml, line 2, column 1"),
        ("name: \x07bell\n", "bad.yaml: not YAML"),
        ("format: 2\nextends: something-of-the-future\n", "field `format`: this recipe needs a newer prism (format 2"),
        ("extends: digits\nformat: 7\n", "this recipe needs a newer prism"),
        ("extends: digits\nformat: one\n", "field `format`"),
        ("extends: digits\nformat: 0\n", "field `format`"),
        ("extends: digit\n", "bad.yaml, field `extends`: there is no recipe `digit`, did you mean `digits`?"),
        ("extends: ./other.yaml\n", "cannot read the recipe"),
        ("extends: [digits]\n", "field `extends`: not a recipe's name or file"),
        ("extends: bad.yaml\n", "field `extends`: goes in a circle: bad.yaml -> bad.yaml"),
        ("extends: digits\nnmae: a\n", "bad.yaml, field `nmae`: there is no such field, did you mean `name`?"),
        (
            "extends: digits\nstages: {sft: {learning_rat: 1}}\n",
            "`stages.sft.learning_rat`: there is no such field, did",
        ),
        ("extends: digits\nstages: {align: {rollout: {temprature: 1}}}\n", "did you mean `temperature`?"),
        ("extends: digits\nstages: {more: {steps: 1}}\n", "field `stages.more.kind`: must be one of 'sft', 'discrim"),
        ("extends: digits\nstages: {sft: {kind: dpo}}\n", "field `stages.sft.kind`: must be one of 'sft', 'discrimin"),
        ("extends: digits\nstages: 7\n", "field `stages`"),
        ("extends: digits\nstages: {sft: 7}\n", "field `stages.sft`"),
        ("extends: digits\nworld: {kind: lake}\n", "field `world.kind`: must be one of 'digits', 'files'"),
        ("extends: digits\nname: null\n", "field `name`: should be a valid string, not None"),
        (
            "extends: digits\narms: {prism: {stages: sft}}\n",
            "field `arms.prism.stages`: should be a valid list, not 'sft'",
        ),
        ("name: alone\n", "field `world`: missing"),
        ("extends: digits\nprofiles: 3\n", "field `profiles`"),
    ],
)
def test_each_wrong_file_has_its_message(text: str, problem: str) -> None:
    write("bad.yaml", text)
    assert problem in refused("bad.yaml").problem


def test_a_circle_through_other_files_is_named() -> None:
    write("a.yaml", "extends: b.yaml\n")
    write("b.yaml", "extends: sub/c.yaml\n")
    write("sub/c.yaml", "extends: ../a.yaml\n")
    assert "a.yaml -> b.yaml -> sub/c.yaml -> a.yaml" in refused("a.yaml").problem


def test_the_layer_at_fault_is_named() -> None:
    write("below.yaml", "extends: digits\nname: [\n")
    write("above.yaml", "extends: below.yaml\nname: above\n")
    assert refused("above.yaml").problem.startswith("below.yaml, line 3")


def test_a_wrong_value_is_blamed_on_the_layer_that_gave_it() -> None:
    write("below.yaml", "extends: digits\nname: below\nstages: {sft: {batch_size: 0}}\n")
    write("above.yaml", "extends: below.yaml\nname: above\nstages: {more: {steps: 3}}\nmachine: {jobs: 0}\n")
    problems = refused("above.yaml", None, ("machine.threads=0",)).problem.splitlines()
    assert [problem.partition(":")[0] for problem in sorted(problems)] == [
        "--set machine.threads=0, field `machine.threads`",
        "above.yaml, field `machine.jobs`",
        "above.yaml, field `stages.more.kind`",
        "below.yaml, field `stages.sft.batch_size`",
    ]


def test_several_faults_are_all_listed_up_to_a_limit() -> None:
    write("bad.yaml", "extends: digits\n" + "".join(f"wrong{n}: 1\n" for n in range(8)))
    lines = refused("bad.yaml").problem.splitlines()
    assert len(lines) == 6
    assert lines[-1] == "and 3 more"


def test_what_is_not_a_readable_text_file_is_refused() -> None:
    assert "cannot read the recipe" in refused("missing.yaml").problem
    assert "there is no recipe `digist`, did you mean `digits`?" in refused("digist").problem
    Path("folder.yaml").mkdir()
    assert "is a folder" in refused("folder.yaml").problem
    Path("binary.yaml").write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe")
    assert "not text (byte 0 is not UTF-8)" in refused("binary.yaml").problem
    Path("zeros.yaml").write_bytes(b"\0" * 10)
    assert "zeros.yaml: not YAML" in refused("zeros.yaml").problem
    Path("huge.yaml").write_bytes(b"#" * 1_000_001)
    assert "larger than any recipe" in refused("huge.yaml").problem
    os.mkfifo("pipe.yaml")
    assert "is not a file" in refused("pipe.yaml").problem
    Path("loop.yaml").symlink_to("loop.yaml")
    for name in ("loop.yaml", "~nobody/x.yaml", "x" * 300 + ".yaml"):
        assert "cannot read the recipe" in refused(name).problem
    write("nul.yaml", 'extends: "a\\0b.yaml"\n')
    assert "cannot read the recipe" in refused("nul.yaml").problem


def test_a_byte_order_mark_and_windows_line_ends_are_read() -> None:
    Path("mine.yaml").write_bytes(b"\xef\xbb\xbfextends: digits\r\nname: mine\r\n")
    assert load("mine.yaml").recipe.name == "mine"


@pytest.mark.parametrize(
    ("profile", "problem"),
    [
        ("quik", "recipe mine.yaml has no profile `quik`, did you mean `quick`?"),
        ("text", "field `profiles.text`: not a partial recipe"),
        ("deep", "field `profiles.deep.extends`: a profile cannot have this"),
        (
            "wrong",
            "mine.yaml, profile `wrong`, field `stages.sft.stesp`: there is no such field, did you mean `steps`?",
        ),
    ],
)
def test_a_wrong_profile_is_refused(profile: str, problem: str) -> None:
    write(
        "mine.yaml",
        "extends: digits\nname: mine\n"
        "profiles: {text: fast, deep: {extends: digits}, wrong: {stages: {sft: {stesp: 1}}}}\n",
    )
    assert problem in refused("mine.yaml", profile).problem


# Whatever stands in a file, the answer is a recipe or one message

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10**20) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def places(data: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every path in nested mappings."""
    below = (
        [place for key, value in data.items() for place in places(value, (*path, key))]
        if isinstance(data, dict)
        else []
    )
    return [path, *below] if path else below


PLACES = places(yaml.safe_load(dump(load().recipe)) | {"extends": None, "profiles": {"quick": {"stages": {"sft": {}}}}})


def either_a_recipe_or_a_message(text: str, profile: str | None) -> None:
    Path("any.yaml").write_text(text, encoding="utf-8", errors="surrogatepass", newline="")
    answer = answer_to("any.yaml", profile)
    if isinstance(answer, Resolved):
        Path("kept.yaml").write_text(dump(answer.recipe), encoding="utf-8", newline="")
        assert load("kept.yaml").recipe == answer.recipe
    else:
        assert answer.problem
        assert answer.fix


def answer_to(name: str | None, profile: str | None = None, sets: tuple[str, ...] = ()) -> Resolved | BadInput:
    """The recipe, or the message; any other error is a failure of the test."""
    try:
        return load(name, profile, sets)
    except BadInput as error:
        return error


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.sampled_from(PLACES), value=ANYTHING, profile=st.sampled_from([None, "quick"]))
def test_any_value_in_any_place(place: tuple[str, ...], value: Any, profile: str | None) -> None:
    variant: dict[str, Any] = {"extends": "digits", "name": "any"}
    inner = variant
    for key in place[:-1]:
        inner = inner.setdefault(key, {})
    inner[place[-1]] = value
    either_a_recipe_or_a_message(yaml.safe_dump(variant), profile)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(alphabet="abn:-[]{}&*!|>%@`\"'#\n\t ,?1.~\u2028é", max_size=40))
def test_any_text(text: str) -> None:
    either_a_recipe_or_a_message(text, None)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.sampled_from(PLACES), value=ANYTHING)
def test_any_value_set_from_the_command_line(place: tuple[str, ...], value: Any) -> None:
    answer = answer_to(None, None, (f"{'.'.join(place)}={write_line(value)}",))
    assert isinstance(answer, Resolved) or (answer.problem and answer.fix)
