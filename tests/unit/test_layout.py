"""The layout and the direction of imports that the design fixes."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("prism_cli", "integrations", "benchmarks", "release")
MAY_IMPORT = {
    "integrations": {"integrations"},
    "benchmarks": {"benchmarks", "integrations"},
    "release": {"release", "integrations"},
    "prism_cli": {"prism_cli", "benchmarks", "release", "integrations"},
}
ENGINE_LIBRARIES = {
    "torch",
    "transformers",
    "verl",
    "ray",
    "llamafactory",
    "lmms_eval",
    "vllm",
    "peft",
    "bitsandbytes",
    "sklearn",
    "PIL",
    "wandb",
    "trackio",
    "tensorboardX",
}
INSIDE_AN_ENGINE = (
    "integrations/alignment/",
    "integrations/llamafactory/prepare.py",
    "integrations/lmms_eval/inside/",
    "integrations/trackers/follow.py",
    "integrations/verl/cpu/",
    "integrations/verl/check_configuration.py",
    "integrations/verl/merge.py",
    "integrations/verl/check_prompts.py",
    "integrations/verl/sampler.py",
    "benchmarks/digits/build_",
    "benchmarks/digits/contact_sheet.py",
    "benchmarks/digits/task.py",
    "benchmarks/perf/",
    "benchmarks/suites/tasks/",
)
HOST_SIDE = (
    *(f"integrations/alignment/{name}.py" for name in ("adapter", "names", "serving")),
    *(
        f"integrations/alignment/settings/{name}.py"
        for name in ("__init__", "align", "discriminator", "kinds", "precision", "rollout")
    ),
)

OPENS_IMAGES = (
    "benchmarks/report/pictures.py",
    "integrations/common/image_tokens.py",
    "prism_cli/datasets/pictures.py",
)
"""Host modules that open images, with the Pillow that matplotlib brings: previews, sizes from files' headers, and
whether two pictures are the same."""


def sources():
    return [p for package in PACKAGES for p in sorted((ROOT / package).rglob("*.py"))]


def imported(path):
    """Dotted names that a module imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def relative(path):
    return path.relative_to(ROOT).as_posix()


def test_the_top_level_is_what_the_design_says():
    tracked = {p.name for p in ROOT.iterdir() if not p.name.startswith(".") and p.name != "runs"}
    assert {"prism_cli", "integrations", "benchmarks", "release", "tests", "pyproject.toml", "README.md"} <= tracked


@pytest.mark.parametrize("path", sources(), ids=relative)
def test_imports_point_in_one_direction(path):
    allowed = MAY_IMPORT[relative(path).split("/")[0]]
    for name in imported(path):
        top = name.split(".")[0]
        assert top not in PACKAGES or top in allowed, f"{relative(path)} imports {name}"


@pytest.mark.parametrize("path", [p for p in sources() if relative(p).startswith("integrations/")], ids=relative)
def test_engines_never_import_each_other(path):
    own = relative(path).split("/")[1]
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "integrations" and len(parts) > 1 and (ROOT / "integrations" / parts[1]).is_dir():
            assert parts[1] in {own, "common"}, f"{relative(path)} imports {name}"


@pytest.mark.parametrize("path", sources(), ids=relative)
def test_engine_libraries_stay_inside_engines(path):
    name = relative(path)
    if name.startswith(INSIDE_AN_ENGINE) and name not in HOST_SIDE:
        return
    allowed = {"PIL"} if name in OPENS_IMAGES else set()
    foreign = {n for n in imported(path) if n.split(".")[0] in ENGINE_LIBRARIES - allowed}
    assert not foreign, f"{name} imports {sorted(foreign)}"
