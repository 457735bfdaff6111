"""Demonstrations in the paper's form from a teacher: asked once each, kept where they pass three filters.

    1. form      caption, thought and answer, each once, nothing outside, not cut off
    2. correct   the reward library reads the answer as the reference
    3. verified  a judge, where there is one, finds that the answer is the reference

All three have to pass, so their order changes no result; the cheap ones come first and each is counted on what reached
it. The paper names them in the order form, verification, correctness.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from integrations.common.files import hash_json, write_text
from integrations.common.judge import Judge, Question, Reply, ask_all
from integrations.common.response import parse
from integrations.common.rows import Row
from integrations.errors import BadInput, StageFailed
from integrations.verl.reward import judge_response
from prism_cli.making.asking import Answer, Request

DEMONSTRATIONS, REJECTED, VERDICTS = "demonstrations.jsonl", "rejected.jsonl", "verdicts.jsonl"
FILTERS = ("form", "correct", "verified")
Verify = Callable[[Sequence[Question]], Sequence[bool | None]]
"""Whether each answer is its reference; None where there is no verdict."""


@dataclass(frozen=True)
class Distilled:
    """What came of it."""

    rows: list[Row]
    rejected: list[dict[str, Any]]
    """`id`, `sample`, `filter`, `why` and the text."""
    counts: dict[str, dict[str, int]]
    """By filter: `seen`, `passed`."""
    why: Counter[str]
    """Reasons of rejection."""
    problems: int
    """Problems with at least one demonstration that passed."""


def hardest(rows: Sequence[Row], rates: Path | None, most: float) -> list[Row]:
    """Problems that a policy does not solve.

    Args:
        rates: `pass_rates.jsonl` of `prism data filter`; None keeps every row.
        most: highest pass rate that is kept.

    Raises:
        BadInput: the file cannot be read, or does not know a row.
    """
    if rates is None:
        return list(rows)
    known: dict[str, float] = {}
    try:
        for line in rates.read_text(encoding="utf-8").splitlines():
            told = json.loads(line)
            known[told["id"]] = float(told["rate"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"{rates} cannot be read ({error})", "give the pass_rates.jsonl of `prism data filter`"
        ) from None
    unknown = [row["id"] for row in rows if row["id"] not in known]
    if unknown:
        raise BadInput(f"{rates} has no pass rate of `{unknown[0]}` and {len(unknown) - 1} others", "filter this pool")
    return [row for row in rows if known[row["id"]] <= most]


def sift(
    requests: Sequence[Request], answers: Mapping[str, Answer], verify: Verify | None, teacher: str, keep_all: bool
) -> Distilled:
    """Put answers through the filters.

    Args:
        verify: the judge; None leaves its filter out.
        teacher: name for the rows' `source`.
        keep_all: keep every sample that passes, not the first of each problem only.
    """
    candidates = [(request, answers[request.key]) for request in requests if request.key in answers]
    counts: dict[str, dict[str, int]] = {}
    rejected: list[dict[str, Any]] = []
    for name in FILTERS if verify is not None else FILTERS[:2]:
        whys = _verified(candidates, verify) if name == "verified" and verify else [_why(name, *c) for c in candidates]
        for (request, answer), why in zip(candidates, whys, strict=True):
            if why:
                told = {"id": request.row["id"], "sample": request.sample, "filter": name, "why": why}
                rejected.append({**told, "text": answer.text})
        passed = [one for one, why in zip(candidates, whys, strict=True) if not why]
        counts[name] = {"seen": len(candidates), "passed": len(passed)}
        candidates = passed
    first: dict[str, tuple[Request, Answer]] = {}
    for request, answer in candidates:
        first.setdefault(request.row["id"], (request, answer))
    kept = candidates if keep_all else list(first.values())
    rows = [_row(request, answer, teacher) for request, answer in kept]
    return Distilled(rows, rejected, counts, Counter(one["why"] for one in rejected), len(first))


def write(result: Distilled, pool: Path, out: Path) -> None:
    """Write rows with their images beside them, and what was rejected; each file whole or as it was."""
    place_images(result.rows, pool, out)
    write_text(out / DEMONSTRATIONS, lines(result.rows))
    write_text(out / REJECTED, lines(result.rejected))


def place_images(rows: Iterable[Mapping[str, Any]], pool: Path, out: Path) -> None:
    """The images that rows of a pool name, at the same places below another folder."""
    for image in dict.fromkeys(image for row in rows for image in row["images"]):
        _place(pool.parent / image, out / image)


def _place(source: Path, target: Path) -> None:
    """An image at its place in another pool: a second name for the same bytes where the file system allows it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        return
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def judged_by(judge: Judge, memory: Path, tick: Callable[[int, int], None], stop: threading.Event) -> Verify:
    """A judge that is asked each question once: its verdicts are kept in a file.

    Raises (when called):
        StageFailed: the judge fails too often, or gave no verdict on an answer.
    """
    key = judge.identity.key

    def verify(questions: Sequence[Question]) -> Sequence[bool | None]:
        known = _verdicts(memory)
        left = [question for question in questions if key(question) not in known]
        with memory.open("a", encoding="utf-8") as stream:

            def heard(index: int, reply: Reply) -> None:
                if reply.verdict is not None:
                    known[key(left[index])] = reply.verdict == "correct"
                    told = {"key": key(left[index]), "correct": reply.verdict == "correct"}
                    stream.write(json.dumps(told) + "\n")
                    stream.flush()
                tick(len(questions) - len(left) + index + 1, len(questions))

            if left:
                ask_all(judge, left, heard, stop)
        missing = sum(key(question) not in known for question in questions)
        if missing:
            raise StageFailed(
                f"the judge gave no verdict on {missing} of {len(questions)} answers",
                "the same command asks again; `prism judge check` looks at the judge",
            )
        return [known[key(question)] for question in questions]

    return verify


def _verdicts(path: Path) -> dict[str, bool]:
    found = {}
    for line in path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []:
        try:
            told = json.loads(line)
            found[told["key"]] = bool(told["correct"])
        except (ValueError, KeyError, TypeError):
            continue  # a line cut off in the middle, and the one glued to it: both are asked again
    return found


def _why(name: str, request: Request, answer: Answer) -> str:
    """Why an answer does not pass a filter; empty where it does."""
    if name == "form":
        if answer.cut:
            return "cut at its longest length"
        return "" if parse(answer.text) else "not of the form"
    verdict = judge_response(answer.text, request.row["answer"])[1]
    return "" if verdict.correct else f"wrong answer ({verdict.rule})"


def _verified(candidates: Sequence[tuple[Request, Answer]], verify: Verify) -> list[str]:
    questions = []
    for request, answer in candidates:
        response = parse(answer.text)
        assert response is not None, "the filter for the form comes first"
        reference = request.row["answer"]
        reference = reference if isinstance(reference, str) else " or ".join(map(str, reference))
        questions.append(Question(request.row["prompt"], reference, response.answer))
    return ["" if right else "wrong for the judge" for right in verify(questions)]


def _row(request: Request, answer: Answer, teacher: str) -> Row:
    row = request.row
    identity = hash_json([row["id"], request.key, answer.text])[:12]
    task = row.get("task") or {}
    return {
        "id": f"{row['id']}-{identity}",
        "images": row["images"],
        "system": row.get("system"),
        "prompt": row["prompt"],
        "response": answer.text.strip(),
        "answer": row["answer"],
        "source": f"distilled:{teacher}",
        "task": task,
    }
