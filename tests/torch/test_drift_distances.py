"""The drift analysis' own distances against SciPy, which the alignment environment has and prism's own has not."""

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import wasserstein_distance

import benchmarks.drift.distances as far


@pytest.mark.parametrize("seed", range(20))
def test_distances_are_scipys(seed):
    random = np.random.default_rng(seed)
    a = random.gamma(2, 3, random.integers(1, 200)).round(seed % 3)
    b = random.normal(5, 4, random.integers(1, 200)).round(seed % 3)
    assert far.wasserstein(a, b) == pytest.approx(wasserstein_distance(a, b))
    bounds = far.edges(b)
    histograms = [np.bincount(np.searchsorted(bounds, side), minlength=len(bounds) + 1) for side in (a, b)]
    assert far.jensen_shannon(*(h.astype(float) for h in histograms)) == pytest.approx(jensenshannon(*histograms, 2))
