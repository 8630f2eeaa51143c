"""The loss of a model over a text, or over any batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy import ndarray

from autograd import Tensor, no_grad
from npgpt.models.gpt import GPT
from npgpt.module import evaluating
from npgpt.training.data import IGNORED, AnyBatch, Batch, n_predicted, separated, windows_at

Check = Callable[[], None]
Objective = Callable[..., tuple[Tensor, Tensor | None]]
"""What maps a batch to an output, and the mean loss of its targets: a model, for example."""


def mean_loss(model: Objective, batches: Iterable[AnyBatch], check: Check = lambda: None) -> float:
    """Return the mean loss over all targets of some batches; 0 if they have no target.

    The mean of the batches' losses is weighted by their numbers of targets. `check` is called
    before each batch: it may raise to end the evaluation.
    """
    losses, sizes = batch_losses(model, batches, check)
    return float(np.average(losses, weights=sizes)) if len(sizes) else 0.0


def batch_losses(
    model: Objective, batches: Iterable[AnyBatch], check: Check = lambda: None
) -> tuple[ndarray, ndarray]:
    """Return the mean loss of each batch, and its number of targets, (B,) each.

    A batch without a target is left out. See `mean_loss`.
    """
    losses, sizes = [], []
    with no_grad(), evaluating():
        for batch in batches:
            check()
            if size := n_predicted(batch.targets):
                loss: Any = model(*batch)[1]
                losses.append(loss.item())
                sizes.append(size)
    return np.array(losses), np.array(sizes)


def whole_loss(
    model: GPT,
    tokens: ndarray,
    batch_size: int | None = None,
    check: Check = lambda: None,
    end: int | None = None,
) -> float:
    """Return the mean loss over every token of a text but the first.

    The text is cut into windows of the context length, one after the other. Each token is predicted
    once, from the tokens before it in its window.

    Parameters
    ----------
    model : GPT
    tokens : ndarray of int, (N,)
    batch_size : int, optional
        Windows in a batch. By default it is chosen so that the logits stay small.
    check : callable
        Called before each batch; see `mean_loss`.
    end : int, optional
        The end token. If it is given, documents are kept apart (`npgpt.training.data.separated`),
        and the first token of each document is not predicted.

    Examples
    --------
    >>> import numpy as np
    >>> from npgpt import GPT, GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=5, n_positions=4, n_embd=8, n_layer=1, n_head=1))
    >>> round(whole_loss(model, np.arange(23) % 5), 1)  # an untrained model: log(5) or so
    1.6
    """
    T = model.config.n_positions
    if batch_size is None:
        batch_size = max(1, min(64, 2**22 // (T * model.config.vocab_size)))
    return mean_loss(model, every_window(tokens, T, batch_size, end), check)


def every_window(
    tokens: ndarray, length: int, batch_size: int, end: int | None, stride: int | None = None
) -> Iterator[Batch]:
    """Yield the windows of a text in their order; the last batch is one, shorter, window.

    Ten tokens, with a length of 4 and a batch size of 2, are a batch of tokens 0-3 and 4-7 (with
    targets 1-4 and 5-8), and a batch of token 8 alone (with target 9).

    A window begins `stride` tokens after the one before it; if not given, where that one ends. A
    token that several windows reach is a target of the first of them only. So with a stride of 2,
    the second window is tokens 2-5, and its targets are 5 and 6: each has at least two tokens
    before it in the window.
    """
    stride = length if stride is None else stride
    n_targets = len(tokens) - 1
    n_windows = max(0, (n_targets - length) // stride + 1)
    starts = range(0, n_windows * stride, stride)
    groups = [(starts[i : i + batch_size], length, stride) for i in range(0, n_windows, batch_size)]
    begin = n_windows * stride
    reached = begin + length - stride if n_windows else 0
    if reached < n_targets:
        groups.append((range(begin, begin + 1), n_targets - begin, n_targets - reached))
    for group, n, n_new in groups:
        cut = windows_at(tokens, group, n)  # (B, n + 1)
        targets = cut[:, 1:]
        if n_new < n:
            targets = targets.copy()
            targets[1 if group[0] == 0 else 0 :, : n - n_new] = IGNORED
        yield separated(cut[:, :-1], targets, end)
