"""Self-attention."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
from numpy import ndarray

from autograd import Tensor, nn
from npgpt.models.config import GPTConfig, ModelConfig
from npgpt.models.context import ALONE, Context
from npgpt.models.layers import Dropout, Linear, dropout_generator
from npgpt.module import Module, Traced


class SelfAttention(Module):
    """What self-attention of all architectures has: the mask, the cache and the weighted sums.

    A subclass has the linear layers. Its `forward` makes the heads and calls `attend`.
    """

    part = "attention"
    is_causal = True  # no position looks at those after it

    def __init__(self, config: ModelConfig, layer: int):
        self.layer = layer
        self.n_head = config.n_head
        self.resid_dropout = Dropout(config.resid_pdrop)
        self.attn_pdrop = config.attn_pdrop
        self.scale = 1 / math.sqrt(config.head_size)
        self.window_size = config.window_of(layer)

    def attend(self, query: Any, key: Any, value: Any, context: Context) -> Tensor:
        """Let every position look at itself and at those before it, (B, T, H D).

        ``query (B, H, T, D)``, ``key`` and ``value (B, K, T, D)``: with fewer heads of keys than of
        queries, the queries of a group share the keys. With a cache, the positions before a
        position include the tokens that were read earlier. There are S keys in all.
        """
        query = context.wanted(query)
        B, _, T, _ = query.shape
        mask, cache = context.mask, context.cache
        if cache is not None:
            key, value = cache.extend(self.layer, key, value, self.window_size)  # (B, K, S, D)
        S = key.shape[2]
        if mask is not None:
            mask = context.wanted(mask)[..., -S:]
        is_causal = self.is_causal and T == S  # nn's option counts queries from the first key
        if self.is_causal and T < S and (T > 1 or S > (self.window_size or S)):
            seen = visible(T, S, self.window_size)
            mask = seen if mask is None else seen & mask
        attend = partial(
            nn.scaled_dot_product_attention,
            query,
            key,
            attn_mask=mask,
            is_causal=is_causal,
            scale=self.scale,
            window_size=self.window_size if is_causal else None,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        if context.capture is not None and context.capture.keeps_attentions:
            context.capture.attentions.append(  # with the identity as values: the weights
                attend(value=np.broadcast_to(np.eye(S, dtype=query.dtype), (*key.shape[:-2], S, S)))
            )
        y = attend(
            value=value,
            dropout_p=self.attn_pdrop if self.training else 0.0,
            generator=dropout_generator(),
        )
        return y.swapaxes(1, 2).reshape(B, T, -1)  # (B, H, T, D) -> (B, T, H D)

    def trace_attend(self, query: Traced, key: Traced, value: Traced) -> Traced:
        """Trace `attend` for one token, after those whose keys and values are in the cache."""
        return query.attend(key, value, self.layer, self.n_head, self.scale, self.window_size)


class Attention(SelfAttention):
    """Self-attention with several heads (Vaswani et al. 2017, section 3.2), as in GPT-2."""

    def __init__(self, config: GPTConfig, layer: int, dtype: Any):
        super().__init__(config, layer)
        width = config.n_head * config.head_size  # C, unless heads were pruned
        self.c_attn = Linear(config.n_embd, 3 * width, config.bias, dtype)
        self.c_proj = Linear(width, config.n_embd, config.bias, dtype)
        if not config.scale_attn_weights:
            self.scale = 1.0
        if config.scale_attn_by_inverse_layer_idx:
            self.scale /= layer + 1

    def forward(self, x: Tensor, context: Context = ALONE) -> Tensor:
        """Let every position look at itself and at those before it: ``(B, T, C) -> (B, T, C)``."""
        query, key, value = self.heads(x)
        y = self.attend(query, key, value, context)  # (B, T, H D)
        return self.resid_dropout(self.c_proj(y))

    def trace(self, x: Traced, context: Context = ALONE) -> Traced:
        """Trace the pass of one token, after those whose keys and values are in the cache."""
        query, key, value = self.c_attn(x).split(3)  # (B, 3 H D) -> three times (B, H D)
        return self.resid_dropout(self.c_proj(self.trace_attend(query, key, value)))

    def heads(self, x: Tensor) -> tuple[Any, ...]:
        """Return queries, keys and values: ``(B, T, C) ->`` three times ``(B, H, T, D)``."""
        B, T, _ = x.shape
        qkv = self.c_attn(x)  # (B, T, 3 H D)
        return tuple(
            part.reshape(B, T, self.n_head, -1).swapaxes(1, 2)  # (B, T, H D) -> (B, H, T, D)
            for part in np.split(qkv, 3, axis=-1)
        )


def visible(T: int, S: int, window_size: int | None) -> ndarray:
    """Return which of S positions each of the last T sees, (T, S) of bool.

    Examples
    --------
    >>> visible(2, 4, window_size=3).astype(int)
    array([[1, 1, 1, 0],
           [0, 1, 1, 1]])
    """
    seen = np.tri(T, S, S - T, dtype=bool)
    if window_size is not None:
        seen &= ~np.tri(T, S, S - T - window_size, dtype=bool)
    return seen
