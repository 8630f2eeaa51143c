"""How a model reads texts that grow: padded, cached, and through a window once they are long."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy import ndarray

from npgpt.generation.decode import Decoder
from npgpt.models.cache import KVCache
from npgpt.models.gpt import GPT


def hop(n_positions: int) -> int:
    """Return how far the window moves at a time: a quarter of the context."""
    return max(1, n_positions // 4)


def window_start(prompt_length: ndarray, length: ndarray, n_positions: int) -> ndarray:
    """Return the first token that the model sees of texts of some length.

    That is 0 while all fits. Positions are part of what a model reads, so to move the window is to
    read everything in it again: it moves by a `hop`, not by one. A prompt that is longer than the
    context is seen as far as it fits.

    Examples
    --------
    >>> lengths = np.arange(6, 14)  # of a text that begins with a prompt of 4
    >>> window_start(np.array(4), lengths, n_positions=8)
    array([0, 0, 0, 2, 2, 4, 4, 6])
    """
    cut = np.maximum(prompt_length - n_positions, 0)
    step = hop(n_positions)
    return cut + np.maximum(-(-(length - n_positions - cut) // step), 0) * step


class Reader:
    """Rows of tokens that end together, and what a model expects next.

    What it expects of a row does not depend on the rows beside it, nor on whether there is a cache.

    Parameters
    ----------
    model : GPT
    prompts : sequence of ndarray of int, (T,)
        What the rows begin with, of any lengths.
    longest : int
        Tokens that the rows will have in the end, with what aligns them.
    use_cache : bool

    Attributes
    ----------
    ids : ndarray of int64, (B, T)
        The rows, right-aligned.
    begin : ndarray of int, (B,)
        Where each of them begins.
    """

    def __init__(
        self, model: GPT, prompts: Sequence[ndarray], longest: int, use_cache: bool = True
    ) -> None:
        self.model = model
        self.n_positions = model.config.n_positions
        self.lengths = np.array([len(prompt) for prompt in prompts])
        width = self.lengths.max()
        self.begin = width - self.lengths
        self.ids = np.zeros((len(prompts), width), np.int64)
        for row, prompt in zip(self.ids, prompts, strict=True):
            row[width - len(prompt) :] = prompt
        self.cache = KVCache(min(longest, self.n_positions)) if use_cache else None
        self.decoder = Decoder(model, self.cache)
        self._cached_from: ndarray | None = None

    def rows(self) -> list[ndarray]:
        """Return the tokens of each row, (T_i,)."""
        return [row[begin:] for row, begin in zip(self.ids, self.begin, strict=True)]

    def logits(self) -> ndarray:
        """Return the logits of each row's next token, (B, V) float64."""
        stop = self.ids.shape[1]
        first = self.begin + window_start(self.lengths, stop - self.begin, self.n_positions)
        left = start = first.min()
        if self.cache is not None:
            if self._cached_from is None or not np.array_equal(first, self._cached_from):
                self.cache.length = 0
            self._cached_from = first
            start = left + self.cache.length
        mask = positions = None
        if first.max() > left:
            columns = np.arange(left, stop) - first[:, None]  # (B, S)
            mask = columns >= 0
            positions = np.maximum(columns[:, start - left :], 0)  # (B, T)
        return self.decoder(self.ids[:, start:stop], mask, positions).astype(np.float64)

    def append(self, tokens: ndarray) -> None:
        """Let each row go on with a token, (B,)."""
        self.ids = np.concatenate([self.ids, tokens[:, None]], axis=1)

    def select(self, rows: ndarray) -> None:
        """Let row i be what ``rows[i]`` was; there may be more than before."""
        if np.array_equal(rows, np.arange(len(self.ids))):
            return
        self.ids, self.begin, self.lengths = self.ids[rows], self.begin[rows], self.lengths[rows]
        if self.cache is not None and self._cached_from is not None:
            self.cache.reorder(rows)
            self._cached_from = self._cached_from[rows]
