"""Direct attribution of a logit: what each head, MLP and embedding adds to it.

A logit is the product of the last hidden state with a row of the head. The last hidden state is a
norm of a sum: the embedding, and what each layer's attention and MLP have added to it. With the
divisor of the norm kept at its value, the norm is linear, and the logit is a sum as well: of what
the embedding, each attention and each MLP add directly, not through a later layer. The result of
an attention is a sum over its heads, and over the tokens that a head looks at (Elhage et al. 2021,
"A Mathematical Framework for Transformer Circuits").

The model is traced (`npgpt.module.Traced`) with `Followed` in the place of hidden states. It
computes the numbers, and remembers sums, norms and products. `attribute_directly` then walks back
from the logit: it carries a direction, the derivative of the logit, to each term of the sum. So
post-norm models, whose terms pass many norms, need no code of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy import ndarray

import autograd
from autograd import nn
from npgpt.models.gpt import GPT
from npgpt.module import Parameter, Traced, evaluating
from npgpt.weights.packed import demand_float32

Back = Callable[[ndarray], Iterator[tuple["Followed", ndarray]]]


@dataclass(frozen=True)
class DirectAttribution:
    """The terms of a logit, or of the difference of two logits; they add up to it.

    Parameters
    ----------
    logit : float
        The logit, or the difference, as the model computes it.
    token_embedding, position_embedding : float
        What the embedding of the last token that was read, and of its position, add.
    heads : ndarray, (L, H, T)
        What each head of each layer adds, by the token that it looks at.
    attention_biases : ndarray, (L,)
        What the biases of the attentions' last linear layers add.
    mlps : ndarray, (L,)
        What the MLPs add.
    norm_biases : float
        What the biases of norms add.
    """

    logit: float
    token_embedding: float
    position_embedding: float
    heads: ndarray
    attention_biases: ndarray
    mlps: ndarray
    norm_biases: float

    @property
    def total(self) -> float:
        """The sum of all terms: the logit, up to rounding."""
        arrays = self.heads.sum() + self.attention_biases.sum() + self.mlps.sum()
        return float(arrays + self.token_embedding + self.position_embedding + self.norm_biases)


def attribute_directly(
    model: GPT, ids: ndarray, token: int, against: int | None = None
) -> DirectAttribution:
    """Split the logit of the next token into what each part of the model adds to it.

    Parameters
    ----------
    model : GPT
    ids : ndarray of int, (T,)
        The text, after which the next token is predicted.
    token : int
        The token whose logit is split.
    against : int, optional
        Another token: the difference of the two logits is split. The logits of all tokens often
        rise and fall together; a difference shows what speaks for one of the two.

    Returns
    -------
    DirectAttribution

    Raises
    ------
    UserError
        If the model has packed weights.
    TypeError
        If a module of the model cannot be traced.

    Examples
    --------
    >>> from npgpt import GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=65, n_positions=8, n_embd=16, n_layer=2, n_head=2))
    >>> found = attribute_directly(model, np.array([1, 2, 3]), token=4)
    >>> found.heads.shape
    (2, 2, 3)
    >>> bool(np.isclose(found.total, found.logit, rtol=1e-5))
    True
    """
    demand_float32(model)
    T = len(ids)
    with autograd.no_grad(), evaluating():
        positions = np.arange(T)
        embedded = _numbers(model.transformer.embed(ids[None], positions))[0]  # (T, C)
        rotation = model.transformer.rotation(positions)
        start = Followed(embedded, Pass(rotation))
        end = model.transformer(start)
    rows = model.lm_head.weight.numpy()
    direction = rows[token].astype(np.float64)
    if against is not None:
        direction -= rows[against]
    L, H = model.config.n_layer, model.config.n_head
    heads, attention_biases, mlps = np.zeros((L, H, T)), np.zeros(L), np.zeros(L)
    norm_biases, at_embedding = 0.0, np.zeros(embedded.shape[1])
    waiting = [(end, direction)]
    while waiting:
        node, d = waiting.pop()
        if node is start:
            at_embedding += d
        elif isinstance(node, Attended):
            heads[node.layer] += node.terms(d)
        elif node.back is None:
            mlps[node.layer] += node.last @ d
        else:
            waiting += node.back(d)
            if node.bias is not None:
                term = node.bias.numpy().astype(np.float64) @ d
                if node.is_norm:
                    norm_biases += term
                else:
                    (attention_biases if node.is_of_attention else mlps)[node.layer] += term
    own = model.transformer.wte.weight.numpy()[ids[-1]].astype(np.float64)
    return DirectAttribution(
        logit=float(end.last @ direction),
        token_embedding=float(own @ at_embedding),
        position_embedding=float((start.last - own) @ at_embedding),
        heads=heads,
        attention_biases=attention_biases,
        mlps=mlps,
        norm_biases=float(norm_biases),
    )


@dataclass
class Pass:
    """What all values of one pass share: the angles of positions, and the layer that runs."""

    rotation: tuple[ndarray, ndarray] | None
    layer: int = 0


class Followed(Traced):
    """Hidden states of all positions, (T, width), and how those of the last position came about.

    Parameters
    ----------
    value : ndarray, (T, width)
    shared : Pass
    back : callable, optional
        Takes the direction of the last position, and yields each value that it was made of by a
        sum, a norm or a linear layer, with the direction there. None for the embedding, and for
        the result of a function that is not linear.
    bias : Parameter, optional
        What a norm or a linear layer has added.
    """

    is_norm = False
    is_of_attention = False

    def __init__(
        self, value: ndarray, shared: Pass, back: Back | None = None, bias: Parameter | None = None
    ) -> None:
        self.value, self.shared, self.back, self.bias = value, shared, back, bias
        self.last = value[-1].astype(np.float64)
        self.layer = shared.layer

    def linear(self, weight: ndarray, bias: Parameter | None = None) -> Followed:
        """Follow a linear layer."""
        value = self.value @ weight
        if bias is not None:
            value = value + bias.numpy()

        def back(d: ndarray) -> Iterator[tuple[Followed, ndarray]]:
            yield self, weight @ d

        made = Followed(value, self.shared, back, bias)
        made.is_of_attention = isinstance(self, Attended)
        return made

    def layer_norm(self, weight: Parameter, bias: Parameter | None, eps: float) -> Followed:
        """Follow a layer norm, whose divisor is taken as a constant."""
        value = _numbers(nn.layer_norm(self.value, weight.shape, weight, bias, eps))

        def back(d: ndarray) -> Iterator[tuple[Followed, ndarray]]:
            scaled = d * weight.numpy()
            yield self, (scaled - scaled.mean()) / np.sqrt(self.last.var() + eps)

        return self._normed(value, back, bias)

    def rms_norm(self, weight: Parameter, eps: float) -> Followed:
        """Follow an RMS norm, whose divisor is taken as a constant."""
        value = _numbers(nn.rms_norm(self.value, weight.shape, weight, eps))

        def back(d: ndarray) -> Iterator[tuple[Followed, ndarray]]:
            yield self, d * weight.numpy() / np.sqrt(np.mean(self.last**2) + eps)

        return self._normed(value, back, None)

    def _normed(self, value: ndarray, back: Back, bias: Parameter | None) -> Followed:
        made = Followed(value, self.shared, back, bias)
        made.is_norm = True
        return made

    def activation(self, function: Any) -> Followed:
        """Compute an activation, beyond which nothing is followed."""
        return Followed(_numbers(function(autograd.tensor(self.value))), self.shared)

    def rotate(self, head_size: int) -> Followed:
        """Rotate the heads of queries or keys."""
        assert self.shared.rotation is not None
        heads = self.value.reshape(1, len(self.value), -1, head_size)
        turned = _numbers(nn.rope(heads, *self.shared.rotation))
        return Followed(turned.reshape(self.value.shape), self.shared)

    def split(self, n: int) -> list[Followed]:
        """Return the parts of the columns."""
        return [Followed(part, self.shared) for part in np.split(self.value, n, axis=1)]

    def attend(
        self, key: Any, value: Any, layer: int, n_head: int, scale: float, window_size: int | None
    ) -> Followed:
        """Compute causal attention, and keep where the last position looks."""
        T, size = len(self.value), self.value.shape[1] // n_head
        query, keys, values = (
            each.value.reshape(T, -1, size).swapaxes(0, 1) for each in (self, key, value)
        )  # (H, T, D), and (K, T, D) twice
        self.shared.layer = layer
        found = nn.scaled_dot_product_attention(
            query[None], keys[None], values[None], is_causal=True, scale=scale,
            window_size=window_size, enable_gqa=len(keys) != n_head,
        )  # fmt: skip
        mixed = _numbers(found)[0].swapaxes(0, 1).reshape(T, -1)
        group = n_head // len(keys)
        keys, values = keys.repeat(group, axis=0), values.repeat(group, axis=0)  # (H, T, D)
        scores = (keys @ query[:, -1, :, None])[..., 0].astype(np.float64) * scale  # (H, T)
        if window_size is not None:
            scores[:, : max(0, T - window_size)] = -np.inf
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        return Attended(mixed, self.shared, weights, values)

    def __mul__(self, other: Any) -> Followed:
        """Compute a product, beyond which nothing is followed."""
        if not isinstance(other, Followed):
            return NotImplemented
        return Followed(self.value * other.value, self.shared)

    def __add__(self, other: Any) -> Followed:
        """Follow a sum."""
        if not isinstance(other, Followed):
            return NotImplemented

        def back(d: ndarray) -> Iterator[tuple[Followed, ndarray]]:
            yield self, d
            yield other, d

        return Followed(self.value + other.value, self.shared, back)


class Attended(Followed):
    """The result of attention: weighted sums, of which those of the last position are kept.

    Parameters
    ----------
    value, shared
        As in `Followed`.
    weights : ndarray, (H, T)
        Where each head of the last position looks.
    values : ndarray, (H, T, D)
        What each head finds at each position.
    """

    def __init__(self, value: ndarray, shared: Pass, weights: ndarray, values: ndarray) -> None:
        super().__init__(value, shared)
        self.weights, self.values = weights, values

    def terms(self, d: ndarray) -> ndarray:
        """Return what each head's look at each position adds in a direction, (H, T)."""
        heads = d.reshape(len(self.weights), -1, 1)  # (H, D, 1)
        return self.weights * (self.values @ heads)[..., 0]


def _numbers(x: Any) -> ndarray:
    return x.numpy() if isinstance(x, autograd.Tensor) else np.asarray(x)
