"""Metrics of labels, probabilities and scores: what holds without an oracle."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npgpt.evaluation import metrics


@given(st.integers(1, 40), st.integers(2, 5), st.integers(1, 12), st.integers(0, 999))
def test_calibration_by_its_definition(n, n_labels, n_bins, seed):
    """Each bin by a loop over the examples, as the paper writes it."""
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.ones(n_labels), size=n).round(2)
    targets = generator.integers(n_labels, size=n)
    found = metrics.calibration(targets, probabilities, n_bins)
    sure, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == targets
    error = 0.0
    for b in range(n_bins):
        inside = [i for i in range(n) if b / n_bins < sure[i] <= (b + 1) / n_bins]
        assert found.counts[b] == len(inside)
        if inside:
            assert found.confidence[b] == pytest.approx(np.mean(sure[inside]))
            assert found.accuracy[b] == pytest.approx(np.mean(right[inside]))
            error += len(inside) / n * abs(np.mean(sure[inside]) - np.mean(right[inside]))
    assert found.error == pytest.approx(error, abs=1e-12)
    assert metrics.calibration_error(targets, probabilities, n_bins) == found.error


def test_what_is_always_so_has_no_uncertainty():
    assert metrics.estimate(np.mean, np.ones(7)) == (1, 1, 1)


def test_more_examples_have_a_shorter_interval():
    generator = np.random.default_rng(0)
    few, many = (
        metrics.estimate(np.mean, generator.random(n) < 0.7, draws=300) for n in (100, 6400)
    )
    assert 6 < (few.high - few.low) / (many.high - many.low) < 11  # the root of 64 is 8


def test_a_constant_series_has_no_correlation():
    constant, x = np.full(7, 0.1), np.arange(7)
    assert metrics.pearson(constant, x) == metrics.spearman(x, constant) == 0
    assert metrics.pearson(x, -2.0 * x + 1) == pytest.approx(-1)
