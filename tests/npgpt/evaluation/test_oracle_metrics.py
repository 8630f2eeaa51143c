"""Metrics of labels, probabilities and scores, against scikit-learn and SciPy."""

import importlib.util

import numpy as np
import pytest
from conftest import need

from npgpt.evaluation import metrics

pytestmark = pytest.mark.usefixtures("oracle")


@pytest.mark.parametrize("seed", range(5))
def test_labels_are_judged_as_by_scikit_learn(seed):
    """Also where a label never occurs, or is never found."""
    need(importlib.util.find_spec("sklearn") is not None, "scikit-learn")
    from sklearn import metrics as sklearn

    generator = np.random.default_rng(seed)
    n_labels = 6
    targets = generator.integers(n_labels - 1, size=40)  # the last label never occurs
    found = generator.integers(1, n_labels - seed % 2, size=40)  # the first is never found
    confusion = metrics.confusion_matrix(targets, found, n_labels)
    labels = range(n_labels)
    np.testing.assert_array_equal(
        confusion, sklearn.confusion_matrix(targets, found, labels=labels)
    )
    each = sklearn.precision_recall_fscore_support(targets, found, labels=labels, zero_division=0)
    np.testing.assert_allclose(metrics.precision_recall_f1(confusion).T, each[:3], atol=1e-15)
    expected = sklearn.f1_score(targets, found, average="macro", zero_division=0)
    assert metrics.macro_f1(targets, found, n_labels) == pytest.approx(expected, rel=1e-12)
    expected = sklearn.accuracy_score(targets, found)
    assert metrics.accuracy(targets, found) == pytest.approx(expected)


@pytest.mark.parametrize("levels", [4, 1000])
def test_correlations_are_those_of_scipy(levels):
    """With many equal numbers, and with few."""
    need(importlib.util.find_spec("scipy") is not None, "SciPy")
    from scipy import stats

    generator = np.random.default_rng(0)
    x = generator.integers(levels, size=200)
    y = (x + generator.integers(levels, size=200)) / 3
    for ours, theirs in ((metrics.pearson, stats.pearsonr), (metrics.spearman, stats.spearmanr)):
        assert ours(x, y) == pytest.approx(theirs(x, y).statistic, rel=1e-12)
    np.testing.assert_array_equal(metrics.ranks(x), stats.rankdata(x))


def test_the_interval_is_that_of_scipys_bootstrap():
    """The percentile bootstrap draws at random, so the ends agree up to the noise of drawing."""
    need(importlib.util.find_spec("scipy") is not None, "SciPy")
    from scipy import stats

    x = np.random.default_rng(1).exponential(size=300)
    y = x + np.random.default_rng(2).normal(size=300)
    found = metrics.estimate(metrics.pearson, x, y, draws=4000)
    theirs = stats.bootstrap(
        (x, y), lambda a, b: stats.pearsonr(a, b).statistic, n_resamples=4000, paired=True,
        vectorized=False, method="percentile", rng=np.random.default_rng(3),
    ).confidence_interval  # fmt: skip
    assert found.low == pytest.approx(theirs.low, abs=0.02)
    assert found.high == pytest.approx(theirs.high, abs=0.02)
    assert found.value == metrics.pearson(x, y)
