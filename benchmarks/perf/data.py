"""`prism data check` on rows of the published SFT data's shape, against reading them and doing nothing.

Each side is a process of its own over the same file: schema, segments, duplicates and held-out texts on ours; on the
others `json.loads` of every line, and pandas in chunks. `--size full` has 1.4 million rows (3.5 GB on disk), the
default 50,000. Peak memory is each process's own.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.perf._timing import Options, main, result, take_turns

ENGINE = None
ROUNDS = 3
SIZES = {"small": 50_000, "full": 1_400_000}
PICTURES, QUESTIONS = 1000, 5000
JSON_LOOP = "import json, sys\nfor line in open(sys.argv[1], 'rb'): json.loads(line)"
PANDAS = "import sys, pandas\nfor part in pandas.read_json(sys.argv[1], lines=True, chunksize=10_000): len(part)"


def measure(options: Options) -> dict[str, Any]:
    rows = SIZES[options.size or "small"]
    pool, held_out = options.work / "sft.jsonl", options.work / "test.jsonl"
    write_pool(pool, rows)
    write_pool(held_out, QUESTIONS, seed=1, pictures=False)
    peaks: dict[str, int] = {}
    check = ["-m", "prism_cli", "data", "check", str(pool), "--use", "sft", "--json"]
    sides = {
        "prism data check": check,
        "with held-out texts": [*check, "--held-out", str(held_out), "--no-pictures"],
        "json.loads, nothing else": ["-c", JSON_LOOP, str(pool)],
        "pandas in chunks, nothing else": ["-c", PANDAS, str(pool)],
    }
    times = take_turns(
        {name: partial(_run, name, words, peaks) for name, words in sides.items()}, options.rounds or ROUNDS
    )
    ours, held, loop, frames = sides
    ratios = {"check / json.loads": (ours, loop), "with held-out texts / json.loads": (held, loop)}
    found = result(times, {**ratios, "check / pandas": (ours, frames)}, rows=rows, megabytes=pool.stat().st_size >> 20)
    table = [[name, round(rows / found["seconds"][name]), peaks[name]] for name in sides]
    return {**found, "tables": [{"title": "", "columns": ["side", "rows a second", "peak MiB"], "rows": table}]}


def write_pool(path: Path, rows: int, seed: int = 0, pictures: bool = True) -> None:
    """Rows with a question of some 40 words and a demonstration of some 350, drawn from 4,000 words."""
    draw = random.Random(seed)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 10))) for _ in range(4000)]
    (path.parent / "images").mkdir(exist_ok=True)
    for number in range(PICTURES if pictures else 0):
        (path.parent / "images" / f"{number}.png").touch()
    with path.open("w", encoding="utf-8") as stream:
        for number in range(rows):
            text = " ".join(draw.choices(words, k=40))
            said = " ".join(draw.choices(words, k=350))
            row = {
                "id": f"{path.stem}-{number:07d}",
                "images": [f"images/{number % PICTURES}.png"] if pictures else [],
                "system": None,
                "prompt": f"{text}?",
                "response": f"<caption>{said[:900]}</caption>\n<think>{said[900:]}</think>\n<answer>{number}</answer>",
                "answer": str(number),
                "source": "public",
            }
            stream.write(json.dumps(row) + "\n")


def _run(name: str, arguments: list[str], peaks: dict[str, int]) -> None:
    root = Path(__file__).resolve().parents[2]
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    with subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL, env=env) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{name} ended with code {process.returncode}")
    peaks[name] = max(peaks.get(name, 0), used.ru_maxrss >> 10)


if __name__ == "__main__":
    main(measure)
