"""A judge's second opinion on the rules' verdicts, for references that rules read badly.

    reward = accuracy_weight * (the judge says it is right) + format_weight * format

The judge sees question, reference and answer, no reasoning and no image. It is symmetric: it can take a reward as well
as give one. Where it gives no verdict there is no reward for the answer, and the response counts among the reward's
errors, which end the training when they are many. Verdicts are kept by content, so no answer is judged twice; where
rules and judge differ, the answer is kept for a person to look at (`prism reward review`).

verl loads it as `pkg://integrations.verl.reward.second_opinion`.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from integrations.common.chat import Session
from integrations.common.judge import Judge
from integrations.common.judge_prompt import Question
from integrations.common.response import parse
from integrations.common.verdicts import Given, VerdictCache
from integrations.verl.reward import judge_response
from integrations.verl.reward.verdict import Verdict

VERDICTS = "verdicts.jsonl"
MOST_REVIEWS = 8 * 2**20
"""Bytes of answers kept for review; more would not be read."""


class SecondOpinion:
    """One judge, asked by one process.

    Args:
        address: `url`, `model` and `key_variable` as `Judge` takes them, `concurrency`, and `reviews`, a file's name.
        folder: for verdicts and reviews; shared by processes.
    """

    def __init__(self, address: Mapping[str, Any], folder: Path) -> None:
        self.judge = Judge(
            address["url"],
            address["model"],
            key_variable=address["key_variable"],
            concurrency=int(address["concurrency"]),
        )
        self.folder, self.reviews = folder, str(address["reviews"])
        self.cache = VerdictCache(folder / VERDICTS)
        self.places = asyncio.Semaphore(int(address["concurrency"]))
        self._session: Session | None = None
        self._identity: Any = None
        self._opening = asyncio.Lock()
        self._stack = AsyncExitStack()

    async def verdict(self, question: Question) -> str | None:
        """`correct` or `wrong`, from memory or from the judge; None when it gives none."""
        session = await self._open()
        key = self._identity.key(question)
        if (known := self.cache.get(key)) is not None:
            return known.verdict
        async with self.places:
            reply = await self.judge.ask(session, question)
        if reply.verdict is None:
            print(f"Reward undecided: the judge gave no verdict: {reply.problem}", flush=True)
            return None
        self.cache.add(key, Given(reply.verdict, reply.fingerprint))
        self.cache.refresh()
        return reply.verdict

    def keep(self, question: Question, rules: Verdict, said: str) -> None:
        """Keep a difference of opinion for review."""
        path = self.folder / self.reviews
        if path.exists() and path.stat().st_size > MOST_REVIEWS:
            return
        told = {
            "question": question.question,
            "reference": question.reference,
            "answer": question.answer,
            "rules": "correct" if rules.correct else "wrong",
            "rule": rules.rule,
            "judge": said,
        }
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(handle, f"\n{json.dumps(told)}\n".encode())
        finally:
            os.close(handle)

    async def _open(self) -> Session:
        async with self._opening:
            if self._session is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._identity = await asyncio.to_thread(lambda: self.judge.identity)
                self._session = await self._stack.enter_async_context(self.judge.session())
            return self._session


_OPINIONS: dict[str, SecondOpinion] = {}


async def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str | Sequence[str],
    extra_info: Mapping[str, Any] | None = None,
    *,
    accuracy_weight: float = 0.8,
    format_weight: float = 0.2,
    judge: Mapping[str, Any],
    **unused: Any,
) -> dict[str, float]:
    """Reward of one response, as `reward.compute_score` gives it, with the judge's word on the answer.

    Args:
        extra_info: the row's `question`.
        judge: see `SecondOpinion`, with `folder`.

    Returns:
        Beside the usual parts `judged`, 1.0 where the judge gave a verdict, and `agreed`, 1.0 where it was the rules'.
    """
    well_formed, rules = await asyncio.to_thread(judge_response, solution_str, ground_truth)
    told = {"accuracy": 0.0, "format": float(well_formed), "error": 0.0, "judged": 0.0, "agreed": 0.0}
    response = parse(solution_str) if well_formed else None
    if response is not None and response.answer.strip():
        folder = str(judge["folder"])
        if folder not in _OPINIONS:
            _OPINIONS[folder] = SecondOpinion(judge, Path(folder))
        opinion = _OPINIONS[folder]
        reference = ground_truth if isinstance(ground_truth, str) else "; or ".join(ground_truth)
        question = Question(str((extra_info or {}).get("question", "")), reference, response.answer)
        said = await opinion.verdict(question)
        if said is None:
            told["error"] = 1.0
        else:
            told |= {"accuracy": float(said == "correct"), "judged": 1.0}
            told["agreed"] = float(rules.correct == (said == "correct") and not rules.error)
            if not told["agreed"]:
                opinion.keep(question, rules, said)
    return {"score": accuracy_weight * told["accuracy"] + format_weight * told["format"], **told}
