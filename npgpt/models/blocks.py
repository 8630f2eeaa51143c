"""The transformer block."""

from __future__ import annotations

from typing import Any

from autograd import Tensor
from npgpt.models.attention import Attention
from npgpt.models.config import GPTConfig
from npgpt.models.context import ALONE, Context
from npgpt.models.layers import ACTIVATIONS, Dropout, LayerNorm, Linear
from npgpt.module import Module, Traced


class MLP(Module):
    """Two linear layers with an activation between them, the same at every position."""

    part = "MLPs"

    def __init__(self, config: GPTConfig, dtype: Any):
        self.c_fc = Linear(config.n_embd, config.mlp_width, config.bias, dtype)
        self.c_proj = Linear(config.mlp_width, config.n_embd, config.bias, dtype)
        self.activation = ACTIVATIONS[config.activation_function]
        self.dropout = Dropout(config.resid_pdrop)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, T, C) -> (B, T, mlp_width) -> (B, T, C)``."""
        return self.dropout(self.c_proj(self.activation(self.c_fc(x))))

    def trace(self, x: Traced) -> Traced:
        """Trace the same; the activation is a function, and takes numbers only."""
        return self.dropout(self.c_proj(self.c_fc(x).activation(self.activation)))


class Block(Module):
    """Attention, then an MLP: each has a norm, and its result is added to what it read."""

    def __init__(self, config: GPTConfig, layer: int, dtype: Any):
        eps = config.layer_norm_epsilon
        self.post_norm = config.norm_position == "post"
        self.ln_1 = LayerNorm(config.n_embd, config.bias, eps, dtype)
        self.attn = Attention(config, layer, dtype)
        self.ln_2 = LayerNorm(config.n_embd, config.bias, eps, dtype)
        self.mlp = MLP(config, dtype)

    def forward(self, x: Tensor, context: Context = ALONE) -> Tensor:
        """Map ``(B, T, C) -> (B, T, C)``, or to ``(B, 1, C)`` with ``context.only_last``."""
        if self.post_norm:  # GPT-1 normalizes each sum; GPT-2 normalizes what is read
            x = self.ln_1(context.wanted(x) + self.attn(x, context))
            return self.ln_2(x + self.mlp(x))
        x = context.wanted(x) + self.attn(self.ln_1(x), context)
        return x + self.mlp(self.ln_2(x))

    trace = forward  # which calls modules, and adds: nothing else is to be traced
