"""The documentation's commands work as they are written, and its links lead somewhere.

Every command goes through the real parser. Those that look at runs, recipes, plans and data are executed in a folder
like the one that the text assumes; `prism train` is resolved up to its plan. What trains, downloads, needs
what was downloaded, asks a model or loads one is executed by the tests of those commands.
"""

import json
import re
import shlex
from pathlib import Path

import pytest
from report_run import make_run

from prism_cli import __main__ as program
from prism_cli.app import COMMANDS, real_command
from prism_cli.pipeline.plan import make_plan, select
from prism_cli.recipes.load import load

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ROWS = [
    {"id": f"t-{at}", "images": [], "system": None, "prompt": f"Is {at} even?", "response": None, "answer": "yes"}
    for at in range(5)
]
EXECUTED = {
    ("runs", "list"), ("runs", "show"), ("compare",), ("report",), ("recipe", "list"), ("recipe", "show"),
    ("recipe", "diff"), ("recipe", "validate"), ("plan",), ("data", "check"), ("data", "stats"), ("env", "list"),
    ("bench",), ("doctor",), ("reward", "check"), ("data", "distill"),
}  # fmt: skip
"""Commands that are run as written."""
NEED_DATA = (["data", "check", "--recipe"], ["data", "stats", "--recipe"])
"""Beginnings of commands that need what `prism data get` fetches."""
LONG = {"--bench", "cli"}
"""Words of commands that measure, which takes its time."""
QUICKLY = {"doctor": ["--no-engines", "--no-hub"]}
"""Options that leave out what imports every engine or needs a network."""


def commands(page):
    """Lines of code that begin with `prism`, without what is said beside them."""
    text = page.read_text(encoding="utf-8").partition("## Try it")  # what stands before is a list of what there is
    for line in (text[2] or text[0]).splitlines():
        if match := re.match(r"    prism (.+)", line.replace("\\", "")):
            yield re.split(r"\s{2,}", match.group(1))[0]


CASES = {command: page for page in PAGES for command in commands(page)}
"""Each command once, with the last page that has it."""


def words_of(command):
    return [word for word in shlex.split(command) if word != "..."]


def parsed(words):
    """The command's parameters as the real parser reads them; fails where it refuses a word."""
    command = real_command(words[0])
    rest = words[1:]
    while hasattr(command, "commands") and rest and rest[0] in command.commands:
        command, rest = command.commands[rest[0]], rest[1:]
    context = command.make_context("prism", list(rest), resilient_parsing=False)
    return context.params


def named(words):
    return (
        tuple(words[:2]) if words[0] in ("runs", "recipe", "data", "env", "reward", "align", "judge") else (words[0],)
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the runs, pools and recipes that the pages name."""
    folder = tmp_path_factory.mktemp("docs")
    for name, seed in (
        ("digits-s0", 0),
        ("digits-s1", 1),
        ("digits-s2", 2),
        ("digits-quick-s0", 0),
        ("digits-quick-s1", 1),
    ):
        make_run(folder / "runs" / name, seed=seed)
    make_run(folder / "runs" / "qwen3-vl-4b-s0", seed=0)
    (folder / "pools" / "filtered").mkdir(parents=True)
    for name in ("sft", "test", "rlvr", "teacher"):
        said = "<caption>c</caption><think>t</think><answer>yes</answer>" if name in ("sft", "teacher") else None
        rows = [
            {**row, "id": f"{name}-{row['id']}", "prompt": f"{name}: {row['prompt']}", "response": said} for row in ROWS
        ]
        (folder / "pools" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rates = [{"id": f"rlvr-{row['id']}", "rate": 0.0} for row in ROWS]
    (folder / "pools" / "filtered" / "pass_rates.jsonl").write_text("".join(json.dumps(rate) + "\n" for rate in rates))
    pair = {"type": "integer", "prediction": "12", "reference": "12", "expected": True}
    (folder / "answers.jsonl").write_text(json.dumps(pair) + "\n")
    blocks = re.findall(r"(?m)(?:^    .*\n)+", (ROOT / "docs/your-own-data-and-model.md").read_text())
    recipe = next(block for block in blocks if "extends:" in block)
    (folder / "mine.yaml").write_text("".join(line[4:] for line in recipe.splitlines(keepends=True)))
    return folder


def test_every_page_is_in_the_index_and_every_link_leads_somewhere():
    index = (ROOT / "docs/README.md").read_text()
    for page in PAGES:
        assert page.parent == ROOT or page.name in index or page.name == "README.md", page.name
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("command", CASES, ids=[f"{page.stem}: {command}" for command, page in CASES.items()])
def test_a_command_works_as_it_is_written(command, place, monkeypatch):
    monkeypatch.chdir(place)
    words = [word.replace("FILE", "answers.jsonl") for word in words_of(command)]
    assert words[0] in COMMANDS, command
    params = parsed(words)
    if words[0] == "train":
        changes = [*(params["set_"] or [])]
        changes += [f"machine.ray_address={params['ray_address']}"] if params["ray_address"] else []
        changes += [f"tracking.to={params['track']}"] if params["track"] else []
        recipe = load(params["recipe"], params["profile"], changes, params["algorithm"]).recipe
        select(make_plan(recipe), params["stage"], params["arm"], params["parent"])
    elif named(words) in EXECUTED and not LONG & {*words[1:]} and words[:3] not in NEED_DATA:
        code = program.main([*words, *QUICKLY.get(words[0], [])])
        assert code in ({0, 2} if words[0] == "plan" else {0})  # 2: it does not fit, which a page may show on purpose
