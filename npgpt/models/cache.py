"""The cache of keys and values, and what a decoder keeps of its source."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy import ndarray

from autograd import Tensor, is_grad_enabled

FIRST = 128  # tokens that the first arrays of a cache have memory for


class KVCache:
    """The keys and values of the tokens that a model has read, so that it reads each token once.

    Parameters
    ----------
    capacity : int
        The largest number of tokens that it may hold: at most the model's ``n_positions``. Memory
        is allocated as tokens come, so that a short text in a long context needs little.

    Attributes
    ----------
    keys, values : list of ndarray
        Those of each layer, (B, H, n, D), where n is the number of tokens that there is memory for;
        H counts heads of keys. The first `length` positions are filled. Arrays that are too small
        are replaced by larger ones.
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

    def make_room(self, batch_size: int, n_tokens: int) -> None:
        """Make room for the new tokens of a batch; raise ValueError if they cannot be stored."""
        if is_grad_enabled():
            raise ValueError("a cache holds no tape: read with it under autograd.no_grad()")
        if self.keys and len(self.keys[0]) != batch_size:
            raise ValueError(f"the cache is of {len(self.keys[0])} sequences, not {batch_size}")
        if self.length + n_tokens > self.capacity:
            raise ValueError(
                f"{self.length + n_tokens} tokens do not fit the cache of {self.capacity}"
            )
        if self.keys and self.length + n_tokens > self.keys[0].shape[2]:
            size = self._size_for(self.length + n_tokens)
            for layers in (self.keys, self.values):
                for i, old in enumerate(layers):
                    layers[i] = np.empty((*old.shape[:2], size, old.shape[3]), old.dtype)
                    layers[i][:, :, : self.length] = old[:, :, : self.length]

    def _size_for(self, n_tokens: int) -> int:
        """Return for how many tokens to allocate memory: a power of 2, or the capacity.

        A text that grows token by token is then copied a few times only, when its length doubles.
        """
        return min(self.capacity, max(FIRST, 1 << (n_tokens - 1).bit_length()))

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
                size = self._size_for(stop)
                layers.append(np.empty((*new.shape[:2], size, new.shape[3]), new.dtype))
            layers[layer][:, :, self.length : stop] = new.numpy()
            found.append(layers[layer][:, :, first:stop])
        return found[0], found[1]

    def branch(self, rows: ndarray, n_tokens: int) -> KVCache:
        """Return a new cache, whose sequence i goes on from the tokens of sequence ``rows[i]``.

        Unlike `reorder`, this cache stays as it is. The new one has memory for `n_tokens` more.
        """
        new = KVCache(self.capacity)
        new.length = self.length
        for theirs, ours in ((self.keys, new.keys), (self.values, new.values)):
            for old in theirs:
                B, H, S, D = len(rows), old.shape[1], self.length + n_tokens, old.shape[3]
                ours.append(np.empty((B, H, min(S, self.capacity), D), old.dtype))
                ours[-1][:, :, : self.length] = old[rows, :, : self.length]
        return new

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


class Memory:
    """What a decoder reads of the source: the encoder's result, in as many passes as needed.

    Parameters
    ----------
    states : Tensor, (B, S, C)
        The encoder's result.
    mask : ndarray of bool, (B, 1, 1, S), optional
        False for the padding of the source.
    """

    def __init__(self, states: Tensor, mask: ndarray | None = None):
        self.states, self.mask = states, mask
        self._heads: dict[int, tuple[Any, Any]] = {}  # of each layer, once they were needed

    def heads(self, layer: int, make: Callable[[], tuple[Any, Any]]) -> tuple[Any, Any]:
        """Return the keys and values of a layer, (B, H, S, D) each, which `make` computes.

        Under `autograd.no_grad`, they are kept: no later token computes them again.
        """
        if is_grad_enabled():
            return make()
        if layer not in self._heads:
            self._heads[layer] = make()
        return self._heads[layer]

    def reorder(self, rows: ndarray) -> None:
        """Let sequence i read the source of sequence ``rows[i]``; see `KVCache.reorder`."""
        self.states = self.states[rows]
        self.mask = None if self.mask is None else self.mask[rows]
        self._heads = {layer: (k[rows], v[rows]) for layer, (k, v) in self._heads.items()}
