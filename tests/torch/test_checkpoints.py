"""Checkpoints are whole or absent, the newest sound one is used, and few are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from integrations.alignment.names import POLICY_WEIGHTS
from integrations.alignment.training import checkpoints


def state(value: float) -> dict[str, Any]:
    return {"policy": {"w": torch.full((3,), value)}, "margin": (1.0, 2.0), "check": {"a": value}}


def test_the_newest_is_read_back_as_it_was(tmp_path: Path) -> None:
    assert checkpoints.newest(tmp_path) is None
    for step in (2, 4, 6):
        checkpoints.save(tmp_path, step, state(step))
    step, found = checkpoints.newest(tmp_path) or (0, {})
    assert step == 6
    assert torch.equal(found["policy"]["w"], torch.full((3,), 6.0))
    assert found["margin"] == (1.0, 2.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000004", "step-000006"]


def test_a_protected_one_stays(tmp_path: Path) -> None:
    for step in (2, 4, 6, 8):
        checkpoints.save(tmp_path, step, state(step), protect=2)
    assert [step for step, _ in checkpoints.step_folders(tmp_path)] == [8, 6, 2]
    checkpoints.save(tmp_path, 10, state(10), protect=8)
    assert [step for step, _ in checkpoints.step_folders(tmp_path)] == [10, 8]


def test_the_policy_lies_apart_for_those_who_evaluate_it(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, 2, state(2))
    assert torch.equal(load_file(tmp_path / "step-000002" / POLICY_WEIGHTS)["w"], torch.full((3,), 2.0))
    assert "policy" not in torch.load(tmp_path / "step-000002" / "state.pt", weights_only=True)


def test_a_state_without_a_policy_is_kept_too(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, 2, {"margin": (1.0, 2.0)})
    assert checkpoints.newest(tmp_path) == (2, {"margin": (1.0, 2.0)})


def test_one_of_an_older_form_is_passed_over(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, 2, state(2))
    about = tmp_path / "step-000002" / "state.json"
    about.write_text(about.read_text().replace('"processes"', '"workers"'))
    assert checkpoints.newest(tmp_path) is None


@pytest.mark.parametrize("file", ["state.pt", POLICY_WEIGHTS])
@pytest.mark.parametrize("damage", ["state.json", "gone", "cut", "flipped"])
def test_a_damaged_one_is_passed_over(
    tmp_path: Path, file: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (2, 4):
        checkpoints.save(tmp_path, step, state(step))
    newest = tmp_path / "step-000004"
    if damage == "state.json":
        (newest / damage).unlink()
    elif damage == "gone":
        (newest / file).unlink()
    else:
        content = bytearray((newest / file).read_bytes())
        content[len(content) // 2] ^= 1
        (newest / file).write_bytes(content[:-10] if damage == "cut" else content)
    step, found = checkpoints.newest(tmp_path) or (0, {})
    assert step == 2
    assert found["check"] == {"a": 2}
    assert "is damaged and is passed over" in capsys.readouterr().out


def test_a_failed_write_leaves_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints.save(tmp_path, 2, state(2))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        checkpoints.save(tmp_path, 4, state(4))
    assert (checkpoints.newest(tmp_path) or (0, {}))[0] == 2
    checkpoints.clear_partial(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000002"]
