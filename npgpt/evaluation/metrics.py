"""Numbers that say how good predictions are: of labels, of probabilities, and of scores.

Each number is a plain function of arrays. `estimate` computes its 95 % interval as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy import ndarray

DRAWS = 1000  # of a bootstrap


class Estimate(NamedTuple):
    """A number that is computed from examples, and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return the number with its interval, as ``0.750 [0.700, 0.800]``."""
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def estimate(
    statistic: Callable[..., float], *arrays: ndarray, draws: int = DRAWS, seed: int = 0
) -> Estimate:
    """Compute a number from examples, and its 95 % interval by the bootstrap.

    The bootstrap draws N of the N examples with replacement, and computes the number from them
    (Efron 1979), `draws` times. The interval contains the middle 95 % of these numbers. It says
    how much the number depends on the choice of examples, and not how much the number of another
    training run would differ.

    Parameters
    ----------
    statistic : callable
        A function that takes such arrays, and returns the number.
    *arrays : ndarray, (N, ...) each
        Values for each of the N examples.
    draws : int
        How often examples are drawn.
    seed : int
        The seed with which examples are drawn.

    Examples
    --------
    >>> right = np.array([1, 1, 1, 0])
    >>> estimate(np.mean, right)
    Estimate(value=0.75, low=0.25, high=1.0)
    """
    generator = np.random.default_rng(seed)
    n = len(arrays[0])
    found = []
    for _ in range(draws):
        drawn = generator.integers(n, size=n)
        found.append(statistic(*(array[drawn] for array in arrays)))
    low, high = np.percentile(found, [2.5, 97.5])
    return Estimate(float(statistic(*arrays)), float(low), float(high))


# ---- labels


def accuracy(targets: ndarray, found: ndarray) -> float:
    """Return the share of examples whose label is found: ``(N,), (N,) -> number``."""
    return float(np.mean(targets == found))


def confusion_matrix(targets: ndarray, found: ndarray, n_labels: int) -> ndarray:
    """Return the counts, (L, L): row i, column j counts examples of label i that get label j.

    Examples
    --------
    >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    pairs = np.asarray(targets) * n_labels + found
    return np.bincount(pairs, minlength=n_labels**2).reshape(n_labels, n_labels)


def precision_recall_f1(confusion: ndarray) -> ndarray:
    """Return precision, recall and F1 of each label, (L, 3); 0 where there is nothing to divide by.

    Precision is the share of right ones among the examples that get the label. Recall is the share
    of right ones among the examples that have the label. F1 is their harmonic mean.

    Examples
    --------
    >>> precision_recall_f1(np.array([[1, 1], [0, 1]])).round(3).tolist()
    [[1.0, 0.5, 0.667], [0.5, 1.0, 0.667]]
    """
    right, had, got = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    shares = [right / np.maximum(n, 1) for n in (got, had)]
    return np.stack([*shares, 2 * right / np.maximum(got + had, 1)], axis=1)


def macro_f1(targets: ndarray, found: ndarray, n_labels: int) -> float:
    """Return the mean F1 of the labels that occur among the targets or the found ones.

    A rare label counts as much as a frequent one.
    """
    confusion = confusion_matrix(targets, found, n_labels)
    occurs = confusion.sum(axis=0) + confusion.sum(axis=1) > 0
    return float(precision_recall_f1(confusion)[occurs, 2].mean())


# ---- probabilities


class Calibration(NamedTuple):
    """Examples in bins of equal width, by the probability of the label that they get."""

    counts: ndarray  # (bins,), the examples in each
    confidence: ndarray  # (bins,), the mean probability of the label; 0 in an empty bin
    accuracy: ndarray  # (bins,), the share that is right; 0 in an empty bin

    @property
    def error(self) -> float:
        """The expected calibration error: the mean distance of both, over all examples."""
        gaps = self.counts * np.abs(self.confidence - self.accuracy)
        return float(gaps.sum() / self.counts.sum())


def calibration(targets: ndarray, probabilities: ndarray, n_bins: int = 10) -> Calibration:
    """Compare how sure a classifier is with how often it is right (Guo et al. 2017, section 2).

    Parameters
    ----------
    targets : ndarray of int, (N,)
    probabilities : ndarray, (N, L)
        The probability of each label for each example.
    n_bins : int
        Bin b of n holds the examples with a confidence above b/n, up to (b + 1)/n.

    Examples
    --------
    >>> probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]])
    >>> found = calibration(np.array([0, 1, 1]), probabilities, 5)
    >>> found.counts.tolist(), found.accuracy.tolist(), round(found.error, 3)
    ([0, 0, 1, 0, 2], [0.0, 0.0, 1.0, 0.0, 0.5], 0.4)
    """
    best = probabilities.argmax(axis=1)
    sure = probabilities[np.arange(len(best)), best]
    bins = np.digitize(sure, np.arange(1, n_bins) / n_bins, right=True)
    counts = np.bincount(bins, minlength=n_bins)
    confidence, right = (
        np.bincount(bins, weights, n_bins) / np.maximum(counts, 1)
        for weights in (sure, best == targets)
    )
    return Calibration(counts, confidence, right)


def calibration_error(targets: ndarray, probabilities: ndarray, n_bins: int = 10) -> float:
    """Return the expected calibration error; see `calibration`."""
    return calibration(targets, probabilities, n_bins).error


# ---- scores


def pearson(x: ndarray, y: ndarray) -> float:
    """Return the correlation of two series of numbers; 0 where one of them is constant.

    Examples
    --------
    >>> round(pearson(np.array([1, 2, 3]), np.array([1, 2, 9])), 4)
    0.9177
    """
    x, y = (np.asarray(series, np.float64) for series in (x, y))
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    x, y = x - x.mean(), y - y.mean()
    return float(np.clip(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)), -1, 1))


def spearman(x: ndarray, y: ndarray) -> float:
    """Return the correlation of the ranks of two series; equal numbers share the mean rank.

    Examples
    --------
    >>> round(spearman(np.array([1, 2, 3]), np.array([1, 2, 9])), 6)
    1.0
    """
    return pearson(ranks(x), ranks(y))


def ranks(x: ndarray) -> ndarray:
    """Return the rank of each number, from 1; equal numbers have the mean of their ranks.

    Examples
    --------
    >>> ranks(np.array([7, 5, 7])).tolist()
    [2.5, 1.0, 2.5]
    """
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]
