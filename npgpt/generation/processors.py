"""Logits processors: what the options of generation do to the logits of the next token.

Each is a function of the tokens so far and of the logits, and returns new logits, -inf for what is
forbidden. ``ids`` holds the tokens of each row, an array (T,) that may have its own length;
``logits`` are (B, V). Names, meanings and their order are those of transformers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy import ndarray

from npgpt.generation.options import Options

Rows = Sequence[ndarray] | ndarray


def process(options: Options, ids: Rows, logits: ndarray, n_new: int) -> ndarray:
    """Apply what the options ask for; `n_new` tokens of each row are not of its prompt."""
    if options.repetition_penalty != 1:
        logits = repetition_penalty(ids, logits, options.repetition_penalty)
    if options.no_repeat_ngram_size:
        logits = no_repeat_ngram(ids, logits, options.no_repeat_ngram_size)
    if options.bad_words_ids:
        words = [
            word for word in options.bad_words_ids if [*word] not in [[i] for i in options.eos]
        ]
        logits = no_bad_words(ids, logits, words)
    if n_new < options.min_new_tokens:
        logits = no_bad_words(ids, logits, [[i] for i in options.eos])
    if not options.do_sample:
        return logits
    if options.temperature != 1:
        logits = logits / options.temperature
    keep = 1 if options.num_beams == 1 else max(2, 1 + len(options.eos))  # so that beams can go on
    if options.top_k:
        logits = top_k(logits, options.top_k, keep)
    if options.top_p < 1:
        logits = top_p(logits, options.top_p, keep)
    if options.min_p:
        logits = min_p(logits, options.min_p, keep)
    if options.typical_p < 1:
        logits = typical_p(logits, options.typical_p, keep)
    return logits


# ---- by the tokens so far


def repetition_penalty(ids: Rows, logits: ndarray, penalty: float) -> ndarray:
    """Make tokens that a row has less probable (Keskar et al. 2019, section 4.1).

    Examples
    --------
    >>> repetition_penalty(np.array([[0, 1]]), np.array([[1.0, -1.0, 1.0]]), 2.0)
    array([[ 0.5, -2. ,  1. ]])
    """
    logits = logits.copy()
    for row, used in zip(logits, ids, strict=True):
        row[used] = np.where(row[used] < 0, row[used] * penalty, row[used] / penalty)
    return logits


def no_repeat_ngram(ids: Rows, logits: ndarray, size: int) -> ndarray:
    """Forbid tokens that would repeat a run of `size` tokens of the row.

    Examples
    --------
    >>> no_repeat_ngram(np.array([[0, 1, 2, 0, 1]]), np.zeros((1, 4)), 3)
    array([[  0.,   0., -inf,   0.]])
    """
    logits = logits.copy()
    for row, used in zip(logits, ids, strict=True):
        if len(used) >= size:
            runs = np.lib.stride_tricks.sliding_window_view(used, size)  # (T - size + 1, size)
            begins = (runs[:, :-1] == used[len(used) - size + 1 :]).all(1)
            row[runs[begins, -1]] = -np.inf
    return logits


def no_bad_words(ids: Rows, logits: ndarray, words: Iterable[Sequence[int]]) -> ndarray:
    """Forbid the token that would complete one of some words, of one token or several.

    Examples
    --------
    >>> no_bad_words(np.array([[5, 0]]), np.zeros((1, 3)), [[0, 1], [2, 2], [2]])
    array([[  0., -inf, -inf]])
    """
    logits = logits.copy()
    for *begin, last in words:
        for row, used in zip(logits, ids, strict=True):
            if len(used) >= len(begin) and np.array_equal(used[len(used) - len(begin) :], begin):
                row[last] = -np.inf
    return logits


# ---- by the distribution alone, of which at least `keep` tokens stay


def top_k(logits: ndarray, k: int, keep: int = 1) -> ndarray:
    """Keep the k most probable tokens.

    Examples
    --------
    >>> top_k(np.array([[1.0, 3.0, 2.0]]), 2)
    array([[-inf,   3.,   2.]])
    """
    return np.where(logits < _kth(logits, max(k, keep)), -np.inf, logits)


def top_p(logits: ndarray, p: float, keep: int = 1) -> ndarray:
    """Keep the most probable tokens that have a probability of p together (Holtzman et al. 2020).

    Examples
    --------
    >>> top_p(np.log([[0.5, 0.3, 0.2]]), 0.7).round(1)
    array([[-0.7, -1.2, -inf]])
    """
    ascending = np.sort(logits, axis=-1)
    outside = (probabilities(ascending).cumsum(-1) <= 1 - p).sum(-1, keepdims=True)
    outside = np.minimum(outside, max(logits.shape[-1] - keep, 0))
    return np.where(logits < np.take_along_axis(ascending, outside, -1), -np.inf, logits)


def min_p(logits: ndarray, p: float, keep: int = 1) -> ndarray:
    """Keep tokens with at least p times the probability of the best one (Nguyen et al. 2024).

    Examples
    --------
    >>> min_p(np.log([[0.5, 0.3, 0.2]]), 0.5).round(1)
    array([[-0.7, -1.2, -inf]])
    """
    relative = np.exp(logits - logits.max(-1, keepdims=True))
    return np.where((relative < p) & (logits < _kth(logits, keep)), -np.inf, logits)


def typical_p(logits: ndarray, p: float, keep: int = 1) -> ndarray:
    """Keep the tokens whose surprise is nearest to the expected one (Meister et al. 2023).

    The expected one is the entropy; tokens with a probability of p together are kept.

    Examples
    --------
    >>> typical_p(np.log([[0.4, 0.3, 0.2, 0.1]]), 0.2).round(1)
    array([[-inf, -1.2, -inf, -inf]])
    """
    log_p = log_softmax(logits)
    prob = np.exp(log_p)
    entropy = -(prob * np.where(prob > 0, log_p, 0)).sum(-1, keepdims=True)
    distance = np.abs(-log_p - entropy)
    order = np.argsort(distance, axis=-1, kind="stable")
    inside = (np.take_along_axis(prob, order, -1).cumsum(-1) < p).sum(-1, keepdims=True)
    inside = np.clip(inside, keep - 1, logits.shape[-1] - 1)
    last = np.take_along_axis(order, inside, -1)
    return np.where(distance > np.take_along_axis(distance, last, -1), -np.inf, logits)


def _kth(logits: ndarray, k: int) -> ndarray:
    """Return the k-th largest, (B, 1)."""
    k = min(k, logits.shape[-1])
    return np.partition(logits, -k, axis=-1)[:, -k, None]


# ---- from logits to tokens


def log_softmax(logits: ndarray) -> ndarray:
    """Return the logarithms of the probabilities, (B, V)."""
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def probabilities(logits: ndarray) -> ndarray:
    """Return the softmax, (B, V)."""
    return np.exp(log_softmax(logits))


def draw(logits: ndarray, uniform: ndarray) -> ndarray:
    """Return one token a row, with its probability: the one at which the sum passes `uniform`.

    Examples
    --------
    >>> draw(np.log([[0.5, 0.3, 0.2]] * 3), np.array([0.4, 0.6, 0.9]))
    array([0, 1, 2])
    """
    cumulative = np.exp(logits - logits.max(-1, keepdims=True)).cumsum(-1)  # (B, V)
    return (cumulative > uniform[:, None] * cumulative[:, -1:]).argmax(-1)
