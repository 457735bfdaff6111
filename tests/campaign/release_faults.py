"""Everything that can go wrong while a release is published, one table: what it leaves behind, what the rerun does.

    python tests/campaign/release_faults.py [--line 1.x] [--only commit] [--jobs 3] [--run RUN --runs-dir DIR]

Every row publishes to a Hub on loopback with the real client, in a process of its own, has one thing go wrong, and
runs the same command again. Exits with 1 when a row leaves half a release, is seen too early, cannot be completed, or
sends something twice. Nearly 300 rows for each line of the client, some seconds each. With `--run`, it is `prism
release` of that run that is put through it, checks and all, instead of the release package on a few small files; one
row at a time, for a run is worked on by one process.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "hub"))

from fault_table import CASES, Row, command_line, library, run, table
from loopback import LINES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--line", choices=LINES, action="append", help="of huggingface_hub; both by default")
    parser.add_argument("--only", default="", help="cases whose name matches this regular expression")
    parser.add_argument("--jobs", type=int, default=3, help="cases at a time")
    parser.add_argument("--run", help="release this run by the command line")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    asked = parser.parse_args()
    work = [(name, line) for name in CASES if re.search(asked.only, name) for line in asked.line or LINES]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1 if asked.run else asked.jobs) as pool:
        root = Path(folder)
        program = command_line(asked.run, asked.runs_dir, root) if asked.run else library(root / "release")
        places = [root / str(number) for number in range(len(work))]
        for row in pool.map(lambda one, place: run(one[0], one[1], place, program), work, places):
            print(*table([row])[0 if not rows else 2 :], sep="\n", flush=True)
            rows.append(row)
    wrong = sum(bool(row.wrong) for row in rows)
    print(f"\n{len(rows)} rows, {wrong} wrong; {sum(row.first == 'done' for row in rows)} completed at once")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
