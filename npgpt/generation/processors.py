"""Logits processors: functions that change the logits of the next token as the options ask.

Each function takes logits (B, V), and returns new logits of the same shape; a forbidden token has
the logit -inf. Functions that depend on the text so far also take ``ids``, the tokens of each row:
B arrays of shape (T,), where T may differ from row to row. Names, meanings and order are those of
transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np
from numpy import ndarray

from npgpt.errors import UserError
from npgpt.generation.options import Options, list_ids

Rows = Sequence[ndarray] | ndarray


def process(
    options: Options,
    ids: Rows,
    logits: ndarray,
    n_new: int,
    widths: ndarray | None = None,
    limits: ndarray | None = None,
    input_ids: ndarray | None = None,
) -> ndarray:
    """Apply all processors that the options ask for, one after the other.

    The order is that of transformers: penalties and forbidden tokens, forced tokens, the user's
    functions, temperature, and last the processors that leave fewer tokens to draw from. The order
    matters: ``top_p`` counts probabilities after ``top_k`` has removed tokens.

    Parameters
    ----------
    options : Options
    ids : sequence of ndarray of int, (T,)
        The tokens of each row, without padding.
    logits : ndarray of float64, (B, V)
    n_new : int
        The number of tokens that each row has after its prompt.
    widths : ndarray of int, (B,), optional
        The length of each prompt, padding included. If not given, the prompts have no padding.
    limits : ndarray of int, (B,), optional
        How many tokens may follow each prompt. If not given, `Options.limit` says so.
    input_ids : ndarray of int64, (B, T), optional
        The rows with their padding, for the functions in ``logits_processor``.

    Returns
    -------
    ndarray of float64, (B, V)

    Raises
    ------
    UserError
        If a function in ``logits_processor`` returns an array of another shape.

    Examples
    --------
    >>> options = Options(do_sample=True, temperature=0.5, top_k=2)
    >>> process(options, [np.array([0])], np.array([[1.0, 3.0, 2.0]]), n_new=0)
    array([[-inf,   6.,   4.]])
    """
    if widths is None:
        widths = np.array([len(row) - n_new for row in ids])
    if limits is None:
        limits = np.array([options.limit(width) for width in widths])
    if options.repetition_penalty != 1:
        logits = repetition_penalty(ids, logits, options.repetition_penalty)
    if options.no_repeat_ngram_size:
        logits = no_repeat_ngram(ids, logits, options.no_repeat_ngram_size)
    if len(options.bad_words_ids):
        words = [
            word for word in options.bad_words_ids if [*word] not in [[i] for i in options.eos]
        ]
        logits = no_bad_words(ids, logits, words)
    if options.min_new_tokens is None:
        early = widths + n_new < options.min_length
    else:
        early = np.full(len(widths), n_new < options.min_new_tokens)
    logits = suppress(logits, options.eos, early)
    if options.forced_bos:
        logits = force(logits, options.forced_bos, widths + n_new == 1)
    if options.forced_eos:
        logits = force(logits, options.forced_eos, limits - n_new == 1)
    logits = suppress(logits, list_ids(options.suppress_tokens), np.ones(len(widths), bool))
    forced = (widths == 1) & bool(options.forced_bos)
    logits = suppress(logits, list_ids(options.begin_suppress_tokens), forced == n_new)
    for function in options.processors:
        logits = call(function, np.stack([*ids]) if input_ids is None else input_ids, logits)
    if not options.do_sample:
        return logits
    if options.temperature != 1:
        logits = logits / options.temperature
    # Where one token of a beam ends the text, the beam needs another to go on: so keep two or more.
    keep = 1 if options.num_beams == 1 else max(2, 1 + len(options.eos))
    if options.top_k:
        logits = top_k(logits, options.top_k, keep)
    if options.top_p < 1:
        logits = top_p(logits, options.top_p, keep)
    if options.min_p:
        logits = min_p(logits, options.min_p, keep)
    if options.typical_p < 1:
        logits = typical_p(logits, options.typical_p, keep)
    if 0 < options.epsilon_cutoff < 1:
        logits = epsilon_cutoff(logits, options.epsilon_cutoff, keep)
    if 0 < options.eta_cutoff < 1:
        logits = eta_cutoff(logits, options.eta_cutoff, keep)
    return logits


# ---- by the tokens so far


def repetition_penalty(ids: Rows, logits: ndarray, penalty: float) -> ndarray:
    """Make the tokens that occur in a row less probable (Keskar et al. 2019, section 4.1).

    A positive logit is divided by the penalty, and a negative logit is multiplied by it.

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
    """Forbid the tokens that would repeat a sequence of `size` tokens that the row already has.

    In the example the row ends with 0, 1. The row already has the sequence 0, 1, 2, so 2 is
    forbidden.

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
    """Forbid the last token of each word whose other tokens are the end of the row.

    A word is a sequence of one or more tokens. In the example, the row ends with 0. So 1, which
    would complete the word 0, 1, is forbidden; the word of the single token 2 is always forbidden.

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


# ---- by the position in the text


def suppress(logits: ndarray, tokens: Collection[int], where: ndarray) -> ndarray:
    """Forbid tokens in the rows in which ``where``, a bool array (B,), is True.

    Examples
    --------
    >>> suppress(np.zeros((2, 3)), [2], np.array([False, True]))
    array([[  0.,   0.,   0.],
           [  0.,   0., -inf]])
    """
    if not len(tokens) or not where.any():
        return logits
    logits = logits.copy()
    logits[np.flatnonzero(where)[:, None], [*tokens]] = -np.inf
    return logits


def force(logits: ndarray, tokens: Collection[int], where: ndarray) -> ndarray:
    """Allow only some tokens, with the logit 0, in the rows in which ``where (B,)`` is True.

    Examples
    --------
    >>> force(np.ones((2, 3)), [2], np.array([False, True]))
    array([[  1.,   1.,   1.],
           [-inf, -inf,   0.]])
    """
    if not where.any():
        return logits
    logits = np.where(where[:, None], -np.inf, logits)
    logits[np.flatnonzero(where)[:, None], [*tokens]] = 0
    return logits


def call(function: Callable, input_ids: ndarray, logits: ndarray) -> ndarray:
    """Return the logits that a user's function returns for copies of the rows and logits.

    Raises
    ------
    UserError
        If the function returns an array of another shape.
    """
    found = np.asarray(function(input_ids.copy(), logits.copy()), np.float64)
    if found.shape != logits.shape:
        raise UserError(
            f"logits_processor returned an array of shape {found.shape}; it must return new "
            f"scores, of shape {logits.shape}"
        )
    return found


# ---- by the distribution alone; at least `keep` tokens are kept


def top_k(logits: ndarray, k: int, keep: int = 1) -> ndarray:
    """Keep the k most probable tokens, and those with the same logit as the k-th.

    Examples
    --------
    >>> top_k(np.array([[1.0, 3.0, 2.0]]), 2)
    array([[-inf,   3.,   2.]])
    """
    return np.where(logits < _kth(logits, max(k, keep)), -np.inf, logits)


def top_p(logits: ndarray, p: float, keep: int = 1) -> ndarray:
    """Keep the fewest most probable tokens whose probabilities sum to p (Holtzman et al. 2020).

    In the example 0.5 is less than 0.7, and 0.5 + 0.3 is more, so two tokens are kept.

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
    """Keep tokens with at least p times the highest probability (Nguyen et al. 2024).

    Examples
    --------
    >>> min_p(np.log([[0.5, 0.3, 0.2]]), 0.5).round(1)
    array([[-0.7, -1.2, -inf]])
    """
    relative = np.exp(logits - logits.max(-1, keepdims=True))
    return np.where((relative < p) & (logits < _kth(logits, keep)), -np.inf, logits)


def typical_p(logits: ndarray, p: float, keep: int = 1) -> ndarray:
    """Keep the tokens whose surprise is nearest to the entropy (Meister et al. 2023).

    The surprise of a token is -log(probability); its expected value is the entropy. Tokens are
    kept in the order of the distance between the two, until their probabilities sum to p.

    Examples
    --------
    >>> typical_p(np.log([[0.4, 0.3, 0.2, 0.1]]), 0.2).round(1)
    array([[-inf, -1.2, -inf, -inf]])
    """
    log_p = log_softmax(logits)
    prob = np.exp(log_p)
    distance = np.abs(-log_p - _entropy(log_p))
    order = np.argsort(distance, axis=-1, kind="stable")
    inside = (np.take_along_axis(prob, order, -1).cumsum(-1) < p).sum(-1, keepdims=True)
    inside = np.clip(inside, keep - 1, logits.shape[-1] - 1)
    last = np.take_along_axis(order, inside, -1)
    return np.where(distance > np.take_along_axis(distance, last, -1), -np.inf, logits)


def epsilon_cutoff(logits: ndarray, epsilon: float, keep: int = 1) -> ndarray:
    """Keep the tokens with a probability of at least epsilon (Hewitt et al. 2022, section 3).

    Examples
    --------
    >>> epsilon_cutoff(np.log([[0.5, 0.3, 0.2]]), 0.25).round(1)
    array([[-0.7, -1.2, -inf]])
    """
    improbable = probabilities(logits) < epsilon
    return np.where(improbable & (logits < _kth(logits, keep)), -np.inf, logits)


def eta_cutoff(logits: ndarray, epsilon: float, keep: int = 1) -> ndarray:
    """Keep the tokens whose probability reaches a bound that falls as the entropy grows.

    The bound is the smaller of epsilon and sqrt(epsilon) * exp(-entropy) (Hewitt et al. 2022,
    algorithm 1). So where many tokens are possible, less probable tokens are kept, too.

    Examples
    --------
    >>> eta_cutoff(np.log([[0.5, 0.3, 0.2]]), 0.4).round(1)
    array([[-0.7, -1.2, -inf]])
    """
    bound = np.minimum(epsilon, np.sqrt(epsilon) * np.exp(-_entropy(log_softmax(logits))))
    improbable = probabilities(logits) < bound
    return np.where(improbable & (logits < _kth(logits, keep)), -np.inf, logits)


def _entropy(log_p: ndarray) -> ndarray:
    """Return the entropy of each row, (B, 1)."""
    return -(np.exp(log_p) * np.where(log_p > -np.inf, log_p, 0)).sum(-1, keepdims=True)


def _kth(logits: ndarray, k: int) -> ndarray:
    """Return the k-th largest logit of each row, (B, 1)."""
    k = min(k, logits.shape[-1])
    return np.partition(logits, -k, axis=-1)[:, -k, None]


# ---- from logits to tokens


def log_softmax(logits: ndarray) -> ndarray:
    """Return the logarithms of the probabilities, (B, V), of logits (B, V)."""
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def probabilities(logits: ndarray) -> ndarray:
    """Return the softmax, (B, V), of logits (B, V)."""
    return np.exp(log_softmax(logits))


def draw(logits: ndarray, uniform: ndarray) -> ndarray:
    """Draw one token for each row of logits (B, V), by the tokens' probabilities.

    Each row has a random number in [0, 1), ``uniform (B,)``. The probabilities are added from the
    first token on; the token at which the sum passes the random number is drawn. In the example the
    sums are 0.5, 0.8 and 1, so 0.6 draws the token 1.

    Examples
    --------
    >>> draw(np.log([[0.5, 0.3, 0.2]] * 3), np.array([0.4, 0.6, 0.9]))
    array([0, 1, 2])
    """
    cumulative = np.exp(logits - logits.max(-1, keepdims=True)).cumsum(-1)  # (B, V)
    return (cumulative > uniform[:, None] * cumulative[:, -1:]).argmax(-1)
