"""Heads: what turns the last hidden states into results, and the loss of these."""

from __future__ import annotations

from numpy import ndarray

from autograd import Tensor, nn
from npgpt.module import Module, Parameter, Traced


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


def next_token_loss(logits: Tensor, targets: ndarray, label_smoothing: float = 0.0) -> Tensor:
    """Return the mean cross-entropy of ``logits (B, T, V)`` at ``targets (B, T)``.

    A target of -100 does not count. Label smoothing is that of PyTorch's ``cross_entropy``.
    """
    rows = logits.reshape(-1, logits.shape[-1])  # (B, T, V) -> (B T, V), a view
    return nn.cross_entropy(rows, targets.reshape(-1), label_smoothing=label_smoothing)
