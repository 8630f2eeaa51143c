"""An n-gram model: a baseline that any language model should beat."""

from __future__ import annotations

import numpy as np
from numpy import ndarray

from npgpt.errors import UserError


class NGram:
    """Predicts a token from the last few tokens, by counts of how often each token followed them.

    The estimates of all lengths are mixed as Witten and Bell (1991) do. After a context that occurs
    c times with t different followers, a token that follows n times has the probability

        p(token | context) = (n + t p(token | shorter context)) / (c + t)

    where the shorter context lacks the first token, and without any context all tokens have the
    probability 1 / V. So no probability is 0.

    Parameters
    ----------
    tokens : ndarray of int, (N,)
        The text to count in.
    n_vocab : int
        How many tokens there are, V.
    order : int
        The length of an n-gram: `order` - 1 tokens of context.

    Examples
    --------
    >>> model = NGram(np.array([0, 1, 0, 1, 0]), n_vocab=3, order=2)
    >>> np.exp(-model.losses(np.array([0, 1, 1]))).round(3)  # of the second token and the third
    array([0.794, 0.127])
    """

    def __init__(self, tokens: ndarray, n_vocab: int, order: int = 3) -> None:
        if not len(tokens):
            raise UserError("the text in which n-grams are counted is empty: give a longer text")
        self.n_vocab = n_vocab
        self._contexts: list[ndarray] = []  # of each length, the keys of those that occur, sorted
        self._followers: list[ndarray] = []  # the keys of contexts with a token after them, sorted
        self._counts: list[ndarray] = []  # how often each of these occurs
        self._totals: list[tuple[ndarray, ndarray]] = []  # of each context: c and t
        context = np.zeros(len(tokens), np.int64)  # the number of the context before each token
        for length in range(order):
            first = tokens[length:].astype(np.int64)  # the tokens with so many before them
            followers, counts = np.unique(context * n_vocab + first, return_counts=True)
            owner = followers // n_vocab
            totals = np.bincount(owner, counts), np.bincount(owner)
            self._followers.append(followers)
            self._counts.append(counts)
            self._totals.append(totals)
            if length + 1 == order or len(first) < 2:
                break
            # the next context begins one token earlier: a token, and the context after it
            keys = context[1:] * n_vocab + tokens[: -length - 1]
            contexts, context = np.unique(keys, return_inverse=True)
            self._contexts.append(contexts)

    def losses(self, tokens: ndarray) -> ndarray:
        """Return the negative log-probability of each token but the first, (N - 1,)."""
        found = np.full(len(tokens) - 1, 1 / self.n_vocab)
        context = np.zeros(len(tokens), np.int64)  # -1: one that does not occur
        for length, followers in enumerate(self._followers):
            where = max(length, 1)  # the first token that is predicted with this context
            own = context[where - length :]
            target = tokens[where:].astype(np.int64)
            n = _look_up(followers, own * self.n_vocab + target, self._counts[length])
            n, (c, t) = np.where(own < 0, 0, n), (x[own] for x in self._totals[length])
            mixed = (n + t * found[where - 1 :]) / (c + t)
            found[where - 1 :] = np.where(own < 0, found[where - 1 :], mixed)
            if length < len(self._contexts):
                keys = context[1:] * self.n_vocab + tokens[: -length - 1]
                numbers = np.arange(len(self._contexts[length])) + 1
                number = _look_up(self._contexts[length], keys, numbers) - 1
                context = np.where(context[1:] < 0, -1, number)
        return -np.log(found)


def _look_up(keys: ndarray, wanted: ndarray, values: ndarray) -> ndarray:
    """Return the value of each wanted key, and 0 for one that is not there; keys are sorted."""
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)
