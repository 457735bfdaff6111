"""`prism env`, as a user meets it: what it prints, its JSON, its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from prism_cli.__main__ import main
from prism_cli.engines import environments

if TYPE_CHECKING:
    from tests.conftest import TinyEngine


@pytest.fixture(autouse=True)
def _engine(tiny_engine: TinyEngine) -> None:
    """Every test here has the one tiny engine."""


def told(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    """The command's one JSON object."""
    capsys.readouterr()
    assert main(["env", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_built_listed_checked_and_removed(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "list")["environments"][0]["status"] == "not built"
    built = told(capsys, "build")["environments"][0]
    assert (built["name"], built["status"], built["built_as"]["packages"]) == ("tiny", "built", 1)
    assert Path(built["path"]) == environments.locate("tiny").folder
    assert told(capsys, "check") == {"environments": [{"name": "tiny", "sound": True, "problems": []}]}
    assert told(capsys, "list")["environments"] == [built]
    assert told(capsys, "remove", "tiny") == {"removed": {"tiny": [built["path"]]}}
    assert not Path(built["path"]).exists()
    assert told(capsys, "remove", "--all") == {"removed": {"tiny": []}}


def test_an_optional_one_is_built_only_when_named(tiny_engine: TinyEngine, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_engine.lock("extra", "tiny==1.0", tiny_engine.package("1.0"))
    with (tiny_engine.folder / "extra" / "env" / "environment.toml").open("a") as stream:
        stream.write("optional = true\n")

    def names(*words: str) -> list[str]:
        return [state["name"] for state in told(capsys, *words)["environments"]]

    assert names("build") == names("check") == ["tiny"]
    assert [state["optional"] for state in told(capsys, "list")["environments"]] == [True, False]
    assert main(["env", "list"]) == 0
    assert "not built (optional)" in capsys.readouterr().out
    assert names("build", "extra") == ["extra"]
    assert names("build") == names("check") == ["extra", "tiny"]
    assert list(told(capsys, "remove", "--all")["removed"]) == ["extra", "tiny"]


def test_text_fits_80_columns_and_names_each_step(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["env", "build"]) == 0
    assert main(["env", "build", "tiny"]) == 0
    out = capsys.readouterr().out
    assert out.count("tiny: building with 1 pinned packages") == 1
    assert out.count("tiny: built, ") == 2
    assert main(["env", "list"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert any(line.split()[:3] == ["tiny", "built", "1"] for line in table)
    assert all(len(line) <= 80 for line in table if not line.startswith("cache: "))
    assert main(["env", "check"]) == 0
    assert capsys.readouterr().out == "tiny: sound\n"
    assert main(["env", "remove", "tiny"]) == 0
    assert capsys.readouterr().out.startswith("tiny: removed ")


def test_unsound_environment_is_exit_code_1_with_the_way_out(capsys: pytest.CaptureFixture[str]) -> None:
    environment = environments.ensure("tiny", print)
    (module,) = environment.folder.glob("lib/python3*/site-packages/tiny.py")
    module.unlink()
    capsys.readouterr()
    assert main(["env", "check"]) == 1
    out = capsys.readouterr().out
    assert "cannot import tiny: ModuleNotFoundError" in out
    assert "prism env remove tiny" in out
    assert main(["env", "check", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["environments"][0]["sound"] is False


def test_unknown_engine_is_exit_code_2_and_nothing_is_built(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "build", "tiny", "axolotl"]) == 2
    error = capsys.readouterr().err
    assert "no engine environment is called `axolotl`" in error
    assert "choose one of: tiny" in error
    assert not environments.is_built(environments.locate("tiny"))


def test_remove_wants_to_be_told_what(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "remove"]) == 2
    assert main(["env", "remove", "tiny", "--all"]) == 2
    assert "name engines, or give --all" in capsys.readouterr().err


def test_no_network_is_exit_code_1_without_a_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UV_NO_INDEX")
    monkeypatch.delenv("UV_FIND_LINKS")
    monkeypatch.setenv("UV_OFFLINE", "1")
    assert main(["env", "build", "--json"]) == 1
    said = capsys.readouterr()
    assert "cannot build the tiny environment" in json.loads(said.out)["error"]
    assert "Traceback" not in said.out + said.err


def test_own_environment_is_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(own)], check=True)
    monkeypatch.setenv("PRISM_ENV_TINY", str(own))
    assert told(capsys, "list")["environments"][0]["status"] == "your own"
    assert main(["env", "list"]) == 0
    assert f"tiny: your own environment in {own}" in capsys.readouterr().out
    assert told(capsys, "remove", "--all") == {"removed": {}}


def test_lock_is_recompiled(capsys: pytest.CaptureFixture[str], tiny_engine: TinyEngine) -> None:
    tiny_engine.package("2.0")
    environments.lock_file("tiny").with_name("requirements.in").write_text("tiny\n")
    assert told(capsys, "lock") == {"changed": {"tiny": False}}
    assert main(["env", "lock", "--upgrade"]) == 0
    assert capsys.readouterr().out == "tiny: written, 1 packages\n"
