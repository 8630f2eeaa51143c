"""What stands on top of a transformer."""

from __future__ import annotations

from autograd import Tensor
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
