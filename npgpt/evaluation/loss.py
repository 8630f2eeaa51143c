"""The loss of a model over a text."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy import ndarray

from autograd import no_grad
from npgpt.models.gpt import GPT
from npgpt.module import evaluating
from npgpt.training.data import n_predicted, random_batch, separated, windows_at

Check = Callable[[], None]


def estimate_loss(
    model: GPT,
    tokens: ndarray,
    batch_size: int,
    n_batches: int,
    generator: np.random.Generator,
    check: Check = lambda: None,
    end: int | None = None,
) -> float:
    """Return the mean loss over random batches. `check` is called between them.

    With an end token, documents are kept apart (`npgpt.training.data.separated`).
    """
    T = model.config.n_positions
    batches = (random_batch(tokens, batch_size, T, generator) for _ in range(n_batches))
    return _mean_loss(model, batches, check, end)


def whole_loss(
    model: GPT,
    tokens: ndarray,
    batch_size: int | None = None,
    check: Check = lambda: None,
    end: int | None = None,
) -> float:
    """Return the mean loss over every token of a text but the first.

    The text is cut into windows of the context length, one after the other: each token is predicted
    once, from those before it in its window. Without a batch size, one is chosen for which the
    logits stay small. With an end token, documents are kept apart
    (`npgpt.training.data.separated`), and the first token of each is not predicted.
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

    return _mean_loss(model, (windows(*group) for group in groups), check, end)


def _mean_loss(model: GPT, batches: Iterable, check: Check, end: int | None) -> float:
    """Return the mean loss over all tokens that batches predict; 0 if they predict none."""
    losses, sizes = [], []
    with no_grad(), evaluating():
        for inputs, targets in batches:
            check()
            batch = separated(inputs, targets, end)
            if size := n_predicted(batch.targets):
                losses.append(model(*batch)[1].item())
                sizes.append(size)
    return float(np.average(losses, weights=sizes)) if sizes else 0.0
