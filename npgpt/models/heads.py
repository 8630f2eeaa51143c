"""Heads: what turns the last hidden states into results, and the loss of these."""

from __future__ import annotations

import numpy as np
from numpy import ndarray
from numpy.typing import ArrayLike

from autograd import Tensor, nn
from npgpt.module import Module, Parameter, Traced, check_ids


class Head(Module):
    """The map from a hidden state to the logits of the next token."""

    part = "head"

    def __init__(self, weight: Parameter):
        self.weight = weight  # (V, C), the token embedding's own where they are tied

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., C) -> (..., V)``."""
        return x @ self.weight.T

    def trace(self, x: Traced) -> Traced:
        """Trace the product."""
        return x.linear(self.weight.numpy().T)


def check_targets(targets: ArrayLike, vocab_size: int) -> ndarray:
    """Return targets as an array; refuse one that is no token, and not -100."""
    found = np.asarray(targets)
    check_ids("targets", found, vocab_size, "the vocabulary has {} tokens", ignored=-100)
    return found


def next_token_loss(logits: Tensor, targets: ndarray, label_smoothing: float = 0.0) -> Tensor:
    """Return the mean cross-entropy of ``logits (B, T, V)`` at ``targets (B, T)``.

    A target of -100 does not count. Label smoothing is that of PyTorch's ``cross_entropy``.
    """
    rows = logits.reshape(-1, logits.shape[-1])  # (B, T, V) -> (B T, V), a view
    return nn.cross_entropy(rows, targets.reshape(-1), label_smoothing=label_smoothing)
