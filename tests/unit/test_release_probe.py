"""Asking the engine about a release: what it answers, and what is said when it does not."""

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from integrations.common.files import write_json
from integrations.errors import Interrupted, StageFailed
from prism_cli.publication import probe as module
from prism_cli.publication.probe import probe

ANSWER = {"problems": {"weights": [], "processor": [], "canary": []}, "canary": {}, "versions": {}, "seconds": 1.0}


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Path, Any], int]], None]:
    """Puts a function in the place of the engine's process; it is given the answer's path and the stop."""

    def put(behave: Callable[[Path, Any], int]) -> None:
        def run(launch: Any, environment: Any, *, cwd: Path, stop: Any, **more: Any) -> int:
            assert launch.argv[2] == "integrations.alignment.release_probe"
            assert cwd.is_dir()
            return behave(Path(launch.argv[launch.argv.index("--out") + 1]), stop)

        monkeypatch.setattr(module.environments, "ensure", lambda name, tell: SimpleNamespace(name=name))
        monkeypatch.setattr(module.process, "run", run)

    return put


def until_ended(out: Path, stop: Any) -> int:
    while not stop.is_set():
        threading.Event().wait(0.01)
    return -15


def test_the_answer_comes_back_and_an_old_one_does_not(engine: Any, tmp_path: Path) -> None:
    engine(lambda out, stop: (write_json(out, ANSWER), 0)[1])
    assert probe(tmp_path / "release", tmp_path / "work") == ANSWER
    engine(lambda out, stop: 0)
    with pytest.raises(StageFailed, match="gave no answer"):
        probe(tmp_path / "release", tmp_path / "work")


@pytest.mark.parametrize(("answer", "code"), [(ANSWER, 1), ({"problems": {}}, 0), ([], 0)])
def test_half_an_answer_is_none(engine: Any, tmp_path: Path, answer: Any, code: int) -> None:
    engine(lambda out, stop: (write_json(out, answer), code)[1])
    with pytest.raises(StageFailed, match="gave no answer") as caught:
        probe(tmp_path / "release", tmp_path / "work")
    assert "probe.log" in caught.value.fix


def test_a_model_that_never_answers_is_ended(engine: Any, tmp_path: Path) -> None:
    engine(until_ended)
    with pytest.raises(StageFailed, match="was ended"):
        probe(tmp_path / "release", tmp_path / "work", seconds=0.05)


def test_a_stop_ends_it(engine: Any, tmp_path: Path) -> None:
    engine(until_ended)
    stop = threading.Event()
    threading.Timer(0.05, stop.set).start()
    with pytest.raises(Interrupted):
        probe(tmp_path / "release", tmp_path / "work", stop=stop)
