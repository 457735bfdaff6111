"""The cache of verdicts: shared by processes, whole after a kill, without errors in it."""

import subprocess
import sys

import pytest

from integrations.common.verdicts import Given, VerdictCache

WRITER = """
import sys
from pathlib import Path
from integrations.common.verdicts import Given, VerdictCache
cache = VerdictCache(Path(sys.argv[1]))
for number in range(500):
    cache.add(f"{sys.argv[2]}-{number}", Given("correct", "x" * number))
    cache.add(f"both-{number}", Given(sys.argv[3], None))
"""


def test_a_verdict_counts_after_it_is_read_back(tmp_path):
    cache = VerdictCache(tmp_path / "new" / "verdicts.jsonl")
    assert cache.get("a") is None
    cache.add("a", Given("wrong", "f1"))
    assert cache.get("a") is None
    cache.refresh()
    assert cache.get("a") == Given("wrong", "f1")
    assert VerdictCache(cache.path).get("a") == Given("wrong", "f1")


def test_the_first_verdict_counts_for_both(tmp_path):
    one, two = VerdictCache(tmp_path / "v"), VerdictCache(tmp_path / "v")
    one.add("a", Given("wrong"))
    two.add("a", Given("correct"))
    for cache in (one, two):
        cache.refresh()
        assert cache.get("a") == Given("wrong")


def test_two_processes_lose_nothing(tmp_path):
    path = tmp_path / "verdicts.jsonl"
    commands = [
        [sys.executable, "-c", WRITER, str(path), name, verdict] for name, verdict in (("a", "correct"), ("b", "wrong"))
    ]
    running = [subprocess.Popen(command) for command in commands]
    assert [process.wait(300) for process in running] == [0, 0]
    cache = VerdictCache(path)
    assert len(cache) == 1500
    assert cache.get("a-499") == cache.get("b-499") == Given("correct", "x" * 499)


@pytest.mark.parametrize("kept", range(1, 62, 6))
def test_half_a_line_is_passed_over_and_harms_no_other(tmp_path, kept):
    path = tmp_path / "verdicts.jsonl"
    VerdictCache(path).add("first", Given("correct"))
    whole = path.read_bytes()
    path.write_bytes(whole + whole.replace(b"first", b"second")[:kept])
    assert VerdictCache(path).get("second") is None
    VerdictCache(path).add("third", Given("wrong"))
    cache = VerdictCache(path)
    assert cache.get("first") == Given("correct")
    assert cache.get("third") == Given("wrong")


@pytest.mark.parametrize(
    "line",
    [
        '{"key": "a", "verdict": "error", "fingerprint": null}',
        '{"key": "a", "verdict": true, "fingerprint": null}',
        '{"key": ["a"], "verdict": "correct", "fingerprint": null}',
        '{"key": "a", "verdict": "correct", "fingerprint": 1}',
        '{"key": "a", "verdict": ["correct"], "fingerprint": null}',
        '{"key": "a"}',
        '["a", "correct"]',
        "[" * 100_000,
        "\x00\x00\x00",
        "\u2028",
    ],
)
def test_what_is_no_verdict_is_passed_over(tmp_path, line):
    path = tmp_path / "verdicts.jsonl"
    path.write_text(f"{line}\n", encoding="utf-8")
    VerdictCache(path).add("b", Given("correct"))
    cache = VerdictCache(path)
    assert (cache.get("a"), cache.get("b"), len(cache)) == (None, Given("correct"), 1)


def test_a_full_disk_is_told_and_keeps_what_was_there(tmp_path, monkeypatch):
    import os

    path = tmp_path / "verdicts.jsonl"
    VerdictCache(path).add("a", Given("correct"))
    write = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: write(handle, data[:10]))
    with pytest.raises(OSError, match="No space left"):
        VerdictCache(path).add("b", Given("wrong"))
    monkeypatch.undo()
    cache = VerdictCache(path)
    cache.add("c", Given("wrong"))
    cache.refresh()
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (Given("correct"), None, Given("wrong"))
