"""GPT-1, GPT-2 and GPT-3: from token ids to the logits of the next token, top to bottom.

Shapes: B sequences, T positions, C = n_embd channels, H heads of D = C / H channels, V tokens.
Parameters have the names of Hugging Face's GPT-2: ``transformer.h.0.attn.c_attn.weight`` and so on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray
from numpy.typing import DTypeLike

from autograd import Tensor, is_grad_enabled, nn
from npgpt.config import GPTConfig
from npgpt.errors import UserError
from npgpt.nn import (
    Dropout,
    Embedding,
    LayerNorm,
    Linear,
    Module,
    Parameter,
    SinusoidalEmbedding,
    check_ids,
    dropout_generator,
    is_unallocated,
)

_tanh_gelu = partial(nn.gelu, approximate="tanh")
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_new": _tanh_gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
    "gelu_fast": _tanh_gelu,
    "gelu": nn.gelu,
    "gelu_python": nn.gelu,
    "relu": nn.relu,
    "silu": nn.silu,
    "swish": nn.silu,
    "tanh": np.tanh,
}


@dataclass
class Activations:
    """What a model computed on the way to its logits; `GPT.activations` returns it."""

    hidden_states: list[Tensor] = field(default_factory=list)
    """The embeddings and the result of each block, (B, T, C); the last is what the head reads."""
    attentions: list[Tensor] = field(default_factory=list)
    """The weights of each layer's heads, (B, H, T, T): row t is where position t looks."""


class KVCache:
    """The keys and values of the tokens that a model has read, so that it reads each only once.

    Parameters
    ----------
    capacity : int
        Tokens that there is room for: no more than the model's ``n_positions``.

    Attributes
    ----------
    keys, values : list of ndarray
        A layer's are (B, H, capacity, D), made when it first stores some; `length` of the
        positions are filled.
    length : int
        Tokens of each sequence that were read.

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

    def demand_room(self, batch_size: int, n_tokens: int) -> None:
        """Raise ValueError unless that many new tokens of that many sequences can be stored."""
        if is_grad_enabled():
            raise ValueError("a cache holds no tape: read with it under autograd.no_grad()")
        if self.keys and len(self.keys[0]) != batch_size:
            raise ValueError(f"the cache is of {len(self.keys[0])} sequences, not {batch_size}")
        if self.length + n_tokens > self.capacity:
            raise ValueError(
                f"{self.length + n_tokens} tokens do not fit the cache of {self.capacity}"
            )

    def extend(
        self, layer: int, key: Tensor, value: Tensor, window_size: int | None
    ) -> tuple[ndarray, ndarray]:
        """Store a layer's new keys and values, (B, H, T, D); return all that the T can see.

        These are (B, H, S, D): everything so far, or in a band what its first query sees and after.
        """
        stop = self.length + key.shape[2]
        first = 0 if window_size is None else max(0, self.length + 1 - window_size)
        found = []
        for layers, new in ((self.keys, key), (self.values, value)):
            if layer == len(layers):
                layers.append(np.empty((*new.shape[:2], self.capacity, new.shape[3]), new.dtype))
            layers[layer][:, :, self.length : stop] = new.numpy()
            found.append(layers[layer][:, :, first:stop])
        return found[0], found[1]

    def reorder(self, rows: ndarray) -> None:
        """Let sequence i go on from the tokens of sequence ``rows[i]``; their number may change.

        In beam search one beam ends and another splits; several returns share their prompt.
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


class Attention(Module):
    """Causal self-attention with several heads (Vaswani et al. 2017, section 3.2)."""

    def __init__(self, config: GPTConfig, layer: int, dtype: Any):
        self.layer = layer
        self.n_head = config.n_head
        self.c_attn = Linear(config.n_embd, 3 * config.n_embd, config.bias, dtype)
        self.c_proj = Linear(config.n_embd, config.n_embd, config.bias, dtype)
        self.resid_dropout = Dropout(config.resid_pdrop)
        self.attn_pdrop = config.attn_pdrop
        self.scale = 1.0
        if config.scale_attn_weights:
            self.scale /= math.sqrt(config.head_size)
        if config.scale_attn_by_inverse_layer_idx:
            self.scale /= layer + 1
        self.window_size = config.window_size if layer % 2 else None  # GPT-3: every other layer

    def forward(
        self,
        x: Tensor,
        mask: ndarray | None = None,
        seen: Activations | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Let every position look at itself and those before it: ``(B, T, C) -> (B, T, C)``.

        With a cache, those before it are also the tokens that were read earlier, S keys in all.
        `mask`, (B, 1, 1 or T, S or more) booleans, says which positions may be looked at.
        """
        B, T, C = x.shape
        query, key, value = self.heads(x)  # (B, H, T, D)
        if cache is not None:
            key, value = cache.extend(self.layer, key, value, self.window_size)  # (B, H, S, D)
        S = key.shape[2]
        if mask is not None:
            mask = mask[..., -S:]
        if 1 < T < S:
            near = visible(T, S, self.window_size)
            mask = near if mask is None else near & mask
        look = partial(
            nn.scaled_dot_product_attention,
            query,
            key,
            attn_mask=mask,
            is_causal=T == S,  # which counts queries and keys from the same position
            scale=self.scale,
            window_size=self.window_size if T == S else None,
        )
        if seen is not None:  # attention returns its own weights where the values are the identity
            seen.attentions.append(
                look(value=np.broadcast_to(np.eye(S, dtype=x.dtype), (*query.shape[:-2], S, S)))
            )
        y = look(
            value=value,
            dropout_p=self.attn_pdrop if self.training else 0.0,
            generator=dropout_generator(),
        )
        y = y.swapaxes(1, 2).reshape(B, T, C)  # (B, H, T, D) -> (B, T, C)
        return self.resid_dropout(self.c_proj(y))

    def heads(self, x: Tensor) -> tuple[Any, ...]:
        """Return queries, keys and values: ``(B, T, C) ->`` three times ``(B, H, T, D)``."""
        B, T, _ = x.shape
        qkv = self.c_attn(x)  # (B, T, 3C)
        return tuple(
            part.reshape(B, T, self.n_head, -1).swapaxes(1, 2)  # (B, T, C) -> (B, H, T, D)
            for part in np.split(qkv, 3, axis=-1)
        )


def visible(T: int, S: int, window_size: int | None) -> ndarray:
    """Return which of S positions each of the last T sees, (T, S)."""
    seen = np.tri(T, S, S - T, dtype=bool)
    if window_size is not None:
        seen &= ~np.tri(T, S, S - T - window_size, dtype=bool)
    return seen


class MLP(Module):
    """Two linear layers with an activation between, the same at every position."""

    def __init__(self, config: GPTConfig, dtype: Any):
        n_inner = config.n_inner or 4 * config.n_embd
        self.c_fc = Linear(config.n_embd, n_inner, config.bias, dtype)
        self.c_proj = Linear(n_inner, config.n_embd, config.bias, dtype)
        self.activation = ACTIVATIONS[config.activation_function]
        self.dropout = Dropout(config.resid_pdrop)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, T, C) -> (B, T, n_inner) -> (B, T, C)``."""
        return self.dropout(self.c_proj(self.activation(self.c_fc(x))))


class Block(Module):
    """Attention and MLP, each with a norm and beside a residual connection."""

    def __init__(self, config: GPTConfig, layer: int, dtype: Any):
        eps = config.layer_norm_epsilon
        self.post_norm = config.norm_position == "post"
        self.ln_1 = LayerNorm(config.n_embd, config.bias, eps, dtype)
        self.attn = Attention(config, layer, dtype)
        self.ln_2 = LayerNorm(config.n_embd, config.bias, eps, dtype)
        self.mlp = MLP(config, dtype)

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        """Map ``(B, T, C) -> (B, T, C)``; `Attention.forward` says what the context is."""
        if self.post_norm:  # GPT-1: normalize the sum
            x = self.ln_1(x + self.attn(x, *context))
            return self.ln_2(x + self.mlp(x))
        x = x + self.attn(self.ln_1(x), *context)  # since GPT-2: normalize what a branch reads
        return x + self.mlp(self.ln_2(x))


class Transformer(Module):
    """Embeddings, blocks and the final norm: everything but the head."""

    def __init__(self, config: GPTConfig, dtype: Any):
        self.vocab_size, self.n_positions = config.vocab_size, config.n_positions
        self.wte = Embedding(config.vocab_size, config.n_embd, dtype)
        self.wpe: Module = (
            Embedding(config.n_positions, config.n_embd, dtype)
            if config.position_embedding == "learned"
            else SinusoidalEmbedding(config.n_embd, dtype)
        )
        self.drop = Dropout(config.embd_pdrop)
        self.h = [Block(config, layer, dtype) for layer in range(config.n_layer)]
        self.ln_f = (  # the last block of a post-norm model ends with a norm as it is
            LayerNorm(config.n_embd, config.bias, config.layer_norm_epsilon, dtype)
            if config.norm_position == "pre"
            else None
        )

    def forward(
        self,
        input_ids: ndarray,
        attention_mask: ndarray | None = None,
        position_ids: ndarray | None = None,
        seen: Activations | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Map ``(B, T)`` token ids to ``(B, T, C)`` hidden states; see `GPT.forward`."""
        if input_ids.ndim != 2 or not input_ids.shape[1]:
            raise UserError(f"input_ids must have shape (B, T), T > 0, and has {input_ids.shape}")
        check_ids("input_ids", input_ids, self.vocab_size, "the vocabulary has {} tokens")
        B, T = input_ids.shape
        past = 0 if cache is None else cache.length
        S = past + T
        if self.n_positions < S:
            raise ValueError(f"{S} tokens do not fit the context of {self.n_positions}")
        if cache is not None:
            cache.demand_room(B, T)
        position_ids = np.arange(past, S) if position_ids is None else np.asarray(position_ids)
        check_ids("position_ids", position_ids, self.n_positions, "the context has {} positions")
        if attention_mask is not None:
            attention_mask = np.asarray(attention_mask)
            if attention_mask.shape not in ((B, S), (B, T, S)):
                after = f", after {past} tokens in the cache" if past else ""
                raise ValueError(
                    f"attention_mask has shape {attention_mask.shape}, and input_ids "
                    f"{input_ids.shape}{after}"
                )
            if attention_mask.ndim == 2:
                attention_mask = attention_mask[:, None]  # (B, S) -> (B, 1, S)
            attention_mask = attention_mask[:, None] != 0  # (B, 1, 1 or T, S)
        x = self.drop(self.wte(input_ids) + self.wpe(position_ids))  # (B, T, C)
        for block in self.h:
            if seen is not None:
                seen.hidden_states.append(x)
            x = block(x, attention_mask, seen, cache)
        if cache is not None:
            cache.length = S
        if self.ln_f is not None:
            x = self.ln_f(x)
        if seen is not None:
            seen.hidden_states.append(x)
        return x


class Head(Module):
    """The map from a hidden state to the logits of the next token."""

    def __init__(self, weight: Parameter):
        self.weight = weight  # (V, C), the token embedding's own where they are tied

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., C) -> (..., V)``."""
        return x @ self.weight.T


class GPT(Module):
    """A GPT language model: GPT-1, GPT-2 or GPT-3, as the configuration says.

    Parameters
    ----------
    config : GPTConfig
    seed : int
        Of the initialization.
    dtype : dtype_like
        Of the parameters: float32, or float64 for checking.

    Attributes
    ----------
    generation_config : dict
        Defaults for the options of `generate`: those of ``generation_config.json``.

    Examples
    --------
    >>> import numpy as np
    >>> from npgpt import GPT, GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=65, n_positions=8, n_embd=16, n_layer=2, n_head=2))
    >>> ids = np.array([[1, 2, 3, 4]])
    >>> logits, loss = model(ids[:, :-1], targets=ids[:, 1:])
    >>> logits.shape
    (1, 3, 65)
    >>> loss.backward()
    >>> model.transformer.wte.weight.grad.shape
    (65, 16)
    """

    def __init__(self, config: GPTConfig, seed: int = 0, dtype: DTypeLike = np.float32):
        self.config = config
        self.generation_config: dict[str, Any] = {}  # defaults of `generate`
        self.transformer = Transformer(config, dtype)
        self.lm_head = Head(
            self.transformer.wte.weight
            if config.tie_word_embeddings
            else Parameter.full((config.vocab_size, config.n_embd), 0, dtype)
        )
        if not is_unallocated():
            self._initialize(np.random.default_rng(seed))

    def _initialize(self, generator: np.random.Generator) -> None:
        """Draw the weights: matrices are normal with deviation 0.02.

        Those that end a residual branch are divided by the root of the number of branches, so that
        their sum does not grow with depth (Radford et al. 2019, section 2.3); GPT-1 normalizes that
        sum, and does without.
        """
        config = self.config
        branches = 2 * config.n_layer if config.norm_position == "pre" else 1
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2:
                continue  # biases are 0, the weights of norms 1
            shrink = math.sqrt(branches) if name.endswith("c_proj.weight") else 1
            draw = generator.standard_normal(parameter.shape, np.float32)
            parameter.data[...] = draw * (config.initializer_range / shrink)

    def forward(
        self,
        input_ids: ndarray,
        targets: ndarray | None = None,
        attention_mask: ndarray | None = None,
        position_ids: ndarray | None = None,
        cache: KVCache | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the logits, and with targets the mean cross-entropy.

        Parameters
        ----------
        input_ids : ndarray of int, (B, T)
        targets : ndarray of int, (B, T), optional
            The token that follows each position; -100 where the loss is not to count.
        attention_mask : ndarray, (B, T) or (B, T, T), optional
            0 for padding, which nobody looks at; what it says itself means nothing. With three
            axes, entry (b, i, j) says whether position i of sequence b may look at position j. With
            a cache, the last axis has cache.length + T entries: it covers the tokens that were read
            earlier, too. No position looks at those after it, whatever the mask says.
        position_ids : ndarray of int, (T,) or (B, T), optional
            0, 1, 2, ... if not given; with a cache, they go on from its length.
        cache : KVCache, optional
            Of what was read earlier, which the new tokens see; they are added to it. It holds no
            tape, and so is for use under `autograd.no_grad` only.

        Returns
        -------
        logits : Tensor, (B, T, V)
        loss : Tensor or None

        Raises
        ------
        UserError
            If an id or a target is no integer, or not in the vocabulary; or a position not in the
            context.
        """
        if targets is not None:
            targets = np.asarray(targets)
            of = "the vocabulary has {} tokens"
            check_ids("targets", targets, self.config.vocab_size, of, ignored=-100)
        x = self.transformer(
            np.asarray(input_ids), attention_mask, position_ids, cache=cache
        )  # (B, T, C)
        logits = self.lm_head(x)
        if targets is None:
            return logits, None
        rows = logits.reshape(-1, logits.shape[-1])  # (B, T, V) -> (B T, V), a view
        return logits, nn.cross_entropy(rows, targets.reshape(-1))

    def activations(
        self,
        input_ids: ndarray,
        attention_mask: ndarray | None = None,
        position_ids: ndarray | None = None,
    ) -> Activations:
        """Look inside: return every hidden state, and who looks at whom; see `forward`.

        Examples
        --------
        >>> import numpy as np
        >>> from npgpt import GPT, GPTConfig
        >>> model = GPT(GPTConfig(vocab_size=65, n_positions=8, n_embd=16, n_layer=2, n_head=2))
        >>> inside = model.activations(np.array([[1, 2, 3]]))
        >>> len(inside.hidden_states), inside.attentions[0].shape
        (3, (1, 2, 3, 3))
        """
        seen = Activations()
        self.transformer(np.asarray(input_ids), attention_mask, position_ids, seen)
        return seen

    def n_parameters(self) -> int:
        """Return the number of parameters, tied ones counted once."""
        return sum(parameter.size for parameter in self.parameters())

    def generate(self, input_ids: Any, **options: Any) -> Any:
        """Continue sequences of tokens; see `npgpt.generate`."""
        from npgpt.generation import generate

        return generate(self, input_ids, **options)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        config: GPTConfig | None = None,
        mapping: Mapping[str, str] | None = None,
        dtype: DTypeLike = np.float32,
    ) -> GPT:
        """Load published or saved weights; see `npgpt.weights.load_pretrained`."""
        from npgpt.weights import load_pretrained

        return load_pretrained(source, config=config, mapping=mapping, dtype=dtype)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors``, as transformers reads them."""
        from npgpt.weights import save_pretrained

        save_pretrained(self, folder)
