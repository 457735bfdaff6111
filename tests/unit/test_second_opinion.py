"""A judge's second opinion on rewards: symmetric, remembered, closed when it fails, and kept where it differs."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from stub_judge import StubJudge, completion, reply_to

from integrations.verl.configuration import REVIEWS
from integrations.verl.review import stages_with_judge
from integrations.verl.reward.second_opinion import compute_score

RIGHT = "<caption>7</caption>\n<think>so</think>\n<answer>{}</answer>"


def scores(url: str, folder: Path, answers: list[tuple[str, str]], **changes: Any) -> list[dict[str, float]]:
    judge = {"url": url, "model": None, "key_variable": None, "concurrency": 4, "reviews": REVIEWS} | changes

    async def ask() -> list[dict[str, float]]:
        return [
            await compute_score(
                "x", text, reference, {"question": "What is it?"}, judge=judge | {"folder": str(folder)}
            )
            for text, reference in answers
        ]

    return asyncio.run(ask())


def test_the_judges_word_counts_in_both_directions(tmp_path: Path) -> None:
    """The stub reads fractions and articles, and no percentages: the rules read it the other way round."""
    asked = [(RIGHT.format("the cat"), "cat"), (RIGHT.format("0.5"), "50%"), (RIGHT.format("8"), "7"), ("8", "8")]
    with StubJudge() as stub:
        cat, percent, wrong, formless = scores(stub.url, tmp_path / "judge", asked)
    assert percent["accuracy"] == 0.0
    assert percent["agreed"] == 0.0
    assert percent["score"] == pytest.approx(0.2)
    assert cat["accuracy"] == 1.0
    assert (wrong["accuracy"], wrong["judged"], wrong["agreed"]) == (0.0, 1.0, 1.0)
    assert (formless["score"], formless["judged"]) == (0.0, 0.0)
    assert {frozenset(one) for one in (cat, percent, wrong, formless)} == {frozenset(cat)}


def test_no_answer_is_judged_twice_even_after_a_restart(tmp_path: Path) -> None:
    with StubJudge() as stub:
        first = scores(stub.url, tmp_path / "judge", [(RIGHT.format("7"), "7")] * 3)
        questions = len(stub.asked)
        from integrations.verl.reward import second_opinion

        second_opinion._OPINIONS.clear()
        again = scores(stub.url, tmp_path / "judge", [(RIGHT.format("7"), "7")])
        assert len(stub.asked) == questions + 1, "one to learn who the judge is, none for the answer"
    assert first[0] == first[2] == again[0]


def test_without_a_verdict_there_is_no_reward_for_the_answer(tmp_path: Path) -> None:
    def silent(body: Any) -> Any:
        fields = json.loads(body["messages"][-1]["content"])
        return (
            reply_to(body) if fields["question"].startswith("What is 1 + 1") else completion("I would rather not say")
        )

    with StubJudge(silent) as stub:
        (told,) = scores(stub.url, tmp_path / "judge", [(RIGHT.format("7"), "7")])
    assert (told["accuracy"], told["error"], told["judged"]) == (0.0, 1.0, 0.0)
    assert told["score"] == pytest.approx(0.2)


def test_differences_are_kept_for_review_and_counted_by_step(tmp_path: Path) -> None:
    stage = tmp_path / "run" / "prism" / "rlvr"
    with StubJudge() as stub:
        scores(stub.url, stage / "judge", [(RIGHT.format("0.5"), "50%")] * 2 + [(RIGHT.format("7"), "7")])
    (stage / "attempt-1").mkdir()
    line = {"step": 1, "data": {"prism/judged": 3.0, "prism/agreed": 1.0}}
    (stage / "attempt-1" / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    (found,) = stages_with_judge(tmp_path / "run")
    assert (found.stage, found.judged, found.agreed) == ("prism/rlvr", 3, 1)
    (item,) = found.differ
    assert (item["reference"], item["answer"], item["rules"], item["judge"]) == ("50%", "0.5", "correct", "wrong")
