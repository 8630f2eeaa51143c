"""The loss of a model over a text."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy import ndarray

from autograd import no_grad
from npgpt.data import random_batch, windows_at
from npgpt.model import GPT
from npgpt.nn import evaluating

Check = Callable[[], None]


def estimate_loss(
    model: GPT,
    tokens: ndarray,
    batch_size: int,
    n_batches: int,
    generator: np.random.Generator,
    check: Check = lambda: None,
) -> float:
    """Return the mean loss over random batches. `check` is called between them."""
    T = model.config.n_positions
    batches = (random_batch(tokens, batch_size, T, generator) for _ in range(n_batches))
    losses, _ = _losses(model, batches, check)
    return float(np.mean(losses))


def whole_loss(
    model: GPT,
    tokens: ndarray,
    batch_size: int | None = None,
    check: Check = lambda: None,
) -> float:
    """Return the mean loss over every token of a text but the first.

    The text is cut into windows of the context length, one after the other: each token is predicted
    once, from those before it in its window. Without a batch size, one is chosen for which the
    logits stay small.
    """
    T = model.config.n_positions
    if batch_size is None:
        batch_size = max(1, min(64, 2**22 // (T * model.config.vocab_size)))
    n_windows, rest = divmod(len(tokens) - 1, T)
    starts = list(range(0, n_windows * T, T))
    groups = [(starts[i : i + batch_size], T) for i in range(0, len(starts), batch_size)]
    if rest:
        groups.append(([n_windows * T], rest))

    def windows(starts: list[int], length: int) -> tuple[ndarray, ndarray]:
        cut = windows_at(tokens, starts, length)  # (B, length + 1)
        return cut[:, :-1], cut[:, 1:]

    losses, sizes = _losses(model, (windows(*group) for group in groups), check)
    return float(np.average(losses, weights=sizes))


def _losses(model: GPT, batches: Iterable, check: Check) -> tuple[list[float], list[int]]:
    """Return the mean loss of each batch, and how many tokens it predicts."""
    losses, sizes = [], []
    with no_grad(), evaluating():
        for inputs, targets in batches:
            check()
            losses.append(model(inputs, targets)[1].item())
            sizes.append(targets.size)
    return losses, sizes
