"""Two processes learn what one does: gradients, weights after a step, responses and resume, however validity falls."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as multiprocessing

from integrations.alignment.training import checkpoints
from integrations.alignment.training.world import World
from integrations.common.rows import Row
from integrations.errors import BadInput
from tests.torch import two_processes

Found = dict[str, Any]
LONGEST = 400
"""Seconds that the two processes may take; one that waits for the other for ever takes more."""


@pytest.fixture(scope="module")
def here(checkpoint: Path, world: tuple[Path, list[Row]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distributed")
    (folder / "model").symlink_to(checkpoint)
    (folder / "data").symlink_to(world[0])
    return folder


@pytest.fixture(scope="module")
def alone(here: Path) -> Found:
    return two_processes.play(World(), here)


@pytest.fixture(scope="module")
def together(here: Path) -> Found:
    arguments = (2, str(here / "store"), here)
    started = multiprocessing.spawn(two_processes.process, arguments, nprocs=2, join=False)
    until = time.monotonic() + LONGEST
    while not started.join(timeout=5):
        if time.monotonic() > until:
            for process in started.processes:
                process.kill()
            pytest.fail("the two processes wait for each other")
    return torch.load(here / "found-2.pt", weights_only=False)


def distance(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> float:
    """Relative, over all tensors; one that is missing counts as zero."""
    size = sum(float(value.square().sum()) for value in one.values()) ** 0.5
    names = one.keys() | two.keys()
    pairs = [(one.get(name), two.get(name)) for name in names]
    apart = sum(float(((0 if a is None else a) - (0 if b is None else b)).square().sum()) for a, b in pairs)
    return apart**0.5 / size


def moved(found: Found) -> dict[str, torch.Tensor]:
    """What a step has changed in the weights."""
    return {name: found["weights"][name] - value for name, value in found["before"].items()}


STEPS = [
    *(f"discriminator, {name}, {kind}" for name, kind in two_processes.LEARNING),
    "discriminator, heads, micro",
    "policy, all",
    "policy, kl",
    "policy, layers twice",
    "policy, one process without advantage",
]


@pytest.mark.parametrize("case", STEPS)
def test_two_processes_learn_what_one_does(case: str, alone: Found, together: Found) -> None:
    one, two = alone[case], together[case]
    assert distance(one["gradient"], two["gradient"]) < 1e-5
    assert distance(moved(one), moved(two)) < 1e-5
    assert distance(one["before"], one["weights"]) > 1e-7, "a step moves the weights"
    assert two["metrics"] == pytest.approx(one["metrics"], rel=1e-6)
    if "scores" in one:
        torch.testing.assert_close(two["scores"], one["scores"])


@pytest.mark.parametrize("case", ["discriminator, none, micro", "policy, nothing"])
def test_nothing_to_learn_moves_nothing(case: str, alone: Found, together: Found) -> None:
    for found in (alone[case], together[case]):
        assert distance(found["before"], found["weights"]) == 0
    assert together[case]["metrics"] == alone[case]["metrics"]


def test_images_in_one_process_only_train_the_vision_tower(alone: Found, together: Found) -> None:
    gradient = together["discriminator, uneven, micro"]["gradient"]
    seen = {name: value for name, value in gradient.items() if ".visual." in name}
    assert sum(float(value.abs().sum()) for value in seen.values()) > 0


def test_the_same_twice_is_the_same_to_the_last_bit(together: Found) -> None:
    once, again = together["discriminator, uneven, micro"], together["discriminator, again"]
    for name, value in once["weights"].items():
        assert torch.equal(value, again["weights"][name]), name


def test_responses_do_not_depend_on_the_number_of_processes(alone: Found, together: Found) -> None:
    assert together["sample"] == alone["sample"]
    assert len({len(ids) for ids in alone["sample"]["responses"]}) > 0


@pytest.mark.parametrize("case", ["resume", *(f"resume, {name}" for name in two_processes.FORMATS)])
def test_a_resumed_step_is_the_same_to_the_last_bit(case: str, alone: Found, together: Found) -> None:
    for found in (alone[case], together[case]):
        assert distance(found["start"], found["straight"]) > 1e-7
        for name, value in found["straight"].items():
            assert torch.equal(value, found["resumed"][name]), name


def test_one_damaged_file_of_several_and_all_go_back(alone: Found, together: Found) -> None:
    assert alone["damaged"] == {"step": 1, "ranks": [0]}
    assert together["damaged"] == {"step": 1, "ranks": [0, 1]}


def test_another_number_of_processes_cannot_go_on(here: Path, together: Found) -> None:
    with pytest.raises(BadInput, match="written by 2 processes, and the stage now runs in 1"):
        checkpoints.newest(here / "checkpoints-2")
