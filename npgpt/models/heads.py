"""Heads: what turns the last hidden states into results, and the loss of these."""

from __future__ import annotations

import numpy as np
from numpy import ndarray
from numpy.typing import ArrayLike

from autograd import Tensor, nn
from npgpt.errors import UserError
from npgpt.models.layers import Weighted
from npgpt.module import Parameter, Traced, check_ids


class Head(Weighted):
    """The map from a hidden state to the logits of the next token."""

    part = "head"

    def __init__(self, weight: Parameter):
        self.weight = weight  # (V, C), the token embedding's own where they are tied

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., C) -> (..., V)``."""
        return x @ self.used_weight().T

    def trace(self, x: Traced) -> Traced:
        """Trace the product."""
        return x.linear(self.used_weight().numpy().T)


def check_targets(targets: ArrayLike, vocab_size: int) -> ndarray:
    """Return targets as an array; refuse one that is no token, and not -100."""
    found = np.asarray(targets)
    check_ids("targets", found, vocab_size, "the vocabulary has {} tokens", ignored=-100)
    return found


def check_labels(targets: ArrayLike, n_texts: int, n_labels: int) -> ndarray:
    """Return a label for each text as an array, or a number if there is only one label.

    Refuse another shape, and what is neither a label nor -100, for a text that does not count.
    """
    found = np.asarray(targets)
    if found.shape != (n_texts,):
        raise UserError(
            f"targets has shape {found.shape}; a label for each text is expected, {(n_texts,)}"
        )
    if n_labels > 1:
        check_ids("targets", found, n_labels, "there are {} labels", ignored=-100)
    elif found.dtype.kind not in "iuf":
        raise UserError(f"targets holds {found.dtype}; with one label, numbers are expected")
    return found


def check_spans(targets: ArrayLike, n_texts: int, length: int) -> ndarray:
    """Return the first and the last position of each answer, (B, 2); -100 does not count."""
    found = np.asarray(targets)
    if found.shape != (n_texts, 2):
        raise UserError(
            f"targets has shape {found.shape}; the first and the last position of the answer in "
            f"each text are expected, {(n_texts, 2)}"
        )
    check_ids("targets", found, length, "the texts have {} tokens", ignored=-100)
    return found


def span_loss(logits: Tensor, targets: ndarray, label_smoothing: float = 0.0) -> Tensor:
    """Return the mean of the loss of starts and of that of ends.

    The logits are (B, T, 2) and the targets (B, 2). Each loss is a cross-entropy over the positions
    of a text (Devlin et al. 2018, section 4.2).
    """
    losses = [
        nn.cross_entropy(logits[:, :, side], targets[:, side], label_smoothing=label_smoothing)
        for side in (0, 1)
    ]
    return (losses[0] + losses[1]) * 0.5


def label_loss(logits: Tensor, targets: ndarray, label_smoothing: float = 0.0) -> Tensor:
    """Return the mean cross-entropy of ``logits (B, labels)``, or the mean square of one column."""
    if logits.shape[-1] == 1:
        return np.mean((logits[:, 0] - targets.astype(logits.dtype)) ** 2)
    return nn.cross_entropy(logits, targets, label_smoothing=label_smoothing)


def last_of(x: Tensor, attention_mask: ArrayLike | None) -> Tensor:
    """Return the state of each text's last token that is not padding: ``(B, T, C) -> (B, C)``."""
    if attention_mask is None:
        return x[:, -1]
    seen = np.asarray(attention_mask) != 0  # (B, T)
    if seen.ndim != 2 or not seen.any(axis=1).all():
        raise UserError(
            f"attention_mask has shape {seen.shape}; a model with labels needs one of shape (B, T) "
            "with a token in each row"
        )
    last = seen.shape[1] - 1 - np.argmax(seen[:, ::-1], axis=1)
    return x[np.arange(len(x)), last]


def next_token_loss(logits: Tensor, targets: ndarray, label_smoothing: float = 0.0) -> Tensor:
    """Return the mean cross-entropy of ``logits (B, T, V)`` at ``targets (B, T)``.

    A target of -100 does not count. Label smoothing is that of PyTorch's ``cross_entropy``.
    """
    rows = logits.reshape(-1, logits.shape[-1])  # (B, T, V) -> (B T, V), a view
    return nn.cross_entropy(rows, targets.reshape(-1), label_smoothing=label_smoothing)


def next_token_losses(logits: Tensor, targets: ndarray, label_smoothing: float = 0.0) -> Tensor:
    """Return the loss of each token, (B, T), of which `next_token_loss` is the mean; 0 at -100."""
    rows = logits.reshape(-1, logits.shape[-1])  # (B, T, V) -> (B T, V), a view
    losses = nn.cross_entropy(
        rows, targets.reshape(-1), reduction="none", label_smoothing=label_smoothing
    )
    return losses.reshape(targets.shape)
