"""Reading texts that grow by a token at a time: padding, the cache, and the window.

Several texts are rows of one array, aligned at their ends. A model has a context of `n_positions`
tokens. It sees a longer text through a window: the last tokens, as many as fit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy import ndarray

from npgpt.errors import UserError
from npgpt.generation.decode import Decoder
from npgpt.models.bert import Bert
from npgpt.models.cache import KVCache, Memory
from npgpt.models.gpt import GPT


def window_step(n_positions: int) -> int:
    """Return by how many tokens the window moves at a time: a quarter of the context."""
    return max(1, n_positions // 4)


def window_start(prompt_length: ndarray, length: ndarray, n_positions: int) -> ndarray:
    """Return the index of the first token in the window of each text.

    The index is 0 while the whole text fits. When the window moves, each token in it has a new
    position, so the model must read all of the window again. Therefore the window does not move by
    one token at each step, but by `window_step` tokens, when it is full. A prompt that is longer
    than the context begins with its last `n_positions` tokens in the window.

    Parameters
    ----------
    prompt_length : ndarray of int
        The number of tokens of each prompt.
    length : ndarray of int
        The number of tokens of each text so far, of a shape that broadcasts with the first.
    n_positions : int
        The model's context length.

    Returns
    -------
    ndarray of int

    Examples
    --------
    >>> lengths = np.arange(6, 14)  # of a text that begins with a prompt of 4
    >>> window_start(np.array(4), lengths, n_positions=8)
    array([0, 0, 0, 2, 2, 4, 4, 6])
    """
    cut = np.maximum(prompt_length - n_positions, 0)
    step = window_step(n_positions)
    return cut + np.maximum(-(-(length - n_positions - cut) // step), 0) * step


class Reader:
    """Texts that grow together, and the model's logits for the next token of each text.

    The texts are the rows of an array, aligned at their ends:

        prompts [5, 6, 7] and [9]        ids = [[5, 6, 7],   begin = [0,
                                                [0, 0, 9]]            2]

    The logits of a row do not depend on the other rows, nor on `use_cache`. A step is a call of
    `logits`, in which the model reads the tokens that are not in the cache, and a call of `append`.

    Parameters
    ----------
    model : GPT
    prompts : sequence of ndarray of int, (T,)
        The first tokens of each row. Prompts may differ in length.
    longest : int
        The largest number of columns that `ids` will have.
    use_cache : bool
        Whether to keep the keys and values of the tokens that the model has read.
    cache : KVCache, optional
        A cache that holds the beginning of the prompts already: each prompt's first `cache.length`
        tokens, which must be fewer than all of them. The prompts must have one length.
    memory : Memory, optional
        The sources of the rows, if the model is an encoder-decoder: the rows are then its targets.

    Attributes
    ----------
    ids : ndarray of int64, (B, T)
        The rows, aligned at their ends.
    begin : ndarray of int, (B,)
        The column in which each row begins.

    Examples
    --------
    >>> import autograd
    >>> from npgpt import GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=10, n_positions=8, n_embd=16, n_layer=1, n_head=2))
    >>> reader = Reader(model, [np.array([5, 6, 7]), np.array([9])], longest=4)
    >>> with autograd.no_grad():
    ...     reader.logits().shape
    (2, 10)
    >>> reader.append(np.array([1, 2]))
    >>> reader.ids
    array([[5, 6, 7, 1],
           [0, 0, 9, 2]])
    """

    def __init__(
        self,
        model: GPT,
        prompts: Sequence[ndarray],
        longest: int,
        use_cache: bool = True,
        cache: KVCache | None = None,
        memory: Memory | None = None,
    ) -> None:
        if isinstance(model, Bert):
            raise UserError(
                "a BERT reads a text in both directions, and cannot continue one; npgpt fill "
                "fills gaps with it, and npgpt embed makes vectors of sentences"
            )
        if not model.predicts_tokens:
            raise UserError(
                "the model judges a text, and cannot continue one; npgpt classify prints its labels"
            )
        self.model, self.memory = model, memory
        self.n_positions = model.config.n_positions
        self.lengths = np.array([len(prompt) for prompt in prompts])
        width = self.lengths.max()
        self.begin = width - self.lengths
        self.ids = np.zeros((len(prompts), width), np.int64)
        for row, prompt in zip(self.ids, prompts, strict=True):
            row[width - len(prompt) :] = prompt
        self._cached_from = None if cache is None else self.begin
        if cache is None and use_cache:
            cache = KVCache(min(longest, self.n_positions))
        self.cache = cache
        self.decoder = Decoder(model, self.cache, memory)

    def rows(self) -> list[ndarray]:
        """Return the tokens of each row without padding: B arrays of shape (T,)."""
        return [row[begin:] for row, begin in zip(self.ids, self.begin, strict=True)]

    def logits(self) -> ndarray:
        """Return the logits of each row's next token, float64 (B, V).

        The model reads the columns from `start` on: with a cache, only the columns that came since
        the last call. If the window of a row has moved, the cache is emptied, and the whole window
        is read again. Where rows begin in different columns, the mask hides the padding, and each
        row counts its positions from its own first token.
        """
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
        """Add one token to the end of each row; tokens are (B,)."""
        self.ids = np.concatenate([self.ids, tokens[:, None]], axis=1)

    def select(self, rows: ndarray) -> None:
        """Replace the rows: the new row i is a copy of the row with the index ``rows[i]``.

        The number of rows may change: ``select([0, 0, 1])`` makes three rows of two.
        """
        if np.array_equal(rows, np.arange(len(self.ids))):
            return
        self.ids, self.begin, self.lengths = self.ids[rows], self.begin[rows], self.lengths[rows]
        if self.cache is not None and self._cached_from is not None:
            self.cache.reorder(rows)
            self._cached_from = self._cached_from[rows]
        if self.memory is not None:
            self.memory.reorder(rows)
