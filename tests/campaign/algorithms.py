"""GRPO, DAPO and GSPO from the same SFT policies: what each learns, over several seeds, and that each survives a kill.

    python tests/campaign/algorithms.py [--seeds 0 1 2] [--folder DIR] [--set KEY=VALUE ...]

For each seed the baseline arm of the digits world is trained once per algorithm; base and SFT are the first
algorithm's. With the first seed each algorithm's RLVR is killed half way and resumed by the same command. Prints, per
algorithm and seed, reward in the first and last ten steps, answers right before and after (greedy, held-out test items)
and the algorithm's signature; writes `curves.png` with rewards and validation answers over the steps. Exits with 1 when
reward or answers do not rise in the mean over seeds, or a resumed stage ends at another step. Takes about ten minutes
of two cores per algorithm and seed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.scores import read_evaluations
from integrations.verl.adapter import read_metrics
from integrations.verl.settings import ALGORITHMS

STAGE = "baseline/rlvr"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, help="where the runs go; a temporary folder by default")
    parser.add_argument("--set", action="append", default=[], dest="changes")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="prism algorithms "))
    for seed in options.seeds:
        for algorithm in ALGORITHMS:
            train(folder, algorithm, seed, options.changes, kill=seed == options.seeds[0])
    found = {(a, s): measured(folder / name_of(a, s)) for a in ALGORITHMS for s in options.seeds}
    draw(folder, found)
    sys.exit(report(found, options.seeds))


def name_of(algorithm: str, seed: int) -> str:
    return f"digits-{algorithm}-s{seed}"


def train(folder: Path, algorithm: str, seed: int, changes: list[str], kill: bool) -> None:
    """Train one arm, from the first algorithm's base and SFT; killed once half way where asked."""
    run, first = folder / name_of(algorithm, seed), folder / name_of(next(iter(ALGORITHMS)), seed)
    if not run.exists() and first.exists():
        for part in ("data", "shared"):
            shutil.copytree(first / part, run / part, symlinks=True)
    command = [sys.executable, "-m", "prism_cli", "train", "--stage", "baseline", "--algorithm", algorithm]
    command += ["--seed", str(seed), "--runs-dir", str(folder), "--set", "evaluation.eval_every=1"]
    command += [part for change in changes for part in ("--set", change)]
    if kill and not (run / STAGE).exists():
        process = subprocess.Popen(command)
        while process.poll() is None and not half_way(run):
            time.sleep(0.5)
        process.kill()
        process.wait()
    subprocess.run(command, check=True)


def half_way(run: Path) -> bool:
    lines = [event for event in events(run) if event["event"] == "progress" and event["stage"] == STAGE]
    return bool(lines) and 2 * lines[-1]["step"] >= lines[-1]["total"]


def events(run: Path) -> list[dict[str, Any]]:
    path = run / "events.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def measured(run: Path) -> dict[str, Any]:
    """A run's figures and curves."""
    steps = read_metrics(run / STAGE)
    rewards = [steps[step]["prism/reward"] for step in sorted(steps)]
    greedy = {stage: by["greedy"] for (stage, _), by in read_evaluations(run).items() if "greedy" in by}
    checks = [e for e in events(run) if e["event"] == "intermediate_evaluation" and e["stage"] == STAGE]
    return {
        "steps": len(steps),
        "total": max(e["total"] for e in events(run) if e["event"] == "progress" and e["stage"] == STAGE),
        "attempts": len(list((run / STAGE).glob("attempt-*"))),
        "rewards": rewards,
        "first": mean(rewards[:10]),
        "last": mean(rewards[-10:]),
        "before": greedy["shared/sft"].rates["answer"].value,
        "after": greedy[STAGE].rates["answer"].value,
        "checks": {e["step"]: e["scores"]["correct"] for e in checks},
        "evicted": sum(row.get("prism/evicted_groups", 0) for row in steps.values()) / len(steps),
        "silent": mean(row["prism/silent_groups"] for row in steps.values()),
        "clipped": mean(row["actor/pg_clipfrac"] for row in steps.values()),
    }


def draw(folder: Path, found: dict[tuple[str, int], dict[str, Any]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4))
    for index, algorithm in enumerate(ALGORITHMS):
        for (name, _), one in found.items():
            if name == algorithm:
                smooth = [mean(one["rewards"][max(0, at - 9) : at + 1]) for at in range(len(one["rewards"]))]
                left.plot(smooth, color=f"C{index}", label=algorithm)
                right.plot([*one["checks"]], [*one["checks"].values()], color=f"C{index}", marker="o", label=algorithm)
    left.set(xlabel="step", ylabel="reward, mean of ten steps")
    right.set(xlabel="step", ylabel="right answers, validation")
    handles, labels = left.get_legend_handles_labels()
    shown = dict(zip(labels, handles, strict=True))  # each algorithm once, not once per seed
    left.legend(shown.values(), shown.keys())
    figure.tight_layout()
    figure.savefig(folder / "curves.png", dpi=120)
    print(f"curves in {folder / 'curves.png'}")


def report(found: dict[tuple[str, int], dict[str, Any]], seeds: list[int]) -> int:
    print("algorithm  seed  reward first -> last   answers before -> after   attempts  evicted/step  silent  clipped")
    for (algorithm, seed), one in found.items():
        print(
            f"{algorithm:9}  {seed:4}  {one['first']:.3f} -> {one['last']:.3f}         "
            f"{one['before']:.1%} -> {one['after']:.1%}           {one['attempts']:4}      {one['evicted']:8.1f}  "
            f"{one['silent']:6.2f}  {one['clipped']:.4f}"
        )
    failed = 0
    for algorithm in ALGORITHMS:
        runs = [found[algorithm, seed] for seed in seeds]
        if any(one["steps"] != one["total"] for one in runs):
            print(f"{algorithm}: a stage has another number of steps than it was to have")
            failed = 1
        for what, early, late in (("reward", "first", "last"), ("answers", "before", "after")):
            if mean(one[late] - one[early] for one in runs) <= 0:
                print(f"{algorithm}: {what} did not rise")
                failed = 1
    return failed


if __name__ == "__main__":
    main()
