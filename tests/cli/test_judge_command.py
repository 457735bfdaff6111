"""`prism judge check` as a user meets it; `serve` as far as no engine is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from stub_judge import StubJudge, completion, reply_to

from integrations.common.judge_golden import ITEMS


def prism(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the program in a pipe 80 columns wide."""
    clean = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "GITHUB_ACTIONS", "OPENAI_API_KEY")}
    return subprocess.run(
        [sys.executable, "-m", "prism_cli", "judge", *words],
        env={**clean, "COLUMNS": "80", "NO_COLOR": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def hostile(body: dict[str, Any]) -> dict[str, Any]:
    return completion("[bold]no\x1b[31m\u202e verdict[/bold]", "f\x1b[2J\u202e")


def test_a_judge_is_shown_item_by_item() -> None:
    with StubJudge() as stub:
        shown = prism("check", "--url", stub.url)
    assert (shown.returncode, shown.stderr) == (0, "")
    for item in ITEMS:
        assert item.name in shown.stdout
    assert "right: 16 of 16" in shown.stdout
    assert f"prism eval --suite multimodal-reasoning --judge {stub.url}/v1" in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 80


def test_one_json_object_and_nothing_else() -> None:
    with StubJudge(models=("a", "b")) as stub:
        shown = prism("check", "--url", stub.url, "--model", "a", "--json")
    told = json.loads(shown.stdout)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert told["sound"] is True
    assert told["models"] == ["a", "b"]
    assert told["judge"]["model"] == "a"
    assert (told["right"], len(told["items"]), told["problem"]) == (len(ITEMS), len(ITEMS), None)
    assert told["seconds"] > 0


def test_a_bad_judge_is_told_with_its_items_and_steers_no_terminal() -> None:
    with StubJudge(hostile) as stub:
        shown = prism("check", "--url", stub.url)
        told = json.loads(prism("check", "--url", stub.url, "--json").stdout)
    assert shown.returncode == 1
    text = " ".join(shown.stdout.split())
    assert "It cannot judge: `same number`" in text
    assert "[bold]no [31m verdict[/bold]" in text
    assert not set("\x1b\u202e") & set(shown.stdout)
    assert told["sound"] is False
    assert {item["got"] for item in told["items"]} == {"error"}


def test_what_is_sent_more() -> None:
    with StubJudge() as stub:
        shown = prism(
            "check", "--url", stub.url, "--extra", '{"top_k": 1}', "--key-env", "JUDGE_KEY", JUDGE_KEY="sk-secret"
        )
    assert shown.returncode == 0
    assert {body["top_k"] for body in stub.asked} == {1}
    assert {headers["Authorization"] for headers in stub.headers} == {"Bearer sk-secret"}
    assert "sk-secret" not in shown.stdout + shown.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--url", "nonsense"], "is no http address"),
        (["--url", "http://127.0.0.1:9"], "no judge answers at http://127.0.0.1:9/v1"),
        (["--url", "http://127.0.0.1:9", "--extra", "{"], "--extra is not JSON"),
        (["--url", "http://127.0.0.1:9", "--extra", "[]"], "--extra is no JSON object"),
        (["--url", "http://127.0.0.1:9", "--key-env", "NO_SUCH_KEY"], "NO_SUCH_KEY holds no key"),
    ],
)
def test_bad_input_of_check(words: list[str], said: str) -> None:
    shown = prism("check", *words)
    assert (shown.returncode, shown.stdout) == (2, "")
    assert said in shown.stderr
    assert "next: " in shown.stderr
    assert "Traceback" not in shown.stderr


def test_an_absent_judge_in_json() -> None:
    shown = prism("check", "--url", "http://127.0.0.1:9", "--json")
    assert shown.returncode == 2
    assert "no judge answers" in json.loads(shown.stdout)["error"]


def test_a_server_that_fails_is_no_judge() -> None:
    calls: list[int] = []

    def fails_later(body: dict[str, Any]) -> Any:
        calls.append(1)
        return reply_to(body) if len(calls) == 1 else (400, {"error": "no"}, {})

    with StubJudge(fails_later) as stub:
        shown = prism("check", "--url", stub.url)
    assert shown.returncode == 1
    assert "stopped answering: HTTP 400" in shown.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "{folder}"], "holds no checkpoint"),
        (["--model", "{folder}/none"], "is no finished stage of a run, no folder"),
        (["--model", "{folder}", "--engine", "http://x"], "is no engine for a judge"),
    ],
)
def test_bad_input_of_serve(tmp_path: Path, words: list[str], said: str) -> None:
    shown = prism("serve", *(word.format(folder=tmp_path) for word in words))
    assert shown.returncode == 2
    assert said in " ".join(shown.stderr.split())
    assert "Traceback" not in shown.stderr
