"""Paired comparison of models on the same items: what a table may claim, and how sure it may be.

    found = compare(find_cells(Path("runs/digits/eval"), COLUMNS), protocol="greedy")
    found.render(console)           tables in 80 columns
    found.to_json()                 one JSON object, as documented in `benchmarks.compare.result`
    found.conclusion                one sentence about the headline pair

A score is the mean over a benchmark's tasks of the mean over items of the mean over samples; the macro-average is the
unweighted mean over the suite's benchmarks. Differences from the baseline are paired over items: a bootstrap over
clusters of items gives the interval, an exact McNemar test (one response per item, one training seed, independent
items) or a permutation test that flips whole clusters gives p, and Holm's method corrects it over a model's benchmarks.
Training seeds are a level of their own from five on; below, everything is conditional on the checkpoints, and says so.
"""

from benchmarks.compare.analysis import compare, compare_all
from benchmarks.compare.pairing import COLUMNS
from benchmarks.compare.result import Comparison

__all__ = ["COLUMNS", "Comparison", "compare", "compare_all"]
