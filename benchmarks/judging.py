"""The judge's pass over finished cells: what rules cannot decide for certain is decided by a language model.

    judge_cells(cells, judge, store / "verdicts.jsonl", lambda done, total: print(done, total))

It goes both ways. Every response with an answer whose rule is not certain is judged, also where the rule calls it
right, so that a judge can lower a score as well as raise it (in the paper's script it can only raise). A response
without an answer stays wrong, and what a certain rule decides stands. The judge sees question, reference and answer,
never the response.

What the rules said stays in `rule_correct`. Where the judge gave no verdict, `judged` is `error` and the rules' verdict
counts; errors are counted beside every score. If more than 2% of a pass are errors no cell is changed, and what was
answered is kept for the next attempt, which asks only for the rest.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.samples import Cell, read_cell, write_cell
from benchmarks.scoring.verdict import JUDGEABLE
from integrations.common.judge import Identity, Judge, Question, Reply, ask_all
from integrations.common.verdicts import Given, VerdictCache
from integrations.errors import StageFailed

MOST_ERRORS = 0.02
"""Share of responses without a verdict, of those put to the judge in one pass, above which the pass fails."""
RULE = "judge"
"""In the `rule` column: the judge decided."""
RULES = "judged_rules"
"""In cell.json: by rule, the rows it had decided before a judge did, so that the judge can be taken back."""

Report = Callable[[int, int], None]
"""Told how many of how many questions are answered, now and then."""


@dataclass(frozen=True)
class Judged:
    """What a pass did."""

    cells: int
    """Cells that hold verdicts of this judge now, whether or not they had to be written."""
    counts: Mapping[str, int]
    """Sums over the cells of `counts` in their cell.json: responses `asked` about when the cell was judged, and
    `cached`, whose verdict was known; together the `correct`, `wrong` and `errors` of `counts_of`."""


def judge_cells(
    cells: Sequence[Cell],
    judge: Judge,
    cache: Path,
    report: Report,
    *,
    judgeable: Collection[str] = JUDGEABLE,
    stop: threading.Event | None = None,
) -> Judged:
    """Judge cells. With the same judge again, asks only what had no verdict, and leaves finished cells as they are.

    Args:
        cache: file of verdicts, shared by every cell of a store.
        judgeable: rules whose verdict is not certain.
        stop: set from outside, ends the pass within a second.

    Raises:
        StageFailed: more than MOST_ERRORS without a verdict, or the judge stopped answering; no cell was changed.
        BadInput: the judge is not there.
        Interrupted: `stop` was set.
    """
    identity = judge.identity
    verdicts = VerdictCache(cache)
    put = [_questions(cell, judgeable) for cell in cells]
    times = Counter(question for questions in put for question in questions.values())
    asked = {question for question in times if verdicts.get(identity.key(question)) is None}
    _ask(judge, [question for question in times if question in asked], times, verdicts, report, stop)
    verdicts.refresh()  # where two passes asked the same, the first verdict in the file counts for both
    total: Counter[str] = Counter()
    for cell, questions in zip(cells, put, strict=True):
        total.update(_apply(cell, questions, asked, identity, verdicts))
    return Judged(len(cells), dict(total))


def clear_judge(cell: Cell) -> Cell:
    """Make the rules' verdicts count again, as if no judge had been asked; returns the cell as it is then."""
    if not cell.facts.get("judge"):
        return cell
    rows = [
        {**row, "correct": row["rule_correct"], "rule": rule, "judged": None}
        for row, rule in zip(cell.table.to_pylist(), _rules(cell), strict=True)
    ]
    facts = {name: fact for name, fact in cell.facts.items() if name != RULES}
    write_cell(cell.folder, rows, {**facts, "judge": None})
    cleared = read_cell(cell.folder)
    assert cleared is not None
    return cleared


def identity_text(facts: Mapping[str, Any] | None) -> str:
    """A cell's judge in a few words for a table; `rules` without one.

    Args:
        facts: `judge` of cell.json.
    """
    if not facts:
        return "rules"
    state = [part for part in (facts["served"], facts["fingerprint"]) if part]
    return f"{facts['model']} ({', '.join([*state, 'prompt ' + facts['prompt']])})"


def _questions(cell: Cell, judgeable: Collection[str]) -> dict[int, Question]:
    """What is put to the judge, by row."""
    columns = cell.table.select(["question", "reference", "answer"]).to_pydict()
    rows = zip(*columns.values(), _rules(cell), strict=True)
    return {
        index: Question(question or "", reference or "", answer)
        for index, (question, reference, answer, rule) in enumerate(rows)
        if answer is not None and rule in judgeable
    }


def _rules(cell: Cell) -> list[str]:
    """The rule that decided about each row before any judge did."""
    rules: list[str] = cell.table.column("rule").to_pylist()
    for rule, indices in cell.facts.get(RULES, {}).items():
        for index in indices.split():
            rules[int(index)] = rule
    return rules


def _ask(
    judge: Judge,
    questions: Sequence[Question],
    times: Mapping[Question, int],
    verdicts: VerdictCache,
    report: Report,
    stop: threading.Event | None,
) -> None:
    """Ask what has no verdict yet and keep each as it comes; end as soon as there are too many errors."""
    most = MOST_ERRORS * sum(times.values())
    errors = done = 0

    def heard(index: int, reply: Reply) -> None:
        nonlocal errors, done
        done += 1
        report(done, len(questions))
        if reply.verdict is not None:
            verdicts.add(judge.identity.key(questions[index]), Given(reply.verdict, reply.fingerprint))
            return
        errors += times[questions[index]]
        if errors > most:
            raise StageFailed(
                f"the judge `{judge.model}` gave no verdict on {errors} of the {sum(times.values())} answers put to "
                f"it, which is more than {MOST_ERRORS:.0%}; the last time: {reply.problem}",
                "look at its server or take another judge; the verdicts it gave are kept, and no score was changed",
            )

    if questions:
        report(0, len(questions))
        ask_all(judge, questions, heard, stop)


def _apply(
    cell: Cell, questions: Mapping[int, Question], asked: Collection[Question], identity: Identity, cache: VerdictCache
) -> dict[str, int]:
    """Write the verdicts into a cell, unless it holds the very same. Returns its counts."""
    rows, rules = cell.table.to_pylist(), _rules(cell)
    fingerprints: set[str] = set()
    for index, question in questions.items():
        given = cache.get(identity.key(question))
        rows[index] |= _judged(rows[index], rules[index], None if given is None else given.verdict)
        fingerprints |= {given.fingerprint} if given is not None and given.fingerprint else set()
    told = {**identity.to_json(), "fingerprints": sorted(fingerprints)}
    before = cell.facts.get("judge") or {}
    if rows == cell.table.to_pylist() and {key: before.get(key) for key in told} == told:
        return dict(before["counts"])
    fresh = sum(question in asked for question in questions.values())
    told["counts"] = {"asked": fresh, "cached": len(questions) - fresh, **counts_of([rows[i] for i in questions])}
    replaced = {
        rule: " ".join(str(index) for index in questions if rules[index] == rule)
        for rule in sorted({rules[index] for index in questions})
    }
    write_cell(cell.folder, rows, {**cell.facts, "judge": told, RULES: replaced})
    return dict(told["counts"])


def _judged(row: Mapping[str, Any], rule: str, verdict: str | None) -> dict[str, Any]:
    if verdict is None:
        return {"judged": "error", "correct": row["rule_correct"], "rule": rule}
    return {"judged": verdict, "correct": verdict == "correct", "rule": RULE}


def counts_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Verdicts among the rows put to a judge: `correct`, `wrong`, `errors`, and `raised` and `lowered`, which are the
    responses that rules alone would have called wrong and right."""
    said = Counter(row["judged"] for row in rows)
    return {
        "correct": said["correct"],
        "wrong": said["wrong"],
        "errors": said["error"],
        "raised": sum(row["correct"] and not row["rule_correct"] for row in rows),
        "lowered": sum(row["rule_correct"] and not row["correct"] for row in rows),
    }
