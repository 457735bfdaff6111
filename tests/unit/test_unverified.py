"""What has never run on a GPU is told in one way everywhere, and every path names a test that is there."""

import ast
from pathlib import Path

import pytest

from prism_cli.doctor.unverified import RUN, SUBJECT, UNVERIFIED, examine, table

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("path", UNVERIFIED, ids=lambda path: path.name)
def test_its_test_exists_and_needs_a_gpu(path):
    file, _, name = path.test.partition("::")
    body = ast.parse((ROOT / file).read_text()).body
    (function,) = (node for node in body if isinstance(node, ast.FunctionDef) and node.name == name)
    (marks,) = (node.value for node in body if isinstance(node, ast.Assign) and node.targets[0].id == "pytestmark")
    marked = [ast.unparse(mark) for mark in (marks, *function.decorator_list)]
    assert any("pytest.mark.gpu" in mark for mark in marked)


def test_no_path_is_listed_twice():
    assert len({path.name for path in UNVERIFIED}) == len({path.test for path in UNVERIFIED}) == len(UNVERIFIED)


def test_the_readme_has_the_same_list():
    section = (ROOT / "README.md").read_text().partition("## Unverified on GPU\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    assert lines == table().splitlines()


def test_the_doctor_tells_one_line_without_a_gpu_and_one_for_each_path_with_one():
    (alone,) = examine(0)
    assert (alone.subject, alone.level) == (SUBJECT, "note")
    assert str(len(UNVERIFIED)) in alone.found
    told = list(examine(2))
    assert [diagnosis.found.partition(":")[0] for diagnosis in told] == [path.name for path in UNVERIFIED]
    assert {diagnosis.fix for diagnosis in told} == {RUN}
