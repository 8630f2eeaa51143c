"""The cache of keys and values."""

from __future__ import annotations

import numpy as np
from numpy import ndarray

from autograd import Tensor, is_grad_enabled


class KVCache:
    """The keys and values of the tokens that a model has read, so that it reads each token once.

    Parameters
    ----------
    capacity : int
        The number of tokens that it has room for: at most the model's ``n_positions``.

    Attributes
    ----------
    keys, values : list of ndarray
        Those of each layer, (B, H, capacity, D); made when the layer first stores some. The first
        `length` positions are filled.
    length : int
        The number of tokens that were read, of each sequence.

    Examples
    --------
    >>> import numpy as np
    >>> from autograd import no_grad
    >>> from npgpt import GPT, GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=65, n_positions=8, n_embd=16, n_layer=2, n_head=2)).eval()
    >>> cache = KVCache(capacity=8)
    >>> with no_grad():
    ...     first = model(np.array([[1, 2, 3]]), cache=cache)[0]
    ...     second = model(np.array([[4]]), cache=cache)[0]  # sees all four tokens
    >>> first.shape, second.shape, cache.length
    ((1, 3, 65), (1, 1, 65), 4)
    """

    def __init__(self, capacity: int):
        self.capacity = capacity
        self.length = 0
        self.keys: list[ndarray] = []
        self.values: list[ndarray] = []

    def demand_room(self, batch_size: int, n_tokens: int) -> None:
        """Raise ValueError unless the new tokens of a batch can be stored."""
        if is_grad_enabled():
            raise ValueError("a cache holds no tape: read with it under autograd.no_grad()")
        if self.keys and len(self.keys[0]) != batch_size:
            raise ValueError(f"the cache is of {len(self.keys[0])} sequences, not {batch_size}")
        if self.length + n_tokens > self.capacity:
            raise ValueError(
                f"{self.length + n_tokens} tokens do not fit the cache of {self.capacity}"
            )

    def extend(
        self, layer: int, key: Tensor, value: Tensor, window_size: int | None
    ) -> tuple[ndarray, ndarray]:
        """Store a layer's new keys and values, (B, H, T, D); return those that the queries see.

        The result is (B, H, S, D): the keys and values of all tokens so far. With a window, the
        first one is the first that the first of the T queries sees.
        """
        stop = self.length + key.shape[2]
        first = 0 if window_size is None else max(0, self.length + 1 - window_size)
        found = []
        for layers, new in ((self.keys, key), (self.values, value)):
            if layer == len(layers):
                layers.append(np.empty((*new.shape[:2], self.capacity, new.shape[3]), new.dtype))
            layers[layer][:, :, self.length : stop] = new.numpy()
            found.append(layers[layer][:, :, first:stop])
        return found[0], found[1]

    def reorder(self, rows: ndarray) -> None:
        """Let sequence i go on from the tokens of sequence ``rows[i]``.

        In beam search, one beam ends and another one splits: ``rows`` is then [0, 0, 2], say. There
        may be more rows than before, where several texts continue one prompt.
        """
        past = slice(self.length)
        for layers in (self.keys, self.values):
            for i, old in enumerate(layers):
                if len(rows) != len(old):
                    layers[i] = np.empty((len(rows), *old.shape[1:]), old.dtype)
                    layers[i][:, :, past] = old[rows, :, past]
                else:
                    (moved,) = np.nonzero(rows != np.arange(len(rows)))
                    old[moved, :, past] = old[rows[moved], :, past]
