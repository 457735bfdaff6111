"""Answers judged per second by the reward, against the 2,000 that one core must manage.

Short answers of every kind that rules decide: letters, numbers, units, tuples, sets, intervals, times, words. Every
answer and reference is new to the matcher, so that no cache helps. Computer algebra is not part of it.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from typing import Any

from benchmarks.perf._timing import Options, main, result, take_turns
from integrations.verl.reward.match import decide

ENGINE = None
ROUNDS = 5
ANSWERS = 4000
TEMPLATES = (
    ("{n}", "{n}"),
    ("{n}.50", "{n}.5"),
    ("The answer is {n}.", "{n}"),
    ("{n} cm", "{n}0 mm"),
    ("{n} kg", "{n} lb"),
    ("{n}厘米", "{n} cm"),
    ("{n}%", "0.{n}"),
    ("\\frac{{{n}}}{{7}}", "{n}/7"),
    ("(B) {n}", "B"),
    ("A or B", "C. {n}"),
    ("({n}, 2)", "({n},2)"),
    ("{{2, {n}}}", "{{{n}, 2}}"),
    ("[{n}, \\infty)", "x ≥ {n}"),
    ("3:30 PM", "15:{m}"),
    ("Yes, it is {n}", "yes"),
    ("the {n}th house", "a red house"),
)


def measure(options: Options) -> dict[str, Any]:
    rounds = options.rounds or ROUNDS
    batches = iter(range(rounds + 1))
    times = take_turns({"rule-decided answers": partial(_judge, batches)}, rounds)
    seconds = sorted(times["rule-decided answers"])[len(times["rule-decided answers"]) // 2]
    facts = {
        "answers": ANSWERS,
        "answers_per_second": round(ANSWERS / seconds),
        "answers_per_second_of_cpu": round(ANSWERS * (rounds + 1) / time.process_time()),
        "python": sys.version.split()[0],
    }
    return result(times, {}, **facts)


def _judge(batches: Any) -> None:
    first = 1000 + next(batches) * ANSWERS
    for number in range(first, first + ANSWERS):
        answer, reference = TEMPLATES[number % len(TEMPLATES)]
        fields = {"n": number, "m": 10 + number % 50}
        decide(answer.format(**fields), reference.format(**fields))


if __name__ == "__main__":
    main(measure)
